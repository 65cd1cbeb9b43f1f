//! Payloads that outlive their producer: planned ends and kills, with a real S3 server and without one.
//!
//! The large cases hold a hundred objects of 64 KiB to 16 MiB; with `ZIPLINE_TEST_FULL=1` they hold five hundred of 64 KiB
//! to 64 MiB, 2 GiB in all. With `--nocapture` they say how long each stage took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use rustix::process::Signal;
use tokio::net::{TcpSocket, TcpStream};
use zipline_contract::{headers, metrics};
use zipline_servers::{S3, ServerError};
use zipline_testkit::{
    Behaviour, Function, KeyRing, Keys, Loopback, Metrics, Payload, Proxy, ProxyOptions, Relay, Scratch, http as client, skip,
    wait,
};

const MIB: u64 = 1024 * 1024;
const KIB: u64 = 1024;
const REST: Duration = Duration::from_secs(60);

/// A real store, or `None` where its program is not installed, which is said.
async fn store(test: &str) -> Result<Option<S3>> {
    match S3::start().await {
        Ok(store) => Ok(Some(store)),
        Err(error @ ServerError::NotInstalled { .. }) => {
            skip(test, &error.to_string());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn is_full() -> bool {
    std::env::var_os("ZIPLINE_TEST_FULL").is_some()
}

/// The payloads of the large cases.
fn payloads() -> Vec<Payload> {
    let of = |count: u64, size: u64| (0..count).map(move |n| size + n * 17);
    let sizes: Vec<u64> = if is_full() {
        of(8, 64 * MIB - 136)
            .chain(of(19, 32 * MIB))
            .chain(of(33, 16 * MIB))
            .chain(of(64, 4 * MIB))
            .chain(of(128, MIB))
            .chain(of(8, 128 * KIB))
            .chain(of(240, 64 * KIB))
            .collect()
    } else {
        of(1, 16 * MIB).chain(of(4, 4 * MIB)).chain(of(16, MIB)).chain(of(79, 64 * KIB)).collect()
    };
    // Large and small ones in turn: a step that has no divisor in common with their number meets each once.
    let in_turn = (0..sizes.len()).filter_map(|n| sizes.get(n * 7919 % sizes.len()));
    in_turn.zip(1..).map(|(size, seed)| Payload::new(*size, seed)).collect()
}

/// Says how long a stage took, for whoever looks (`--nocapture`).
fn tell(stage: &str, payloads: &[Payload], began: Instant) {
    let mib = payloads.iter().map(Payload::size).sum::<u64>() / MIB;
    println!("{stage}: {} objects, {mib} MiB, {:.1} s", payloads.len(), began.elapsed().as_secs_f64());
}

/// A proxy's options with that tier.
fn tiered(options: ProxyOptions, store: &S3) -> ProxyOptions {
    tiered_at(options, store, &store.endpoint())
}

fn tiered_at(options: ProxyOptions, store: &S3, endpoint: &str) -> ProxyOptions {
    options
        .env("ZIPLINE_TIER", "bucket")
        .env("ZIPLINE_TIER_URL", format!("s3://{}/tests", store.bucket()))
        .env("ZIPLINE_TIER_ENDPOINT", endpoint)
        .env("AWS_ACCESS_KEY_ID", store.access_key())
        .env("AWS_SECRET_ACCESS_KEY", store.secret_key())
}

fn proxy(service: &str, ring: &KeyRing) -> ProxyOptions {
    ProxyOptions::new(service, Keys::Inherited(ring.clone()))
        .env("ZIPLINE_BUFFER_BYTES", "3GiB")
        .env("ZIPLINE_PUT_TTL_SECONDS", "1800")
}

async fn put_all(producer: &Proxy, query: &str, payloads: &[Payload]) -> Result<Vec<String>> {
    let began = Instant::now();
    let mut references = Vec::with_capacity(payloads.len());
    for payload in payloads {
        references.push(producer.put(query, payload.body()).await?);
    }
    tell("put", payloads, began);
    Ok(references)
}

fn get(reference: &str) -> Result<Request<http_body_util::Empty<bytes::Bytes>>> {
    Ok(Request::get("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?)
}

/// Reads every object and compares it, byte by byte as its digest tells.
async fn read_all(consumer: &Proxy, references: &[String], payloads: &[Payload]) -> Result<()> {
    let began = Instant::now();
    for (reference, payload) in references.iter().zip(payloads) {
        let answer = client::digest(&consumer.api(), get(reference)?).await?;
        let error = answer.headers.get(headers::ERROR);
        ensure!(
            answer.status == StatusCode::OK,
            "{} bytes: {} {error:?}\n{}",
            payload.size(),
            answer.status,
            consumer.process.tail()
        );
        ensure!(
            (answer.size, answer.sha256) == (payload.size(), payload.sha256()),
            "{} bytes are not what was put",
            payload.size()
        );
    }
    tell("read", payloads, began);
    Ok(())
}

/// Asks for every object, all at once, and gets that error for each.
async fn refused_all(consumer: &Proxy, references: &[String], payloads: &[Payload], named: (u16, &str)) -> Result<()> {
    let began = Instant::now();
    let asked = references.iter().map(|reference| consumer.get(reference));
    for answer in futures_util::future::try_join_all(asked).await? {
        ensure!((answer.status.as_u16(), answer.error()) == named, "{} {}: {}", answer.status, answer.error(), answer.text());
    }
    tell(named.1, payloads, began);
    Ok(())
}

async fn ended(proxy: &mut Proxy) -> Result<String> {
    let exit = proxy.process.ended(Duration::from_secs(300)).await?;
    ensure!(exit.success(), "the producer ended with {exit}\n{}", proxy.process.tail());
    Ok(proxy.process.stderr())
}

fn copies(metrics: &Metrics, done: &str) -> f64 {
    metrics.labelled(metrics::TIER_COPIES.name, "done", done)
}

#[tokio::test]
async fn a_planned_end_loses_nothing_that_was_put_to_outlive_it() -> Result<()> {
    let Some(store) = store("a_planned_end_loses_nothing_that_was_put_to_outlive_it").await? else { return Ok(()) };
    let (scratch, ring, payloads) = (Scratch::new()?, KeyRing::random()?, payloads());
    let options = tiered(proxy("producer", &ring), &store).env("ZIPLINE_GRACE_SECONDS", "240").env("ZIPLINE_DURABILITY", "drain");
    let mut producer = options.start(&scratch).await?;
    let consumer = tiered(proxy("consumer", &ring), &store).start(&scratch).await?;
    let references = put_all(&producer, "", &payloads).await?;
    assert_eq!(copies(&producer.metrics().await?, "written"), 0.0, "nothing goes to the store before it must");

    producer.process.signal(Signal::TERM)?;
    let began = Instant::now();
    let (during, after) = references.split_at(references.len() / 10);
    let (during_payloads, after_payloads) = payloads.split_at(during.len());
    read_all(&consumer, during, during_payloads).await.context("while it drains")?;
    let said = ended(&mut producer).await?;
    tell("drained", after_payloads, began);
    assert!(said.contains("drained, nothing is left"), "{said}");
    read_all(&consumer, after, after_payloads).await.context("after its end")?;
    let metrics = consumer.metrics().await?;
    assert!(copies(&metrics, "read") >= after.len() as f64, "{} copies were read", copies(&metrics, "read"));
    consumer.metrics_until("every copy to be removed", REST, |metrics| copies(metrics, "removed") >= after.len() as f64).await?;
    Ok(())
}

#[tokio::test]
async fn without_a_tier_the_rest_is_counted_and_then_told_by_name_at_once() -> Result<()> {
    let (scratch, ring, payloads) = (Scratch::new()?, KeyRing::random()?, payloads());
    let mut producer = proxy("producer", &ring).env("ZIPLINE_GRACE_SECONDS", "15").start(&scratch).await?;
    let consumer = patient(&ring).start(&scratch).await?;
    let references = put_all(&producer, "", &payloads).await?;
    producer.process.signal(Signal::TERM)?;
    let asked = references.len() / 4;
    read_all(&consumer, &references[..asked], &payloads[..asked]).await.context("within the grace period")?;
    let said = ended(&mut producer).await?;
    let left: u64 = payloads[asked..].iter().map(Payload::size).sum();
    let (count, bytes) = (format!("held.objects={}", payloads.len() - asked), format!("held.bytes={left}"));
    assert!(said.contains(&count) && said.contains(&bytes), "{count} {bytes}: {said}");
    refused_all(&consumer, &references[asked..], &payloads[asked..], (502, "producer-unreachable")).await
}

/// A consumer that waits for a connection longer than any test: what it answers, it did not wait for.
fn patient(ring: &KeyRing) -> ProxyOptions {
    proxy("consumer", ring).env("ZIPLINE_CONNECT_TIMEOUT_SECONDS", "300")
}

#[tokio::test]
async fn a_kill_without_a_tier_is_told_by_name_at_once() -> Result<()> {
    let (scratch, ring, payloads) = (Scratch::new()?, KeyRing::random()?, payloads());
    let mut producer = proxy("producer", &ring).start(&scratch).await?;
    let consumer = patient(&ring).start(&scratch).await?;
    let references = put_all(&producer, "", &payloads).await?;
    let (ip, pulls) = (producer.ip().to_string(), producer.pull_address());
    producer.process.kill()?;
    refused_all(&consumer, &references, &payloads, (502, "producer-unreachable")).await?;

    let (again, _own) = proxy("producer", &ring).env("ZIPLINE_BIND", &ip).env("SERVING_POD_IP", &ip).program(&scratch)?;
    let _restarted = again.start(&scratch)?;
    wait::until("the restarted producer", REST, async || Ok(TcpStream::connect(pulls).await?), |_| true).await?;
    refused_all(&consumer, &references, &payloads, (410, "producer-gone")).await
}

#[tokio::test]
async fn a_kill_without_a_tier_is_told_within_the_connect_timeout_where_nobody_answers() -> Result<()> {
    let (scratch, ring, payloads) = (Scratch::new()?, KeyRing::random()?, payloads());
    let silent = Loopback::claim()?;
    let mut producer = proxy("producer", &ring).advertised(silent.ip()).start(&scratch).await?;
    let consumer = proxy("consumer", &ring).start(&scratch).await?;
    let references = put_all(&producer, "", &payloads).await?;
    producer.process.kill()?;
    // As a node that is gone: its queue is full with the first connection, and the kernel lets every other one wait unanswered.
    let address = silent.port(zipline_contract::doors::PULL);
    let socket = TcpSocket::new_v4()?;
    socket.bind(address)?;
    let (_listener, _queued) = (socket.listen(0)?, TcpStream::connect(address).await?);
    // The kernel itself would give up after two minutes.
    let refused = refused_all(&consumer, &references, &payloads, (502, "producer-unreachable"));
    tokio::time::timeout(REST, refused).await.context("the connect timeout, 2 s unless set")?
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_put_for_always() -> Result<()> {
    let Some(store) = store("a_kill_loses_nothing_that_was_put_for_always").await? else { return Ok(()) };
    let (scratch, ring, payloads) = (Scratch::new()?, KeyRing::random()?, payloads());
    let mut producer = tiered(proxy("producer", &ring), &store).start(&scratch).await?;
    let consumer = tiered(proxy("consumer", &ring), &store).start(&scratch).await?;
    let references = put_all(&producer, "durability=always", &payloads).await?;
    producer.process.kill()?;
    read_all(&consumer, &references, &payloads).await?;
    let again = client::send(&consumer.api(), get(&references[0])?).await?;
    assert_eq!(again.error(), "producer-unreachable", "one retrieval was granted, and it is used");
    Ok(())
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_request_is_not_seen_by_its_function() -> Result<()> {
    let Some(store) = store("a_kill_in_the_middle_of_a_request_is_not_seen_by_its_function").await? else { return Ok(()) };
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let front = Loopback::claim()?;
    let options = tiered(proxy("producer", &ring), &store).advertised(front.ip());
    let mut producer = options.start(&scratch).await?;
    let relay = Relay::start(front.port(zipline_contract::doors::PULL), producer.pull_address()).await?;
    let function = Function::start(Behaviour::Sha256).await?;
    let consumer = tiered(proxy("consumer", &ring), &store).function(function.port()).start(&scratch).await?;
    let payload = Payload::new(24 * MIB + 5, 11);
    let reference = producer.put("durability=always", payload.body()).await?;
    relay.next([zipline_testkit::Fault::Stall(zipline_testkit::Side::FromTarget, 9 * MIB)]);
    let (requests, request) =
        (consumer.requests(), Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?);
    let answered = tokio::spawn(async move { client::send(&requests, request).await });
    relay.has_passed(zipline_testkit::Side::FromTarget, 8 * MIB).await;
    producer.process.kill()?;
    drop(relay);
    let answer = answered.await??;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{}", consumer.process.tail());
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_down_is_a_named_error_for_always_and_a_count_for_a_drain() -> Result<()> {
    let Some(store) = store("a_store_that_is_down_is_a_named_error_for_always_and_a_count_for_a_drain").await? else {
        return Ok(());
    };
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let nobody = format!("http://{}", Loopback::claim()?.port(1));
    let options = tiered_at(proxy("producer", &ring), &store, &nobody)
        .env("ZIPLINE_TIER_TIMEOUT_SECONDS", "0.5")
        .env("ZIPLINE_GRACE_SECONDS", "8");
    let mut producer = options.start(&scratch).await?;
    let request = Request::post("/v1/objects?durability=always").body(client::full("payload"))?;
    let answer = client::send(&producer.api(), request).await?;
    assert_eq!((answer.status.as_u16(), answer.error()), (503, "store-unavailable"), "{}", answer.text());
    assert_eq!(producer.metrics().await?.sum(metrics::HELD_OBJECTS.name), 0.0, "what could not be promised is not held");
    let request = Request::post("/v1/objects?durability=drain").body(client::full("payload"))?;
    let answer = client::send(&producer.api(), request).await?.json()?;
    assert!(answer["guaranteed_until"].as_str() < answer["expires"].as_str(), "a store that is down promises nothing: {answer}");
    let counted = producer.metrics().await?;
    assert_eq!((counted.sum(metrics::TIER_UP.name), copies(&counted, "failed")), (0.0, 1.0));
    producer.process.signal(Signal::TERM)?;
    let said = ended(&mut producer).await?;
    assert!(said.contains("held.objects=1") && said.contains("held.bytes=7"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_tier_without_a_place_and_a_promise_without_a_tier_are_refused_at_the_start() -> Result<()> {
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    for (variables, told) in [
        ([("ZIPLINE_TIER", "bucket"), ("ZIPLINE_TIER_REGION", "x")], "ZIPLINE_TIER_URL"),
        ([("ZIPLINE_DURABILITY", "drain"), ("ZIPLINE_TIER_REGION", "x")], "ZIPLINE_DURABILITY"),
    ] {
        let (program, _own) = proxy("producer", &ring).envs(variables).program(&scratch)?;
        let program = program.run(&scratch, REST).await?;
        assert!(program.code() != Some(0) && program.stderr().contains(told), "{}", program.tail());
    }
    let plain = proxy("producer", &ring).start(&scratch).await?;
    let request = Request::post("/v1/objects?durability=always").body(client::full("payload"))?;
    let answer = client::send(&plain.api(), request).await?;
    assert_eq!((answer.status.as_u16(), answer.error()), (400, "request-invalid"), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn what_spilled_is_read_drained_and_gone_as_from_memory() -> Result<()> {
    let Some(store) = store("what_spilled_is_read_drained_and_gone_as_from_memory").await? else { return Ok(()) };
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let directory = scratch.join("spill");
    let options = tiered(proxy("producer", &ring), &store)
        .env("ZIPLINE_BUFFER_BYTES", "16MiB")
        .env("ZIPLINE_SPILL_DIR", directory.display().to_string())
        .env("ZIPLINE_PUT_WAIT_SECONDS", "60")
        .env("ZIPLINE_DURABILITY", "drain");
    let mut producer = options.start(&scratch).await?;
    let consumer = tiered(proxy("consumer", &ring), &store).start(&scratch).await?;
    let payloads: Vec<Payload> = (0..16).map(|n| Payload::new(3 * MIB + n, n)).collect();
    let references = put_all(&producer, "", &payloads).await?;
    let held = producer.metrics().await?;
    assert!(held.sum(metrics::SPILLED_BYTES.name) >= (32 * MIB) as f64, "{}", held.sum(metrics::SPILLED_BYTES.name));
    assert_eq!(std::fs::read_dir(&directory)?.count(), 0, "a crash would leave nothing behind");
    read_all(&consumer, &references[..6], &payloads[..6]).await?;
    producer.process.signal(Signal::TERM)?;
    assert!(ended(&mut producer).await?.contains("nothing is left"), "{}", producer.process.tail());
    read_all(&consumer, &references[6..], &payloads[6..]).await?;
    wait::until(
        "the consumer to be at rest",
        REST,
        async || consumer.metrics().await,
        |metrics| copies(metrics, "removed") >= 10.0,
    )
    .await?;
    Ok(())
}
