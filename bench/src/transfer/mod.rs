//! `bench transfer`: how near to the raw ceiling a payload travels.
//!
//! Every path of a size is measured once a round, in a fixed order, so that a ratio compares samples of the same moment.
//! A Zipline row names its ceiling: the best raw program of the run into the same kind of destination, over TCP with the same
//! congestion control. What is counted (system calls, copied bytes, memory) is counted in passes of their own, after the rounds
//! of a size, so that no instrument stands in a timed sample.

mod ceiling;
mod path;
mod proxies;
mod report;
mod stores;

use std::collections::BTreeMap;

use anyhow::Result;
use zipline_sdk::Reference;

use crate::counted::{Counted, Instruments};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::method::Missing;
use crate::output::{self, Progress};
use crate::peak;
use crate::process;
use ceiling::Ceilings;
use path::Path;
use report::LeftOut;
use stores::Stores;

pub(crate) use proxies::{Proxies, client};
pub(crate) use report::Report;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TEN_MIB: u64 = 10 * MIB;
const HUNDRED_MIB: u64 = 100 * MIB;

/// Bytes that a counted pass moves at least, so that what happens once a connection does not count for much.
const COUNTED_BYTES_MIN: u64 = 16 * MIB;
/// Payloads that a counted pass moves at most.
const COUNTED_PAYLOADS_MAX: u64 = 64;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) congestion: String,
    /// Zipline's paths whose names contain this, and their ceilings; everything without it.
    pub(crate) only: Option<String>,
    /// Sizes in bytes, in place of the mode's own.
    pub(crate) sizes: Vec<u64>,
}

/// What one path showed at one size.
#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    /// Of all processes that take part, and of the queue-proxies among them.
    cpu_seconds: f64,
    proxy_cpu_seconds: f64,
    counted: Counted,
    counted_bytes: u64,
    /// Most memory above rest of the process between the producer and the function, in bytes.
    peak_bytes: Option<u64>,
}

/// Everything that a run has running.
struct Bench {
    ceilings: Ceilings,
    proxies: Proxies,
    stores: Stores,
    paths: Vec<Path>,
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupted: &Interrupt) -> Result<Report> {
    let instruments = Instruments::found();
    let mut report = Report::new(options, Machine::here(), instruments.described());
    let plan = possible(plan(options), &mut report.left_out)?;
    let bytes_max = plan.iter().map(|(bytes, _)| *bytes).max().unwrap_or(MIB);
    let chosen = Path::chosen(options.only.as_deref());
    let mut stores = if chosen.iter().any(|path| path.is_store()) { Stores::start().await? } else { Stores::none() };
    report.missing = std::mem::take(&mut stores.missing);
    let there = |path: &Path| match path {
        Path::Redis => stores.has_redis(),
        Path::S3 => stores.has_s3(),
        _ => true,
    };
    let paths = chosen.into_iter().filter(there).collect();
    let mut bench = Bench {
        ceilings: Ceilings::start(bytes_max, &options.congestion)?,
        proxies: Proxies::start(bytes_max, &options.congestion).await?,
        stores,
        paths,
    };
    let mut progress = Progress::of(plan.iter().map(|(_, rounds)| rounds + 2).sum());
    for (bytes, rounds) in plan {
        let mut samples: BTreeMap<Path, Samples> = BTreeMap::new();
        let measured =
            bench.size(bytes, rounds, instruments, &mut samples, &mut report.missing, interrupted, &mut progress).await;
        interrupted.excuses(measured)?;
        report.add(bytes, &samples);
        if interrupted.came() {
            report.interrupted = true;
            break;
        }
    }
    interrupted.excuses(bench.ceilings.check())?;
    for (name, proxy) in &bench.proxies.running {
        let memory = process::memory(proxy.process.pid());
        report.proxy_memory_bytes.insert(name, memory.anonymous + memory.shared);
    }
    Ok(report)
}

