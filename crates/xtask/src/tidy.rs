//! Checks on the code itself: how long files and functions are, what was left behind, where links lead, which crate may know which.
//!
//! Lengths count product code, up to the unit tests at a file's end. Functions are found by the layout that rustfmt gives them,
//! which is exact for formatted code. Manifests are read through `cargo metadata`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{cargo, root};

/// Lines of product code in one file.
const FILE_LINES_MAX: usize = 600;
/// Lines of one function: a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Which crates of ours a crate may depend on, as `docs/architecture.md` draws it. A crate that is not listed may know none.
const ARROWS: &[(&str, &[&str])] = &[
    ("zipline-core", &["zipline-contract"]),
    ("zipline-cost", &["zipline-contract"]),
    ("zipline-transfer", &["zipline-contract", "zipline-core", "zipline-fault-point", "zipline-sys"]),
    (
        "zipline-queue-proxy",
        &["zipline-contract", "zipline-core", "zipline-fault-point", "zipline-store", "zipline-sys", "zipline-transfer"],
    ),
    ("zipline-platform", &["zipline-contract", "zipline-core", "zipline-fault-point", "zipline-sys"]),
    ("zipline-kubernetes", &["zipline-contract", "zipline-core"]),
    ("zipline-servers", &["zipline-contract", "zipline-sys"]),
    ("zipline-sdk", &["zipline-contract", "zipline-store", "zipline-sys"]),
    ("zipline-cli", &["zipline-contract", "zipline-cost", "zipline-platform", "zipline-sdk", "zipline-servers"]),
    ("zipline-workflow", &["zipline-sdk"]),
    ("zipline-mapreduce", &["zipline-sdk", "zipline-workflow"]),
    ("zipline-video", &["zipline-sdk", "zipline-workflow"]),
    ("zipline-stacking", &["zipline-sdk", "zipline-workflow"]),
    (
        "zipline-bench",
        &[
            "zipline-contract",
            "zipline-core",
            "zipline-cost",
            "zipline-platform",
            "zipline-sdk",
            "zipline-servers",
            "zipline-sys",
            "zipline-testkit",
            "zipline-transfer",
            "zipline-workflow",
        ],
    ),
    ("zipline-simulation", &["zipline-contract", "zipline-core"]),
    ("zipline-faults", &["zipline-contract", "zipline-fault-point", "zipline-testkit"]),
    ("zipline-testkit", &["zipline-contract"]),
    ("zipline-differential", &["zipline-testkit"]),
    ("zipline-e2e-cluster", &["zipline-contract", "zipline-image", "zipline-sdk", "zipline-testkit"]),
    ("zipline-xtask", &["zipline-contract", "zipline-fault-point", "zipline-image"]),
];

/// What tests may use beside those. Tests of programs link none of the product but its names, and `core` where they replay
/// decisions.
const TEST_ARROWS: &[(&str, &[&str])] = &[("zipline-e2e", &["zipline-contract", "zipline-core"])];
/// The crates that every test may use.
const FOR_TESTS: [&str; 2] = ["zipline-servers", "zipline-testkit"];

/// Words that mark unfinished work. Split, so that this file passes its own check.
const MARKERS: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK:"), concat!("<<<<", "<<<")];

/// Prints every finding; false when there is one.
pub(crate) fn run() -> Result<bool> {
    let findings = findings(&root()?)?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} findings", findings.len());
    Ok(findings.is_empty())
}

fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    let mut sources = String::new();
    collect(root, &mut files)?;
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else { continue };
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        markers(&name, &text, &mut findings);
        if name.ends_with(".rs") || name.ends_with(".py") {
            lengths(&name, &text, &mut findings);
            sources.push_str(&text);
        }
        if name.ends_with(".md") {
            links(path, &name, &text, &mut findings);
        }
        if name.ends_with(".rs") && !name.starts_with("crates/sys/") {
            safety(&name, &text, &mut findings);
        }
    }
    findings.extend(crate::guarantees::findings(root, &sources)?);
    arrows(root, &mut findings)?;
    Ok(findings)
}

