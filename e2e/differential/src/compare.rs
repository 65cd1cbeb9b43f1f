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
    /// What other runs gave, where it is not the same in each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) also: BTreeMap<String, Vec<Vec<String>>>,
}

impl Recorded {
    /// One run's answers.
    pub(crate) fn new(version: String, answers: Answers) -> Self {
        Self { version, answers, also: BTreeMap::new() }
    }

    /// Adds another run's, where they are others.
    pub(crate) fn add(&mut self, run: Answers) {
        for (case, lines) in run {
            if !self.outcomes(&case).any(|known| is_same(known, &lines)) {
                self.also.entry(case).or_default().push(lines);
            }
        }
    }

    /// What a case was seen to give.
    fn outcomes(&self, case: &str) -> impl Iterator<Item = &Vec<String>> {
        self.answers.get(case).into_iter().chain(self.also.get(case).into_iter().flatten())
    }
}

/// Lines that only one side gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lines {
    /// Only Knative's.
    pub(crate) stock: Vec<String>,
    /// Only ours.
    pub(crate) ours: Vec<String>,
}

impl Lines {
    fn between(stock: &[String], ours: &[String]) -> Self {
        Self { stock: without(stock, ours), ours: without(ours, stock) }
    }

    /// Whether these are the lines that a listed difference tells of, where `*` stands for any text.
    fn is_told_by(&self, listed: &Self) -> bool {
        is_told(&self.stock, &listed.stock) && is_told(&self.ours, &listed.ours)
    }

    fn is_empty(&self) -> bool {
        self.stock.is_empty() && self.ours.is_empty()
    }
}

/// What may differ in one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) case: String,
    #[serde(flatten)]
    pub(crate) lines: Lines,
    /// What may be found instead, where Knative's does not always do the same. Empty on both sides: it may do as ours does.
    #[serde(default, rename = "or", skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<Lines>,
    /// The beginning of the row in the docs that says why; empty: nothing does.
    #[serde(default)]
    pub(crate) row: String,
}

