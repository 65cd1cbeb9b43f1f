//! `bench proxy`: what a small request pays for passing a proxy.
//!
//! One function, reached directly, through a plain hyper reverse proxy and through our queue-proxy. Every target has its
//! connections open for the whole run; slices of load go round the targets in turn, so that each sees the same machine.
//! "Added" is a quantile through the target minus the same quantile of the direct way.

mod load;
mod reverse_proxy;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output::{self, Progress, SCHEMA};
use crate::process::{self, Process};
use crate::stats::{self, Summary};
use load::{Connection, Slice};
use zipline_testkit::{Keys, ProxyOptions, Scratch};

pub(crate) use reverse_proxy::serve as serve_reverse_proxy;

/// Connections that are tried, one row each.
const CONNECTIONS: [usize; 3] = [1, 16, 128];
/// Requests a second: what a busy instance of a small function sees.
const REQUESTS_PER_SECOND: f64 = 500.0;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
}

/// A way to the function.
struct Target {
    name: &'static str,
    address: SocketAddr,
    /// The proxy's process; none on the direct way.
    pid: Option<u32>,
    at_rest_bytes: u64,
    startup_seconds: Option<f64>,
}

impl Target {
    fn proxy(name: &'static str, address: SocketAddr, pid: u32, startup_seconds: Option<f64>) -> Self {
        Self { name, address, pid: Some(pid), at_rest_bytes: process::memory(pid).resident, startup_seconds }
    }
}

/// One target at one number of connections.
#[derive(Serialize)]
pub(crate) struct Row {
    target: &'static str,
    connections: usize,
    requests: usize,
    latency_seconds: Summary,
    p999_seconds: f64,
    added_p50_seconds: Option<f64>,
    added_p99_seconds: Option<f64>,
    added_p999_seconds: Option<f64>,
    cpu_seconds_per_1000_requests: Option<f64>,
    memory_at_rest_bytes: Option<u64>,
    memory_under_load_bytes: Option<u64>,
    startup_seconds: Option<f64>,
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
    interrupted: bool,
    rows: Vec<Row>,
    /// Latencies in seconds, by target and connections.
    raw: Vec<Raw>,
}

#[derive(Serialize)]
struct Raw {
    target: &'static str,
    connections: usize,
    latency_seconds: Vec<f64>,
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupted: &Interrupt) -> Result<Report> {
    let (_function, function) = Process::role("function", &[])?;
    let (hyper, hyper_address) = Process::role("reverse-proxy", &[function.to_string()])?;
    let scratch = Scratch::new()?;
    let started = Instant::now();
    let ours = ProxyOptions::new("bench", Keys::None).function(function.port()).start(&scratch).await?;
    let startup_seconds = started.elapsed().as_secs_f64();
    let targets = [
        Target { name: "direct", address: function, pid: None, at_rest_bytes: 0, startup_seconds: None },
        Target::proxy("hyper reverse proxy", hyper_address, hyper.id(), None),
        Target::proxy("zipline-queue-proxy", ours.request_address(), ours.process.pid(), Some(startup_seconds)),
    ];
    let (rounds, slice_seconds) = if options.quick { (4, 1.0) } else { (20, 2.0) };
    let mut progress = Progress::of(CONNECTIONS.len() * rounds * targets.len());
    let mut report = Report {
        schema: SCHEMA,
        kind: "proxy",
        mode: if options.quick { "quick" } else { "full" },
        seed: options.seed,
        machine: Machine::here(),
        requests_per_second: REQUESTS_PER_SECOND,
        interrupted: false,
        rows: Vec::new(),
        raw: Vec::new(),
    };
    for connections in CONNECTIONS {
        let slice =
            Slice { connections, requests_per_second: REQUESTS_PER_SECOND, duration: Duration::from_secs_f64(slice_seconds) };
        let measured = measure(&targets, slice, rounds, interrupted, &mut progress).await?;
        add_rows(&mut report, &targets, connections, measured);
        if interrupted.came() {
            report.interrupted = true;
            break;
        }
    }
    Ok(report)
}

/// What the slices of one target gave.
#[derive(Default)]
struct Measured {
    latencies: Vec<f64>,
    cpu_seconds: f64,
    memory_bytes: u64,
}

