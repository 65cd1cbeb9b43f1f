//! The spine of Zipline, end to end: a payload is put at one queue-proxy, a request carries its reference to another, and
//! a plain HTTP function there receives the bytes, pulled straight from the first one's memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use serde_json::Value;
use zipline_contract::{headers, metrics};
use zipline_testkit::{
    KeyRing, Keys, PYTHON_SHA256, Payload, Proxy, ProxyOptions, PythonFunction, Scratch, census, http as client, skip,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What the consumer's memory may grow by while a payload of any size passes through it.
const PEAK_GROWTH_BYTES_MAX: u64 = 32 * MIB;

struct Pair {
    producer: Proxy,
    consumer: Proxy,
    _function: PythonFunction,
    _scratch: Scratch,
}

impl Pair {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let ring = KeyRing::random()?;
        let function = PythonFunction::start(&scratch, PYTHON_SHA256, &[]).await?;
        let buffer = (4 * GIB).to_string();
        let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone()))
            .env("ZIPLINE_BUFFER_BYTES", &buffer)
            .start(&scratch)
            .await?;
        let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring)).function(function.port()).start(&scratch).await?;
        Ok(Self { producer, consumer, _function: function, _scratch: scratch })
    }

    /// Sends a request with a reference; what the function saw is its answer.
    async fn post(&self, reference: &str) -> Result<Value> {
        let request = Request::post("/any/path?x=1").header(headers::REFERENCE, reference).body(client::empty())?;
        let answer = client::send(&self.consumer.requests(), request).await?;
        ensure!(answer.status == StatusCode::OK, "{} {}\n{}", answer.status, answer.text(), self.consumer.process.tail());
        answer.json()
    }

    async fn passes(&self, payload: &Payload) -> Result<()> {
        let reference = self.producer.put("", payload.body()).await?;
        let seen = self.post(&reference).await?;
        assert_eq!(seen["size"], payload.size());
        assert_eq!(seen["sha256"], payload.sha256(), "{} bytes arrived changed", payload.size());
        assert_eq!(seen["headers"]["content-length"], payload.size().to_string(), "the length is restored");
        let ours: Vec<_> =
            seen["headers"].as_object().context("headers")?.keys().filter(|name| name.starts_with(headers::PREFIX)).collect();
        assert!(ours.is_empty(), "the function saw {ours:?}");
        Ok(())
    }
}

#[tokio::test]
async fn a_payload_goes_from_memory_to_a_plain_function_by_reference() -> Result<()> {
    let pair = Pair::start().await?;
    for size in [0, 1, 64 * KIB, MIB, MIB + 1, 100 * MIB] {
        pair.passes(&Payload::new(size, size + 1)).await.with_context(|| format!("{size} bytes"))?;
    }
    for proxy in [&pair.producer, &pair.consumer] {
        proxy.at_rest(Duration::from_secs(10)).await?;
    }
    let sent = pair.producer.metrics().await?.labelled(metrics::PULL_BYTES.name, "side", "sent");
    assert!(sent >= (100 * MIB) as f64, "the payloads were pulled: {sent} bytes");
    Ok(())
}

#[tokio::test]
async fn two_gibibytes_pass_through_a_consumer_whose_memory_hardly_grows() -> Result<()> {
    let available = available_bytes()?;
    if available < 6 * GIB {
        let reason = format!("2 GiB need 6 GiB of free memory, {} MiB are free", available / MIB);
        skip("two_gibibytes_pass_through_a_consumer_whose_memory_hardly_grows", &reason);
        return Ok(());
    }
    let pair = Pair::start().await?;
    let pid = pair.consumer.process.pid();
    let (passed, small) = census::peak_memory(pid, pair.passes(&Payload::new(100 * MIB, 3))).await;
    passed?;
    let (passed, large) = census::peak_memory(pid, pair.passes(&Payload::new(2 * GIB, 4))).await;
    passed?;
    println!("consumer's peak: {} KiB at 100 MiB, {} KiB at 2 GiB", small / KIB, large / KIB);
    assert!(large <= small + PEAK_GROWTH_BYTES_MAX, "the consumer's peak grew from {small} to {large} bytes");
    pair.producer.at_rest(Duration::from_secs(10)).await?;
    Ok(())
}

fn available_bytes() -> Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:")).context("MemAvailable")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib * KIB)
}
