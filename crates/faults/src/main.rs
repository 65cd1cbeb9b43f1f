//! Real faults on the real binaries: `cargo xtask faults`.
//!
//! Each run is one seed: a world of real queue-proxies (`world`), and a few pieces of work with checked answers (`work`), each
//! of which meets one fault that the seed draws (`plan`). A process is killed, frozen or told to go while one stands at a
//! named point of its code (`steering`; debug builds), connections break at a byte, packets are lost (`packets`), clocks are
//! wrong, descriptors run out. After each fault (`step`) every answer must be the bytes that were put, or an error by name,
//! within its deadline; what was not delivered must still be there; and everything that lives must hold, lease, queue and
//! have open what it did at its start.
//!
//! A seed draws the same work and the same faults on every machine; which of two racing things comes first it does not
//! decide. Not here: schedules that no real kernel produces on demand (`crates/simulation`).
#![forbid(unsafe_code)]

mod draw;
mod namespaces;
mod packets;
mod plan;
mod report;
mod soak;
mod steering;
mod step;
mod work;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::task::JoinSet;
use zipline_testkit::census;

use crate::draw::Draw;
use crate::plan::Step;
use crate::report::Tally;
use crate::world::World;

/// Real faults on the real binaries.
#[derive(Clone, Parser)]
#[command(name = "cargo xtask faults")]
struct Options {
    /// Seeds to run
    #[arg(long, default_value_t = 250)]
    runs: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults of each seed
    #[arg(long, default_value_t = 10)]
    faults: u64,
    /// Seeds at once
    #[arg(long, default_value_t = 6)]
    jobs: usize,
    /// In place of runs: worlds that last, for so long (`90s`, `10m`, `1h`)
    #[arg(long = "for", value_parser = duration)]
    lasts: Option<Duration>,
    /// One JSON document in place of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match namespaces::enter().and_then(|()| whole(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn whole(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let began = Instant::now();
    if !packets::at_hand() {
        eprintln!(
            "packets are not lost in this run: that takes a network namespace of its own (root) and `nft` (package nftables); the rest happens"
        );
    }
    let mut tally = local.block_on(&runtime, async {
        tokio::select! {
            tally = chosen(options) => tally,
            // Dropping the runs kills what they started.
            stopped = tokio::signal::ctrl_c() => Err(stopped.err().map_or_else(|| anyhow::anyhow!("interrupted"), Into::into)),
        }
    })?;
    drop((local, runtime));
    let running: Vec<_> =
        census::descendants(std::process::id())?.into_iter().filter(|process| census::is_running(process.pid)).collect();
    if !running.is_empty() {
        tally.leaked_processes(format!("{running:?}"));
    }
    let document = tally.document(options.seed, began.elapsed().as_secs_f64());
    for complaint in tally.complaints() {
        eprintln!("{complaint}");
    }
    if options.json {
        println!("{document}");
    } else {
        println!("{document:#}");
    }
    Ok(tally.is_clean())
}

async fn chosen(options: &Options) -> Result<Tally> {
    match options.lasts {
        Some(lasts) => soak::run(lasts, options.seed, options.jobs).await,
        None => all(options).await,
    }
}

/// A number and `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number with `s`, `m` or `h`, as in 10m");
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

/// Runs every seed, some at once.
async fn all(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut running = JoinSet::new();
    let mut seeds = options.seed..options.seed + options.runs;
    loop {
        while running.len() < options.jobs
            && let Some(seed) = seeds.next()
        {
            let options = options.clone();
            running.spawn_local(async move { (seed, one(seed, &options).await) });
        }
        let Some(ended) = running.join_next().await else { return Ok(tally) };
        let (seed, result) = ended.context("a run panicked")?;
        let run = result.with_context(|| format!("seed {seed} could not be run"))?;
        if !run.is_clean() {
            let faults = options.faults;
            eprintln!("seed {seed} failed; again: cargo xtask faults --seed {seed} --runs 1 --faults {faults}");
        }
        tally.add(run);
        if !options.json && tally.runs.is_multiple_of(10) {
            eprintln!(
                "{} runs, {} faults, {} delivered, {} named",
                tally.runs, tally.faults, tally.delivered, tally.named_errors
            );
        }
    }
}

/// One seed.
async fn one(seed: u64, options: &Options) -> Result<Tally> {
    let mut draw = Draw::new(seed);
    let hands_over = draw.below(3) == 0;
    let mut tally = Tally::of_one_run();
    let mut world: Option<World> = None;
    for number in 0..options.faults {
        let step = Step::draw(&mut draw, hands_over, packets::at_hand());
        let current = match world.take().filter(|world| !world.is_over()) {
            Some(world) => world,
            None => World::start(hands_over).await?,
        };
        tally.faults_of_last = false;
        step::run(world.insert(current), &step, number, &mut tally).await?;
    }
    Ok(tally)
}
