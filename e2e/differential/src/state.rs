//! Waiting for a state that proxies of either kind show.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::proxy::{Proxy, REQUESTS, STATISTICS};
use crate::transcript::Transcript;
use crate::wire::{Head, PATIENCE, Peer};

/// Waits until something holds.
///
/// # Errors
/// It does not come to hold.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("it did not come to pass: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until the proxy refuses probes: it has taken note of a signal or a hook.
pub(crate) fn until_draining(proxy: &Proxy) -> Result<()> {
    until("probes are refused", || {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n\r\n");
        Ok(client.head()?.is_some_and(|head| head.first.contains(" 503")))
    })
}

/// Waits until the report for the autoscaler tells of so many requests, all through its second: those that wait in the breaker count.
pub(crate) fn until_in_flight(proxy: &Proxy, requests: f64) -> Result<()> {
    until("so many requests are in flight", || Ok(statistics(proxy)?.1.concurrent.to_bits() == requests.to_bits()))
}

/// What the autoscaler is told.
pub(crate) fn statistics(proxy: &Proxy) -> Result<(Head, Stat)> {
    let mut scrape = Peer::connect(proxy.at(STATISTICS))?;
    scrape.send("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/protobuf\r\n\r\n");
    let Some(head) = scrape.head()? else { bail!("no statistics") };
    let length = head.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let stat = prost::Message::decode(&scrape.exactly(length)[..])?;
    Ok((head, stat))
}

/// Asks without writing the answer down.
pub(crate) fn ask_unseen(proxy: &Proxy, request: &str) -> Result<()> {
    Peer::connect(proxy.at(REQUESTS))?.ask(request, &Transcript::default())?;
    Ok(())
}

/// The report for the autoscaler.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Stat {
    #[prost(string, tag = "1")]
    pub(crate) pod_name: String,
    #[prost(double, tag = "2")]
    pub(crate) concurrent: f64,
    #[prost(double, tag = "3")]
    pub(crate) proxied: f64,
    #[prost(double, tag = "6")]
    pub(crate) uptime: f64,
    #[prost(int64, tag = "7")]
    pub(crate) timestamp: i64,
}
