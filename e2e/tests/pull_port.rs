//! Who may ask at a pull port, and whose answers are believed: scripted peers against the real queue-proxy.
//!
//! The scripted consumer has the trust domain's keys and speaks the wire's bytes with core's types, so that it can leave
//! out, change or repeat exactly one thing. The scripted producer has no keys.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zipline_contract::{doors, headers, metrics};
use zipline_core::object::LeaseId;
use zipline_core::pull::{Mac, Nonce, PullMethod, PullRequest, Wanted};
use zipline_core::reference::KeyRing as DomainKeys;
use zipline_core::time::WallTime;
use zipline_core::trace::TraceContext;
use zipline_testkit::{Behaviour, Function, KeyRing, Keys, Loopback, Payload, Proxy, ProxyOptions, Scratch, http as client};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn with_tls_required_proxies_pull_from_each_other_and_from_nobody_without() -> Result<()> {
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let options = |name: &str, tls: &str| ProxyOptions::new(name, Keys::Inherited(ring.clone())).env("ZIPLINE_PULL_TLS", tls);
    let producer = options("producer", "require").start(&scratch).await?;
    let consumer = options("consumer", "require").start(&scratch).await?;
    let plain = options("plain", "off").start(&scratch).await?;
    for size in [1, 100_000, 9 * MIB + 3] {
        let payload = Payload::new(size, 1);
        let reference = producer.put("", payload.body()).await?;
        let refused = plain.get(&reference).await?;
        assert_eq!(refused.error(), "pull-unauthenticated", "{size}");
        assert!(consumer.get(&reference).await?.body == payload.bytes(), "{size}");
    }
    let reference = plain.put("", Payload::new(100_000, 2).body()).await?;
    let refused = consumer.get(&reference).await?;
    assert_eq!(refused.error(), "pull-unauthenticated");
    let failures = async |proxy: &Proxy| Ok::<_, anyhow::Error>(proxy.metrics().await?.sum(metrics::PULL_TLS_FAILURES.name));
    assert!(failures(&producer).await? >= 3.0 && failures(&plain).await? >= 1.0 && failures(&consumer).await? >= 1.0);
    producer.at_rest(REST).await.map(|_| ())
}

/// A producer with one object, and the keys to ask for it.
struct Scene {
    scratch: Scratch,
    ring: KeyRing,
    keys: DomainKeys,
    producer: Proxy,
    payload: Payload,
    reference: String,
}

impl Scene {
    async fn new() -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let keys = DomainKeys::parse(ring.document().to_string().as_bytes())?;
        let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).start(&scratch).await?;
        let payload = Payload::new(2 * MIB + 7, 1);
        let reference = producer.put("", payload.body()).await?;
        Ok(Self { scratch, ring, keys, producer, payload, reference })
    }

    /// A genuine request for all bytes, under a lease and a nonce of its own.
    fn request(&self, method: PullMethod, number: u8) -> Result<PullRequest> {
        let lease = LeaseId::from_bytes([number; 16]);
        let wanted = Wanted::of(&self.keys.open(&self.reference, now())?, None, lease, None)?;
        Ok(wanted.request(method, now(), Nonce::from_bytes([number; 16])))
    }

    /// The bytes of a request under its own MAC.
    fn signed(&self, request: &PullRequest) -> Result<String> {
        let key = self.keys.sealing(now()).context("a key")?;
        Ok(text(request, &request.headers(key.id(), &request.sign(key))))
    }

    async fn says(&self, bytes: &str) -> Result<Said> {
        let mut stream = TcpStream::connect(self.producer.pull_address()).await?;
        stream.write_all(bytes.as_bytes()).await?;
        let head = head(&mut stream).await?;
        Ok(Said { head, stream })
    }

    /// The producer refuses these bytes by that name, without a MAC of its own, and closes the connection.
    async fn refuses(&self, what: &str, bytes: &str) -> Result<()> {
        let mut said = self.says(bytes).await?;
        assert!(said.head.starts_with("HTTP/1.1 502 "), "{what}: {}", said.head);
        assert_eq!(said.field("zipline-error"), Some("pull-unauthenticated"), "{what}: {}", said.head);
        for secret in ["zipline-mac", "zipline-size", "zipline-expires"] {
            assert_eq!(said.field(secret), None, "{what}: {}", said.head);
        }
        assert_eq!(said.rest().await?, 0, "{what}: the connection ends with the refusal");
        Ok(())
    }

    async fn granted(&self) -> Result<(f64, f64, f64)> {
        let now = self.producer.metrics().await?;
        let sums = [&metrics::ATTEMPTS, &metrics::LEASES, &metrics::ACKNOWLEDGEMENTS].map(|metric| now.sum(metric.name));
        assert_eq!(now.sum(metrics::HELD_OBJECTS.name), 1.0, "the object is held whatever was asked");
        Ok((sums[0], sums[1], sums[2]))
    }

    /// An honest consumer still gets the payload, and then nothing is left.
    async fn still_serves(&self) -> Result<()> {
        let consumer = ProxyOptions::new("consumer", Keys::Inherited(self.ring.clone())).start(&self.scratch).await?;
        assert!(consumer.get(&self.reference).await?.body == self.payload.bytes());
        self.producer.at_rest(REST).await.map(|_| ())
    }
}

