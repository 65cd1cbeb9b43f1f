//! The local API, line by line of `docs/reference/local-api.md`, on the real binary.

use std::time::Duration;

use anyhow::{Context, Result};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use zipline_contract::{PROBLEM_MEDIA_TYPE, headers};
use zipline_testkit::{
    Answer, Behaviour, Function, KeyRing, Keys, Payload, Proxy, ProxyOptions, Scratch, Target, free_port, http as client, wait,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

struct World {
    scratch: Scratch,
    ring: KeyRing,
}

impl World {
    fn new() -> Result<Self> {
        Ok(Self { scratch: Scratch::new()?, ring: KeyRing::random()? })
    }

    fn options(&self, service: &str) -> ProxyOptions {
        ProxyOptions::new(service, Keys::Inherited(self.ring.clone()))
    }

    async fn proxy(&self) -> Result<Proxy> {
        self.options("own").start(&self.scratch).await
    }
}

async fn call(
    proxy: &Proxy,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<bytes::Bytes>,
) -> Result<Answer> {
    let request =
        headers.iter().fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
    client::send(&proxy.api(), request.body(client::full(body))?).await
}

fn is_problem(answer: &Answer, name: &str, status: u16) -> Result<()> {
    assert_eq!((answer.error(), answer.status.as_u16()), (name, status), "{}", answer.text());
    assert_eq!(answer.header(CONTENT_TYPE.as_str()), PROBLEM_MEDIA_TYPE);
    let document = answer.json()?;
    assert_eq!(document["type"], format!("urn:zipline:error:{name}"));
    assert_eq!(document["status"], status);
    for field in ["title", "detail", "retry", "fault", "hint"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{name} lacks {field}: {document}");
    }
    Ok(())
}

#[tokio::test]
async fn it_says_what_it_is_and_can_do() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy().await?;
    let info = call(&proxy, Method::GET, "/v1", &[], "").await?.json()?;
    assert_eq!((&info["version"], &info["name"]), (&json!(1), &json!("zipline-queue-proxy")));
    assert_eq!((&info["namespace"], &info["service"], &info["transfer"]), (&json!("default"), &json!("own"), &json!("zipline")));
    assert_eq!(info["features"], json!(["descriptors", "open", "narrow", "invoke"]));
    assert_eq!((&info["inline_threshold_bytes"], &info["heap_threshold_bytes"]), (&json!(32768), &json!(32768)));
    assert_eq!((&info["limits"]["retrievals_max"], &info["limits"]["ttl_seconds_max"]), (&json!(1_000_000), &json!(3600)));
    assert!(info["limits"]["payload_bytes_max"].as_u64().is_some_and(|bytes| bytes > 0));
    assert!(info["instance"].is_string() && info["release"].is_string());
    Ok(())
}

