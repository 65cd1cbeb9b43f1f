//! One payload, of more and more bytes: filled, put, pulled over TCP by another queue-proxy, and read.

use anyhow::Result;

use crate::transfer::Proxies;

/// The producer's memfd, the consumer's, and what both systems keep beside.
pub(super) fn memory_bytes(x: u64) -> u64 {
    2 * x + x / 4
}

/// Queue-proxies with room for the largest.
pub(super) struct Payload {
    proxies: Proxies,
}

impl Payload {
    pub(super) async fn start(bytes_max: u64) -> Result<Self> {
        Ok(Self { proxies: Proxies::start(bytes_max, "reno").await? })
    }

    pub(super) async fn whole(&self, x: u64) -> Result<f64> {
        self.proxies.fill_pull_read(x).await
    }
}
