//! `bench proxy`: what a small request pays for passing a proxy.
//!
//! One function, reached directly, through a plain hyper reverse proxy, through our queue-proxy and, where its program is named,
//! through Knative's own. Every target has its connections open for all slices of a row; slices of load go round the targets
//! in turn, so that each sees the same machine. "Added" is a quantile through the target minus the same quantile of the direct way.
//! Each target is in a network namespace of its own where that is allowed, so that all are alike.

mod load;
mod report;
mod reverse_proxy;
mod target;

use std::time::Duration;

use anyhow::Result;

use crate::counted::{Counted, Instruments, Pass};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output::Progress;
use crate::peak;
use crate::process;
use load::{Connection, Protocol, Slice};
use target::{Places, Target};

pub(crate) use load::grpc_message;
pub(crate) use report::Report;
pub(crate) use reverse_proxy::serve as serve_reverse_proxy;

/// Connections that are tried, one row each.
const CONNECTIONS: [usize; 3] = [1, 16, 128];
/// Requests a second: what a busy instance of a small function sees.
const REQUESTS_PER_SECOND: f64 = 500.0;
/// Load before anything counts, so that caches and the proxy's own pool are warm.
const WARMING: Duration = Duration::from_millis(300);
/// The large body whose passing is watched.
const LARGE_BYTES: u64 = 1024 * 1024 * 1024;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
}

/// How much is measured.
struct Effort {
    rounds: usize,
    slice: Duration,
    starts: usize,
}

impl Effort {
    const fn of(protocol: Protocol, quick: bool) -> Self {
        let rounds = match (quick, protocol) {
            (false, Protocol::Http1) => 20,
            (false, _) => 10,
            (true, Protocol::Http1) => 4,
            (true, _) => 2,
        };
        Self { rounds, slice: Duration::from_millis(if quick { 500 } else { 1000 }), starts: if quick { 3 } else { 10 } }
    }
}

/// What the slices of one target gave.
#[derive(Default)]
struct Measured {
    latencies: Vec<f64>,
    cpu_seconds: f64,
    memory_bytes: u64,
    system_calls_per_request: Option<f64>,
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupted: &Interrupt) -> Result<Report> {
    let places = Places::find()?;
    let instruments = Instruments::found();
    let mut report = Report::new(options, Machine::here(), places.isolated());
    let rounds: usize = Protocol::ALL.map(|protocol| Effort::of(protocol, options.quick).rounds).iter().sum();
    let mut progress = Progress::of(CONNECTIONS.len() * rounds);
    for protocol in Protocol::ALL {
        let measured = over(protocol, &places, options.quick, instruments, &mut report, interrupted, &mut progress).await;
        interrupted.excuses(measured)?;
        if interrupted.came() {
            report.interrupted = true;
            break;
        }
    }
    Ok(report)
}

/// Every row of one protocol, until they are done or a signal comes.
async fn over(
    protocol: Protocol,
    places: &Places,
    quick: bool,
    instruments: Instruments,
    report: &mut Report,
    interrupted: &Interrupt,
    progress: &mut Progress,
) -> Result<()> {
    let effort = Effort::of(protocol, quick);
    let targets = places.targets(protocol, effort.starts).await?;
    for connections in CONNECTIONS {
        let slice = Slice { connections, requests_per_second: REQUESTS_PER_SECOND, duration: effort.slice };
        let mut bench = Bench { targets: &targets, protocol, slice };
        let measured = bench.measure(effort.rounds, instruments, interrupted, progress).await?;
        report.add(protocol, connections, &targets, measured);
        if interrupted.came() {
            return Ok(());
        }
    }
    if protocol == Protocol::Http1 {
        for target in &targets {
            report.add_large(target, large(target).await?);
        }
    }
    Ok(())
}

/// Most memory above rest of the proxy while a large body passes, in bytes; none on the direct way.
async fn large(target: &Target) -> Result<Option<u64>> {
    let Some(pid) = target.pid else { return Ok(None) };
    let rest = peak::now(pid);
    let watch = peak::Watch::begin(pid);
    let sent = load::send_large(&target.namespace, target.address, LARGE_BYTES).await;
    let peak = watch.end();
    sent?;
    Ok(Some(peak.saturating_sub(rest)))
}

/// One row's worth: all targets at one number of connections.
struct Bench<'a> {
    targets: &'a [Target],
    protocol: Protocol,
    slice: Slice,
}

impl Bench<'_> {
    async fn measure(
        &mut self,
        rounds: usize,
        instruments: Instruments,
        interrupted: &Interrupt,
        progress: &mut Progress,
    ) -> Result<Vec<Measured>> {
        let mut pools = Vec::new();
        for target in self.targets {
            let mut pool = Vec::new();
            for _ in 0..self.slice.connections {
                pool.push(Connection::open(self.protocol, &target.namespace, target.address).await?);
            }
            load::run(&mut pool, Slice { duration: WARMING, ..self.slice }).await?;
            pools.push(pool);
        }
        let mut measured: Vec<Measured> = self.targets.iter().map(|_| Measured::default()).collect();
        for _ in 0..rounds {
            for ((target, pool), so_far) in self.targets.iter().zip(&mut pools).zip(&mut measured) {
                let cpu_before = target.pid.map_or(0.0, process::cpu_seconds);
                so_far.latencies.extend(load::run(pool, self.slice).await?);
                if let Some(pid) = target.pid {
                    so_far.cpu_seconds += process::cpu_seconds(pid) - cpu_before;
                    so_far.memory_bytes = so_far.memory_bytes.max(process::memory(pid).resident);
                }
            }
            progress.step(&format!("{}, {} connections", self.protocol.name(), self.slice.connections));
            if interrupted.came() {
                return Ok(measured);
            }
        }
        for ((target, pool), so_far) in self.targets.iter().zip(&mut pools).zip(&mut measured) {
            so_far.system_calls_per_request = self.calls(target, pool, instruments).await?;
        }
        Ok(measured)
    }

    /// System calls a request of the proxy, in a slice of its own.
    async fn calls(&self, target: &Target, pool: &mut Vec<Connection>, instruments: Instruments) -> Result<Option<f64>> {
        let (Some(pid), true) = (target.pid, instruments.passes().any(|pass| pass == Pass::Perf)) else { return Ok(None) };
        let counting = Pass::Perf.begin(&[pid])?;
        let requests = load::run(pool, self.slice).await?.len();
        let mut counted = Counted::default();
        counting.end(&mut counted)?;
        Ok(counted.system_calls.map(|calls| calls as f64 / requests as f64))
    }
}