/// What was answered: a head, and a connection on which more may come.
struct Said {
    head: String,
    stream: TcpStream,
}

impl Said {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// How many bytes come until the connection ends.
    async fn rest(&mut self) -> Result<usize> {
        let mut rest = Vec::new();
        match tokio::time::timeout(REST, self.stream.read_to_end(&mut rest)).await.context("the connection stays open")? {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(rest.len()),
        }
    }
}

async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(REST, stream.read_u8()).await.context("no head")??);
    }
    Ok(String::from_utf8(head)?)
}

fn text(request: &PullRequest, fields: &[(&'static str, String)]) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{} {} HTTP/1.1\r\n{fields}\r\n", request.method.verb(), request.path())
}

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallTime::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[tokio::test]
async fn a_pull_without_with_a_wrong_or_with_anothers_mac_gets_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let request = scene.request(PullMethod::Get, 1)?;
    let genuine = scene.signed(&request)?;
    let without: String =
        genuine.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("zipline-mac")).collect();
    ensure!(without.len() < genuine.len(), "the MAC was there");
    scene.refuses("without a MAC", &without).await?;

    let key = scene.keys.sealing(now()).context("a key")?;
    let wrong = text(&request, &request.headers(key.id(), &Mac::from_bytes([7; 32])));
    scene.refuses("with a wrong MAC", &wrong).await?;
    let elsewhere = PullRequest { dialled: "127.9.9.9:8122".parse()?, ..request.clone() };
    scene.refuses("signed for another address", &scene.signed(&elsewhere)?).await?;
    scene.refuses("signed for another method", &genuine.replacen("GET ", "HEAD ", 1)).await?;
    let other_lease = genuine.replacen(&"01".repeat(16), &"02".repeat(16), 1);
    ensure!(other_lease != genuine, "the lease was changed");
    scene.refuses("signed for another lease", &other_lease).await?;
    let stranger = DomainKeys::parse(KeyRing::random()?.document().to_string().as_bytes())?;
    let key = stranger.sealing(now()).context("a key")?;
    scene.refuses("signed by another domain", &text(&request, &request.headers(key.id(), &request.sign(key)))).await?;

    assert_eq!(scene.granted().await?, (0.0, 0.0, 0.0), "attempts, leases, acknowledgements");
    scene.still_serves().await
}

#[tokio::test]
async fn a_replayed_pull_gets_nothing_though_its_mac_holds() -> Result<()> {
    let scene = Scene::new().await?;
    let genuine = scene.signed(&scene.request(PullMethod::Get, 1)?)?;
    let mut first = scene.says(&genuine).await?;
    assert!(first.head.starts_with("HTTP/1.1 200 ") && first.field("zipline-mac").is_some(), "{}", first.head);
    let mut record = [0; 64];
    first.stream.read_exact(&mut record).await?;
    assert_eq!(scene.granted().await?.0, 1.0);

    scene.refuses("the same bytes again", &genuine).await?;
    let acknowledgement = scene.signed(&scene.request(PullMethod::Release, 9)?)?;
    assert!(scene.says(&acknowledgement).await?.head.starts_with("HTTP/1.1 204 "));
    scene.refuses("the same release again", &acknowledgement).await?;
    assert_eq!(scene.granted().await?.0, 1.0, "a replay is no attempt");

    drop(first);
    let again = scene.signed(
        &scene.request(PullMethod::Release, 1).map(|request| PullRequest { nonce: Nonce::from_bytes([0x44; 16]), ..request })?,
    )?;
    assert!(scene.says(&again).await?.head.starts_with("HTTP/1.1 204 "), "the lease is given back");
    scene.still_serves().await
}

