//! What machine a run was made on: two files from different machines are not compared.

use std::fs;

use serde::{Deserialize, Serialize};
use zipline_sys::memory_limit;

/// Machine, kernel and the settings that move numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) congestion_default: String,
    pub(crate) shmem_huge_pages: String,
    pub(crate) release: String,
}

impl Machine {
    /// Reads it from `/proc` and `/sys`; what cannot be read says `unknown`.
    pub(crate) fn here() -> Self {
        Self {
            cpu: after_colon("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: within_limit(memory("MemTotal")).unwrap_or(0),
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            congestion_default: line("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_else(unknown),
            shmem_huge_pages: line("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_else(unknown),
            release: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

fn unknown() -> String {
    "unknown".into()
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn after_colon(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Memory that there is for a run, in bytes: what the machine has free, within the limit of the own cgroup.
pub(crate) fn available_bytes() -> Option<u64> {
    within_limit(memory("MemAvailable"))
}

fn within_limit(bytes: Option<u64>) -> Option<u64> {
    bytes.into_iter().chain(memory_limit::own()).min()
}

/// Says on standard error what about this machine makes numbers hard to read.
pub(crate) fn warn() {
    if Machine::here().cores == 1 {
        eprintln!("{ONE_CORE}");
    }
}

/// What a run on one core says of itself.
pub(crate) const ONE_CORE: &str =
    "there is one core: producers, consumers and stores take turns on it, and nothing that is called parallel is";

/// A value of `/proc/meminfo`, in bytes.
fn memory(key: &str) -> Option<u64> {
    let value = after_colon("/proc/meminfo", key)?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