impl Difference {
    fn variants(&self) -> impl Iterator<Item = &Lines> {
        std::iter::once(&self.lines).chain(&self.others)
    }
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

/// What each case of ours differs in from what Knative's may give: one possibility for each outcome of its.
pub(crate) fn differences(stock: &Recorded, ours: &Answers) -> BTreeMap<String, Vec<Lines>> {
    let compared = |(case, ours): (&String, &Vec<String>)| {
        let found: Vec<Lines> = stock.outcomes(case).map(|stock| Lines::between(stock, ours)).collect();
        let found = if found.is_empty() { vec![Lines::between(&[], ours)] } else { found };
        (case.clone(), found)
    };
    ours.iter().map(compared).collect()
}

/// What was found as it would stand in the list.
pub(crate) fn as_list(found: &BTreeMap<String, Vec<Lines>>) -> Vec<Difference> {
    let differing = found.iter().filter(|(_, found)| found.iter().any(|lines| !lines.is_empty()));
    let entry = |(case, found): (&String, &Vec<Lines>)| {
        let mut variants = found.iter().filter(|lines| !lines.is_empty()).cloned().collect::<Vec<_>>();
        variants.extend(found.iter().find(|lines| lines.is_empty()).cloned());
        let lines = variants.remove(0); // There is one: empty ones alone were filtered out.
        Difference { case: case.clone(), lines, others: variants, row: String::new() }
    };
    differing.map(entry).collect()
}

fn is_same(a: &[String], b: &[String]) -> bool {
    Lines::between(a, b).is_empty()
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

/// Holds what was found to the list; answers whether they agree, and says where not. A run of all cases also has to have every
/// case of the list.
pub(crate) fn judge(found: &BTreeMap<String, Vec<Lines>>, is_whole: bool) -> Result<bool> {
    let path = folder().join("differences.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let listed: Vec<Difference> = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let mut complaints = Vec::new();
    for (case, found) in found {
        complaints.extend(verdict(case, found, listed.iter().find(|listed| listed.case == *case)));
    }
    let docs = folder().join("../../docs/reference/knative-differences.md");
    let docs = std::fs::read_to_string(&docs).with_context(|| docs.display().to_string())?;
    for listed in &listed {
        let is_reasoned = !listed.row.is_empty() && docs.lines().any(|line| line.starts_with(&format!("| {}", listed.row)));
        if !is_reasoned {
            complaints.push(format!("WITHOUT REASON  {}: no row of the docs begins with {:?}", listed.case, listed.row));
        }
        if is_whole && !found.contains_key(&listed.case) {
            complaints.push(format!("GONE  {}: it is listed and there is no such case", listed.case));
        }
    }
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    if complaints.is_empty() {
        let differing = found.values().filter(|found| found.iter().any(|lines| !lines.is_empty())).count();
        println!("no difference that is not listed; {differing} are");
    }
    Ok(complaints.is_empty())
}

/// What is wrong with a case, if anything is.
fn verdict(case: &str, found: &[Lines], listed: Option<&Difference>) -> Option<String> {
    let Some(listed) = listed else {
        let is_equal = found.iter().any(Lines::is_empty);
        return (!is_equal).then(|| format!("NOT LISTED  {case}\n{}", found.iter().map(shown).collect::<String>()));
    };
    if found.iter().any(Lines::is_empty) && !listed.variants().any(Lines::is_empty) {
        return Some(format!("GONE  {case}: it is listed and does not differ any more"));
    }
    if found.iter().any(|lines| listed.variants().any(|variant| lines.is_told_by(variant))) {
        return None;
    }
    let shown_all = |lines: Vec<&Lines>| lines.into_iter().map(shown).collect::<Vec<_>>().join("or:\n");
    let (listed, found) = (shown_all(listed.variants().collect()), shown_all(found.iter().collect()));
    Some(format!("CHANGED  {case}\nlisted:\n{listed}found:\n{found}"))
}

/// Whether each line is one pattern's, in whatever order.
fn is_told(lines: &[String], patterns: &[String]) -> bool {
    let mut left: Vec<&String> = lines.iter().collect();
    // Those that say exactly what they mean first: the others might take their lines.
    let (loose, exact): (Vec<&String>, Vec<&String>) = patterns.iter().partition(|pattern| pattern.contains('*'));
    let is_each_met = exact.into_iter().chain(loose).all(|pattern| {
        let at = left.iter().position(|line| matches(pattern, line));
        at.map(|at| left.swap_remove(at)).is_some()
    });
    is_each_met && left.is_empty()
}

/// Whether a line is what a pattern stands for: its parts between the `*`, in their order.
fn matches(pattern: &str, line: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == line };
    let Some(mut left) = line.strip_prefix(begin) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

fn shown(lines: &Lines) -> String {
    let marked = |mark: &str, lines: &[String]| lines.iter().map(|line| format!("    {mark} {line}\n")).collect::<String>();
    marked("-", &lines.stock) + &marked("+", &lines.ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(stock: &[&str], ours: &[&str]) -> Lines {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Lines { stock: owned(stock), ours: owned(ours) }
    }

    fn listed(others: &[Lines]) -> Difference {
        Difference { case: "c".into(), lines: lines(&["a"], &["b"]), others: others.to_vec(), row: String::new() }
    }

    fn begins(verdict: Option<String>) -> String {
        verdict.unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_difference_that_is_not_listed_fails_and_a_listed_one_that_is_none_any_more_does_too() {
        let equal = || lines(&[], &[]);
        let known = || lines(&["a"], &["b"]);
        let odd = || lines(&["a"], &["c"]);
        assert_eq!(verdict("c", &[equal()], None), None);
        assert_eq!(begins(verdict("c", &[known()], None)), "NOT");
        assert_eq!(verdict("c", &[known()], Some(&listed(&[]))), None);
        assert_eq!(begins(verdict("c", &[odd()], Some(&listed(&[])))), "CHANGED");
        assert_eq!(begins(verdict("c", &[equal()], Some(&listed(&[])))), "GONE");
        // Where Knative's itself varies.
        assert_eq!(verdict("c", &[equal()], Some(&listed(&[equal()]))), None);
        assert_eq!(verdict("c", &[odd(), equal()], None), None);
        assert_eq!(verdict("c", &[odd()], Some(&listed(&[odd()]))), None);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, line) in [("a", "a"), ("a*", "a"), ("*", ""), ("a*c", "abc"), ("a*b*c", "a-b-b-c"), ("*: *", "Date: *")] {
            assert!(matches(pattern, line), "{pattern} {line}");
        }
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert!(is_told(&lines(&["b: 2", "a", "b: 1"]), &lines(&["b: *", "b: 2", "a"])));
        assert!(!is_told(&lines(&["a", "b"]), &lines(&["a"])) && !is_told(&lines(&["a"]), &lines(&["a", "*"])));
        for (pattern, line) in [("a", "b"), ("a*", "ba"), ("a*c", "ab"), ("a*b*c", "a-c"), ("ab*ba", "aba")] {
            assert!(!matches(pattern, line), "{pattern} {line}");
        }
    }

    #[test]
    fn another_outcome_is_recorded_once_and_lines_have_no_order() {
        let run = |lines: &[&str]| Answers::from([("c".to_owned(), lines.iter().map(|line| (*line).to_owned()).collect())]);
        let mut recorded = Recorded::new("v".into(), run(&["1", "2"]));
        for lines in [&["2", "1"][..], &["1"], &["1"]] {
            recorded.add(run(lines));
        }
        assert_eq!(recorded.outcomes("c").count(), 2);
        let found = differences(&recorded, &run(&["1", "3"]));
        assert_eq!(found["c"], [lines(&["2"], &["3"]), lines(&[], &["3"])]);
    }
}
