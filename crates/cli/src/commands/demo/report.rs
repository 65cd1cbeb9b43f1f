//! What a demo prints: for people a text, for programs one document.

use std::collections::BTreeMap;

use serde::Serialize;

use super::job::{Edge, Phase, Run};
use super::{Input, Summary};
use crate::failure::{Failure, Outcome};
use crate::format;
use crate::output::Output;

/// Edges that people are shown; programs get all.
const EDGES_SHOWN: usize = 20;

/// Everything that is known after the last run.
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) lang: &'static str,
    /// The arguments that lead there again: none for a platform of its own.
    pub(super) place: String,
    pub(super) input: Input,
    pub(super) summary: Summary,
    pub(super) runs: Vec<Run>,
}

/// The document of a demo with one method.
#[derive(Serialize)]
struct Single<'a> {
    schema: u32,
    lang: &'a str,
    input: &'a Input,
    #[serde(flatten)]
    run: RunDocument<'a>,
    result: &'a Summary,
}

/// The document of a demo with several.
#[derive(Serialize)]
struct Compared<'a> {
    schema: u32,
    verified: bool,
    lang: &'a str,
    input: &'a Input,
    methods: BTreeMap<&'a str, RunDocument<'a>>,
    result: &'a Summary,
}

#[derive(Serialize)]
struct RunDocument<'a> {
    verified: bool,
    transfer: &'a str,
    requests: u64,
    activator_payload_bytes: u64,
    shuffled_bytes: u64,
    instances_started: u64,
    phases: &'a [Phase],
    edges: &'a [Edge],
}

impl<'a> From<&'a Run> for RunDocument<'a> {
    fn from(run: &'a Run) -> Self {
        Self {
            verified: run.verified,
            transfer: run.method,
            requests: run.requests,
            activator_payload_bytes: run.activator_payload_bytes,
            shuffled_bytes: run.shuffled_bytes(),
            instances_started: run.instances_started,
            phases: &run.phases,
            edges: &run.edges,
        }
    }
}

impl Report {
    pub(super) fn print(&self, output: Output) -> Result<Outcome, Failure> {
        let verified = self.runs.iter().all(|run| run.verified);
        let shown = match &self.runs[..] {
            [run] => {
                let (schema, lang, input, result) = (self.schema, self.lang, &self.input, &self.summary);
                output.result(&Single { schema, lang, input, run: run.into(), result }, || self.text())
            }
            runs => {
                let methods = runs.iter().map(|run| (run.method, run.into())).collect();
                let (schema, lang, input, result) = (self.schema, self.lang, &self.input, &self.summary);
                output.result(&Compared { schema, verified, lang, input, methods, result }, || self.text())
            }
        }?;
        Ok(if verified { shown } else { Outcome::No })
    }

    fn text(&self) -> String {
        let mut text = self.head();
        text.push_str(&edges(&self.runs));
        text.push_str(&self.numbers());
        let next = match (&self.runs[..], &self.place) {
            ([_], place) => format!("zipline{place} demo --compare   runs the same job with every method, side by side"),
            (_, place) if place.is_empty() => {
                "zipline up   starts a platform of your own; deploy to it with `zipline service apply -f FILE`".to_owned()
            }
            (_, place) => format!("zipline{place} service apply -f FILE   deploys services of your own"),
        };
        text + "\nTry next: " + &next + "\n"
    }

    /// The verdict and the head of the result.
    fn head(&self) -> String {
        let summary = &self.summary;
        let rows: Vec<_> = summary
            .top
            .iter()
            .map(|top| vec![top.word.clone(), format::count(top.count), format::count(top.documents)])
            .collect();
        let verdict = match self.runs.iter().find(|run| !run.verified) {
            Some(run) => format!("NOT VERIFIED: the result under `{}` differs from the single-process answer", run.method),
            None => "verified: byte for byte the single-process answer".to_owned(),
        };
        format!(
            "\n{} words, {} different, in {} documents ({verdict})\n\n{}",
            format::count(summary.tokens),
            format::count(summary.words),
            format::count(self.input.documents),
            format::table(&["WORD", ">COUNT", ">DOCUMENTS"], &rows)
        )
    }

    /// Time and traffic, one column a method.
    fn numbers(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: &dyn Fn(&Run) -> String| {
            rows.push([name.to_owned()].into_iter().chain(self.runs.iter().map(value)).collect());
        };
        if let Some(first) = self.runs.first() {
            for phase in &first.phases {
                row(&phase.name, &|run| {
                    let same = run.phases.iter().find(|other| other.name == phase.name);
                    same.map(|phase| format::seconds(phase.seconds)).unwrap_or_default()
                });
            }
        }
        row("instances started", &|run| format::count(run.instances_started));
        row("requests through the activator", &|run| format::count(run.requests));
        row("bytes shuffled", &|run| format::bytes(run.shuffled_bytes()));
        row("bytes that passed the activator", &|run| format::bytes(run.activator_payload_bytes));
        let columns: Vec<String> = self.runs.iter().map(|run| format!(">{}", run.method.to_uppercase())).collect();
        let head: Vec<&str> = ["RUN"].into_iter().chain(columns.iter().map(String::as_str)).collect();
        "\n".to_owned() + &format::table(&head, &rows)
    }
}

/// Every edge of one run with its bytes and its method; of several runs, side by side.
fn edges(runs: &[Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let rows: Vec<_> = first
        .edges
        .iter()
        .take(EDGES_SHOWN)
        .map(|edge| {
            let same = |run: &Run| {
                let same = run.edges.iter().find(|other| (&other.from, &other.to) == (&edge.from, &edge.to));
                same.map(|edge| format!("{} {}", edge.method, format::bytes(edge.bytes))).unwrap_or_default()
            };
            [format!("{} \u{2192} {}", edge.from, edge.to)].into_iter().chain(runs.iter().map(same)).collect()
        })
        .collect();
    let head: Vec<&str> = ["EDGE"].into_iter().chain(runs.iter().map(|_| ">METHOD AND BYTES")).collect();
    let mut text = "\n".to_owned() + &format::table(&head, &rows);
    if first.edges.len() > EDGES_SHOWN {
        text.push_str(&format!("\u{2026} and {} more\n", first.edges.len() - EDGES_SHOWN));
    }
    text
}
