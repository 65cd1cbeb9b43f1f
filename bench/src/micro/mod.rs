//! `bench micro`: pipeline, scatter, gather and broadcast on the local platform, over sizes, degrees and transfer methods.
//!
//! Random bytes; the consumer does no work. A hub service carries a pattern out with its leaf services and times it; methods take
//! turns, round by round. Every payload is looked at where it arrives.

mod functions;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use zipline_sdk::{Call, Client};
use zipline_workflow::{Letter, decode, encode};

pub(crate) use functions::{Carried, Carry, Pattern, Task, hub, leaf};

use crate::apps::{INLINE_BYTES_MAX, SLOW_ROUNDS, Sample};
use crate::cloud::Cloud;
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::method::{Arm, Methods, Missing, OURS, Scale};
use crate::output::{self, Progress, SCHEMA};
use crate::s3_delay;
use crate::stats::{self, Summary};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Bytes of one request, all its payloads together: below the queue-proxies' default budget.
const REQUEST_BYTES_MAX: u64 = 400 * MIB;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) methods: Vec<String>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) requests: Option<u32>,
}

/// What is compared over all methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    pattern: Pattern,
    size_bytes: u64,
    degree: u32,
    rounds: u32,
}

/// One pattern, size, degree and method.
#[derive(Serialize)]
struct Row {
    pattern: Pattern,
    size_bytes: u64,
    degree: u32,
    method: &'static str,
    seconds: Summary,
    /// Payload bytes that arrived, by the median.
    gib_per_second: f64,
    /// How many times as long as ours it took, with its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_ours: Option<stats::Interval>,
    puts: u32,
    gets: u32,
    raw_seconds: Vec<f64>,
}

/// A method that a published platform would not have let through.
#[derive(Serialize)]
struct Refused {
    pattern: Pattern,
    size_bytes: u64,
    degree: u32,
    method: &'static str,
    body_bytes: u64,
    body_bytes_max: u64,
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
    methods: Vec<Arm>,
    missing: Vec<Missing>,
    /// What was added to S3, by method.
    delays: BTreeMap<&'static str, s3_delay::Report>,
    refused: Vec<Refused>,
    rows: Vec<Row>,
}

impl Options {
    fn cells(&self) -> Vec<Cell> {
        let (sizes, degrees): (&[u64], &[u32]) = if self.quick {
            (&[KIB, 100 * KIB, MIB, 10 * MIB], &[1, 4])
        } else {
            (&[KIB, 10 * KIB, 100 * KIB, MIB, 10 * MIB, 100 * MIB], &[1, 2, 4, 8, 16, 32])
        };
        let wanted = |pattern: &Pattern| self.patterns.is_empty() || self.patterns.contains(pattern);
        let patterns = [Pattern::Pipeline, Pattern::Scatter, Pattern::Gather, Pattern::Broadcast];
        let mut cells = Vec::new();
        for pattern in patterns.into_iter().filter(wanted) {
            for size_bytes in sizes.iter().copied() {
                let degrees = if pattern == Pattern::Pipeline { &[1][..] } else { degrees };
                for degree in degrees.iter().copied().filter(|degree| size_bytes * u64::from(*degree) <= REQUEST_BYTES_MAX) {
                    let rounds = match (self.quick, size_bytes <= MIB) {
                        (true, _) => 10,
                        (false, true) => 200,
                        (false, false) => 30,
                    };
                    cells.push(Cell { pattern, size_bytes, degree, rounds: self.requests.unwrap_or(rounds) });
                }
            }
        }
        cells
    }
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let methods = Methods::start(&options.methods, options.quick, options.seed).await?;
    let cells = options.cells();
    let scratch = tempfile::Builder::new().prefix("zipline-bench-").tempdir()?;
    let stage = Stage::deploy(&methods.arms, &cells, scratch.path(), options.seed).await?;
    let mut progress = Progress::of(cells.iter().map(|cell| cell.rounds as usize + 1).sum());
    let mut report = Report {
        schema: SCHEMA,
        kind: "micro",
        mode: if options.quick { "quick" } else { "full" },
        seed: options.seed,
        machine: Machine::here(),
        network: "loopback",
        interrupted: false,
        methods: methods.arms.clone(),
        missing: methods.missing.clone(),
        delays: BTreeMap::new(),
        refused: Vec::new(),
        rows: Vec::new(),
    };
    for cell in cells {
        let mut samples = BTreeMap::new();
        let measured = measure(&stage, &methods.arms, cell, interrupt, &mut report, &mut samples, &mut progress).await;
        interrupt.excuses(measured)?;
        report.add(cell, &samples);
        if interrupt.came() {
            report.interrupted = true;
            break;
        }
    }
    report.delays = interrupt.excuses(methods.delays().await)?.unwrap_or_default();
    Ok(report)
}

/// Measures one cell over all methods, until it is done or Ctrl-C comes.
async fn measure(
    stage: &Stage,
    arms: &[Arm],
    cell: Cell,
    interrupt: &Interrupt,
    report: &mut Report,
    samples: &mut BTreeMap<&'static str, Vec<Sample>>,
    progress: &mut Progress,
) -> Result<()> {
    let mut timed: Vec<&Arm> = Vec::new();
    for arm in arms {
        // The first request makes the payloads; it is not counted.
        let sample = stage.request(arm, cell, 0).await?;
        match sample.body_bytes_max {
            longest if arm.transfer == "inline" && longest > INLINE_BYTES_MAX => report.refuse(cell, arm, longest),
            _ => timed.push(arm),
        }
    }
    progress.step(&format!("{:?}", cell.pattern));
    for round in 1..=cell.rounds {
        let taking_part: Vec<&Arm> = timed.iter().copied().filter(|arm| !arm.slow || round <= SLOW_ROUNDS).collect();
        for turn in 0..taking_part.len() {
            let arm = taking_part[(turn + round as usize) % taking_part.len()];
            samples.entry(arm.name).or_default().push(stage.request(arm, cell, round).await?);
        }
        progress.step(&format!("{:?}, {} to {}", cell.pattern, output::bytes(cell.size_bytes), cell.degree));
        if interrupt.came() {
            break;
        }
    }
    Ok(())
}

