//! `bench transfer`: how near to the raw ceiling a payload travels.
//!
//! Every path of a size is measured once a round, in a fixed order, so that a ratio compares samples of the same moment.
//! A Zipline row names its ceiling: the best raw program into the same kind of destination, over TCP with the same
//! congestion control.

mod ceiling;
mod proxies;

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use zipline_sdk::Reference;

use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output::{self, Progress, SCHEMA};
use crate::process;
use crate::stats::{self, Summary};
use ceiling::Ceilings;
use proxies::Proxies;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) congestion: String,
}

/// A way of a payload's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Memcpy,
    RawDescriptor,
    RawWriteToBuffer,
    RawToBuffer,
    RawToMemfd,
    RawToFunction,
    PullToMemfd,
    PullToFunction,
    HandOver,
    HandOverRead,
    FillHandOverRead,
}

impl Path {
    const ALL: [Self; 11] = [
        Self::Memcpy,
        Self::RawDescriptor,
        Self::RawWriteToBuffer,
        Self::RawToBuffer,
        Self::RawToMemfd,
        Self::PullToMemfd,
        Self::RawToFunction,
        Self::PullToFunction,
        Self::HandOver,
        Self::HandOverRead,
        Self::FillHandOverRead,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Memcpy => "raw memcpy",
            Self::RawDescriptor => "raw descriptor over a Unix socket",
            Self::RawWriteToBuffer => "raw write to a reused buffer",
            Self::RawToBuffer => "raw sendfile to a reused buffer",
            Self::RawToMemfd => "raw sendfile to a fresh memfd",
            Self::RawToFunction => "raw sendfile through a relay to a function",
            Self::PullToMemfd => "zipline pull to a fresh memfd",
            Self::PullToFunction => "zipline pull to a plain HTTP function",
            Self::HandOver => "zipline hand-over",
            Self::HandOverRead => "zipline hand-over and reading",
            Self::FillHandOverRead => "zipline filling, hand-over and reading",
        }
    }

    /// The raw program into the same kind of destination.
    const fn ceiling(self) -> Option<Self> {
        match self {
            Self::PullToMemfd => Some(Self::RawToMemfd),
            Self::PullToFunction => Some(Self::RawToFunction),
            Self::HandOver | Self::HandOverRead | Self::FillHandOverRead => Some(Self::RawDescriptor),
            _ => None,
        }
    }

    /// Times a payload byte is copied between producer's and consumer's memory, by construction: into a socket, out of it, into memory.
    const fn copies(self) -> u32 {
        match self {
            Self::RawDescriptor | Self::HandOver | Self::HandOverRead => 0,
            Self::Memcpy | Self::FillHandOverRead => 1,
            // `sendfile` from a memfd lends its pages to the socket; one copy out of it.
            Self::RawToBuffer => 1,
            Self::RawWriteToBuffer | Self::RawToMemfd | Self::PullToMemfd => 2,
            Self::RawToFunction | Self::PullToFunction => 3,
        }
    }
}

/// One path at one size.
#[derive(Serialize)]
pub(crate) struct Row {
    path: &'static str,
    size_bytes: u64,
    copies: u32,
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
    /// Processor seconds of the queue-proxies a GiB of payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_cpu_seconds_per_gib: Option<f64>,
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
    interrupted: bool,
    /// Anonymous and mapped shared memory of each queue-proxy at the end, in bytes.
    proxy_memory_bytes: BTreeMap<&'static str, u64>,
    rows: Vec<Row>,
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupted: &Interrupt) -> Result<Report> {
    let available = crate::machine::memory("MemAvailable").unwrap_or(2 * GIB);
    let plan: Vec<(u64, usize)> = plan(options.quick).into_iter().filter(|(bytes, _)| bytes * 8 <= available).collect();
    let bytes_max = plan.iter().map(|(bytes, _)| *bytes).max().unwrap_or(MIB);
    let mut ceilings = Ceilings::start(bytes_max, &options.congestion)?;
    let mut proxies = Proxies::start(bytes_max, &options.congestion).await?;
    let mut progress = Progress::of(plan.iter().map(|(_, rounds)| rounds + 1).sum());
    let mut report = Report {
        schema: SCHEMA,
        kind: "transfer",
        mode: if options.quick { "quick" } else { "full" },
        seed: options.seed,
        congestion: options.congestion.clone(),
        machine: Machine::here(),
        interrupted: false,
        proxy_memory_bytes: BTreeMap::new(),
        rows: Vec::new(),
    };
    for (bytes, rounds) in plan {
        let reference = proxies.put(bytes).await?;
        let mut samples: BTreeMap<Path, Samples> = BTreeMap::new();
        for round in 0..=rounds {
            for path in Path::ALL {
                let cpu = cpu_seconds(&proxies);
                let seconds = measure(path, bytes, &reference, &mut ceilings, &mut proxies).await?;
                // The first round warms; it is not counted.
                if round > 0 {
                    let so_far = samples.entry(path).or_default();
                    so_far.seconds.push(seconds);
                    so_far.proxy_cpu_seconds += cpu_seconds(&proxies) - cpu;
                }
            }
            progress.step(&output::bytes(bytes));
            if interrupted.came() {
                report.interrupted = true;
                break;
            }
        }
        proxies.release(&reference).await?;
        report.add(bytes, &samples);
        if report.interrupted {
            break;
        }
    }
    for process in &mut ceilings.processes {
        process.check()?;
    }
    for (name, proxy) in &proxies.running {
        let memory = process::memory(proxy.process.pid());
        report.proxy_memory_bytes.insert(name, memory.anonymous + memory.shared);
    }
    Ok(report)
}

