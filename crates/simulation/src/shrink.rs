//! Makes a failing schedule small: leaves out work and faults as long as the same promise is still broken.

use std::collections::BTreeSet;

use crate::check::Invariant;
use crate::run::{Outcome, Schedule};

/// Runs that one shrinking may take.
const RUNS_MAX: u32 = 600;

/// A failing schedule from which nothing more can be left out, as far as was tried.
pub fn shrink(schedule: &Schedule, outcome: &Outcome) -> Schedule {
    let Some(violation) = &outcome.violation else { return schedule.clone() };
    let mut smaller = Shrink { best: schedule.clone(), invariant: violation.invariant, runs: 0 };
    smaller.best.traces = false;
    let items = schedule.subset.items.clone().unwrap_or_else(|| (0..outcome.items).collect());
    smaller.leave_out(items, |schedule, left| schedule.subset.items = Some(left));
    let struck = smaller.best.run().faults.into_iter().collect();
    smaller.leave_out(struck, |schedule, left| schedule.subset.faults = Some(left));
    // With fewer faults, less work may do.
    let items = smaller.best.subset.items.clone().unwrap_or_default();
    smaller.leave_out(items, |schedule, left| schedule.subset.items = Some(left));
    smaller.best
}

struct Shrink {
    best: Schedule,
    invariant: Invariant,
    runs: u32,
}

impl Shrink {
    /// Leaves out halves, then quarters, and so on to single ones.
    fn leave_out<T: Ord + Clone>(&mut self, mut of: BTreeSet<T>, put: impl Fn(&mut Schedule, BTreeSet<T>)) {
        if self.still_fails(|schedule| put(schedule, BTreeSet::new())) {
            return;
        }
        let mut part = of.len().div_ceil(2);
        while part > 0 && self.runs < RUNS_MAX {
            let mut progressed = false;
            let all: Vec<T> = of.iter().cloned().collect();
            for out in all.chunks(part) {
                let left: BTreeSet<T> = of.iter().filter(|one| !out.contains(one)).cloned().collect();
                if left.len() < of.len() && self.still_fails(|schedule| put(schedule, left.clone())) {
                    of = left;
                    progressed = true;
                }
            }
            if !progressed || part == 1 {
                if part == 1 && !progressed {
                    return;
                }
                part = (part / 2).max(1);
            }
        }
    }

    fn still_fails(&mut self, change: impl Fn(&mut Schedule)) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let mut candidate = self.best.clone();
        change(&mut candidate);
        let fails = candidate.run().violation.is_some_and(|violation| violation.invariant == self.invariant);
        if fails {
            self.best = candidate;
        }
        fails
    }
}
