//! What the runs add up to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::plan::Fault;

/// Complaints that are printed; the numbers count them all.
const COMPLAINTS_MAX: usize = 40;

/// Counts over any number of runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) faults: u64,
    /// Faults that were drawn and did not happen, because the work did not come by their point.
    pub(crate) missed: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_bytes: u64,
    pub(crate) named_errors: u64,
    /// Callers that left by themselves and were told nothing.
    pub(crate) left: u64,
    /// Payloads that were not delivered in the fault's course and were when they were asked for again.
    pub(crate) rescued: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
    pub(crate) hung: u64,
    pub(crate) leaked: [u64; 3],
    /// Whether the last step's fault happened.
    pub(crate) faults_of_last: bool,
    by_error: BTreeMap<String, u64>,
    by_row: BTreeMap<String, u64>,
    /// Anonymous bytes of lasting processes: at the beginning and at the end, all together.
    memory: BTreeMap<String, [u64; 2]>,
    complaints: Vec<String>,
}

impl Tally {
    pub(crate) fn of_one_run() -> Self {
        Self { runs: 1, ..Self::default() }
    }

    pub(crate) fn happened(&mut self, fault: &Fault) {
        self.faults += 1;
        self.faults_of_last = true;
        *self.by_row.entry(fault.row()).or_default() += 1;
    }

    pub(crate) const fn delivered(&mut self, bytes: u64) {
        self.delivered += 1;
        self.delivered_bytes += bytes;
    }

    pub(crate) fn kept(&mut self, name: &str, before: u64, after: u64) {
        let memory = self.memory.entry(name.to_owned()).or_default();
        *memory = [memory[0] + before, memory[1] + after];
    }

    pub(crate) fn named(&mut self, name: &str) {
        self.named_errors += 1;
        *self.by_error.entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn lost(&mut self, what: String) {
        self.lost += 1;
        self.complain(format!("lost: {what}"));
    }

    pub(crate) fn hung(&mut self, what: String) {
        self.hung += 1;
        self.complain(format!("hung: {what}"));
    }

    pub(crate) fn leaked_bytes(&mut self, what: String) {
        self.leaked[0] += 1;
        self.complain(format!("leaked bytes: {what}"));
    }

    pub(crate) fn leaked_descriptors(&mut self, what: String) {
        self.leaked[1] += 1;
        self.complain(format!("leaked descriptors: {what}"));
    }

    pub(crate) fn leaked_processes(&mut self, what: String) {
        self.leaked[2] += 1;
        self.complain(format!("leaked processes: {what}"));
    }

    pub(crate) fn complain(&mut self, what: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what);
        }
    }

    /// Whether nothing was lost, leaked or hung.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.hung + self.leaked.iter().sum::<u64>() == 0
    }

    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.faults += other.faults;
        self.missed += other.missed;
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.named_errors += other.named_errors;
        self.left += other.left;
        self.rescued += other.rescued;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.hung += other.hung;
        self.leaked.iter_mut().zip(other.leaked).for_each(|(all, more)| *all += more);
        for (all, more) in [(&mut self.by_error, other.by_error), (&mut self.by_row, other.by_row)] {
            more.into_iter().for_each(|(name, count)| *all.entry(name).or_default() += count);
        }
        other.memory.into_iter().for_each(|(name, [before, after])| self.kept(&name, before, after));
        other.complaints.into_iter().for_each(|complaint| self.complain(complaint));
    }

    pub(crate) fn document(&self, seed: u64, seconds: f64) -> Value {
        let [bytes, descriptors, processes] = self.leaked;
        json!({
            "schema": 1,
            "seed": seed,
            "runs": self.runs,
            "faults": self.faults,
            "missed": self.missed,
            "delivered": self.delivered,
            "delivered_bytes": self.delivered_bytes,
            "named_errors": self.named_errors,
            "left": self.left,
            "rescued": self.rescued,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "leaked": bytes + descriptors + processes,
            "leaked_by": { "bytes": bytes, "descriptors": descriptors, "processes": processes },
            "hung": self.hung,
            "by_error": self.by_error,
            "by_fault": self.by_row,
            "anonymous_bytes": self.memory,
            "packets_lost": crate::packets::at_hand(),
            "seconds": (seconds * 10.0).round() / 10.0,
        })
    }
}
