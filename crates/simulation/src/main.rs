//! `zipline-simulation`: runs schedules, and finds mutants. `cargo xtask simulate` is the way to start it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};
use zipline_simulation::{Fault, Outcome, Report, Schedule, Subset, TRANSITIONS, cores, run, shrink};

/// Runs schedules of faults against Zipline's decisions.
#[derive(Parser)]
struct Arguments {
    /// Schedules to run
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these faults of the seed, such as `cut:0,crash:1`; `none`: no fault
    #[arg(long)]
    faults: Option<String>,
    /// Only these items of the seed's work, such as `0,3`
    #[arg(long)]
    items: Option<String>,
    /// Prints the trace of every failing seed in full, and that of a single one in any case
    #[arg(long)]
    trace: bool,
    /// One JSON document in place of text
    #[arg(long)]
    json: bool,
    /// Threads; by default one a core
    #[arg(long)]
    threads: Option<usize>,
    /// Hunts every mutant, or the named one, in place of running the right code; with `--seeds 1` runs one seed of it
    #[arg(long, num_args = 0..=1, default_missing_value = "all")]
    mutant: Option<String>,
}

/// Lines of a failing trace that are shown: the last ones.
const TRACE_LINES_SHOWN: usize = 60;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match (&arguments.mutant, arguments.seeds) {
        (Some(name), 2..) => mutants(&arguments, name),
        (name, 1) => choose(name.as_deref()).and_then(|()| single(&arguments)),
        _ => many(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(64)
        }
    }
}

fn subset(arguments: &Arguments) -> Result<Subset, String> {
    let faults = arguments.faults.as_deref().map(|list| match list {
        "none" => Ok(BTreeSet::new()),
        list => list.split(',').map(str::parse::<Fault>).collect(),
    });
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no item's number"));
    let items = arguments.items.as_deref().map(|list| match list {
        "none" => Ok(BTreeSet::new()),
        list => list.split(',').map(number).collect(),
    });
    Ok(Subset { faults: faults.transpose()?, items: items.transpose()? })
}

/// One seed, with its trace.
fn single(arguments: &Arguments) -> Result<bool, String> {
    let schedule = Schedule { seed: arguments.seed, subset: subset(arguments)?, traces: true };
    let outcome = schedule.run();
    let holds = outcome.violation.is_none();
    if arguments.json {
        let violation = outcome.violation.as_ref().map(ToString::to_string);
        let faults: Vec<String> = outcome.faults.iter().map(ToString::to_string).collect();
        let trace = if arguments.trace || !holds { outcome.trace.clone() } else { Vec::new() };
        println!(
            "{}",
            json!({"schema": 1, "seed": schedule.seed, "violation": violation, "faults": faults, "steps": outcome.steps,
                   "trace_hash": format!("{:016x}", outcome.trace_hash), "trace": trace})
        );
        return Ok(holds);
    }
    if arguments.trace {
        outcome.trace.iter().for_each(|line| println!("{line}"));
    }
    if !holds {
        explain(&schedule, &outcome, arguments.mutant.as_deref(), arguments.trace);
    }
    println!(
        "simulate: seed {}: {} steps, {} faults, trace {:016x}: {}",
        schedule.seed,
        outcome.steps,
        outcome.faults.len(),
        outcome.trace_hash,
        if holds { "every promise held" } else { "FAILED" }
    );
    Ok(holds)
}

/// Says what broke, shrinks it, and prints how to see it again.
fn explain(schedule: &Schedule, outcome: &Outcome, mutant: Option<&str>, whole_trace: bool) {
    let Some(violation) = &outcome.violation else { return };
    println!("seed {} breaks a promise: {violation}", schedule.seed);
    let small = shrink(schedule, outcome);
    let traced = Schedule { traces: true, ..small.clone() }.run();
    let lines = &traced.trace;
    let skipped = if whole_trace { 0 } else { lines.len().saturating_sub(TRACE_LINES_SHOWN) };
    println!("  shrunk to {} items of work and {} faults:", traced.items.min(count(&small, outcome)), traced.faults.len());
    if skipped > 0 {
        println!("  ... {skipped} lines before");
    }
    lines.iter().skip(skipped).for_each(|line| println!("  {line}"));
    if let Some(violation) = &traced.violation {
        println!("  => {violation}");
    }
    let mutant = mutant.map(|name| format!(" --mutant {name}")).unwrap_or_default();
    println!("  replay: cargo xtask simulate --seed {}{mutant}", schedule.seed);
    println!("  shrunk: cargo xtask simulate --seed {}{mutant}{} --trace", schedule.seed, options(&small.subset));
}

fn count(schedule: &Schedule, outcome: &Outcome) -> usize {
    schedule.subset.items.as_ref().map_or(outcome.items, BTreeSet::len)
}