async fn measure(
    targets: &[Target],
    slice: Slice,
    rounds: usize,
    interrupted: &Interrupt,
    progress: &mut Progress,
) -> Result<Vec<Measured>> {
    let mut pools = Vec::new();
    for target in targets {
        let mut pool = Vec::new();
        for _ in 0..slice.connections {
            pool.push(Connection::open(target.address).await?);
        }
        // Warms caches and the proxy's own pool, uncounted.
        load::run(&mut pool, Slice { duration: Duration::from_millis(300), ..slice }).await?;
        pools.push(pool);
    }
    let mut measured: Vec<Measured> = targets.iter().map(|_| Measured::default()).collect();
    for _ in 0..rounds {
        for ((target, pool), so_far) in targets.iter().zip(&mut pools).zip(&mut measured) {
            let cpu_before = target.pid.map_or(0.0, process::cpu_seconds);
            so_far.latencies.extend(load::run(pool, slice).await?);
            if let Some(pid) = target.pid {
                so_far.cpu_seconds += process::cpu_seconds(pid) - cpu_before;
                so_far.memory_bytes = so_far.memory_bytes.max(process::memory(pid).resident);
            }
            progress.step(&format!("{} at {} connections", target.name, slice.connections));
        }
        if interrupted.came() {
            break;
        }
    }
    Ok(measured)
}

fn add_rows(report: &mut Report, targets: &[Target], connections: usize, measured: Vec<Measured>) {
    let quantiles = |latencies: &[f64]| [0.5, 0.99, 0.999].map(|q| stats::quantile(latencies, q).unwrap_or(f64::NAN));
    let direct = measured.first().map(|direct| quantiles(&direct.latencies)).unwrap_or([f64::NAN; 3]);
    for (target, measured) in targets.iter().zip(measured) {
        let Some(latency_seconds) = stats::summary(&measured.latencies, report.seed) else { continue };
        let [p50, p99, p999] = quantiles(&measured.latencies);
        let added = |value: f64, direct: f64| target.pid.map(|_| value - direct);
        report.rows.push(Row {
            target: target.name,
            connections,
            requests: measured.latencies.len(),
            latency_seconds,
            p999_seconds: p999,
            added_p50_seconds: added(p50, direct[0]),
            added_p99_seconds: added(p99, direct[1]),
            added_p999_seconds: added(p999, direct[2]),
            cpu_seconds_per_1000_requests: target.pid.map(|_| measured.cpu_seconds * 1000.0 / measured.latencies.len() as f64),
            memory_at_rest_bytes: target.pid.map(|_| target.at_rest_bytes),
            memory_under_load_bytes: target.pid.map(|_| measured.memory_bytes),
            startup_seconds: target.startup_seconds,
        });
        report.raw.push(Raw { target: target.name, connections, latency_seconds: measured.latencies });
    }
}

impl Report {
    /// The table for people.
    pub(crate) fn print(&self) {
        println!(
            "Small requests (GET, no body) at {} a second, measured. Added: through the target minus direct.\n",
            self.requests_per_second
        );
        println!(
            "{:<22} {:>5} {:>10} {:>10} {:>11} {:>11} {:>11} {:>10} {:>10}",
            "target", "conns", "p50", "p99", "added p50", "added p99", "CPU/1000", "at rest", "in use"
        );
        let optional = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), signed);
        let memory = |value: Option<u64>| value.map_or_else(|| "—".to_owned(), output::bytes);
        for row in &self.rows {
            println!(
                "{:<22} {:>5} {:>10} {:>10} {:>11} {:>11} {:>11} {:>10} {:>10}",
                row.target,
                row.connections,
                output::seconds(row.latency_seconds.median),
                output::seconds(row.latency_seconds.p99),
                optional(row.added_p50_seconds),
                optional(row.added_p99_seconds),
                optional(row.cpu_seconds_per_1000_requests),
                memory(row.memory_at_rest_bytes),
                memory(row.memory_under_load_bytes)
            );
        }
    }
}

fn signed(seconds: f64) -> String {
    if seconds < 0.0 { format!("−{}", output::seconds(-seconds)) } else { output::seconds(seconds) }
}