/// Those sizes that there is memory for; the others are said and noted.
fn possible(plan: Vec<(u64, usize)>, left_out: &mut Vec<LeftOut>) -> Result<Vec<(u64, usize)>> {
    /// Copies of a payload that are alive at once, in producers, queue-proxies, stores and functions, with room to spare.
    const COPIES: u64 = 8;
    let available = crate::machine::available_bytes().unwrap_or(2 * GIB);
    let (kept, left): (Vec<_>, Vec<_>) = plan.into_iter().partition(|(bytes, _)| bytes.saturating_mul(COPIES) <= available);
    for (size_bytes, _) in left {
        let (needed, available) = (output::bytes(size_bytes.saturating_mul(COPIES)), output::bytes(available));
        let reason = format!("payloads of this size take {needed} of memory, and {available} are free");
        eprintln!("without {}: {reason}", output::bytes(size_bytes));
        left_out.push(LeftOut { size_bytes, reason });
    }
    anyhow::ensure!(
        !kept.is_empty(),
        "there is no size left that this machine has the memory for\nhint: name a smaller one with --size BYTES"
    );
    Ok(kept)
}

/// Sizes, and rounds of each: those that take long are measured less often.
fn plan(options: &Options) -> Vec<(u64, usize)> {
    let usual: &[u64] = if options.quick { &[64 * KIB, MIB, 100 * MIB] } else { &[KIB, 64 * KIB, MIB, 10 * MIB, 100 * MIB, GIB] };
    let rounds = |bytes: u64| match (bytes, options.quick) {
        (..=MIB, true) => 40,
        (..=MIB, false) => 200,
        (..=TEN_MIB, true) => 15,
        (..=TEN_MIB, false) => 60,
        (..=HUNDRED_MIB, true) => 10,
        (..=HUNDRED_MIB, false) => 30,
        (_, true) => 3,
        (_, false) => 10,
    };
    let sizes = if options.sizes.is_empty() { usual } else { &options.sizes };
    sizes.iter().map(|bytes| (*bytes, rounds(*bytes))).collect()
}

impl Bench {
    /// All rounds of a size, and the passes that count, until they are done or a signal comes.
    #[expect(clippy::too_many_arguments, reason = "what a run has and what it fills, each once")]
    async fn size(
        &mut self,
        bytes: u64,
        rounds: usize,
        instruments: Instruments,
        samples: &mut BTreeMap<Path, Samples>,
        missing: &mut Vec<Missing>,
        interrupted: &Interrupt,
        progress: &mut Progress,
    ) -> Result<()> {
        let reference = self.proxies.put(bytes).await?;
        for round in 0..=rounds {
            self.round(bytes, &reference, (round > 0).then_some(&mut *samples), missing).await?;
            progress.step(&output::bytes(bytes));
            if interrupted.came() {
                return Ok(());
            }
        }
        self.count(bytes, &reference, instruments, samples).await?;
        progress.step(&format!("{}, counted", output::bytes(bytes)));
        self.proxies.release(&reference).await
    }

