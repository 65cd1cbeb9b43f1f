//! `bench micro`: pipeline, scatter, gather and broadcast on the local platform, over sizes, degrees and transfer methods.
//!
//! Random bytes; the consumer does no work. A hub service carries a pattern out with its leaf services and times it; methods take
//! turns, round by round. Every payload is looked at where it arrives.

mod functions;

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use zipline_contract::settings;
use zipline_sdk::{Call, Client, Operations};
use zipline_workflow::{Letter, decode, encode};

pub(crate) use functions::{Carried, Carry, Pattern, Task, hub, leaf};

use crate::apps::{INLINE_BYTES_MAX, SLOW_ROUNDS, Sample};
use crate::cloud::Cloud;
use crate::interrupt::Interrupt;
use crate::machine::{self, Machine};
use crate::method::{self, Arm, Choice, Methods, Missing, OURS, Scale, Unanswered};
use crate::network::Network;
use crate::output::{self, Progress, SCHEMA};
use crate::s3_delay;
use crate::s3_place::S3Place;
use crate::stats::{self, SplitMix, Summary};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Bytes of one request, all its payloads together: below the queue-proxies' default budget.
const REQUEST_BYTES_MAX: u64 = 400 * MIB;
/// Above it payloads go to leaves of their own, of which there are few: each keeps the largest payload that it has made.
const SMALL_BYTES_MAX: u64 = 10 * MIB;
/// Memory of a hub or leaf with its queue-proxy, without any payload.
const INSTANCE_BYTES: u64 = 24 * MIB;
/// Copies of a request's payloads that are alive at once: in producers, queue-proxies, stores and consumers, with room to spare.
const COPIES: u64 = 4;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) methods: Vec<String>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) requests: Option<u32>,
    pub(crate) s3: Option<S3Place>,
    pub(crate) network: Network,
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
    /// What functions asked of each store, by method.
    stores: BTreeMap<&'static str, Operations>,
    refused: Vec<Refused>,
    /// What this machine has no memory for.
    left_out: Vec<LeftOut>,
    rows: Vec<Row>,
}

/// A pattern, size and degree that was not measured.
#[derive(Serialize)]
struct LeftOut {
    pattern: Pattern,
    size_bytes: u64,
    degree: u32,
    reason: String,
}

