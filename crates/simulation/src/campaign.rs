//! Many schedules, on every core there is; and every mutant, until it is found.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic;
#[cfg(zipline_mutants)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::Violation;
use crate::coverage::Coverage;
use crate::faults::FaultKind;
use crate::run::Schedule;

/// Seeds a thread takes at a time.
const BATCH: u64 = 64;
/// Failing seeds that are kept; more are only counted.
const FAILURES_KEPT: usize = 20;

/// What many schedules came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Schedules run.
    pub schedules: u64,
    /// Schedules in which a promise was broken.
    pub failed: u64,
    /// The first of them, by seed.
    pub failures: BTreeMap<u64, Violation>,
    /// Transitions gone through.
    pub coverage: Coverage,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Tasks run.
    pub steps: u64,
    /// Time taken.
    pub took: Duration,
    /// Threads used.
    pub threads: usize,
}

impl Report {
    /// Schedules a second on one core.
    pub fn rate_a_core(&self) -> f64 {
        self.schedules as f64 / self.took.as_secs_f64().max(1e-9) / self.threads.max(1) as f64
    }

    fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        while self.failures.len() > FAILURES_KEPT {
            self.failures.pop_last();
        }
        self.coverage.add(&other.coverage);
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.steps += other.steps;
    }

    fn run(&mut self, seed: u64) {
        let outcome = Schedule::of(seed).run();
        self.schedules += 1;
        self.coverage.add(&outcome.coverage);
        self.steps += outcome.steps;
        for fault in outcome.faults {
            *self.faults.entry(fault.kind).or_default() += 1;
        }
        if let Some(violation) = outcome.violation {
            self.failed += 1;
            self.failures.insert(seed, violation);
            if self.failures.len() > FAILURES_KEPT {
                self.failures.pop_last();
            }
        }
    }
}

/// Threads to use: one a core.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Runs the schedules of `count` seeds from `first` on.
pub fn run(first: u64, count: u64, threads: usize) -> Report {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let whole = Mutex::new(Report::default());
    quietly(|| {
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    let mut report = Report::default();
                    loop {
                        let from = next.fetch_add(BATCH, Ordering::Relaxed);
                        if from >= count {
                            break;
                        }
                        (from..count.min(from + BATCH)).for_each(|number| report.run(first.wrapping_add(number)));
                    }
                    whole.lock().unwrap_or_else(PoisonError::into_inner).add(report);
                });
            }
        });
    });
    let mut report = whole.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.took = began.elapsed();
    report.threads = threads.max(1);
    report
}

/// A panic of the code under test is a finding, not a message.
fn quietly(work: impl FnOnce()) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    work();
    panic::set_hook(before);
}

/// How a mutant was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// Schedules until then.
    pub schedules: u64,
    /// What was broken.
    pub violation: Violation,
}

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Its name.
    pub name: &'static str,
    /// What it does wrong.
    pub wrong: &'static str,
    /// How it was found; `None`: it was not.
    pub found: Option<Found>,
}

/// Runs schedules against each mutant until one breaks a promise, at most `seeds_max` of them from `first` on.
#[cfg(zipline_mutants)]
pub fn hunt(first: u64, seeds_max: u64, threads: usize, only: Option<&str>) -> Vec<Hunt> {
    let mut hunts = Vec::new();
    quietly(|| {
        for mutant in zipline_core::mutants::ALL {
            if only.is_none_or(|only| only == mutant.name) {
                hunts.push(hunt_one(mutant, first, seeds_max, threads));
            }
        }
    });
    hunts
}

#[cfg(zipline_mutants)]
fn hunt_one(mutant: &'static zipline_core::mutants::Mutant, first: u64, seeds_max: u64, threads: usize) -> Hunt {
    let (next, is_found) = (AtomicU64::new(0), AtomicBool::new(false));
    let best: Mutex<Option<Found>> = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                zipline_core::mutants::choose(Some(mutant));
                while !is_found.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds_max {
                        return;
                    }
                    let seed = first.wrapping_add(number);
                    if let Some(violation) = Schedule::of(seed).run().violation {
                        is_found.store(true, Ordering::Relaxed);
                        let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
                        if best.as_ref().is_none_or(|best| seed < best.seed) {
                            *best = Some(Found { seed, schedules: number + 1, violation });
                        }
                    }
                }
            });
        }
    });
    Hunt { name: mutant.name, wrong: mutant.wrong, found: best.into_inner().unwrap_or_else(PoisonError::into_inner) }
}