#[tokio::test]
async fn what_is_put_can_be_got_with_its_content_type_and_is_gone_after_its_retrievals() -> Result<()> {
    let world = World::new()?;
    let (proxy, other) = (world.proxy().await?, world.options("other").start(&world.scratch).await?);
    for size in [0, 1, 1000, 64 * 1024, 3 * MIB + 7] {
        let payload = Payload::new(size, size);
        let put = Request::post("/v1/objects?retrievals=2&ttl=30s&durability=none&sum=crc32c").header(CONTENT_TYPE, "text/csv");
        let put = client::send(&proxy.api(), put.body(payload.body())?).await?;
        assert_eq!(put.status, StatusCode::CREATED, "{}", put.text());
        let document = put.json()?;
        let reference = put.header(headers::REFERENCE);
        assert_eq!((&document["reference"], &document["size"]), (&json!(reference), &json!(size)));
        assert!(is_time(&document["expires"]) && is_time(&document["guaranteed_until"]), "{document}");
        for reader in [&proxy, &other] {
            let got = reader.get(reference).await?;
            assert_eq!((got.status, got.header("content-type")), (StatusCode::OK, "text/csv"), "{size}: {}", got.text());
            assert_eq!(got.header("content-length"), size.to_string());
            assert!(got.body == payload.bytes(), "{size} bytes came back changed");
        }
        proxy.at_rest(REST).await?;
        is_problem(&proxy.get(reference).await?, "reference-exhausted", 410)?;
        is_problem(&other.get(reference).await?, "reference-exhausted", 410)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_unknown_length_is_put_like_any_other() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy().await?;
    let payload = Payload::new(2 * MIB + 5, 1);
    let chunked = http_body_util::StreamBody::new(Chunks(payload.chunks().collect()));
    let put = client::send(&proxy.api(), Request::post("/v1/objects").body(chunked)?).await?;
    assert_eq!((put.status, &put.json()?["size"]), (StatusCode::CREATED, &json!(payload.size())));
    assert!(proxy.get(put.header(headers::REFERENCE)).await?.body == payload.bytes());
    proxy.at_rest(REST).await?;
    Ok(())
}

/// A stream of frames, so that the body has no length.
struct Chunks(std::collections::VecDeque<bytes::Bytes>);

impl futures_util::Stream for Chunks {
    type Item = Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn an_opened_object_is_referred_to_before_its_bytes_are_written_once() -> Result<()> {
    let world = World::new()?;
    let (proxy, other) = (world.proxy().await?, world.options("other").start(&world.scratch).await?);
    let opened = call(&proxy, Method::POST, "/v1/objects?open&ttl=30s", &[], "").await?;
    assert_eq!(opened.status, StatusCode::CREATED, "{}", opened.text());
    let document = opened.json()?;
    assert_eq!(document["size"], Value::Null);
    let token = document["write_token"].as_str().context("a write token")?;
    let reference = opened.header(headers::REFERENCE);

    let payload = Payload::new(5 * MIB, 2);
    let write = Request::put("/v1/objects").header(headers::WRITE, token).body(payload.body())?;
    // The reader asks before a byte was written, and follows the writer.
    let api = proxy.api();
    let (got, written) = tokio::join!(other.get(reference), client::send(&api, write));
    let (got, written) = (got?, written?);
    assert_eq!((written.status, written.header(headers::SIZE)), (StatusCode::NO_CONTENT, payload.size().to_string().as_str()));
    assert_eq!(got.status, StatusCode::OK);
    assert!(got.body == payload.bytes());
    proxy.at_rest(REST).await?;

    let again = call(&proxy, Method::PUT, "/v1/objects", &[(headers::WRITE, token)], "x").await?;
    is_problem(&again, "request-invalid", 400)?;
    is_problem(&call(&proxy, Method::PUT, "/v1/objects", &[], "x").await?, "request-invalid", 400)?;
    is_problem(&call(&proxy, Method::POST, "/v1/objects?open", &[], "x").await?, "request-invalid", 400)
}

#[tokio::test]
async fn a_cut_body_aborts_its_object() -> Result<()> {
    let world = World::new()?;
    let (proxy, other) = (world.proxy().await?, world.options("other").start(&world.scratch).await?);
    let opened = call(&proxy, Method::POST, "/v1/objects?open&retrievals=9", &[], "").await?;
    let (reference, document) = (opened.header(headers::REFERENCE), opened.json()?);
    let token = document["write_token"].as_str().context("a write token")?;
    // Twice the bytes are promised that ever come; then the connection is cut.
    let head = format!("PUT /v1/objects HTTP/1.1\r\nHost: x\r\n{}: {token}\r\nContent-Length: 4000000\r\n\r\n", headers::WRITE);
    let mut writer = tokio::net::UnixStream::connect(proxy.api_path()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut writer, head.as_bytes()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut writer, &vec![7; 2_000_000]).await?;
    let reading = other.get(reference);
    tokio::pin!(reading);
    let begun = proxy.metrics_until("a reader", REST, |metrics| metrics.sum(zipline_contract::metrics::LEASES.name) > 0.0);
    tokio::select! {
        got = &mut reading => panic!("ended early: {got:?}"),
        begun = begun => drop(begun?),
    }
    drop(writer);
    // If its head had come the reader can only be cut; else it is told by name, like whoever comes now.
    if let Ok(answer) = reading.await {
        is_problem(&answer, "payload-aborted", 502)?;
    }
    is_problem(&other.get(reference).await?, "payload-aborted", 502)?;
    proxy.at_rest(REST).await?;
    Ok(())
}

#[tokio::test]
async fn a_part_is_read_without_counting_unless_it_asks_to() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy().await?;
    let payload = Payload::new(3 * MIB, 3);
    let bytes = payload.bytes();
    let reference = proxy.put("", payload.body()).await?;
    let part = async |range: &str| {
        call(&proxy, Method::GET, "/v1/objects", &[(headers::REFERENCE, &reference), (RANGE.as_str(), range)], "").await
    };
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=1048570-1048590", 1048570, 1048590),
        ("bytes=3145720-", 3145720, 3145727),
        ("bytes=-10", 3145718, 3145727),
        ("bytes=3145727-9999999999", 3145727, 3145727),
    ] {
        let got = part(range).await?;
        assert_eq!(
            (got.status, got.header(CONTENT_RANGE.as_str())),
            (StatusCode::PARTIAL_CONTENT, format!("bytes {first}-{last}/3145728").as_str())
        );
        assert!(got.body == bytes.slice(first..=last), "{range}");
    }
    is_problem(&part("bytes=3145729-").await?, "range-unsatisfiable", 416)?;
    is_problem(&part("bytes=5-4").await?, "request-invalid", 400)?;
    assert_eq!(part("lines=1-2").await?.status, StatusCode::OK, "another unit is as if absent, and reads the whole");
    proxy.at_rest(REST).await?;

    let reference = proxy.put("", payload.body()).await?;
    let headers = [(headers::REFERENCE, reference.as_str()), (RANGE.as_str(), "bytes=0-9")];
    let counted = call(&proxy, Method::GET, "/v1/objects?retrieval", &headers, "").await?;
    assert!(counted.status == StatusCode::PARTIAL_CONTENT && counted.body == bytes.slice(..10));
    proxy.at_rest(REST).await?;
    is_problem(&proxy.get(&reference).await?, "reference-exhausted", 410)
}

