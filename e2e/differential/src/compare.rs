//! Two sets of answers beside each other, and the list of what may differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What was seen in each case, line by line.
pub(crate) type Answers = BTreeMap<String, Vec<String>>;

/// What was recorded of Knative's.
#[derive(Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Which one it was.
    pub(crate) version: String,
    pub(crate) answers: Answers,
}

/// What differs in one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) case: String,
    /// Lines that only Knative's gave.
    pub(crate) stock: Vec<String>,
    /// Lines that only ours gave.
    pub(crate) ours: Vec<String>,
    /// The beginning of the row in the docs that says why; empty: nothing does.
    #[serde(default)]
    pub(crate) row: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

pub(crate) fn recorded_path() -> PathBuf {
    folder().join("recorded.json")
}

pub(crate) fn load() -> Result<Recorded> {
    let path = recorded_path();
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

pub(crate) fn parse(json: &[u8]) -> Result<Answers> {
    serde_json::from_slice(json).context("answers as JSON")
}

/// The lines of each case that only one side gave.
pub(crate) fn differences(stock: &Answers, ours: &Answers) -> Vec<Difference> {
    let none = Vec::new();
    ours.iter()
        .filter_map(|(case, ours)| {
            let stock = stock.get(case).unwrap_or(&none);
            let difference =
                Difference { case: case.clone(), stock: without(stock, ours), ours: without(ours, stock), row: String::new() };
            (!difference.stock.is_empty() || !difference.ours.is_empty()).then_some(difference)
        })
        .collect()
}

/// The lines of `a` that `b` lacks, each as often as it is in excess.
fn without(a: &[String], b: &[String]) -> Vec<String> {
    let mut b: Vec<&String> = b.iter().collect();
    a.iter()
        .filter(|line| match b.iter().position(|other| other == line) {
            Some(at) => {
                b.swap_remove(at);
                false
            }
            None => true,
        })
        .cloned()
        .collect()
}

/// Holds what was found to the list; answers whether they agree, and says where not.
pub(crate) fn judge(found: &[Difference], cases: &Answers) -> Result<bool> {
    let path = folder().join("differences.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let listed: Vec<Difference> = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let docs = folder().join("../../docs/reference/knative-differences.md");
    let docs = std::fs::read_to_string(&docs).with_context(|| docs.display().to_string())?;
    let mut is_good = true;
    let mut complain = |text: String| {
        is_good = false;
        println!("{text}");
    };
    for difference in found {
        match listed.iter().find(|listed| listed.case == difference.case) {
            None => complain(format!("NOT LISTED  {}\n{}", difference.case, shown(difference))),
            Some(listed) if (&listed.stock, &listed.ours) != (&difference.stock, &difference.ours) => {
                complain(format!("CHANGED  {}\nlisted:\n{}found:\n{}", difference.case, shown(listed), shown(difference)));
            }
            Some(_) => {}
        }
    }
    for listed in listed.iter().filter(|listed| cases.contains_key(&listed.case)) {
        if !found.iter().any(|difference| difference.case == listed.case) {
            complain(format!("GONE  {}: it is listed and does not differ any more", listed.case));
        }
        let is_reasoned = !listed.row.is_empty() && docs.lines().any(|line| line.starts_with(&format!("| {}", listed.row)));
        if !is_reasoned {
            complain(format!("WITHOUT REASON  {}: no row of the docs begins with {:?}", listed.case, listed.row));
        }
    }
    if is_good {
        println!("no difference that is not listed; {} are", found.len());
    }
    Ok(is_good)
}

fn shown(difference: &Difference) -> String {
    let lines = |mark: &str, lines: &[String]| lines.iter().map(|line| format!("    {mark} {line}\n")).collect::<String>();
    lines("-", &difference.stock) + &lines("+", &difference.ours)
}
