//! `bench scale`: what the whole costs as there is more of it, the exponent of each curve, and where it bends.
//!
//! Four curves, each on the real binaries: objects that one queue-proxy holds, instances that one service starts, consumers that
//! one step of a workflow has, bytes that one payload has. A point is the time of the whole; in proportion is an exponent of 1, and
//! what is fixed (a process that starts, a first connection) makes it smaller.

mod instances;
mod objects;
mod payload;
mod width;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::machine::{self, Machine};
use crate::output::{self, Progress, SCHEMA};
use crate::stats::{self, Summary};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Curve {
    /// Objects held at once: all put, then all read from another queue-proxy
    Objects,
    /// Instances of one service: started, each answering once, gone
    Instances,
    /// Consumers of one step of a workflow
    Width,
    /// Bytes of one payload: filled, put, pulled over TCP and read
    Payload,
}

impl Curve {
    const ALL: [Self; 4] = [Self::Objects, Self::Instances, Self::Width, Self::Payload];

    const fn name(self) -> &'static str {
        match self {
            Self::Objects => "held-objects",
            Self::Instances => "instances",
            Self::Width => "workflow-width",
            Self::Payload => "payload",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Instances => "instances",
            Self::Width => "consumers",
            Self::Payload => "bytes",
        }
    }

    /// How much there is of it at each point, and how often it is timed there.
    fn points(self, quick: bool) -> Vec<(u64, u32)> {
        let points: &[(u64, u32)] = match (self, quick) {
            (Self::Objects, true) => &[(1, 5), (10, 5), (100, 5), (1000, 3), (10_000, 1)],
            (Self::Objects, false) => &[(1, 30), (10, 30), (100, 20), (1000, 10), (10_000, 5), (100_000, 3)],
            (Self::Instances, true) => &[(1, 2), (2, 2), (4, 2), (8, 1)],
            (Self::Instances, false) => &[(1, 7), (2, 7), (4, 7), (8, 5), (16, 5), (32, 3), (64, 3)],
            (Self::Width, true) => &[(1, 10), (4, 10), (16, 5), (64, 3)],
            (Self::Width, false) => &[(1, 50), (2, 50), (4, 50), (8, 50), (16, 30), (32, 30), (64, 20), (128, 20), (256, 10)],
            (Self::Payload, true) => &[(KIB, 20), (32 * KIB, 20), (MIB, 10), (32 * MIB, 5), (256 * MIB, 3)],
            (Self::Payload, false) => &[
                (KIB, 50),
                (8 * KIB, 50),
                (64 * KIB, 50),
                (512 * KIB, 50),
                (4 * MIB, 30),
                (32 * MIB, 20),
                (256 * MIB, 10),
                (GIB, 5),
                (4 * GIB, 3),
            ],
        };
        points.to_vec()
    }
}

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) curves: Vec<Curve>,
}

/// One point of a curve.
#[derive(Serialize)]
struct Row {
    curve: &'static str,
    unit: &'static str,
    x: u64,
    /// Of the whole.
    seconds: Summary,
    raw_seconds: Vec<f64>,
}

/// How a curve grows: `seconds ~ x^exponent`.
#[derive(Serialize)]
struct Growth {
    curve: &'static str,
    /// Of the least-squares line through the logarithms of the medians.
    exponent: f64,
    /// Of the steepest step between neighbours, and that step.
    steepest: f64,
    steepest_from: u64,
    steepest_to: u64,
}

/// A point that was left out.
#[derive(Serialize)]
struct Left {
    curve: &'static str,
    x: u64,
    reason: String,
}

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    kind: &'static str,
    mode: &'static str,
    seed: u64,
    machine: Machine,
    network: &'static str,
    interrupted: bool,
    rows: Vec<Row>,
    growth: Vec<Growth>,
    left_out: Vec<Left>,
}

/// Something whose whole can be timed with `x` of it.
enum Subject {
    Objects(objects::Objects),
    Instances(instances::Instances),
    Width(width::Width),
    Payload(Box<payload::Payload>),
}

impl Subject {
    async fn start(curve: Curve, most: u64, scratch: &Path, seed: u64) -> Result<Self> {
        Ok(match curve {
            Curve::Objects => Self::Objects(objects::Objects::start().await?),
            Curve::Instances => Self::Instances(instances::Instances::start(scratch)?),
            Curve::Width => Self::Width(width::Width::start(scratch, seed).await?),
            Curve::Payload => Self::Payload(Box::new(payload::Payload::start(most).await?)),
        })
    }