/// Every file of ours: not what is built, hidden or foreign.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_skipped =
            name == "target" || name == "__pycache__" || name == "knative-suite" || (name.starts_with('.') && name != ".ci");
        match entry.file_type()? {
            _ if is_skipped => {}
            kind if kind.is_dir() => collect(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

fn markers(name: &str, text: &str, findings: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        if let Some(marker) = MARKERS.iter().find(|marker| line.contains(**marker)) {
            findings.push(format!("{name}:{}: leftover marker `{marker}`", index + 1));
        }
    }
}

fn lengths(name: &str, text: &str, findings: &mut Vec<String>) {
    let is_test = name.contains("/tests/") || name.contains("_generated");
    let product: Vec<&str> = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect();
    if product.len() > FILE_LINES_MAX && !is_test {
        findings.push(format!(
            "{name}: {} lines of product code, more than {FILE_LINES_MAX}; which second thing is it?",
            product.len()
        ));
    }
    if name.ends_with(".rs") && !is_test {
        for (first, length) in functions(&product) {
            if length > FUNCTION_LINES_MAX {
                findings.push(format!("{name}:{first}: a function of {length} lines, more than {FUNCTION_LINES_MAX}"));
            }
        }
    }
}

/// First line and length of every function: from its `fn` to the closing brace in the same column.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        let is_function = words.contains(&"fn") && !line.trim_start().starts_with("//");
        if !is_function || line.ends_with(';') || line.ends_with('}') {
            continue;
        }
        let closes =
            |line: &&str| line.len() > indent && line.starts_with(&" ".repeat(indent)) && line[indent..].starts_with('}');
        if let Some(length) = lines[index..].iter().position(closes) {
            found.push((index + 1, length + 1));
        }
    }
    found
}

/// Every relative link of a page leads somewhere. Links to the outside are not followed.
fn links(path: &Path, name: &str, text: &str, findings: &mut Vec<String>) {
    for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
        let target = link.split('#').next().unwrap_or_default();
        let is_relative = !target.is_empty() && !target.contains(':') && !target.contains(char::is_whitespace);
        if is_relative && !path.parent().is_some_and(|folder| folder.join(target).exists()) {
            findings.push(format!("{name}: the link `{link}` leads nowhere"));
        }
    }
}

/// Every crate root but `sys` forbids `unsafe`.
fn safety(name: &str, text: &str, findings: &mut Vec<String>) {
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    if is_root && !text.contains("#![forbid(unsafe_code)]") {
        findings.push(format!("{name}: the crate does not `#![forbid(unsafe_code)]`; unsafe code lives in crates/sys only"));
    }
}

fn arrows(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let output =
        Command::new(cargo()).current_dir(root).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).output();
    let output = output.context("starting cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("the output of cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let allowed_in_tests: BTreeMap<&str, &[&str]> = TEST_ARROWS.iter().copied().collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev";
            let is_allowed = allowed.get(from).is_some_and(|list| list.contains(&to))
                || (in_tests && (FOR_TESTS.contains(&to) || allowed_in_tests.get(from).is_some_and(|list| list.contains(&to))));
            if to.starts_with("zipline-") && !is_allowed {
                findings.push(format!("{from} depends on {to}, against the arrows of docs/architecture.md"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_tidy() {
        let findings = findings(&root().unwrap()).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    #[test]
    fn a_long_function_is_found_and_a_short_one_is_not() {
        let long =
            format!("impl X {{\n    pub fn long() {{\n{}    }}\n    fn short() {{\n    }}\n}}\n", "        x();\n".repeat(80));
        let lines: Vec<&str> = long.lines().collect();
        assert_eq!(functions(&lines), [(2, 82), (84, 2)]);
    }
}