#[tokio::test]
async fn a_pull_from_another_time_is_told_both_times_under_a_mac() -> Result<()> {
    let scene = Scene::new().await?;
    let request = scene.request(PullMethod::Get, 1)?;
    let early = WallTime::from_unix_millis(request.time.unix_millis() - 40_000);
    let said = scene.says(&scene.signed(&PullRequest { time: early, ..request })?).await?;
    assert_eq!(said.field("zipline-error"), Some("clock-skew"), "{}", said.head);
    assert!(said.field("zipline-mac").is_some(), "who asked is genuine, so the answer is signed: {}", said.head);
    let detail = said.field("zipline-detail").context("a detail")?;
    assert!(detail.contains(&early.unix_millis().to_string()), "{detail}");
    assert_eq!(scene.granted().await?, (0.0, 0.0, 0.0));
    scene.still_serves().await
}

#[tokio::test]
async fn who_asks_in_another_version_is_told_both_versions_and_gets_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let genuine = scene.signed(&scene.request(PullMethod::Get, 1)?)?;
    for (age, version) in [("older", "0"), ("newer", "2")] {
        let other = genuine.replacen("zipline-pull: 1", &format!("zipline-pull: {version}"), 1);
        ensure!(other != genuine, "the version was there");
        let mut said = scene.says(&other).await?;
        assert_eq!(said.field("zipline-error"), Some("protocol-unsupported"), "{age}: {}", said.head);
        let detail = said.field("zipline-detail").context("a detail")?;
        assert!(detail.contains(&format!("speaks pull protocol {version}")) && detail.contains("speaks 1"), "{age}: {detail}");
        assert_eq!(said.rest().await?, 0, "{age}: the connection ends with the refusal");
    }
    assert_eq!(scene.granted().await?, (0.0, 0.0, 0.0));
    scene.still_serves().await
}

#[tokio::test]
async fn a_producer_of_another_version_is_a_named_error_of_that_request_alone() -> Result<()> {
    let (scratch, front) = (Scratch::new()?, Loopback::claim()?);
    let (producer, consumer, function, reference) = towards(&front, &scratch).await?;
    for version in ["0", "2"] {
        // As such a proxy refuses, and as it answers.
        let refusal = "HTTP/1.1 502 Bad Gateway\r\nzipline-error: protocol-unsupported\r\nzipline-detail: it speaks another\r\n";
        for head in [refusal, "HTTP/1.1 200 OK\r\n"] {
            let answer = format!("{head}zipline-pull: {version}\r\nzipline-epoch: 0011223344556677\r\ncontent-length: 0\r\n\r\n");
            let (_heads, mut server) = impostor(&front, answer).await?;
            let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
            let answer = client::send(&consumer.requests(), request).await?;
            assert_eq!((answer.error(), answer.status.as_u16()), ("protocol-unsupported", 502), "{version}: {}", answer.text());
            server.shutdown().await;
        }
    }
    assert_eq!(function.begun(), 0, "the function saw nothing of it");
    let inline = Request::post("/").body(client::full("inline"))?;
    assert_eq!(client::send(&consumer.requests(), inline).await?.status, StatusCode::OK);
    assert_eq!(producer.get(&reference).await?.text(), "payload", "and the object is still where it was");
    consumer.at_rest(REST).await.map(|_| ())
}

/// A producer without keys at `front`: reads a head, keeps it, answers as it is told, and closes.
async fn impostor(front: &Loopback, answer: String) -> Result<(tokio::sync::mpsc::Receiver<String>, JoinSet<()>)> {
    let listener = TcpListener::bind(front.port(doors::PULL)).await?;
    let (heard, heads) = tokio::sync::mpsc::channel(16);
    let mut server = JoinSet::new();
    server.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Ok(head) = head(&mut stream).await else { continue };
            // Nobody listens any more, or does not read to the end: the test is over, or has what it wants.
            heard.try_send(head).ok();
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    Ok((heads, server))
}

