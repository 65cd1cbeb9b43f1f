//! `cargo xtask simulate`: schedules of faults against core's decisions, then every mutant.
//!
//! Two builds of the simulation: one of the code as it is, and one with `--cfg zipline_mutants`, in a folder of its own, so
//! that going from one to the other compiles nothing anew.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{cargo, root};

/// Schedules within which each mutant must be found.
const MUTANT_SEEDS_MAX: u64 = 20_000;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Schedules, from the first seed on; more than one: then every mutant, too
    #[arg(long)]
    seeds: Option<u64>,
    /// First seed; alone: only this one
    #[arg(long)]
    seed: Option<u64>,
    /// One JSON document in place of text
    #[arg(long)]
    json: bool,
    /// Only these faults of a single seed, as a failure prints them
    #[arg(long)]
    faults: Option<String>,
    /// Only these items of a single seed's work, as a failure prints them
    #[arg(long)]
    items: Option<String>,
    /// A single seed of this mutant
    #[arg(long)]
    mutant: Option<String>,
    /// Prints whole traces
    #[arg(long)]
    trace: bool,
}

/// Schedules, where neither number nor seed is given.
const SEEDS: u64 = 100_000;

/// Runs them; false when a seed failed or a mutant was not found.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = root()?;
    let seed = options.seed.unwrap_or(1);
    let seeds = options.seeds.unwrap_or(if options.seed.is_some() { 1 } else { SEEDS });
    if seeds <= 1 {
        return single(&root, options, seed);
    }
    let numbers = ["--seed".to_owned(), seed.to_string(), "--seeds".to_owned()];
    let schedules = output(options, program(&root, Build::Right)?.args(&numbers).arg(seeds.to_string()))?;
    let hunt = output(
        options,
        program(&root, Build::Mutants)?.args(&numbers).arg(seeds.min(MUTANT_SEEDS_MAX).to_string()).args(["--mutant", "all"]),
    )?;
    let holds = schedules.succeeded && hunt.succeeded;
    if options.json {
        let mut whole = schedules.document()?;
        let hunted = hunt.document()?;
        for (name, of) in [("mutants", "mutants"), ("mutants_found", "found"), ("mutants_hunted", "hunted")] {
            whole[name] = hunted[of].clone();
        }
        whole["ok"] = json!(holds);
        println!("{whole}");
    } else {
        println!("{}; {}: {}", schedules.last_line(), hunt.last_line(), if holds { "ok" } else { "FAILED" });
    }
    Ok(holds)
}

/// One schedule, with all that is known about it.
fn single(root: &Path, options: &Options, seed: u64) -> Result<bool> {
    let build = if options.mutant.is_some() { Build::Mutants } else { Build::Right };
    let mut command = program(root, build)?;
    command.args(["--seed", &seed.to_string()]);
    for (name, value) in [("--faults", &options.faults), ("--items", &options.items), ("--mutant", &options.mutant)] {
        if let Some(value) = value {
            command.args([name, value]);
        }
    }
    command.args(options.trace.then_some("--trace")).args(options.json.then_some("--json"));
    Ok(command.status().context("starting the simulation")?.success())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    Right,
    Mutants,
}

/// The simulation, ready to be started.
fn program(root: &Path, build: Build) -> Result<Command> {
    let target = match build {
        Build::Right => root.join("target"),
        Build::Mutants => root.join("target/mutants"),
    };
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["build", "--quiet", "--locked", "--profile", "simulation", "-p", "zipline-simulation"]);
    command.arg("--target-dir").arg(&target);
    if build == Build::Mutants {
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        command.env("RUSTFLAGS", format!("{flags} --cfg zipline_mutants"));
    }
    if !command.status().context("starting cargo")?.success() {
        bail!("the simulation does not build");
    }
    Ok(Command::new(target.join("simulation/zipline-simulation")))
}

struct Output {
    succeeded: bool,
    text: String,
}

impl Output {
    fn last_line(&self) -> &str {
        self.text.trim_end().lines().last().unwrap_or("nothing was said")
    }

    fn document(&self) -> Result<Value> {
        serde_json::from_str(self.text.trim()).context("the simulation's answer is no JSON document")
    }
}

/// Runs it to its end. Its text is passed on but for the last line, which belongs to the summary.
fn output(options: &Options, command: &mut Command) -> Result<Output> {
    command.args(options.json.then_some("--json")).stdout(Stdio::piped());
    let output = command.output().context("starting the simulation")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !options.json {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        lines.iter().take(lines.len().saturating_sub(1)).for_each(|line| println!("{line}"));
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(Output { succeeded: output.status.success(), text })
}
