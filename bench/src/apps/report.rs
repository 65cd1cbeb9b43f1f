//! The document of `bench apps`, as it stands in raw files (`docs/reference/bench-raw.md`), and the table for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use zipline_sdk::Operations;

use super::app::{App, Job, Size};
use super::sample::Sample;
use super::{INLINE_BYTES_MAX, Options};
use crate::machine::Machine;
use crate::method::{self, Arm, Methods, Missing, OURS};
use crate::network::Network;
use crate::output::{self, SCHEMA};
use crate::s3_delay;
use crate::stats::{self, Summary};

/// Whether instances were there when a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    Warm,
    Cold,
}

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) app: App,
    pub(crate) method: &'static str,
    pub(crate) parallel: bool,
    pub(crate) start: Start,
}

/// One application, variant and method.
#[derive(Serialize)]
struct Row {
    app: App,
    variant: &'static str,
    start: Start,
    method: &'static str,
    seconds: Summary,
    /// Median of the functions' seconds together: what is billed.
    function_seconds: f64,
    /// How many times as long as ours it took, over the rounds of both, with its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_ours: Option<stats::Interval>,
    samples: Vec<Sample>,
}

/// A method that a published platform would not have let through.
#[derive(Serialize)]
struct Refused {
    app: App,
    method: &'static str,
    body_bytes: u64,
    body_bytes_max: u64,
}

/// What an application worked on.
#[derive(Serialize)]
struct Workload {
    app: App,
    parameters: Value,
    /// Instances by role.
    instances: BTreeMap<&'static str, u32>,
}

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: u32,
    kind: &'static str,
    mode: &'static str,
    size: Size,
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
    workloads: Vec<Workload>,
    refused: Vec<Refused>,
    rows: Vec<Row>,
    #[serde(skip)]
    cells: Vec<(Cell, Vec<Sample>)>,
}

impl Report {
    pub(super) fn new(options: &Options, size: Size, methods: &Methods) -> Self {
        Self {
            schema: SCHEMA,
            kind: "apps",
            mode: if options.quick { "quick" } else { "full" },
            size,
            seed: options.seed,
            machine: Machine::here(),
            network: options.network.name(),
            interrupted: false,
            methods: methods.arms.clone(),
            missing: methods.missing.clone(),
            delays: BTreeMap::new(),
            stores: BTreeMap::new(),
            workloads: Vec::new(),
            refused: Vec::new(),
            rows: Vec::new(),
            cells: Vec::new(),
        }
    }

    pub(super) fn add_job(&mut self, job: &Job) {
        let instances = job.roles.iter().map(|role| (role.name, role.instances)).collect();
        self.workloads.push(Workload { app: job.app, parameters: job.parameters.clone(), instances });
    }

    pub(super) fn refuse(&mut self, app: App, arm: &Arm, body_bytes: u64) {
        self.refused.push(Refused { app, method: arm.name, body_bytes, body_bytes_max: INLINE_BYTES_MAX });
    }

    pub(super) fn add(&mut self, cell: Cell, sample: Sample) {
        match self.cells.iter_mut().find(|(of, _)| *of == cell) {
            Some((_, samples)) => samples.push(sample),
            None => self.cells.push((cell, vec![sample])),
        }
    }

    /// Notes a store's method that failed.
    pub(super) fn leave_out(&mut self, arm: &Arm, reason: String) {
        eprintln!("without {}: {reason}", arm.name);
        self.missing.push(Missing { method: arm.name, reason });
    }

    /// Sums the samples up.
    pub(super) fn finish(
        &mut self,
        interrupted: bool,
        delays: BTreeMap<&'static str, s3_delay::Report>,
        stores: BTreeMap<&'static str, Operations>,
    ) {
        self.interrupted = interrupted;
        self.stores = stores;
        self.delays = delays;
        let cells = std::mem::take(&mut self.cells);
        let mut rows: Vec<Row> = cells.iter().filter_map(|(cell, samples)| self.row(*cell, samples, &cells)).collect();
        let place = |method: &str| self.methods.iter().position(|arm| arm.name == method);
        rows.sort_by_key(|row| (row.app as u8, row.start, row.variant == "parallel", place(row.method)));
        self.rows = rows;
    }

    fn row(&self, cell: Cell, samples: &[Sample], cells: &[(Cell, Vec<Sample>)]) -> Option<Row> {
        let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
        let functions: Vec<f64> = samples.iter().map(Sample::function_seconds).collect();
        let ours = cells.iter().find(|(of, _)| *of == Cell { method: OURS, ..cell }).filter(|_| cell.method != OURS);
        let times_ours = ours.and_then(|(_, ours)| {
            let ours: BTreeMap<u32, f64> = ours.iter().map(|sample| (sample.round, sample.seconds)).collect();
            let pairs = samples.iter().filter_map(|sample| Some((sample.seconds, *ours.get(&sample.round)?)));
            let (theirs, ours): (Vec<f64>, Vec<f64>) = pairs.unzip();
            stats::paired_ratio(&theirs, &ours, self.seed)
        });
        Some(Row {
            app: cell.app,
            variant: if cell.parallel { "parallel" } else { "sequential" },
            start: cell.start,
            method: cell.method,
            seconds: stats::summary(&seconds, self.seed)?,
            function_seconds: stats::quantile(&functions, 0.5)?,
            times_ours,
            samples: samples.to_vec(),
        })
    }

    /// The table for people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "Measured on {} ({} cores), network: {}. Every answer was checked. Times ours: the method's time by that of `{OURS}`, same round.\n",
            self.machine.cpu,
            self.machine.cores,
            Network::described(self.network)
        )?;
        writeln!(
            out,
            "{:<11} {:<11} {:<5} {:<13} {:>8} {:>10} {:>10} {:>10} {:>26} {:>9} {:>10}",
            "app",
            "variant",
            "start",
            "method",
            "requests",
            "median",
            "p99",
            "billed",
            "times ours [95 %] pairs",
            "puts/gets",
            "moved"
        )?;
        for row in &self.rows {
            let times = row.times_ours.map_or_else(|| "—".into(), |times| times.to_string());
            let last = row.samples.last();
            let start = if row.start == Start::Warm { "warm" } else { "cold" };
            writeln!(
                out,
                "{:<11} {:<11} {:<5} {:<13} {:>8} {:>10} {:>10} {:>10} {:>26} {:>9} {:>10}",
                row.app.name(),
                row.variant,
                start,
                row.method,
                row.seconds.samples,
                output::seconds(row.seconds.median),
                output::seconds(row.seconds.p99),
                output::seconds(row.function_seconds),
                times,
                last.map_or_else(String::new, |sample| format!("{}/{}", sample.puts, sample.gets)),
                last.map_or_else(String::new, |sample| output::bytes(sample.got_bytes + sample.along_bytes)),
            )?;
        }
        for refused in &self.refused {
            writeln!(
                out,
                "{} over {}: not timed: a body of {} is above what a published platform takes ({})",
                refused.app.name(),
                refused.method,
                output::bytes(refused.body_bytes),
                output::bytes(refused.body_bytes_max)
            )?;
        }
        if self.workloads.iter().any(|workload| workload.app == App::Video) {
            writeln!(
                out,
                "\nvideo: the network's weights are seeded, not learned; its cost is the original's, its labels have no meaning."
            )?;
        }
        for Missing { method, reason } in &self.missing {
            writeln!(out, "without {method}: {reason}")?;
        }
        let mut repeated = self.stores.iter().filter_map(|(name, did)| method::repeated(name, did.failed, did.throttled));
        repeated.try_for_each(|line| writeln!(out, "{line}"))
    }
}
