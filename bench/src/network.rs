//! How functions and stores are connected: by this machine's loopback as it is, or as fast as a function's share of a NIC.
//!
//! Shaped, the whole bench moves into a network namespace of its own, whose loopback gets a token bucket for every connection and
//! direction. A connection is told by the port of whoever serves it ([`Network::limit`]: queue-proxies' doors for requests and
//! pulls, the ingress, the stores) and by the low byte of the other one: 256 buckets each way, so two connections seldom
//! share one. Everything else passes unlimited, above all a function's own queue-proxy, which in a pod is as near as here.
//!
//! A function of several connections at once has the rate for each, over Zipline as over a store. Delay is not added.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::Serialize;
use zipline_contract::doors;

use crate::namespace::Namespace;

/// 75 MB/s: what a function's share of a NIC is published to be.
const RATE: &str = "600mbit";
/// What may pass at once: two of loopback's largest packets.
const BURST: &str = "128kb";
/// Buckets each way, and the numbers of their classes.
const BUCKETS: u32 = 256;
const TO_SERVER: u32 = 0x100;
const FROM_SERVER: u32 = TO_SERVER + BUCKETS;

/// How functions and stores are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    /// This machine's loopback as it is
    #[default]
    Loopback,
    /// Each connection between functions, and between functions and stores, has 75 MB/s each way; needs root
    Shaped,
}

impl Network {
    /// Its name in raw files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Shaped => "shaped",
        }
    }

    /// What a network of that name is, for tables and reports.
    pub(crate) fn described(name: &str) -> &str {
        match name {
            "shaped" => {
                "shaped: 75 MB/s each way for each connection between queue-proxies, ingress and stores (token buckets on the loopback of a \
                 network namespace); a function and its own queue-proxy are not limited"
            }
            other => other,
        }
    }

    /// Moves this thread, and all that it starts from now on, to where this network is.
    ///
    /// # Errors
    /// Shaped, without root, `unshare`, `ip` or `tc`.
    pub(crate) fn enter(self) -> Result<()> {
        if self == Self::Loopback {
            return Ok(());
        }
        let shaped = || {
            Namespace::new()?.enter()?;
            tc(&buckets())?;
            [doors::REQUEST_HTTP1, doors::REQUEST_H2C, doors::PULL].into_iter().try_for_each(|port| self.limit(port))
        };
        shaped()
            .map_err(|error| anyhow!("--network shaped: {error:#}\nhint: run as root, with iproute2 installed, or leave it out"))
    }

    /// Limits connections to a server's port.
    ///
    /// # Errors
    /// `tc` refuses.
    pub(crate) fn limit(self, port: u16) -> Result<()> {
        if self == Self::Loopback {
            return Ok(());
        }
        const FILTER: &str = "filter add dev lo parent 1: prio 5 protocol ip u32 ht 800: match ip protocol 6 0xff";
        // The other port's low byte: an IPv4 header of 20 bytes, then source and destination port of two bytes each.
        tc(&format!(
            "{FILTER} match ip dport {port} 0xffff hashkey mask 0x00ff0000 at 20 link 2:\n\
             {FILTER} match ip sport {port} 0xffff hashkey mask 0x000000ff at 20 link 3:\n"
        ))
    }
}

/// The buckets, and the tables that lead to them.
fn buckets() -> String {
    let mut batch = "qdisc add dev lo root handle 1: htb default 0\n".to_owned();
    for (table, first) in [(2, TO_SERVER), (3, FROM_SERVER)] {
        writeln!(batch, "filter add dev lo parent 1: prio 5 handle {table}: protocol ip u32 divisor {BUCKETS}").ok();
        for at in 0..BUCKETS {
            let class = first + at;
            // Writing to a string does not fail.
            writeln!(
                batch,
                "class add dev lo parent 1: classid 1:{class:x} htb rate {RATE} burst {BURST} cburst {BURST} quantum 65536"
            )
            .ok();
            let filter = format!("filter add dev lo parent 1: prio 5 protocol ip u32 ht {table}:{at:x}:");
            writeln!(batch, "{filter} match u32 0 0 at 0 flowid 1:{class:x}").ok();
        }
    }
    batch
}

/// Runs commands of `tc`, here.
fn tc(batch: &str) -> Result<()> {
    let started =
        Command::new("tc").args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.context("`tc` could not be started")?;
    // When it ends early, the reason is what it has said.
    child.stdin.take().context("the input of `tc` is piped")?.write_all(batch.as_bytes()).ok();
    let ended = child.wait_with_output()?;
    ensure!(ended.status.success(), "`tc` ended with {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr).trim_end());
    Ok(())
}
