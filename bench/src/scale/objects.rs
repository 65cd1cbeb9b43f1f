//! Objects that one queue-proxy holds at once: each put, and when all are there, each pulled by another queue-proxy over TCP.

use std::time::Instant;

use anyhow::{Result, ensure};
use zipline_sdk::{Client, PARALLEL_DEFAULT, PutOptions};
use zipline_testkit::{KeyRing, Keys, Proxy, ProxyOptions, Scratch};

/// Bytes of each: small, so that what grows is their number.
const OBJECT_BYTES: usize = 1024;
/// What an object takes on both sides, by far.
const EACH_BYTES: u64 = 8 * 1024;

/// Memory that `x` of them take at most.
pub(super) fn memory_bytes(x: u64) -> u64 {
    x * EACH_BYTES
}

/// Two queue-proxies.
pub(super) struct Objects {
    producer: Client,
    consumer: Client,
    _proxies: [Proxy; 2],
    _scratch: Scratch,
}

impl Objects {
    pub(super) async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let keys = KeyRing::random()?;
        let producer = ProxyOptions::new("producer", Keys::Inherited(keys.clone())).start(&scratch).await?;
        let consumer = ProxyOptions::new("consumer", Keys::Inherited(keys)).start(&scratch).await?;
        let client = crate::transfer::client;
        Ok(Self { producer: client(&producer), consumer: client(&consumer), _proxies: [producer, consumer], _scratch: scratch })
    }

    pub(super) async fn whole(&self, x: u64) -> Result<f64> {
        let payloads = (0..x).map(|i| vec![i as u8; OBJECT_BYTES]);
        let started = Instant::now();
        let references = self.producer.scatter(payloads, PutOptions::default(), PARALLEL_DEFAULT).await?;
        let mut bytes = 0;
        // In parts, so that what is read is given up again.
        for part in references.chunks(1000) {
            bytes += self.consumer.gather(part, PARALLEL_DEFAULT).await?.iter().map(|payload| payload.len() as u64).sum::<u64>();
        }
        let seconds = started.elapsed().as_secs_f64();
        ensure!(bytes == x * OBJECT_BYTES as u64, "{bytes} bytes came of {x} objects of {OBJECT_BYTES}");
        Ok(seconds)
    }
}