/// A platform with a hub and leaves for each method.
struct Stage {
    _cloud: Cloud,
    client: Client,
    seed: u64,
}

impl Stage {
    async fn deploy(arms: &[Arm], cells: &[Cell], scratch: &std::path::Path, seed: u64) -> Result<Self> {
        let leaves = cells.iter().map(|cell| cell.degree).max().context("no pattern is chosen")?;
        let program = std::env::current_exe().context("this program's own path")?;
        let cloud = Cloud::start(&scratch.join("platform"))?;
        for arm in arms {
            for (role, instances) in [("hub", 1), ("leaf", leaves)] {
                let argument = format!("micro-{role}");
                let manifest = arm.service(&name(role, arm), &program, &["raw", &argument], Scale::Warm(instances));
                cloud.apply(&manifest).await?;
            }
        }
        for arm in arms {
            cloud.ready(&name("hub", arm)).await?;
            cloud.ready(&name("leaf", arm)).await?;
        }
        let client = cloud.client();
        Ok(Self { _cloud: cloud, client, seed })
    }

    async fn request(&self, arm: &Arm, cell: Cell, round: u32) -> Result<Sample> {
        let Cell { pattern, size_bytes, degree, .. } = cell;
        let carry = Carry { pattern, size_bytes, degree, leaf: name("leaf", arm), seed: self.seed };
        let response = self.client.call(Call::new(name("hub", arm)).payload(encode(&carry, &[], Vec::new())?)).await?;
        if !response.status.is_success() {
            let text = String::from_utf8_lossy(&response.payload);
            bail!("{pattern:?} of {size_bytes} bytes over {} answered {}: {}", arm.name, response.status, text.trim_end());
        }
        let answer: Letter<Carried> = decode(&response.payload)?;
        Ok(Sample::of(round, answer.head.seconds, &answer.journal))
    }
}

fn name(role: &str, arm: &Arm) -> String {
    format!("{role}-{}", arm.name)
}

impl Report {
    fn refuse(&mut self, cell: Cell, arm: &Arm, body_bytes: u64) {
        let Cell { pattern, size_bytes, degree, .. } = cell;
        let body_bytes_max = INLINE_BYTES_MAX;
        self.refused.push(Refused { pattern, size_bytes, degree, method: arm.name, body_bytes, body_bytes_max });
    }

    fn add(&mut self, cell: Cell, samples: &BTreeMap<&'static str, Vec<Sample>>) {
        let seconds = |method: &str| -> Option<Vec<f64>> {
            samples.get(method).map(|samples| samples.iter().map(|sample| sample.seconds).collect())
        };
        let ours = seconds(OURS);
        for arm in &self.methods {
            let Some(raw_seconds) = seconds(arm.name) else { continue };
            let Some(summary) = stats::summary(&raw_seconds, self.seed) else { continue };
            let others = ours.as_ref().filter(|_| arm.name != OURS);
            let last = samples.get(arm.name).and_then(|samples| samples.last());
            let arrived = cell.size_bytes * u64::from(cell.degree);
            self.rows.push(Row {
                pattern: cell.pattern,
                size_bytes: cell.size_bytes,
                degree: cell.degree,
                method: arm.name,
                seconds: summary,
                gib_per_second: arrived as f64 / (1u64 << 30) as f64 / summary.median,
                times_ours: others.and_then(|ours| stats::paired_ratio(&raw_seconds, ours, self.seed)),
                puts: last.map_or(0, |sample| sample.puts),
                gets: last.map_or(0, |sample| sample.gets),
                raw_seconds,
            });
        }
    }

    /// The table for people.
    pub(crate) fn print(&self) {
        println!(
            "Measured on {} ({} cores), network: {}. Times ours: the method's time by that of `{OURS}`, same round.\n",
            self.machine.cpu, self.machine.cores, self.network
        );
        println!(
            "{:<10} {:>9} {:>6} {:<13} {:>11} {:>11} {:>9} {:>22} {:>9}",
            "pattern", "size", "degree", "method", "median", "p99", "GiB/s", "times ours [95 %]", "puts/gets"
        );
        for row in &self.rows {
            let times = row.times_ours.map_or_else(|| "—".into(), |t| format!("{:.2} [{:.2}, {:.2}]", t.median, t.low, t.high));
            println!(
                "{:<10} {:>9} {:>6} {:<13} {:>11} {:>11} {:>9.3} {:>22} {:>9}",
                format!("{:?}", row.pattern).to_lowercase(),
                output::bytes(row.size_bytes),
                row.degree,
                row.method,
                output::seconds(row.seconds.median),
                output::seconds(row.seconds.p99),
                row.gib_per_second,
                times,
                format!("{}/{}", row.puts, row.gets)
            );
        }
        for refused in &self.refused {
            println!(
                "{:?} of {} to {} over {}: not timed: a body of {} is above what a published platform takes ({})",
                refused.pattern,
                output::bytes(refused.size_bytes),
                refused.degree,
                refused.method,
                output::bytes(refused.body_bytes),
                output::bytes(refused.body_bytes_max)
            );
        }
    }
}