/// An object whose reference leads to `front`, and a consumer with a function.
async fn towards(front: &Loopback, scratch: &Scratch) -> Result<(Proxy, Proxy, Function, String)> {
    let ring = KeyRing::random()?;
    let function = Function::start(Behaviour::Sha256).await?;
    let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).advertised(front.ip()).start(scratch).await?;
    let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring)).function(function.port());
    let consumer = consumer.env("ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS", "5").start(scratch).await?;
    let reference = producer.put("", client::full("payload")).await?;
    Ok((producer, consumer, function, reference))
}

#[tokio::test]
async fn an_answer_whose_mac_does_not_hold_is_not_believed() -> Result<()> {
    let (scratch, front) = (Scratch::new()?, Loopback::claim()?);
    let (producer, consumer, function, reference) = towards(&front, &scratch).await?;
    let keys_of_nobody = "00".repeat(32);
    let (head, tail) = ("HTTP/1.1 200 OK\r\nzipline-pull: 1\r\n", "zipline-size: 7\r\nzipline-sum: crc32c\r\n");
    let rest = "zipline-retrievals-left: 1\r\nzipline-expires: 99999999999999\r\nzipline-body: records\r\n\r\n";
    for mac in [String::new(), format!("zipline-mac: {keys_of_nobody}\r\n")] {
        let answer = format!("{head}zipline-epoch: 0000000000000000\r\n{mac}{tail}{rest}payload");
        let (_heads, mut server) = impostor(&front, answer).await?;
        let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
        let answer = client::send(&consumer.requests(), request).await?;
        assert_eq!((answer.error(), answer.status), ("pull-unauthenticated", StatusCode::BAD_GATEWAY), "{}", answer.text());
        server.shutdown().await;
    }
    assert_eq!(function.begun(), 0, "the function saw nothing of it");
    assert_eq!(producer.get(&reference).await?.text(), "payload", "and the object is still where it was");
    consumer.at_rest(REST).await.map(|_| ())
}

#[tokio::test]
async fn the_trace_of_a_request_goes_with_its_pull() -> Result<()> {
    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (scratch, front) = (Scratch::new()?, Loopback::claim()?);
    let (_producer, consumer, _function, reference) = towards(&front, &scratch).await?;
    let (mut heads, _server) = impostor(&front, "HTTP/1.1 200 OK\r\n\r\n".into()).await?;
    let request = Request::post("/").header(headers::REFERENCE, &reference).header("traceparent", CALLER);
    client::send(&consumer.requests(), request.body(client::empty())?).await?;
    let head = tokio::time::timeout(REST, heads.recv()).await?.context("a pull")?;
    let carried = head.lines().find_map(|line| line.strip_prefix("traceparent: ")).with_context(|| head.clone())?;
    let (caller, carried): (TraceContext, TraceContext) = (CALLER.parse()?, carried.parse()?);
    assert_eq!(carried, caller.child(carried.span_id), "the same trace");
    assert_ne!(carried.span_id, caller.span_id, "in a span of its own");
    Ok(())
}

#[tokio::test]
async fn at_debug_the_log_has_one_line_for_each_piece_of_work_and_at_info_none() -> Result<()> {
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let function = Function::start(Behaviour::Sha256).await?;
    for (level, lines) in [("debug", 1), ("info", 0)] {
        let options = |name| ProxyOptions::new(name, Keys::Inherited(ring.clone())).env("ZIPLINE_LOG", level);
        let producer = options("producer").start(&scratch).await?;
        let consumer = options("consumer").function(function.port()).start(&scratch).await?;
        let payload = Payload::new(MIB, 1);
        let reference = producer.put("", payload.body()).await?;
        let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
        assert_eq!(client::send(&consumer.requests(), request).await?.text(), payload.sha256());
        producer.at_rest(REST).await?;
        for (proxy, work, method) in [(&producer, "put{", "body"), (&producer, "serve{", "tcp"), (&consumer, "pull{", "tcp")] {
            let said = proxy.process.stderr();
            let about: Vec<&str> = said.lines().filter(|line| line.contains(work)).collect();
            assert_eq!(about.len(), lines, "{level}, {work}: {said}");
            for line in about {
                for field in
                    [&format!("method=\"{method}\""), "object.bytes=1048576", "tier=", "wait_seconds=", "transfer_seconds="]
                {
                    assert!(line.contains(field), "{field} in {line}");
                }
                assert!(!line.contains(&reference), "a log never has a reference: {line}");
            }
        }
    }
    Ok(())
}