    /// Seconds of the whole.
    async fn whole(&self, x: u64) -> Result<f64> {
        match self {
            Self::Objects(objects) => objects.whole(x).await,
            Self::Instances(instances) => instances.whole(x).await,
            Self::Width(width) => width.whole(x).await,
            Self::Payload(payload) => payload.whole(x).await,
        }
    }
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let mut report = Report {
        schema: SCHEMA,
        kind: "scale",
        mode: if options.quick { "quick" } else { "full" },
        seed: options.seed,
        machine: Machine::here(),
        network: "loopback",
        interrupted: false,
        rows: Vec::new(),
        growth: Vec::new(),
        left_out: Vec::new(),
    };
    let chosen = Curve::ALL.into_iter().filter(|curve| options.curves.is_empty() || options.curves.contains(curve));
    let plan: Vec<(Curve, Vec<(u64, u32)>)> =
        chosen.map(|curve| (curve, report.possible(curve, curve.points(options.quick)))).collect();
    let mut progress = Progress::of(plan.iter().flat_map(|(_, points)| points).map(|(_, rounds)| *rounds as usize).sum());
    for (curve, points) in plan {
        let measured = measure(options, curve, &points, &mut report, interrupt, &mut progress).await;
        interrupt.excuses(measured)?;
        report.grow(curve);
        if interrupt.came() {
            report.interrupted = true;
            break;
        }
    }
    Ok(report)
}

async fn measure(
    options: &Options,
    curve: Curve,
    points: &[(u64, u32)],
    report: &mut Report,
    interrupt: &Interrupt,
    progress: &mut Progress,
) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("zipline-bench-").tempdir()?;
    let most = points.iter().map(|(x, _)| *x).max().unwrap_or(1);
    let subject = Subject::start(curve, most, scratch.path(), options.seed).await?;
    subject.whole(1).await?; // First connections and cold code are not what grows.
    for (x, rounds) in points {
        let mut raw_seconds = Vec::new();
        for _ in 0..*rounds {
            let timed = subject.whole(*x).await;
            if let Some(seconds) = interrupt.excuses(timed)? {
                raw_seconds.push(seconds);
            }
            progress.step(&format!("{} {x}", curve.name()));
            if interrupt.came() {
                break;
            }
        }
        if let Some(seconds) = stats::summary(&raw_seconds, options.seed) {
            report.rows.push(Row { curve: curve.name(), unit: curve.unit(), x: *x, seconds, raw_seconds });
        }
        if interrupt.came() {
            break;
        }
    }
    Ok(())
}

impl Report {
    /// Those points that this machine has the memory for; the others are said.
    fn possible(&mut self, curve: Curve, points: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
        let free = machine::available_bytes().unwrap_or(u64::MAX);
        let mut kept = Vec::new();
        for (x, rounds) in points {
            let needed = match curve {
                Curve::Objects => objects::memory_bytes(x),
                Curve::Instances => instances::memory_bytes(x),
                Curve::Width => 0,
                Curve::Payload => payload::memory_bytes(x),
            };
            if needed <= free {
                kept.push((x, rounds));
                continue;
            }
            let reason = format!("it takes {} of memory, and {} are free", output::bytes(needed), output::bytes(free));
            eprintln!("without {} {} {}: {reason}", curve.name(), x, curve.unit());
            self.left_out.push(Left { curve: curve.name(), x, reason });
        }
        kept
    }

    fn grow(&mut self, curve: Curve) {
        let rows = self.rows.iter().filter(|row| row.curve == curve.name());
        let points: Vec<(f64, f64)> = rows.map(|row| (row.x as f64, row.seconds.median)).collect();
        let steps = points.windows(2).filter_map(|pair| Some((stats::exponent(pair)?, pair[0].0, pair[1].0)));
        let steepest = steps.max_by(|a, b| a.0.total_cmp(&b.0));
        if let (Some(exponent), Some((steepest, from, to))) = (stats::exponent(&points), steepest) {
            let (steepest_from, steepest_to) = (from as u64, to as u64);
            self.growth.push(Growth { curve: curve.name(), exponent, steepest, steepest_from, steepest_to });
        }
    }

    /// The tables for people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Measured on {} ({} cores), network: {}.\n", self.machine.cpu, self.machine.cores, self.network)?;
        writeln!(out, "{:<15} {:>14} {:>9} {:>11} {:>11} {:>14}", "curve", "of it", "samples", "whole", "p99", "one of it")?;
        for row in &self.rows {
            let of_it = if row.unit == "bytes" { output::bytes(row.x) } else { format!("{} {}", row.x, row.unit) };
            let one = if row.unit == "bytes" {
                format!("{:.2} GiB/s", row.x as f64 / GIB as f64 / row.seconds.median)
            } else {
                output::seconds(row.seconds.median / row.x as f64)
            };
            writeln!(
                out,
                "{:<15} {:>14} {:>9} {:>11} {:>11} {:>14}",
                row.curve,
                of_it,
                row.seconds.samples,
                output::seconds(row.seconds.median),
                output::seconds(row.seconds.p99),
                one
            )?;
        }
        writeln!(out, "\n{:<15} {:>9} {:>9}  steepest step", "curve", "exponent", "steepest")?;
        for growth in &self.growth {
            let Growth { curve, exponent, steepest, steepest_from, steepest_to } = growth;
            writeln!(out, "{curve:<15} {exponent:>9.2} {steepest:>9.2}  {steepest_from} to {steepest_to}")?;
        }
        for left in &self.left_out {
            writeln!(out, "without {} {}: {}", left.curve, left.x, left.reason)?;
        }
        Ok(())
    }
}