    /// Each path once. Without `samples` it warms, and nothing is kept.
    async fn round(
        &mut self,
        bytes: u64,
        reference: &Reference,
        mut samples: Option<&mut BTreeMap<Path, Samples>>,
        missing: &mut Vec<Missing>,
    ) -> Result<()> {
        for path in self.paths.clone() {
            let (others, of_proxies) = (self.cpu_seconds(), self.proxies.cpu_seconds());
            let own = process::own_cpu_seconds(); // After the look at the others, which costs this process time of its own.
            let seconds = match self.measure(path, bytes, reference).await {
                Ok(seconds) => seconds,
                // A store has limits of its own (Redis takes no value of more than 512 MiB): the rest of the run goes on.
                Err(error) if path.is_store() => {
                    let reason = format!("{} of {}: {error:#}; left out from there on", path.name(), output::bytes(bytes));
                    eprintln!("{reason}");
                    missing.push(Missing { method: if path == Path::Redis { "redis" } else { "s3" }, reason });
                    self.paths.retain(|other| *other != path);
                    samples.iter_mut().for_each(|samples| drop(samples.remove(&path)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let own = process::own_cpu_seconds() - own;
            if let Some(samples) = &mut samples {
                let so_far = samples.entry(path).or_default();
                so_far.seconds.push(seconds);
                // A thread that has ended takes its count with it.
                so_far.proxy_cpu_seconds += (self.proxies.cpu_seconds() - of_proxies).max(0.0);
                so_far.cpu_seconds += (self.cpu_seconds() - others).max(0.0) + own;
            }
        }
        Ok(())
    }

    /// The passes that nobody times.
    async fn count(
        &mut self,
        bytes: u64,
        reference: &Reference,
        instruments: Instruments,
        samples: &mut BTreeMap<Path, Samples>,
    ) -> Result<()> {
        let payloads = COUNTED_BYTES_MIN.div_ceil(bytes).clamp(1, COUNTED_PAYLOADS_MAX);
        for path in self.paths.clone() {
            let mut processes = self.processes();
            processes.push(std::process::id());
            let so_far = samples.entry(path).or_default();
            for pass in instruments.passes() {
                let counting = pass.begin(&processes)?;
                for _ in 0..payloads {
                    self.measure(path, bytes, reference).await?;
                }
                counting.end(&mut so_far.counted)?;
            }
            so_far.counted_bytes = bytes * payloads;
            if let Some(process) = self.between(path) {
                let rest = peak::now(process);
                let watch = peak::Watch::begin(process);
                self.measure(path, bytes, reference).await?;
                so_far.peak_bytes = Some(watch.end().saturating_sub(rest));
            }
        }
        Ok(())
    }

    /// The process that stands between the producer and the function: whose memory is the path's cost.
    fn between(&self, path: Path) -> Option<u32> {
        match path {
            Path::RawToFunction | Path::RawWriteToFunction => Some(self.ceilings.relay()),
            Path::PullToMemfd | Path::PullToFunction | Path::FillPullRead => self.proxies.pid("consumer"),
            Path::HandOver | Path::HandOverRead | Path::FillHandOverRead => self.proxies.pid("neighbour"),
            _ => None,
        }
    }

    /// Every process that may take part in a path, but this one.
    fn processes(&self) -> Vec<u32> {
        self.ceilings.pids().chain(self.proxies.pids()).chain(self.stores.pids()).collect()
    }

    /// Processor time of every process but this one.
    fn cpu_seconds(&self) -> f64 {
        self.processes().into_iter().map(process::cpu_seconds).sum()
    }

    async fn measure(&mut self, path: Path, bytes: u64, reference: &Reference) -> Result<f64> {
        let (ceilings, proxies) = (&mut self.ceilings, &mut self.proxies);
        match path {
            Path::Memcpy => ceilings.memcpy(bytes),
            Path::RawDescriptor => ceilings.descriptor(bytes, false),
            Path::RawDescriptorRead => ceilings.descriptor(bytes, true),
            Path::RawFillDescriptorRead => ceilings.fill_descriptor_read(bytes),
            Path::RawWriteToBuffer => ceilings.reused_buffer(bytes, false),
            Path::RawToBuffer => ceilings.reused_buffer(bytes, true),
            Path::RawWriteToMemfd => ceilings.fresh_memfd(bytes, false),
            Path::RawToMemfd => ceilings.fresh_memfd(bytes, true),
            Path::RawWriteToFunction => ceilings.relayed(bytes, false),
            Path::RawToFunction => ceilings.relayed(bytes, true),
            Path::PullToBuffer => proxies.pull_to_buffer(reference, bytes).await,
            Path::PullToMemfd => proxies.pull_to_memfd(reference, bytes).await,
            Path::PullToFunction => proxies.pull_to_function(reference).await,
            Path::HandOver => proxies.hand_over(reference, bytes, false).await,
            Path::HandOverRead => proxies.hand_over(reference, bytes, true).await,
            Path::FillHandOverRead => proxies.fill_hand_over_read(bytes).await,
            Path::FillPullRead => proxies.fill_pull_read(bytes).await,
            Path::Redis => self.stores.redis(bytes).await,
            Path::S3 => self.stores.s3(bytes).await,
        }
    }
}
