//! The ends of the scale: many small objects, one very large one, and a producer that is there but does not move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use rustix::process::Signal;
use zipline_contract::{headers, metrics};
use zipline_testkit::{
    KeyRing, Keys, PYTHON_SHA256, Payload, Proxy, ProxyOptions, PythonFunction, Scratch, http as client, skip,
};

const GIB: u64 = 1024 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(30);

async fn producer(scratch: &Scratch, ring: &KeyRing, buffer: &str) -> Result<Proxy> {
    ProxyOptions::new("producer", Keys::Inherited(ring.clone())).env("ZIPLINE_BUFFER_BYTES", buffer).start(scratch).await
}

#[tokio::test]
async fn ten_thousand_small_objects_are_held_read_and_gone() -> Result<()> {
    const OBJECTS: usize = 10_000;
    let scratch = Scratch::new()?;
    let proxy = producer(&scratch, &KeyRing::random()?, "512MiB").await?;
    let mut references = Vec::with_capacity(OBJECTS);
    for index in 0..OBJECTS {
        references.push(proxy.put("ttl=10m", client::full(format!("object {index}"))).await?);
    }
    let held = proxy.metrics().await?.sum(metrics::HELD_OBJECTS.name);
    assert_eq!(held, OBJECTS as f64);
    for (index, reference) in references.iter().enumerate() {
        let answer = proxy.get(reference).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, format!("object {index}")));
    }
    proxy.at_rest(LIMIT).await.map(|_| ())
}

#[tokio::test]
async fn four_gibibytes_arrive_whole_at_a_plain_function() -> Result<()> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("MemAvailable")?;
    let available = available.split_whitespace().next().context("a number")?.parse::<u64>()? * 1024;
    if available < 9 * GIB {
        let reason = format!("{} GiB of memory are free, 9 are needed", available / GIB);
        skip("four_gibibytes_arrive_whole_at_a_plain_function", &reason);
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let ring = KeyRing::random()?;
    let function = PythonFunction::start(&scratch, PYTHON_SHA256, &[]).await?;
    let producer = producer(&scratch, &ring, "5GiB").await?;
    let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring)).function(function.port()).start(&scratch).await?;
    let payload = Payload::new(4 * GIB, 4);
    let reference = producer.put("ttl=10m", payload.body()).await?;
    let request = Request::post("/").header(headers::REFERENCE, reference).body(client::empty())?;
    let answer = client::send(&consumer.requests(), request).await?;
    let seen = answer.json().with_context(|| format!("{} {}", answer.status, answer.text()))?;
    assert_eq!((seen["size"].as_u64(), seen["sha256"].as_str()), (Some(4 * GIB), Some(payload.sha256().as_str())));
    producer.at_rest(LIMIT).await.map(|_| ())
}

#[tokio::test]
async fn a_stopped_producer_costs_its_reader_a_named_error_within_the_idle_timeout() -> Result<()> {
    let scratch = Scratch::new()?;
    let ring = KeyRing::random()?;
    let function = PythonFunction::start(&scratch, PYTHON_SHA256, &[]).await?;
    let producer = producer(&scratch, &ring, "64MiB").await?;
    let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring))
        .function(function.port())
        .env("ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS", "1")
        .start(&scratch)
        .await?;
    let payload = Payload::new(1024 * 1024, 5);
    let reference = producer.put("retrievals=2", payload.body()).await?;
    producer.process.signal(Signal::STOP)?;
    let request = || Request::post("/").header(headers::REFERENCE, &reference).body(client::empty());
    let began = Instant::now();
    let answer = client::send(&consumer.requests(), request()?).await;
    producer.process.signal(Signal::CONT)?;
    let answer = answer?;
    assert!(["pull-idle-timeout", "producer-unreachable"].contains(&answer.error()), "{} {}", answer.status, answer.text());
    assert!(began.elapsed() < LIMIT, "the error came after {:?}", began.elapsed());
    let again = client::send(&consumer.requests(), request()?).await?;
    assert_eq!(again.json()?["sha256"], payload.sha256(), "a producer that goes on serves again");
    consumer.at_rest(LIMIT).await.map(|_| ())
}