/// Sizes, and rounds of each.
fn plan(quick: bool) -> Vec<(u64, usize)> {
    if quick {
        vec![(MIB, 30), (100 * MIB, 15)]
    } else {
        vec![(KIB, 200), (64 * KIB, 200), (MIB, 200), (10 * MIB, 60), (100 * MIB, 30), (GIB, 10)]
    }
}

#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    proxy_cpu_seconds: f64,
}

fn cpu_seconds(proxies: &Proxies) -> f64 {
    proxies.running.iter().map(|(_, proxy)| process::cpu_seconds(proxy.process.pid())).sum()
}

async fn measure(path: Path, bytes: u64, reference: &Reference, ceilings: &mut Ceilings, proxies: &mut Proxies) -> Result<f64> {
    match path {
        Path::Memcpy => ceilings.memcpy(bytes),
        Path::RawDescriptor => ceilings.descriptor(),
        Path::RawWriteToBuffer => ceilings.reused_buffer(bytes, false),
        Path::RawToBuffer => ceilings.reused_buffer(bytes, true),
        Path::RawToMemfd => ceilings.fresh_memfd(bytes),
        Path::RawToFunction => ceilings.relayed(bytes),
        Path::PullToMemfd => proxies.pull_to_memfd(reference, bytes).await,
        Path::PullToFunction => proxies.pull_to_function(reference).await,
        Path::HandOver => proxies.hand_over(reference, bytes, false).await,
        Path::HandOverRead => proxies.hand_over(reference, bytes, true).await,
        Path::FillHandOverRead => proxies.fill_hand_over_read(bytes).await,
    }
}

impl Report {
    fn add(&mut self, bytes: u64, samples: &BTreeMap<Path, Samples>) {
        for path in Path::ALL {
            let Some(own) = samples.get(&path) else { continue };
            let Some(seconds) = stats::summary(&own.seconds, self.seed) else { continue };
            let ceiling = path.ceiling();
            let ratio = ceiling.and_then(|ceiling| stats::paired_ratio(&samples.get(&ceiling)?.seconds, &own.seconds, self.seed));
            let gib = bytes as f64 / GIB as f64;
            self.rows.push(Row {
                path: path.name(),
                size_bytes: bytes,
                copies: path.copies(),
                seconds,
                gib_per_second: gib / seconds.median,
                ceiling: ceiling.map(Path::name),
                ratio_to_ceiling: ratio.map(|ratio| ratio.median),
                ratio_interval: ratio.map(|ratio| [ratio.low, ratio.high]),
                proxy_cpu_seconds_per_gib: ceiling.map(|_| own.proxy_cpu_seconds / (gib * own.seconds.len() as f64)),
                raw_seconds: own.seconds.clone(),
            });
        }
    }

    /// The table for people.
    pub(crate) fn print(&self) {
        println!(
            "Measured on {} ({} cores), congestion control {}. Ratio: the ceiling's time by ours, same round.\n",
            self.machine.cpu, self.machine.cores, self.congestion
        );
        println!(
            "{:<44} {:>9} {:>11} {:>10} {:>24} {:>9}",
            "path", "size", "median", "GiB/s", "ratio to ceiling [95 %]", "CPU s/GiB"
        );
        for row in &self.rows {
            let ratio = row
                .ratio_to_ceiling
                .zip(row.ratio_interval)
                .map_or_else(|| "—".into(), |(ratio, [low, high])| format!("{ratio:.2} [{low:.2}, {high:.2}]"));
            let cpu = row.proxy_cpu_seconds_per_gib.map_or_else(|| "—".into(), |cpu| format!("{cpu:.2}"));
            println!(
                "{:<44} {:>9} {:>11} {:>10.2} {:>24} {:>9}",
                row.path,
                output::bytes(row.size_bytes),
                output::seconds(row.seconds.median),
                row.gib_per_second,
                ratio,
                cpu
            );
        }
    }
}