fn options(subset: &Subset) -> String {
    let list = |name: &str, texts: Option<Vec<String>>| match texts {
        None => String::new(),
        Some(texts) if texts.is_empty() => format!(" --{name} none"),
        Some(texts) => format!(" --{name} {}", texts.join(",")),
    };
    let faults = subset.faults.as_ref().map(|faults| faults.iter().map(ToString::to_string).collect());
    let items = subset.items.as_ref().map(|items| items.iter().map(ToString::to_string).collect());
    format!("{}{}", list("faults", faults), list("items", items))
}

fn many(arguments: &Arguments) -> Result<bool, String> {
    let report = run(arguments.seed, arguments.seeds, arguments.threads.unwrap_or_else(cores));
    if arguments.json {
        println!("{}", report_json(&report));
        return Ok(report.failed == 0);
    }
    for (seed, violation) in &report.failures {
        println!("seed {seed}: {violation}");
    }
    if let Some(seed) = report.failures.keys().next() {
        let schedule = Schedule::of(*seed);
        let outcome = schedule.run();
        explain(&schedule, &outcome, None, arguments.trace);
    }
    let never: Vec<&str> = report.coverage.counts().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    if !never.is_empty() {
        println!("transitions never gone through: {}", never.join("; "));
    }
    println!("{}", summary(&report));
    Ok(report.failed == 0)
}

fn summary(report: &Report) -> String {
    let faults: u64 = report.faults.values().sum();
    format!(
        "simulate: {} schedules, {} steps, {faults} faults, {} of {} transitions, {} seeds failed, {:.0} schedules/s on each of {} cores",
        report.schedules,
        report.steps,
        report.coverage.covered(),
        TRANSITIONS.len(),
        report.failed,
        report.rate_a_core(),
        report.threads
    )
}

fn report_json(report: &Report) -> Value {
    let failures: Vec<Value> =
        report.failures.iter().map(|(seed, violation)| json!({"seed": seed, "violation": violation.to_string()})).collect();
    let faults: serde_json::Map<String, Value> =
        report.faults.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
    let transitions: serde_json::Map<String, Value> =
        report.coverage.counts().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    json!({
        "schema": 1, "schedules": report.schedules, "failed": report.failed, "failures": failures, "steps": report.steps,
        "faults": faults, "transitions": transitions, "transitions_covered": report.coverage.covered(),
        "seconds": report.took.as_secs_f64(), "threads": report.threads, "schedules_per_second_and_core": report.rate_a_core(),
    })
}

#[cfg(zipline_mutants)]
fn choose(name: Option<&str>) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    let mutant = zipline_core::mutants::ALL.iter().find(|mutant| mutant.name == name);
    zipline_core::mutants::choose(Some(mutant.ok_or_else(|| format!("there is no mutant {name:?}"))?));
    Ok(())
}

#[cfg(not(zipline_mutants))]
fn choose(name: Option<&str>) -> Result<(), String> {
    name.map_or(Ok(()), |_| Err(WITHOUT_MUTANTS.to_owned()))
}

#[cfg(not(zipline_mutants))]
const WITHOUT_MUTANTS: &str = "this build has no mutants; `cargo xtask simulate` makes one with `--cfg zipline_mutants`";

#[cfg(not(zipline_mutants))]
fn mutants(_: &Arguments, _: &str) -> Result<bool, String> {
    Err(WITHOUT_MUTANTS.to_owned())
}

#[cfg(zipline_mutants)]
fn mutants(arguments: &Arguments, name: &str) -> Result<bool, String> {
    let only = (name != "all").then_some(name);
    let hunts = zipline_simulation::hunt(arguments.seed, arguments.seeds, arguments.threads.unwrap_or_else(cores), only);
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    if arguments.json {
        let list: Vec<Value> = hunts
            .iter()
            .map(|hunt| {
                let found = hunt.found.as_ref();
                json!({"name": hunt.name, "wrong": hunt.wrong, "found": found.is_some(), "seed": found.map(|found| found.seed),
                       "schedules": found.map(|found| found.schedules),
                       "violation": found.map(|found| found.violation.to_string())})
            })
            .collect();
        println!("{}", json!({"schema": 1, "mutants": list, "found": found, "hunted": hunts.len()}));
    } else {
        for hunt in &hunts {
            match &hunt.found {
                Some(found) => println!("mutant {}: found by schedule {}: {}", hunt.name, found.schedules, found.violation),
                None => println!("mutant {}: NOT FOUND in {} schedules ({})", hunt.name, arguments.seeds, hunt.wrong),
            }
        }
        println!("simulate: {found} of {} mutants found", hunts.len());
    }
    Ok(found == hunts.len() && !hunts.is_empty())
}
