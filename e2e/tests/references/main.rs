//! What becomes of a request whose reference is not good: the named error, nothing at the function, and the proxy serving on.

mod addresses;
mod keys;

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::json;
use zipline_contract::{PROBLEM_MEDIA_TYPE, headers, metrics};
use zipline_testkit::{
    Answer, Behaviour, Fault, Function, KeyRing, Keys, Loopback, Payload, Proxy, ProxyOptions, Relay, Scratch, Side, Target,
    http as client, wait,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

struct World {
    scratch: Scratch,
    ring: KeyRing,
    function: Function,
    producer: Proxy,
    consumer: Proxy,
}

impl World {
    async fn new() -> Result<Self> {
        Self::with(|options| options).await
    }

    async fn with(consumer: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).start(&scratch).await?;
        let options = ProxyOptions::new("consumer", Keys::Inherited(ring.clone())).function(function.port());
        let consumer = consumer(options).start(&scratch).await?;
        Ok(Self { scratch, ring, function, producer, consumer })
    }

    async fn post(&self, references: &[&str], body: impl Into<Bytes>) -> Result<Answer> {
        post_to(&self.consumer, references, body).await
    }

    /// The request is answered with this error, the function saw nothing, and the next request is served.
    async fn refuses(&self, answer: &Answer, name: &str, status: u16) -> Result<()> {
        let log = self.consumer.process.tail();
        assert_eq!((answer.error(), answer.status.as_u16()), (name, status), "{}\n{log}", answer.text());
        assert_eq!(answer.header("content-type"), PROBLEM_MEDIA_TYPE);
        assert_eq!(answer.json()?["type"], json!(format!("urn:zipline:error:{name}")));
        assert_eq!(self.function.begun(), 0, "the function saw a request whose reference failed");
        let counted = self.consumer.metrics().await?.labelled(metrics::ERRORS.name, "error", name);
        assert!(counted >= 1.0, "{name} is not counted");
        Ok(())
    }
}

async fn post_to(proxy: &Proxy, references: &[&str], body: impl Into<Bytes>) -> Result<Answer> {
    let request = references.iter().fold(Request::post("/"), |request, reference| request.header(headers::REFERENCE, *reference));
    client::send(&proxy.requests(), request.body(client::full(body))?).await
}