impl Options {
    fn cells(&self) -> Vec<Cell> {
        let (sizes, degrees): (&[u64], &[u32]) = if self.quick {
            (&[KIB, 100 * KIB, MIB, 10 * MIB], &[1, 4])
        } else {
            (&[KIB, 10 * KIB, 100 * KIB, MIB, 10 * MIB, 100 * MIB], &[1, 2, 4, 8, 16, 32])
        };
        let wanted = |pattern: &Pattern| self.patterns.is_empty() || self.patterns.contains(pattern);
        let mut cells = Vec::new();
        for pattern in Pattern::ALL.into_iter().filter(wanted) {
            let below = inline_threshold_bytes() - 1;
            let below: &[u64] = if self.quick { &[KIB, below] } else { &[KIB, 10 * KIB, below] };
            let (sizes, degrees) = match pattern {
                Pattern::Pipeline => (sizes, &[1][..]),
                Pattern::Call | Pattern::PlainCall => (below, &[1][..]),
                _ => (sizes, degrees),
            };
            for size_bytes in sizes.iter().copied() {
                for degree in degrees.iter().copied().filter(|degree| size_bytes * u64::from(*degree) <= REQUEST_BYTES_MAX) {
                    let rounds = match (self.quick, size_bytes <= MIB) {
                        // A few per cent are asked about, and a call is cheap.
                        (true, _) if pattern.is_call() => 100,
                        (false, _) if pattern.is_call() => 400,
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

/// The queue-proxies' default: a payload below it travels inside the request.
fn inline_threshold_bytes() -> u64 {
    let default = settings::INLINE_THRESHOLD_BYTES.default;
    default.strip_suffix("KiB").and_then(|number| number.parse::<u64>().ok()).map_or(32 * KIB, |number| number * KIB)
}

impl Cell {
    /// Leaves that serve it, beside those of other sizes.
    const fn leaf(self) -> &'static str {
        if self.size_bytes <= SMALL_BYTES_MAX { "leaf" } else { "leaf-large" }
    }

    /// What takes part in it.
    fn compares(self, arm: &Arm) -> bool {
        !self.pattern.is_call() || !arm.is_store()
    }

    /// Memory that it takes, beside that of the instances: what hubs and leaves keep of it, and one request's payloads under way.
    fn memory_bytes(self, arms: u64) -> u64 {
        let kept = arms * (1 + u64::from(self.degree)) * self.size_bytes;
        kept + COPIES * self.size_bytes * u64::from(self.degree)
    }
}

/// Those cells that there is memory for; the others are said and noted.
fn possible(cells: Vec<Cell>, arms: u64, left_out: &mut Vec<LeftOut>) -> Result<Vec<Cell>> {
    let available = machine::available_bytes().unwrap_or(2 * 1024 * MIB);
    let mut kept = Vec::new();
    for cell in cells {
        let needed = arms * u64::from(1 + cell.degree) * INSTANCE_BYTES + cell.memory_bytes(arms);
        if needed <= available {
            kept.push(cell);
            continue;
        }
        let Cell { pattern, size_bytes, degree, .. } = cell;
        let reason = format!(
            "over {arms} methods it takes {} of memory, and {} are free",
            output::bytes(needed),
            output::bytes(available)
        );
        eprintln!("without {pattern:?} of {} to {degree}: {reason}", output::bytes(size_bytes));
        left_out.push(LeftOut { pattern, size_bytes, degree, reason });
    }
    if kept.is_empty() {
        bail!("there is nothing left that this machine has the memory for\nhint: name fewer methods with --method");
    }
    Ok(kept)
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let (names, s3) = (options.methods.clone(), options.s3.clone());
    let methods =
        Methods::start(Choice { names, quick: options.quick, seed: options.seed, s3, network: options.network }).await?;
    let mut left_out = Vec::new();
    let cells = possible(options.cells(), methods.arms.len() as u64, &mut left_out)?;
    let scratch = tempfile::Builder::new().prefix("zipline-bench-").tempdir()?;
    let stage = Stage::deploy(&methods.arms, &cells, scratch.path(), options).await?;
    let mut progress = Progress::of(cells.iter().map(|cell| cell.rounds as usize + 1).sum());
    let mut report = Report {
        schema: SCHEMA,
        kind: "micro",
        mode: if options.quick { "quick" } else { "full" },
        seed: options.seed,
        machine: Machine::here(),
        network: options.network.name(),
        interrupted: false,
        methods: methods.arms.clone(),
        missing: methods.missing.clone(),
        delays: BTreeMap::new(),
        stores: BTreeMap::new(),
        refused: Vec::new(),
        left_out,
        rows: Vec::new(),
    };
    let mut measuring = Measuring { stage: &stage, interrupt, progress: &mut progress, order: SplitMix(options.seed) };
    for cell in cells {
        let mut samples = BTreeMap::new();
        let measured = measuring.cell(&methods.arms, cell, &mut report, &mut samples).await;
        interrupt.excuses(measured)?;
        report.add(cell, &samples);
        if interrupt.came() {
            report.interrupted = true;
            break;
        }
    }
    report.delays = interrupt.excuses(methods.delays().await)?.unwrap_or_default();
    report.stores = methods.counted()?;
    Ok(report)
}

/// A run under way.
struct Measuring<'r> {
    stage: &'r Stage,
    interrupt: &'r Interrupt,
    progress: &'r mut Progress,
    /// Draws the order of a round.
    order: SplitMix,
}

impl Measuring<'_> {
    /// Measures one cell over all methods, until it is done or a signal comes.
    async fn cell(
        &mut self,
        arms: &[Arm],
        cell: Cell,
        report: &mut Report,
        samples: &mut BTreeMap<&'static str, Vec<Sample>>,
    ) -> Result<()> {
        let mut timed: Vec<&Arm> = arms.iter().filter(|arm| cell.compares(arm) && !report.has_failed(arm)).collect();
        for arm in timed.clone() {
            // The first request makes the payloads; it is not counted.
            let Some(sample) = self.request(arm, cell, 0, &mut timed, report).await? else { continue };
            if arm.transfer == "inline" && sample.body_bytes_max > INLINE_BYTES_MAX {
                report.refuse(cell, arm, sample.body_bytes_max);
                timed.retain(|other| other.name != arm.name);
            }
        }
        self.progress.step(&format!("{:?}", cell.pattern));
        for round in 1..=cell.rounds {
            let mut turns: Vec<&Arm> = timed.iter().copied().filter(|arm| !arm.slow || round <= SLOW_ROUNDS).collect();
            self.order.shuffle(&mut turns);
            for arm in turns {
                if let Some(sample) = self.request(arm, cell, round, &mut timed, report).await? {
                    samples.entry(arm.name).or_default().push(sample);
                }
            }
            self.progress.step(&format!("{:?}, {} to {}", cell.pattern, output::bytes(cell.size_bytes), cell.degree));
            if self.interrupt.came() {
                break;
            }
        }
        Ok(())
    }

    /// A request's sample; `None` where a store failed, whose method is left out from here on.
    async fn request(
        &self,
        arm: &Arm,
        cell: Cell,
        round: u32,
        timed: &mut Vec<&Arm>,
        report: &mut Report,
    ) -> Result<Option<Sample>> {
        match self.stage.request(arm, cell, round).await {
            Err(error) if arm.is_store() && error.is::<Unanswered>() && !self.interrupt.came() => {
                timed.retain(|other| other.name != arm.name);
                let reason = format!("{error:#}; left out from there on");
                eprintln!("without {}: {reason}", arm.name);
                report.missing.push(Missing { method: arm.name, reason });
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }
}

/// A platform with a hub and leaves for each method.
struct Stage {
    _cloud: Cloud,
    client: Client,
    seed: u64,
}

impl Stage {
    async fn deploy(arms: &[Arm], cells: &[Cell], scratch: &std::path::Path, options: &Options) -> Result<Self> {
        let leaves = |name| cells.iter().filter(|cell| cell.leaf() == name).map(|cell| cell.degree).max();
        let leaves = ["leaf", "leaf-large"].map(|name| Some((name, "leaf", leaves(name)?)));
        let roles: Vec<_> = leaves.into_iter().flatten().chain([("hub", "hub", 1)]).collect();
        let program = std::env::current_exe().context("this program's own path")?;
        let cloud = Cloud::start(&scratch.join("platform"))?;
        options.network.limit(cloud.ingress_port()?)?;
        for arm in arms {
            for (service, role, instances) in &roles {
                let argument = format!("micro-{role}");
                let manifest = arm.service(&name(service, arm), &program, &["raw", &argument], Scale::Warm(*instances));
                cloud.apply(&manifest).await?;
            }
        }
        for arm in arms {
            for (service, ..) in &roles {
                cloud.ready(&name(service, arm)).await?;
            }
        }
        let client = cloud.client();
        Ok(Self { _cloud: cloud, client, seed: options.seed })
    }

    async fn request(&self, arm: &Arm, cell: Cell, round: u32) -> Result<Sample> {
        let Cell { pattern, size_bytes, degree, .. } = cell;
        let carry = Carry { pattern, size_bytes, degree, leaf: name(cell.leaf(), arm), seed: self.seed };
        let response = self.client.call(Call::new(name("hub", arm)).payload(encode(&carry, &[], Vec::new())?)).await?;
        if !response.status.is_success() {
            let text = String::from_utf8_lossy(&response.payload);
            let what = format!("{pattern:?} of {size_bytes} bytes over {}", arm.name);
            return Err(Unanswered(format!("{what} answered {}: {}", response.status, text.trim_end())).into());
        }
        let answer: Letter<Carried> = decode(&response.payload)?;
        Ok(Sample::of(round, answer.head.seconds, &answer.journal))
    }
}

/// How many times as long as ours a method took, over the rounds that both have.
fn times_ours(theirs: &[Sample], ours: &[Sample], seed: u64) -> Option<stats::Interval> {
    let ours: BTreeMap<u32, f64> = ours.iter().map(|sample| (sample.round, sample.seconds)).collect();
    let pairs = theirs.iter().filter_map(|sample| Some((sample.seconds, *ours.get(&sample.round)?)));
    let (theirs, ours): (Vec<f64>, Vec<f64>) = pairs.unzip();
    stats::paired_ratio(&theirs, &ours, seed)
}

fn name(role: &str, arm: &Arm) -> String {
    format!("{role}-{}", arm.name)
}

impl Report {
    /// Whether a store's method was left out for good.
    fn has_failed(&self, arm: &Arm) -> bool {
        self.missing.iter().any(|missing| missing.method == arm.name)
    }

    fn refuse(&mut self, cell: Cell, arm: &Arm, body_bytes: u64) {
        let Cell { pattern, size_bytes, degree, .. } = cell;
        let body_bytes_max = INLINE_BYTES_MAX;
        self.refused.push(Refused { pattern, size_bytes, degree, method: arm.name, body_bytes, body_bytes_max });
    }

    fn add(&mut self, cell: Cell, samples: &BTreeMap<&'static str, Vec<Sample>>) {
        let seconds = |method: &str| -> Option<Vec<f64>> {
            samples.get(method).map(|samples| samples.iter().map(|sample| sample.seconds).collect())
        };
        for arm in &self.methods {
            let Some(raw_seconds) = seconds(arm.name) else { continue };
            let Some(summary) = stats::summary(&raw_seconds, self.seed) else { continue };
            let others = samples.get(OURS).filter(|_| arm.name != OURS);
            let last = samples.get(arm.name).and_then(|samples| samples.last());
            let arrived = cell.size_bytes * u64::from(cell.degree);
            self.rows.push(Row {
                pattern: cell.pattern,
                size_bytes: cell.size_bytes,
                degree: cell.degree,
                method: arm.name,
                seconds: summary,
                gib_per_second: arrived as f64 / (1u64 << 30) as f64 / summary.median,
                times_ours: others.and_then(|ours| times_ours(samples.get(arm.name)?, ours, self.seed)),
                puts: last.map_or(0, |sample| sample.puts),
                gets: last.map_or(0, |sample| sample.gets),
                raw_seconds,
            });
        }
    }

    /// The table for people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Measured on {} ({} cores), network: {}. Times ours: the method's time by that of `{OURS}`, same round.\n",
            self.machine.cpu,
            self.machine.cores,
            Network::described(self.network)
        )?;
        writeln!(
            out,
            "{:<10} {:>9} {:>6} {:<13} {:>11} {:>11} {:>9} {:>28} {:>9}",
            "pattern", "size", "degree", "method", "median", "p99", "GiB/s", "times ours [95 %] pairs", "puts/gets"
        )?;
        for row in &self.rows {
            let times = row.times_ours.map_or_else(|| "—".into(), |times| times.to_string());
            writeln!(
                out,
                "{:<10} {:>9} {:>6} {:<13} {:>11} {:>11} {:>9.3} {:>28} {:>9}",
                format!("{:?}", row.pattern).to_lowercase(),
                output::bytes(row.size_bytes),
                row.degree,
                row.method,
                output::seconds(row.seconds.median),
                output::seconds(row.seconds.p99),
                row.gib_per_second,
                times,
                format!("{}/{}", row.puts, row.gets)
            )?;
        }
        for refused in &self.refused {
            writeln!(
                out,
                "{:?} of {} to {} over {}: not timed: a body of {} is above what a published platform takes ({})",
                refused.pattern,
                output::bytes(refused.size_bytes),
                refused.degree,
                refused.method,
                output::bytes(refused.body_bytes),
                output::bytes(refused.body_bytes_max)
            )?;
        }
        for LeftOut { pattern, size_bytes, degree, reason } in &self.left_out {
            writeln!(out, "without {pattern:?} of {} to {degree}: {reason}", output::bytes(*size_bytes))?;
        }
        for Missing { method, reason } in &self.missing {
            writeln!(out, "without {method}: {reason}")?;
        }
        let mut repeated = self.stores.iter().filter_map(|(name, did)| method::repeated(name, did.failed, did.throttled));
        repeated.try_for_each(|line| writeln!(out, "{line}"))
    }
}
