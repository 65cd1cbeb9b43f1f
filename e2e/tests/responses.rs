//! Large answers travel back by reference, and nobody who called or was called notices.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use http::{Request, StatusCode};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use zipline_contract::{doors, headers, metrics};
use zipline_testkit::{
    Answer, KeyRing, Keys, Loopback, Metrics, Proxy, ProxyOptions, PythonFunction, Relay, Scratch, Side, http as client,
};

const REST: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;
/// What a gateway may see of an answer whose body travels beside it.
const CONTROL_BYTES_MAX: u64 = 8 * 1024;

/// Answers `/SIZE` with so many bytes, `/SIZE/KEPT` with a length of SIZE and KEPT bytes of it before it dies, and
/// `/SIZE/hang` with half of them and then nothing; `/own` with a reference header of its own.
const FUNCTION: &str = r#"
import http.server, os, time

class Function(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        if parts[0] == "own":
            self.send_response(200)
            self.send_header("Zipline-Reference", "zl1.of-the-function")
            self.send_header("Zipline-Body", "reference")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = int(parts[0])
        how = parts[1] if len(parts) > 1 else str(size)
        self.send_response(203 if len(parts) == 1 else 200)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Type", "text/x-answer")
        self.send_header("X-Asked", ",".join(name.lower() for name in self.headers if name.lower().startswith("zipline-")))
        self.end_headers()
        left = size // 2 if how == "hang" else int(how)
        block = bytes(range(256)) * 256
        while left > 0:
            left -= self.wfile.write(block[:left])
        self.wfile.flush()
        if how == "hang":
            time.sleep(600)
        if how != str(size):
            os._exit(1)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Function).serve_forever()
"#;

/// A calling instance, and a called service `maker.default` behind a relay that stands for the ingress.
struct World {
    _scratch: Scratch,
    _function: PythonFunction,
    caller: Proxy,
    callee: Proxy,
    ingress: Relay,
    _ingress_at: Loopback,
}

impl World {
    async fn with(
        caller: impl FnOnce(ProxyOptions) -> ProxyOptions,
        callee: impl FnOnce(ProxyOptions) -> ProxyOptions,
    ) -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = PythonFunction::start(&scratch, FUNCTION, &[]).await?;
        let options = ProxyOptions::new("maker", Keys::Inherited(ring.clone())).function(function.port());
        let callee = callee(options).start(&scratch).await?;
        let ingress_at = Loopback::claim()?;
        let ingress = Relay::start(ingress_at.port(0), callee.request_address()).await?;
        let options = ProxyOptions::new("caller", Keys::Inherited(ring))
            .env("ZIPLINE_EGRESS_PORT", doors::EGRESS.to_string())
            .env("ZIPLINE_SERVICE_DOMAIN", "localhost")
            .env("ZIPLINE_PEERS_KNOWN", "all")
            .env("ZIPLINE_INGRESS", ingress.address().to_string());
        let caller = caller(options).start(&scratch).await?;
        Ok(Self { _scratch: scratch, _function: function, caller, callee, ingress, _ingress_at: ingress_at })
    }

    async fn new() -> Result<Self> {
        Self::with(|options| options, |options| options).await
    }

    async fn invoke(&self, path: &str) -> Result<Answer> {
        let request = Request::get(format!("/v1/invoke/maker/{path}")).body(client::empty())?;
        client::send(&self.caller.api(), request).await
    }

    async fn proxied(&self, path: &str) -> Result<Answer> {
        let token = base64::engine::general_purpose::STANDARD.encode("zipline:testtoken");
        let request = Request::get(format!("http://maker.default.localhost/{path}"))
            .header("host", "maker.default.localhost")
            .header("proxy-authorization", format!("Basic {token}"));
        client::send(&self.caller.port(doors::EGRESS), request.body(client::empty())?).await
    }

    async fn at_rest(&self) -> Result<()> {
        self.callee.at_rest(REST).await.context("the callee")?;
        self.caller.at_rest(REST).await.context("the caller").map(|_| ())
    }
}

fn swaps(metrics: &Metrics, direction: &str) -> f64 {
    metrics.labelled(metrics::SWAPS.name, "direction", direction)
}

fn is_payload(body: &[u8], size: u64) -> bool {
    let expected: Vec<u8> = (0..65536_u32).map(|i| i as u8).collect();
    let mut sum = Sha256::new();
    let mut left = size as usize;
    while left > 0 {
        let now = left.min(expected.len());
        sum.update(&expected[..now]);
        left -= now;
    }
    body.len() as u64 == size && sum.finalize() == Sha256::digest(body)
}

#[tokio::test]
async fn a_large_answer_comes_back_past_the_ingress_as_it_was_given() -> Result<()> {
    let world = World::new().await?;
    let size = 20 * MIB + 7;
    for answer in [world.invoke(&size.to_string()).await?, world.proxied(&size.to_string()).await?] {
        assert_eq!(answer.status.as_u16(), 203, "{}", answer.text());
        assert!(is_payload(&answer.body, size), "{} bytes came", answer.body.len());
        assert_eq!(
            (answer.header("content-type"), answer.header("content-length")),
            ("text/x-answer", size.to_string().as_str())
        );
        assert_eq!(answer.header("x-asked"), "", "the function saw {}", answer.header("x-asked"));
        let ours = answer.headers.keys().find(|name| name.as_str().starts_with(headers::PREFIX));
        assert_eq!(ours, None, "the caller's function sees an ordinary answer");
    }
    world.at_rest().await?;
    assert_eq!((swaps(&world.callee.metrics().await?, "out"), swaps(&world.caller.metrics().await?, "in")), (2.0, 2.0));
    let through = world.ingress.passed(Side::FromTarget);
    assert!(through < 2 * CONTROL_BYTES_MAX, "the ingress saw {through} bytes");
    Ok(())
}