#[tokio::test]
async fn head_tells_size_retrievals_and_expiry_and_delete_releases() -> Result<()> {
    let world = World::new()?;
    let (proxy, other) = (world.proxy().await?, world.options("other").start(&world.scratch).await?);
    let reference = proxy.put("retrievals=3&ttl=1m", client::full("hello")).await?;
    for (asked, left) in [(&proxy, "3"), (&other, "3")] {
        let head = asked.head(&reference).await?;
        assert_eq!((head.status, head.header(CONTENT_LENGTH.as_str())), (StatusCode::OK, "5"));
        assert_eq!(head.header(headers::RETRIEVALS_LEFT), left);
        assert!(is_time(&json!(head.header(headers::EXPIRES))), "{:?}", head.headers);
    }
    assert_eq!(other.get(&reference).await?.text(), "hello");
    let left = |metrics: &zipline_testkit::Metrics| metrics.sum(zipline_contract::metrics::ACKNOWLEDGEMENTS.name) == 1.0;
    proxy.metrics_until("the retrieval to count", REST, left).await?;
    assert_eq!(proxy.head(&reference).await?.header(headers::RETRIEVALS_LEFT), "2");
    for _ in 0..2 {
        assert_eq!(other.release(&reference).await?.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(proxy.release(&reference).await?.status, StatusCode::NO_CONTENT);
    is_problem(&proxy.get(&reference).await?, "reference-exhausted", 410)?;
    proxy.at_rest(REST).await?;

    let opened = call(&proxy, Method::POST, "/v1/objects?open", &[], "").await?;
    let head = other.head(opened.header(headers::REFERENCE)).await?;
    assert_eq!((head.status, head.header(CONTENT_LENGTH.as_str())), (StatusCode::OK, ""), "no size while it is unknown");
    Ok(())
}

#[tokio::test]
async fn a_narrowed_reference_gives_less_and_never_more() -> Result<()> {
    let world = World::new()?;
    let (proxy, other) = (world.proxy().await?, world.options("other").start(&world.scratch).await?);
    let reference = proxy.put("retrievals=2", client::full("0123456789")).await?;
    let narrow = |fields: Value| {
        let document = fields.to_string();
        let proxy = &proxy;
        async move { call(proxy, Method::POST, "/v1/references/narrow", &[], document).await }
    };
    let narrowed = async |fields: Value| -> Result<String> {
        let answer = narrow(fields).await?;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        Ok(answer.json()?["reference"].as_str().context("a reference")?.to_owned())
    };
    let part = narrowed(json!({"reference": reference, "range": {"first": 2, "length": 5}})).await?;
    let of_part = narrowed(json!({"reference": part, "range": {"first": 1, "length": 2}})).await?;
    let wider = narrow(json!({"reference": part, "range": {"first": 0, "length": 6}})).await?;
    is_problem(&wider, "request-invalid", 400)?;
    for (reference, text) in [(&part, "23456"), (&of_part, "34")] {
        let head = other.head(reference).await?;
        assert_eq!(head.header(CONTENT_LENGTH.as_str()), text.len().to_string());
        let range = [(headers::REFERENCE, reference.as_str()), (RANGE.as_str(), "bytes=1-")];
        assert_eq!(call(&other, Method::GET, "/v1/objects", &range, "").await?.text(), text[1..]);
    }
    let foreign = narrowed(json!({"reference": reference, "receiver": "default/another"})).await?;
    is_problem(&other.get(&foreign).await?, "reference-wrong-receiver", 403)?;
    is_problem(&narrow(json!({"reference": foreign, "receiver": "default/other"})).await?, "reference-wrong-receiver", 403)?;
    let ours = narrowed(json!({"reference": reference, "receiver": "default/other", "slot": 0})).await?;
    assert_eq!(other.get(&ours).await?.text(), "0123456789");
    is_problem(&narrow(json!({"reference": reference, "slot": 2})).await?, "request-invalid", 400)?;
    let expired = narrowed(json!({"reference": reference, "expires": "2020-01-01T00:00:00.000Z"})).await?;
    is_problem(&proxy.get(&expired).await?, "reference-expired", 410)?;
    for broken in [
        json!({}),
        json!({"reference": reference, "expires": "soon"}),
        json!({"reference": reference, "receiver": "x"}),
        json!({"reference": reference, "range": {"first": 0, "length": 0}}),
        json!("text"),
    ] {
        is_problem(&narrow(broken).await?, "request-invalid", 400)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_well_formed_is_refused_by_name() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy().await?;
    for path in [
        "/v1/objects?retrieval=3",
        "/v1/objects?retrievals=0",
        "/v1/objects?ttl=5d",
        "/v1/objects?ttl=2h",
        "/v1/objects?durability=always",
        "/v1/objects?sum=md5",
        "/v2/objects",
        "/",
    ] {
        is_problem(&call(&proxy, Method::POST, path, &[], "x").await?, "request-invalid", 400).context(path)?;
    }
    let unknown = call(&proxy, Method::PATCH, "/v1/objects", &[], "").await?;
    is_problem(&unknown, "request-invalid", 400)?;
    assert_eq!(unknown.header(ALLOW.as_str()), "POST, PUT, GET, HEAD, DELETE");
    is_problem(&call(&proxy, Method::GET, "/v1/objects", &[], "").await?, "request-invalid", 400)?;
    is_problem(
        &call(&proxy, Method::GET, "/v1/objects", &[(headers::REFERENCE, "nonsense")], "").await?,
        "reference-invalid",
        400,
    )?;
    let two = [(headers::REFERENCE, "zl1.a"), (headers::REFERENCE, "zl1.b")];
    is_problem(&call(&proxy, Method::GET, "/v1/objects", &two, "").await?, "reference-ambiguous", 400)?;
    is_problem(&call(&proxy, Method::GET, "/v1/descriptors", &[], "").await?, "request-invalid", 400)?;
    is_problem(&call(&proxy, Method::POST, "/v1/invoke/", &[], "").await?, "request-invalid", 400)?;
    // Not HTTP at all costs one connection.
    let mut garbage = tokio::net::UnixStream::connect(proxy.api_path()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"\x16\x03\x01garbage\r\n\r\n").await?;
    tokio::io::AsyncReadExt::read_to_end(&mut garbage, &mut Vec::new()).await?;
    assert_eq!(call(&proxy, Method::GET, "/v1", &[], "").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_full_buffer_is_told_with_its_numbers_and_takes_more_once_there_is_room() -> Result<()> {
    let world = World::new()?;
    let small = [("ZIPLINE_BUFFER_BYTES", "2MiB"), ("ZIPLINE_PUT_WAIT_SECONDS", "0.1")];
    let proxy = world.options("own").envs(small).start(&world.scratch).await?;
    let large = client::send(&proxy.api(), Request::post("/v1/objects").body(Payload::new(3 * MIB, 1).body())?).await?;
    is_problem(&large, "payload-too-large", 413)?;
    assert_eq!((&large.json()?["limit"], &large.json()?["value"]), (&json!(2 * MIB), &json!(3 * MIB)));
    let reference = proxy.put("", Payload::new(2 * MIB - 1000, 1).body()).await?;
    let full = client::send(&proxy.api(), Request::post("/v1/objects").body(Payload::new(100_000, 1).body())?).await?;
    is_problem(&full, "buffer-full", 503)?;
    assert!(!full.header(RETRY_AFTER.as_str()).is_empty());
    let document = full.json()?;
    assert_eq!((&document["limit"], &document["value"]), (&json!(2 * MIB), &json!(2 * MIB - 1000)), "{document}");
    assert!(document["retry_after_seconds"].is_u64());
    assert_eq!(proxy.get(&reference).await?.status, StatusCode::OK);
    proxy.at_rest(REST).await?;
    proxy.put("", Payload::new(2 * MIB, 1).body()).await?;
    Ok(())
}

#[tokio::test]
async fn without_keys_nothing_can_be_put_or_read_but_the_proxy_serves() -> Result<()> {
    let world = World::new()?;
    let function = Function::start(Behaviour::Sha256).await?;
    let proxy = ProxyOptions::new("own", Keys::None).function(function.port()).start(&world.scratch).await?;
    is_problem(&call(&proxy, Method::POST, "/v1/objects", &[], "x").await?, "reference-unknown-key", 403)?;
    let foreign = world.proxy().await?.put("", client::full("x")).await?;
    is_problem(&proxy.get(&foreign).await?, "reference-unknown-key", 403)?;
    let payload = Payload::new(100_000, 1);
    let plain = client::send(&proxy.requests(), Request::post("/").body(payload.body())?).await?;
    assert_eq!((plain.status, plain.text()), (StatusCode::OK, payload.sha256()));
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_ring_takes_effect_and_a_broken_file_does_not() -> Result<()> {
    let world = World::new()?;
    let proxy = ProxyOptions::new("own", Keys::File(world.ring.clone())).start(&world.scratch).await?;
    let before = proxy.put("retrievals=9", client::full("old key")).await?;
    let rotated = world.ring.rotated()?;
    proxy.write_keys(&rotated)?;
    let renewed = ProxyOptions::new("other", Keys::Inherited(rotated.without_oldest())).start(&world.scratch).await?;
    // A reference sealed with the new key alone can be opened by the other, so the new ring is in force.
    let fresh = wait::until(
        "the new ring to seal",
        REST,
        async || {
            let reference = proxy.put("", client::full("new key")).await?;
            Ok((renewed.head(&reference).await?.status, reference))
        },
        |(status, _)| *status == StatusCode::OK,
    );
    fresh.await?;
    assert_eq!(proxy.get(&before).await?.text(), "old key", "the old key still opens");
    is_problem(&renewed.get(&before).await?, "reference-unknown-key", 403)?;

    std::fs::write(world.scratch.join(format!("{}.keys.json", proxy.ip())), "{ broken")?;
    assert_eq!(proxy.get(&before).await?.text(), "old key", "a broken file keeps the ring");
    wait::until(
        "the broken file to be said",
        REST,
        async || Ok(proxy.process.stdout() + &proxy.process.stderr()),
        |log| log.contains("the one in force stays"),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn loopback_tcp_serves_the_same_api_but_no_descriptors() -> Result<()> {
    let world = World::new()?;
    let port = free_port()?;
    let proxy = world.options("own").env("ZIPLINE_API_PORT", port.to_string()).start(&world.scratch).await?;
    let target = Target::Tcp((proxy.ip(), port).into());
    let put = client::send(&target, Request::post("/v1/objects").body(client::full("over TCP"))?).await?;
    assert_eq!(put.status, StatusCode::CREATED, "{}", put.text());
    let get = Request::get("/v1/objects").header(headers::REFERENCE, put.header(headers::REFERENCE)).body(client::empty())?;
    assert_eq!(client::send(&target, get).await?.text(), "over TCP");
    let upgrade = Request::get("/v1/descriptors").header("connection", "upgrade").header("upgrade", "zipline-descriptors/1");
    is_problem(&client::send(&target, upgrade.body(client::empty())?).await?, "request-invalid", 400)
}

#[tokio::test]
async fn a_socket_in_use_is_a_clear_fatal_error_and_a_stale_one_is_replaced() -> Result<()> {
    let world = World::new()?;
    let mut first = world.proxy().await?;
    let path = first.api_path().to_string_lossy().into_owned();
    let (program, _own) = world.options("second").env("ZIPLINE_API_SOCKET", &path).program(&world.scratch)?;
    let second = program.run(&world.scratch, REST).await?;
    assert_ne!(second.code(), Some(0));
    let log = second.stdout() + &second.stderr();
    assert!(log.contains(&path) && log.contains("in use by another process"), "{log}");
    assert_eq!(call(&first, Method::GET, "/v1", &[], "").await?.status, StatusCode::OK, "the first is unharmed");

    first.process.kill()?;
    assert!(std::path::Path::new(&path).exists(), "a killed process leaves its socket");
    let third = world.options("third").env("ZIPLINE_API_SOCKET", &path).program(&world.scratch)?;
    let _third = (third.0.start(&world.scratch)?, third.1);
    let api = Target::Unix(path.clone().into());
    wait::until(
        "the stale socket to be replaced",
        REST,
        async || client::send(&api, Request::get("/v1").body(client::empty())?).await,
        |answer| answer.status == StatusCode::OK,
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_draining_proxy_takes_no_puts_and_gives_out_what_it_holds_before_it_ends() -> Result<()> {
    let world = World::new()?;
    let other = world.options("other").start(&world.scratch).await?;
    let mut proxy = world.options("own").env("ZIPLINE_DRAIN_QUIET_SECONDS", "0.1").start(&world.scratch).await?;
    let reference = proxy.put("", client::full("held")).await?;
    proxy.process.signal(rustix::process::Signal::TERM)?;
    let put = async || {
        let answer = call(&proxy, Method::POST, "/v1/objects", &[], "late").await?;
        if answer.status == StatusCode::CREATED {
            proxy.release(answer.header(headers::REFERENCE)).await?; // It came before the signal, and would be held.
        }
        Ok(answer)
    };
    let refused = wait::until("puts to be refused", REST, put, |answer| answer.status != StatusCode::CREATED).await?;
    is_problem(&refused, "draining", 503)?;
    assert_eq!(other.get(&reference).await?.text(), "held");
    assert!(proxy.process.ended(REST).await?.success());
    Ok(())
}

#[tokio::test]
async fn on_the_nodes_network_it_stays_closed() -> Result<()> {
    let world = World::new()?;
    let options = world.options("own").env("HOST_IP", "127.0.0.1").env("SERVING_POD_IP", "127.0.0.1");
    let (program, own) = options.program(&world.scratch)?;
    let process = program.start(&world.scratch)?;
    let admin = Target::Tcp(own.port(zipline_contract::doors::ADMIN));
    let metrics = async || client::send(&admin, Request::get("/zipline/metrics").body(client::empty())?).await;
    wait::until("the admin port", REST, metrics, |answer| answer.status == StatusCode::OK).await?;
    assert!(!world.scratch.join(format!("{}.api", own.ip())).exists());
    assert!((process.stdout() + &process.stderr()).contains("local API and egress stay closed"));
    Ok(())
}

fn is_time(value: &Value) -> bool {
    let shape =
        |text: &str| text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T' && text.as_bytes()[19] == b'.';
    value.as_str().is_some_and(shape)
}