#[tokio::test]
async fn a_forged_truncated_or_overlong_reference_is_invalid() -> Result<()> {
    let world = World::new().await?;
    let good = world.producer.put("retrievals=9", client::full("x")).await?;
    let middle = good.len() / 2;
    let other = if good.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let forged = format!("{}{other}{}", &good[..middle], &good[middle + 1..]);
    let overlong = format!("{good}{}", "A".repeat(512));
    for reference in [forged.as_str(), &good[..good.len() - 1], &good[..20], "zl1.", "zl2.AAAA", "x", overlong.as_str(), "zl1.é"]
    {
        let answer = world.post(&[reference], "").await?;
        world.refuses(&answer, "reference-invalid", 400).await.context(reference.to_owned())?;
        assert!(!answer.text().contains(&good[4..40]), "an error must not show the token");
    }
    assert_eq!(world.post(&[&good], "").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_reference_of_another_trust_domain_has_an_unknown_key() -> Result<()> {
    let world = World::new().await?;
    let stranger = ProxyOptions::new("stranger", Keys::Inherited(KeyRing::random()?)).start(&world.scratch).await?;
    let foreign = stranger.put("", client::full("x")).await?;
    world.refuses(&world.post(&[&foreign], "").await?, "reference-unknown-key", 403).await
}

#[tokio::test]
async fn expired_exhausted_and_released_references_are_told_apart() -> Result<()> {
    let world = World::new().await?;
    let short = world.producer.put("ttl=50ms", client::full("x")).await?;
    let expired = wait::until(
        "the reference to expire",
        REST,
        async || world.producer.head(&short).await,
        |head| head.error() == "reference-expired",
    );
    expired.await?;
    world.refuses(&world.post(&[&short], "").await?, "reference-expired", 410).await?;

    let released = world.producer.put("", client::full("x")).await?;
    world.producer.release(&released).await?;
    world.refuses(&world.post(&[&released], "").await?, "reference-exhausted", 410).await?;

    let once = world.producer.put("", client::full("x")).await?;
    assert_eq!(world.producer.get(&once).await?.text(), "x");
    world.producer.at_rest(REST).await?;
    world.refuses(&world.post(&[&once], "").await?, "reference-exhausted", 410).await
}

#[tokio::test]
async fn two_payloads_are_ambiguous_and_empty_framing_is_no_body() -> Result<()> {
    let world = World::new().await?;
    let reference = world.producer.put("retrievals=9", client::full("payload")).await?;
    let list = format!("{reference}, {reference}");
    for (references, body) in [(vec![reference.as_str(), &reference], ""), (vec![&list], ""), (vec![&reference], "b")] {
        let answer = world.post(&references, body).await?;
        world.refuses(&answer, "reference-ambiguous", 400).await?;
    }
    for (framing, chunk) in [("Transfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n")] {
        let answer = raw(&world.consumer, &reference, framing, chunk).await?;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("reference-ambiguous"), "{answer}");
    }
    assert_eq!(world.function.begun(), 0);
    for (framing, chunk) in [("Transfer-Encoding: chunked", "0\r\n\r\n"), ("Content-Length: 0", ""), ("X: no framing at all", "")]
    {
        let answer = raw(&world.consumer, &reference, framing, chunk).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{framing}: {answer}");
    }
    assert!(world.function.seen().iter().all(|seen| seen.body == "payload" && seen.header("content-length") == "7"));
    Ok(())
}

/// A request as bytes, whose framing is exactly what is given.
async fn raw(proxy: &Proxy, reference: &str, framing: &str, body: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(proxy.request_address()).await?;
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nZipline-Reference: {reference}\r\n{framing}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(REST, stream.read_to_string(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

#[tokio::test]
async fn a_reference_for_another_service_is_refused() -> Result<()> {
    let world = World::new().await?;
    let reference = world.producer.put("retrievals=2", client::full("x")).await?;
    let narrow = async |receiver: &str| -> Result<String> {
        let document = json!({"reference": reference, "receiver": receiver}).to_string();
        let answer =
            client::send(&world.producer.api(), Request::post("/v1/references/narrow").body(client::full(document))?).await?;
        Ok(answer.json()?["reference"].as_str().context("a reference")?.to_owned())
    };
    let answer = world.post(&[&narrow("default/other").await?], "").await?;
    world.refuses(&answer, "reference-wrong-receiver", 403).await?;
    assert_eq!(world.post(&[&narrow("default/consumer").await?], "").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_producer_outside_the_allowed_networks_is_never_dialled() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_PEER_CIDRS", "10.0.0.0/8")).await?;
    let reference = world.producer.put("", client::full("x")).await?;
    world.refuses(&world.post(&[&reference], "").await?, "peer-forbidden", 403).await?;
    assert_eq!(world.producer.metrics().await?.sum(metrics::ATTEMPTS.name), 0.0);

    let metadata = world.ring.clone();
    let liar =
        ProxyOptions::new("liar", Keys::Inherited(metadata)).advertised("169.254.169.254".parse()?).start(&world.scratch).await?;
    let reference = liar.put("", client::full("x")).await?;
    world.refuses(&world.post(&[&reference], "").await?, "peer-forbidden", 403).await
}

#[tokio::test]
async fn a_dead_producer_is_unreachable_and_one_that_was_restarted_is_gone() -> Result<()> {
    let mut world = World::new().await?;
    let reference = world.producer.put("", client::full("x")).await?;
    let (ip, pull) = (world.producer.ip().to_string(), world.producer.pull_address());
    world.producer.process.kill()?;
    world.refuses(&world.post(&[&reference], "").await?, "producer-unreachable", 502).await?;

    let again =
        ProxyOptions::new("producer", Keys::Inherited(world.ring.clone())).env("ZIPLINE_BIND", &ip).env("SERVING_POD_IP", &ip);
    let (program, _own) = again.program(&world.scratch)?;
    let _restarted = program.start(&world.scratch)?;
    wait::until("the restarted producer", REST, async || Ok(tokio::net::TcpStream::connect(pull).await?), |_| true).await?;
    world.refuses(&world.post(&[&reference], "").await?, "producer-gone", 410).await
}

#[tokio::test]
async fn a_producer_that_answers_garbage_is_not_believed() -> Result<()> {
    let world = World::new().await?;
    let own = Loopback::claim()?;
    let liar = ProxyOptions::new("liar", Keys::Inherited(world.ring.clone())).advertised(own.ip()).start(&world.scratch).await?;
    // Where the reference points to, a plain web server answers.
    let function = Function::start(Behaviour::Sha256).await?;
    let _impostor = Relay::start(own.port(zipline_contract::doors::PULL), function.address()).await?;
    let reference = liar.put("", client::full("x")).await?;
    let answer = world.post(&[&reference], "").await?;
    assert!(["pull-unauthenticated", "protocol-unsupported"].contains(&answer.error()), "{}", answer.text());
    let name = answer.error().to_owned();
    world.refuses(&answer, &name, 502).await
}

/// A producer whose pull port is reached through a relay.
async fn behind_relay(world: &World) -> Result<(Proxy, Relay, Loopback)> {
    let at = Loopback::claim()?;
    let options = ProxyOptions::new("behind", Keys::Inherited(world.ring.clone())).advertised(at.ip());
    let producer = options.start(&world.scratch).await?;
    let relay = Relay::start(at.port(zipline_contract::doors::PULL), producer.pull_address()).await?;
    Ok((producer, relay, at))
}

#[tokio::test]
async fn a_byte_corrupted_once_is_asked_for_again_and_nobody_notices() -> Result<()> {
    let world = World::new().await?;
    let (producer, relay, _at) = behind_relay(&world).await?;
    let payload = Payload::new(8 * MIB, 1);
    let reference = producer.put("", payload.body()).await?;
    relay.next([Fault::Corrupt(Side::FromTarget, 3 * MIB)]);
    let answer = world.post(&[&reference], "").await?;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()));
    assert_eq!(world.consumer.metrics().await?.sum(metrics::PULL_RESUMES.name), 1.0);
    Ok(())
}

#[tokio::test]
async fn a_byte_corrupted_every_time_ends_the_request_before_its_length_is_reached() -> Result<()> {
    let world = World::new().await?;
    let (producer, relay, _at) = behind_relay(&world).await?;
    let payload = Payload::new(8 * MIB, 1);
    let reference = producer.put("", payload.body()).await?;
    relay.always(Fault::Corrupt(Side::FromTarget, 500_000));
    let answer = world.post(&[&reference], "").await?;
    assert_eq!((answer.error(), answer.status.as_u16()), ("payload-corrupt", 502), "{}", answer.text());
    assert!(world.function.seen().iter().all(|seen| !seen.whole && seen.size < payload.size()));
    let healthy = world.producer.put("", payload.body()).await?;
    assert_eq!(world.post(&[&healthy], "").await?.text(), payload.sha256(), "and the proxy serves on");
    Ok(())
}

#[tokio::test]
async fn a_pull_that_stalls_ends_by_its_idle_timeout() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS", "0.3")).await?;
    let (producer, relay, _at) = behind_relay(&world).await?;
    let reference = producer.put("retrievals=9", Payload::new(4 * MIB, 1).body()).await?;
    relay.always(Fault::Stall(Side::FromTarget, 0));
    world.refuses(&world.post(&[&reference], "").await?, "pull-idle-timeout", 504).await?;
    relay.always(Fault::Stall(Side::FromTarget, 2 * MIB));
    let answer = world.post(&[&reference], "").await?;
    assert_eq!((answer.error(), answer.status.as_u16()), ("pull-idle-timeout", 504), "{}", answer.text());
    assert!(world.function.seen().iter().all(|seen| !seen.whole));
    Ok(())
}

#[tokio::test]
async fn a_consumer_killed_in_the_middle_of_its_pull_leaves_the_payload_for_the_next() -> Result<()> {
    let mut world = World::new().await?;
    let at = Loopback::claim()?;
    let options = ProxyOptions::new("behind", Keys::Inherited(world.ring.clone())).advertised(at.ip());
    let producer = options.env("ZIPLINE_LEASE_SECONDS", "0.5").start(&world.scratch).await?;
    let relay = Relay::start(at.port(zipline_contract::doors::PULL), producer.pull_address()).await?;
    let payload = Payload::new(8 * MIB, 7);
    let reference = producer.put("", payload.body()).await?;
    relay.next([Fault::Stall(Side::FromTarget, 3 * MIB)]);
    let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
    let consumer = world.consumer.requests();
    let killed = async {
        let pulling = async || Ok((producer.metrics().await?.sum(metrics::LEASES.name), relay.passed(Side::FromTarget)));
        wait::until("the pull to be half way", REST, pulling, |seen| seen.0 == 1.0 && seen.1 > 2 * MIB).await?;
        world.consumer.process.kill()
    };
    let (answer, killed) = tokio::join!(client::send(&consumer, request), killed);
    killed?;
    assert!(answer.is_err(), "nobody was there to answer");
    assert!(world.function.seen().iter().all(|seen| !seen.whole), "half a payload passed for whole");
    producer.metrics_until("the lease to lapse", REST, |metrics| metrics.sum(metrics::LEASES.name) == 0.0).await?;

    let options = ProxyOptions::new("next", Keys::Inherited(world.ring.clone())).function(world.function.port());
    let next = options.start(&world.scratch).await?;
    let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
    assert_eq!(client::send(&next.requests(), request).await?.text(), payload.sha256());
    producer.at_rest(REST).await?;
    assert_eq!(producer.metrics().await?.sum(metrics::ACKNOWLEDGEMENTS.name), 1.0);
    Ok(())
}

#[tokio::test]
async fn a_grpc_client_gets_the_error_as_trailers_only() -> Result<()> {
    let world = World::new().await?;
    let request =
        Request::post("/pkg.Service/Method").header("content-type", "application/grpc").header(headers::REFERENCE, "nonsense");
    let answer = client::send(&world.consumer.requests(), request.body(client::empty())?).await?;
    assert_eq!((answer.status, answer.header("grpc-status"), answer.error()), (StatusCode::OK, "3", "reference-invalid"));
    assert!(answer.header("grpc-message").starts_with("reference-invalid") && answer.body.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_reference_to_the_own_proxy_is_read_where_it_lies() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(3 * MIB, 9);
    let reference = world.consumer.put("", payload.body()).await?;
    assert_eq!(world.post(&[&reference], "").await?.text(), payload.sha256());
    world.consumer.at_rest(REST).await?;
    let Target::Tcp(_) = world.consumer.requests() else { anyhow::bail!("the request port is TCP") };
    Ok(())
}
