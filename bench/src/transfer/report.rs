//! What `bench transfer` leaves behind, as JSON and as a table.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::path::Path;
use super::{GIB, Options, Samples};
use crate::machine::Machine;
use crate::method::Missing;
use crate::output::{self, SCHEMA};
use crate::stats::{self, Interval, Summary};

/// One path at one size.
#[derive(Serialize)]
pub(crate) struct Row {
    path: &'static str,
    size_bytes: u64,
    /// Copies of a payload byte by construction, and as counted in the system calls that copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copies_counted: Option<f64>,
    seconds: Summary,
    gib_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<&'static str>,
    /// Median over the rounds of the ceiling's time by ours: 1 is as fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_ceiling: Option<f64>,
    /// Its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_interval: Option<[f64; 2]>,
    /// The same against each store that does the same work.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ratio_to_stores: BTreeMap<&'static str, Interval>,
    /// Processor seconds a GiB of payload, of all processes that take part.
    cpu_seconds_per_gib: f64,
    /// Of the queue-proxies among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_cpu_seconds_per_gib: Option<f64>,
    /// System calls a GiB of payload, of all processes that take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    system_calls_per_gib: Option<f64>,
    /// Most memory above rest of the process between producer and function: its pages, its memfds, its sockets' queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    raw_seconds: Vec<f64>,
}

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    kind: &'static str,
    mode: &'static str,
    seed: u64,
    congestion: String,
    machine: Machine,
    pub(super) interrupted: bool,
    /// How system calls and copies were counted.
    counted: &'static str,
    /// Anonymous and mapped shared memory of each queue-proxy at the end, in bytes.
    pub(super) proxy_memory_bytes: BTreeMap<&'static str, u64>,
    /// Stores that there is no server for, or that failed, and why.
    pub(super) missing: Vec<Missing>,
    /// Sizes that this machine has no memory for.
    pub(super) left_out: Vec<LeftOut>,
    rows: Vec<Row>,
}

/// A size that was not measured.
#[derive(Serialize)]
pub(super) struct LeftOut {
    pub(super) size_bytes: u64,
    pub(super) reason: String,
}

impl Report {
    /// A report without rows.
    pub(super) fn new(options: &Options, machine: Machine, counted: &'static str) -> Self {
        Self {
            schema: SCHEMA,
            kind: "transfer",
            mode: if options.quick { "quick" } else { "full" },
            seed: options.seed,
            congestion: options.congestion.clone(),
            machine,
            interrupted: false,
            counted,
            proxy_memory_bytes: BTreeMap::new(),
            missing: Vec::new(),
            left_out: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Adds the rows of one size.
    pub(super) fn add(&mut self, bytes: u64, samples: &BTreeMap<Path, Samples>) {
        for path in Path::ALL {
            let Some(own) = samples.get(&path) else { continue };
            let Some(seconds) = stats::summary(&own.seconds, self.seed) else { continue };
            let ceiling = fastest(path.ceilings(), samples);
            let ratio = ceiling.and_then(|ceiling| stats::paired_ratio(&samples.get(&ceiling)?.seconds, &own.seconds, self.seed));
            let against = |(name, store): &(&'static str, Path)| {
                Some((*name, stats::paired_ratio(&samples.get(store)?.seconds, &own.seconds, self.seed)?))
            };
            let gib = bytes as f64 / GIB as f64;
            let measured_gib = gib * own.seconds.len() as f64;
            let counted_gib = own.counted_bytes as f64 / GIB as f64;
            self.rows.push(Row {
                path: path.name(),
                size_bytes: bytes,
                copies: path.copies(),
                copies_counted: own.counted.bytes_copied.map(|copied| copied as f64 / own.counted_bytes as f64),
                seconds,
                gib_per_second: gib / seconds.median,
                ceiling: ceiling.map(Path::name),
                ratio_to_ceiling: ratio.map(|ratio| ratio.median),
                ratio_interval: ratio.map(|ratio| [ratio.low, ratio.high]),
                ratio_to_stores: path.stores().iter().filter_map(against).collect(),
                cpu_seconds_per_gib: own.cpu_seconds / measured_gib,
                proxy_cpu_seconds_per_gib: path.is_zipline().then_some(own.proxy_cpu_seconds / measured_gib),
                system_calls_per_gib: own.counted.system_calls.map(|calls| calls as f64 / counted_gib),
                peak_memory_bytes: own.peak_bytes,
                raw_seconds: own.seconds.clone(),
            });
        }
    }

    /// The table for people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Measured on {} ({} cores), congestion control {}.\nRatio: the ceiling's time by ours, same round. Counted: {}.\n\
             Memory: most above rest, of the process between producer and function (pages, memfds, queues of its sockets).\n",
            self.machine.cpu, self.machine.cores, self.congestion, self.counted
        )?;
        writeln!(
            out,
            "{:<44} {:>8} {:>10} {:>8} {:>20} {:>9} {:>11} {:>12} {:>10}",
            "path", "size", "median", "GiB/s", "ratio [95 %]", "CPU s/GiB", "calls/GiB", "copies", "memory"
        )?;
        for row in &self.rows {
            let dash = || "—".to_owned();
            let ratio = row
                .ratio_to_ceiling
                .zip(row.ratio_interval)
                .map_or_else(dash, |(ratio, [low, high])| format!("{ratio:.2} [{low:.2}, {high:.2}]"));
            let copies = row.copies_counted.map_or_else(dash, |counted| format!("{counted:.2}"));
            writeln!(
                out,
                "{:<44} {:>8} {:>10} {:>8.2} {:>20} {:>9.2} {:>11} {:>12} {:>10}",
                row.path,
                output::bytes(row.size_bytes),
                output::seconds(row.seconds.median),
                row.gib_per_second,
                ratio,
                row.cpu_seconds_per_gib,
                row.system_calls_per_gib.map_or_else(dash, |calls| format!("{calls:.0}")),
                format!("{} ({copies})", row.copies.map_or_else(dash, |copies| copies.to_string())),
                row.peak_memory_bytes.map_or_else(dash, output::bytes)
            )?;
        }
        for row in &self.rows {
            for (store, ratio) in &row.ratio_to_stores {
                let (size, path) = (output::bytes(row.size_bytes), row.path);
                writeln!(out, "{path}, {size}: {ratio} times as fast as {store}")?;
            }
        }
        for LeftOut { size_bytes, reason } in &self.left_out {
            writeln!(out, "without {}: {reason}", output::bytes(*size_bytes))?;
        }
        for Missing { method, reason } in &self.missing {
            writeln!(out, "without {method}: {reason}")?;
        }
        Ok(())
    }
}

/// The one with the lowest median.
fn fastest(paths: &[Path], samples: &BTreeMap<Path, Samples>) -> Option<Path> {
    let median =
        |path: &Path| samples.get(path).and_then(|samples| stats::quantile(&samples.seconds, 0.5)).unwrap_or(f64::INFINITY);
    paths.iter().copied().min_by(|a, b| median(a).total_cmp(&median(b)))
}