#[tokio::test]
async fn who_does_not_ask_or_asks_for_little_gets_its_answer_inline() -> Result<()> {
    let world = World::new().await?;
    let plain = client::send(&world.callee.requests(), Request::get("/100000").body(client::empty())?).await?;
    assert!(is_payload(&plain.body, 100_000) && !plain.headers.contains_key(headers::REFERENCE));
    assert!(is_payload(&world.invoke("1000").await?.body, 1000));
    let head = Request::head("/v1/invoke/maker/5000000").body(client::empty())?;
    let head = client::send(&world.caller.api(), head).await?;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (203, "5000000"));
    assert_eq!(swaps(&world.callee.metrics().await?, "out"), 0.0);

    let inline = World::with(|options| options.env("ZIPLINE_TRANSFER", "inline"), |options| options).await?;
    assert!(is_payload(&inline.invoke("100000").await?.body, 100_000));
    assert_eq!(swaps(&inline.callee.metrics().await?, "out"), 0.0, "a caller of another method does not ask");
    Ok(())
}

#[tokio::test]
async fn a_reference_that_a_function_answers_with_is_its_own_affair() -> Result<()> {
    let world = World::new().await?;
    let answer = world.invoke("own").await?;
    assert_eq!((answer.status, answer.header(headers::REFERENCE)), (StatusCode::OK, "zl1.of-the-function"));
    assert!(!answer.headers.contains_key(headers::BODY));
    Ok(())
}

#[tokio::test]
async fn without_room_an_answer_goes_inline() -> Result<()> {
    let world = World::with(|options| options, |options| options.env("ZIPLINE_BUFFER_BYTES", "1MiB")).await?;
    let answer = world.invoke(&(3 * MIB).to_string()).await?;
    assert!(answer.status.as_u16() == 203 && is_payload(&answer.body, 3 * MIB), "{}", answer.status);
    assert_eq!(swaps(&world.callee.metrics().await?, "out"), 0.0);
    world.at_rest().await
}

#[tokio::test]
async fn a_function_that_dies_in_its_answer_is_seen_as_a_cut_answer_or_by_name() -> Result<()> {
    let world = World::new().await?;
    match world.invoke(&format!("{}/{}", 8 * MIB, 3 * MIB)).await {
        Err(_) => {} // The body broke off before its length was reached.
        Ok(answer) => assert_eq!((answer.status.as_u16(), answer.error()), (502, "payload-aborted"), "{}", answer.text()),
    }
    world.at_rest().await
}

#[tokio::test]
async fn an_instance_that_is_gone_before_its_answer_was_read_is_told_by_name() -> Result<()> {
    let front = Loopback::claim()?;
    let (ip, nobody) = (front.ip(), front);
    // The callee's references name an address where nobody listens: it went away after its head.
    let world = World::with(|options| options, |options| options.advertised(ip)).await?;
    let answer = world.invoke(&(2 * MIB).to_string()).await?;
    assert_eq!((answer.status.as_u16(), answer.error()), (502, "producer-unreachable"), "{}", answer.text());
    drop(nobody);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_gives_up_frees_the_answer_and_a_late_answer_ends_with_the_call() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_INVOKE_TIMEOUT_SECONDS", "2"), |options| options).await?;
    let request = Request::get(format!("/v1/invoke/maker/{}", 30 * MIB)).body(client::empty())?;
    let open = client::open(&world.caller.api(), request).await?;
    assert_eq!(open.response.status().as_u16(), 203);
    drop(open);
    world.at_rest().await.context("a call that was given up")?;
    let late = world.invoke(&format!("{}/hang", 4 * MIB)).await;
    assert!(late.is_err(), "half an answer is none");
    world.caller.at_rest(REST).await.map(|_| ())
}

#[tokio::test]
async fn an_instance_that_ends_waits_until_its_answer_was_read() -> Result<()> {
    let mut world = World::new().await?;
    let request = Request::get(format!("/v1/invoke/maker/{}", 16 * MIB)).body(client::empty())?;
    let mut open = client::open(&world.caller.api(), request).await?;
    world.callee.metrics_until("the answer to be held", REST, |metrics| metrics.sum(metrics::HELD_OBJECTS.name) == 1.0).await?;
    world.callee.process.signal(Signal::TERM)?;
    let body = http_body_util::BodyExt::collect(open.response.body_mut()).await?.to_bytes();
    assert!(is_payload(&body, 16 * MIB), "{} bytes came", body.len());
    let exit = world.callee.process.ended(REST).await?;
    assert!(exit.success() && world.callee.process.stderr().contains("nothing is left"), "{}", world.callee.process.tail());
    Ok(())
}
