//! What `bench proxy` leaves behind, as JSON and as a table.

use std::io::{self, Write};

use serde::Serialize;

use super::load::Protocol;
use super::target::{Kind, Target};
use super::{Measured, Options, REQUESTS_PER_SECOND};
use crate::machine::Machine;
use crate::output::{self, SCHEMA};
use crate::stats::{self, Summary};

/// One target at one number of connections.
#[derive(Serialize)]
pub(crate) struct Row {
    target: &'static str,
    protocol: &'static str,
    connections: usize,
    requests: usize,
    latency_seconds: Summary,
    p999_seconds: f64,
    added_p50_seconds: Option<f64>,
    added_p99_seconds: Option<f64>,
    added_p999_seconds: Option<f64>,
    cpu_seconds_per_1000_requests: Option<f64>,
    system_calls_per_request: Option<f64>,
    memory_at_rest_bytes: Option<u64>,
    memory_under_load_bytes: Option<u64>,
    startup_seconds: Option<f64>,
}

/// Most memory above rest while 1 GiB passes.
#[derive(Serialize)]
struct Large {
    target: &'static str,
    peak_memory_bytes: u64,
}

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    kind: &'static str,
    mode: &'static str,
    seed: u64,
    machine: Machine,
    requests_per_second: f64,
    /// Whether each target was in a network namespace of its own.
    namespaces: bool,
    pub(super) interrupted: bool,
    rows: Vec<Row>,
    large: Vec<Large>,
    /// Latencies in seconds, by target, protocol and connections.
    raw: Vec<Raw>,
}

#[derive(Serialize)]
struct Raw {
    target: &'static str,
    protocol: &'static str,
    connections: usize,
    latency_seconds: Vec<f64>,
}

impl Report {
    /// A report without rows.
    pub(super) fn new(options: &Options, machine: Machine, namespaces: bool) -> Self {
        Self {
            schema: SCHEMA,
            kind: "proxy",
            mode: if options.quick { "quick" } else { "full" },
            seed: options.seed,
            machine,
            requests_per_second: REQUESTS_PER_SECOND,
            namespaces,
            interrupted: false,
            rows: Vec::new(),
            large: Vec::new(),
            raw: Vec::new(),
        }
    }

    /// Adds the rows of one protocol and number of connections; the direct way is the first target.
    pub(super) fn add(&mut self, protocol: Protocol, connections: usize, targets: &[Target], measured: Vec<Measured>) {
        let quantiles = |latencies: &[f64]| [0.5, 0.99, 0.999].map(|q| stats::quantile(latencies, q).unwrap_or(f64::NAN));
        let is_direct = |target: &Target| target.kind == Kind::Direct;
        let direct = targets.iter().zip(&measured).find(|(target, _)| is_direct(target));
        let direct = direct.map_or([f64::NAN; 3], |(_, direct)| quantiles(&direct.latencies));
        for (target, measured) in targets.iter().zip(measured) {
            let Some(latency_seconds) = stats::summary(&measured.latencies, self.seed) else { continue };
            let [p50, p99, p999] = quantiles(&measured.latencies);
            let added = |value: f64, direct: f64| (!is_direct(target)).then_some(value - direct);
            let (name, protocol) = (target.kind.name(), protocol.name());
            self.rows.push(Row {
                target: name,
                protocol,
                connections,
                requests: measured.latencies.len(),
                latency_seconds,
                p999_seconds: p999,
                added_p50_seconds: added(p50, direct[0]),
                added_p99_seconds: added(p99, direct[1]),
                added_p999_seconds: added(p999, direct[2]),
                cpu_seconds_per_1000_requests: target
                    .pid
                    .map(|_| measured.cpu_seconds * 1000.0 / measured.latencies.len() as f64),
                system_calls_per_request: measured.system_calls_per_request,
                memory_at_rest_bytes: target.pid.map(|_| target.at_rest_bytes),
                memory_under_load_bytes: target.pid.map(|_| measured.memory_bytes),
                startup_seconds: target.startup_seconds,
            });
            self.raw.push(Raw { target: name, protocol, connections, latency_seconds: measured.latencies });
        }
    }

    /// Adds what a target had while the large body passed.
    pub(super) fn add_large(&mut self, target: &Target, peak_bytes: Option<u64>) {
        self.large.extend(peak_bytes.map(|peak_memory_bytes| Large { target: target.kind.name(), peak_memory_bytes }));
    }

    /// The tables for people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Small requests (GET; gRPC: a unary call) at {} a second, measured on {} ({} cores); {}.\n\
             Added: through the target minus direct. Memory: resident, at rest before any load, and the most under it.\n",
            self.requests_per_second,
            self.machine.cpu,
            self.machine.cores,
            if self.namespaces { "each target in a network namespace of its own" } else { "no network namespaces" }
        )?;
        writeln!(
            out,
            "{:<20} {:>8} {:>5} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>8} {:>6} {:>9} {:>9} {:>9}",
            "target",
            "protocol",
            "conns",
            "p50",
            "p99",
            "p99.9",
            "added p50",
            "added p99",
            "added p999",
            "CPU/1000",
            "calls",
            "at rest",
            "in use",
            "ready"
        )?;
        let optional = |value: Option<f64>| value.map_or_else(dash, signed);
        let memory = |value: Option<u64>| value.map_or_else(dash, output::bytes);
        for row in &self.rows {
            writeln!(
                out,
                "{:<20} {:>8} {:>5} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>8} {:>6} {:>9} {:>9} {:>9}",
                row.target,
                row.protocol,
                row.connections,
                output::seconds(row.latency_seconds.median),
                output::seconds(row.latency_seconds.p99),
                output::seconds(row.p999_seconds),
                optional(row.added_p50_seconds),
                optional(row.added_p99_seconds),
                optional(row.added_p999_seconds),
                row.cpu_seconds_per_1000_requests.map_or_else(dash, |cpu| format!("{cpu:.3} s")),
                row.system_calls_per_request.map_or_else(dash, |calls| format!("{calls:.1}")),
                memory(row.memory_at_rest_bytes),
                memory(row.memory_under_load_bytes),
                optional(row.startup_seconds)
            )?;
        }
        writeln!(out, "\nMost memory above rest while 1 GiB passes as a request's body (pages and queues of sockets):")?;
        for large in &self.large {
            writeln!(out, "{:<20} {}", large.target, output::bytes(large.peak_memory_bytes))?;
        }
        Ok(())
    }
}

fn dash() -> String {
    "—".to_owned()
}

fn signed(seconds: f64) -> String {
    if seconds < 0.0 { format!("−{}", output::seconds(-seconds)) } else { output::seconds(seconds) }
}
