//! Packets that are lost, in a network namespace of the harness's own.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

use crate::namespaces;

/// Whether packets can be lost here: in a network namespace of one's own, by `nft` (Debian's package `nftables`).
pub(crate) fn at_hand() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = || Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    namespaces::are_ours() && *FOUND.get_or_init(found)
}

/// Losses to and from one address; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Packets {
    table: String,
}

impl Packets {
    /// From now on so many of a hundred packets of that address are lost.
    pub(crate) fn lose(address: IpAddr, percent: u64) -> Result<Self> {
        if !namespaces::are_ours() {
            bail!("packets are lost in a network namespace of one's own only");
        }
        let table = format!("zipline_{}", address.to_string().replace(['.', ':'], "_"));
        let which = if percent < 100 { format!("numgen random mod 100 < {percent}") } else { String::new() };
        nft(&format!(
            "table inet {table} {{ chain loss {{ type filter hook input priority 0; ip daddr {address} {which} drop; ip saddr {address} {which} drop; }}; }}\n"
        ))?;
        Ok(Self { table })
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        if let Err(error) = nft(&format!("delete table inet {}", self.table)) {
            eprintln!("packets are still being lost: {error:#}");
        }
    }
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("starting nft")?;
    child.stdin.take().context("its input is piped")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused {rules:?}");
    Ok(())
}
