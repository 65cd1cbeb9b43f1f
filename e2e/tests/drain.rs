//! What an instance that was told to end still does, and what it says of the objects that nobody read.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use rustix::process::Signal;
use zipline_contract::{doors, metrics};
use zipline_testkit::{
    Behaviour, Function, KeyRing, Keys, Loopback, Metrics, Payload, Proxy, ProxyOptions, Relay, Scratch, Side, http as client,
    wait,
};

const REST: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;

fn left(metrics: &Metrics) -> (f64, f64) {
    (metrics.sum(metrics::DRAIN_LEFT_OBJECTS.name), metrics.sum(metrics::DRAIN_LEFT_BYTES.name))
}

fn phase(metrics: &Metrics) -> f64 {
    metrics.sum(metrics::DRAIN_PHASE.name)
}

#[tokio::test]
async fn what_is_unread_is_a_metric_from_sigterm_on_and_is_read_until_nothing_is_left() -> Result<()> {
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let mut producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).start(&scratch).await?;
    let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring)).start(&scratch).await?;
    let (small, large) = (Payload::new(1000, 1), Payload::new(2 * MIB, 2));
    let references = [producer.put("", small.body()).await?, producer.put("", large.body()).await?];
    assert_eq!(left(&producer.metrics().await?), (0.0, 0.0), "nothing is drained yet");

    producer.process.signal(Signal::TERM)?;
    let holding = |metrics: &Metrics| phase(metrics) == 3.0;
    let now = producer.metrics_until("only held objects to keep the process", REST, holding).await?;
    assert_eq!(left(&now), (2.0, (small.size() + large.size()) as f64));
    let late = client::send(&producer.api(), Request::post("/v1/objects").body(client::full("late"))?).await?;
    assert_eq!((late.status, late.error()), (StatusCode::SERVICE_UNAVAILABLE, "draining"), "{}", late.text());
    assert!(late.headers.contains_key("retry-after"));

    assert_eq!(consumer.get(&references[1]).await?.body, large.bytes());
    let one_left = |metrics: &Metrics| left(metrics) == (1.0, small.size() as f64);
    producer.metrics_until("one object to be left", REST, one_left).await?;
    assert_eq!(consumer.get(&references[0]).await?.body, small.bytes());
    let ended = wait::until("the producer to end", REST, async || producer.process.try_ended(), Option::is_some).await?;
    assert!(ended.is_some_and(|status| status.success()), "{}", producer.process.tail());
    Ok(())
}

#[tokio::test]
async fn what_nobody_reads_in_time_is_reported_by_count_and_bytes() -> Result<()> {
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let options = ProxyOptions::new("producer", Keys::Inherited(ring)).env("ZIPLINE_GRACE_SECONDS", "1");
    let mut producer = options.start(&scratch).await?;
    for size in [1000, 500] {
        producer.put("", Payload::new(size, size).body()).await?;
    }
    producer.process.signal(Signal::TERM)?;
    wait::until("the producer to end", REST, async || producer.process.try_ended(), Option::is_some).await?;
    let said = producer.process.stderr();
    assert!(said.contains("held.objects=2") && said.contains("held.bytes=1500"), "{said}");
    Ok(())
}

/// A caller whose instance was told to end while its function still works, and a callee.
struct Draining {
    _scratch: Scratch,
    function: Function,
    caller: Proxy,
    callee: Proxy,
    ingress: Relay,
    _ingress_at: Loopback,
}

impl Draining {
    async fn new() -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let callee = ProxyOptions::new("echo", Keys::Inherited(ring.clone())).function(function.port()).start(&scratch).await?;
        let ingress_at = Loopback::claim()?;
        let ingress = Relay::start(ingress_at.port(0), callee.request_address()).await?;
        let caller = ProxyOptions::new("caller", Keys::Inherited(ring))
            .env("ZIPLINE_EGRESS_PORT", doors::EGRESS.to_string())
            .env("ZIPLINE_DRAIN_QUIET_SECONDS", "60")
            .envs([("ZIPLINE_SERVICE_DOMAIN", "localhost"), ("ZIPLINE_PEERS_KNOWN", "all")])
            .env("ZIPLINE_INGRESS", ingress.address().to_string())
            .start(&scratch)
            .await?;
        caller.process.signal(Signal::TERM)?;
        caller.metrics_until("the drain to begin", REST, |metrics| phase(metrics) == 1.0).await?;
        Ok(Self { _scratch: scratch, function, caller, callee, ingress, _ingress_at: ingress_at })
    }

    /// A call goes whole and inline: nothing at the caller told it that the instance ends.
    async fn passes<B>(&self, door: &zipline_testkit::Target, request: Request<B>, payload: &Payload) -> Result<()>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let before = self.ingress.passed(Side::ToTarget);
        let answer = client::send(door, request).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{}", answer.error());
        let through = self.ingress.passed(Side::ToTarget) - before;
        assert!(through >= payload.size(), "{through} bytes through the ingress are not the whole body");
        let seen = self.function.seen().pop().context("a request")?;
        assert_eq!(seen.header("content-length"), payload.size().to_string());
        Ok(())
    }
}

#[tokio::test]
async fn the_calls_of_a_draining_instance_go_inline_and_nobody_notices() -> Result<()> {
    let world = Draining::new().await?;
    let payload = Payload::new(3 * MIB, 5);
    let token = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("zipline:testtoken"));
    let proxied = Request::post("http://echo.default.localhost/")
        .header("host", "echo.default.localhost")
        .header("proxy-authorization", &token);
    world.passes(&world.caller.port(doors::EGRESS), proxied.body(payload.body())?, &payload).await?;
    let based = Request::post("/v1/invoke/echo/").header("authorization", &token);
    world.passes(&world.caller.port(doors::EGRESS), based.body(payload.body())?, &payload).await?;
    let invoked = Request::post("/v1/invoke/echo/").body(payload.body())?;
    world.passes(&world.caller.api(), invoked, &payload).await?;

    let metrics = world.caller.metrics().await?;
    assert_eq!((metrics.labelled(metrics::SWAPS.name, "direction", "out"), phase(&metrics)), (0.0, 1.0));
    assert_eq!(metrics.labelled(metrics::ERRORS.name, "error", "draining"), 0.0, "no error was answered");
    world.callee.at_rest(REST).await?;
    world.caller.at_rest(REST).await.map(|_| ())
}
