//! Every row of `docs/guarantees.md` and `docs/security.md` names what shows it, and that exists.

use std::path::Path;

use anyhow::{Context, Result};

/// Where the rows are.
const PAGES: [&str; 2] = ["docs/guarantees.md", "docs/security.md"];
/// Where the points of a fault are listed.
const POINTS: &str = "crates/fault-point/src/points.rs";
/// Where faults are drawn and named.
const FAULTS: &str = "crates/faults/src/plan.rs";
/// Stands in rows that nothing has shown so far; the page says what it means.
const NOT_YET: &str = "*not yet*";

/// What is wrong with the rows. `sources`: all text in which tests may be.
pub(crate) fn findings(root: &Path, sources: &str) -> Result<Vec<String>> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let (points, faults) = (read(POINTS)?, read(FAULTS)?);
    let mut findings = Vec::new();
    for page in PAGES {
        findings.extend(of_page(page, &read(page)?, sources, &points, &faults));
    }
    Ok(findings)
}

fn of_page(page: &str, text: &str, sources: &str, points: &str, faults: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let is_row = line.starts_with('|') && !line.starts_with("| ---") && !line.contains("| shown by |");
        if !is_row {
            continue;
        }
        let shown_by = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && !shown_by.contains(NOT_YET) {
            findings.push(format!("{page}:{}: the row names no test", index + 1));
        }
        for name in names {
            let exists = match name.strip_prefix("faults: ") {
                Some(fault) => is_drawn(fault, points, faults),
                None => sources.contains(&format!("fn {name}(")),
            };
            if !exists {
                findings.push(format!("{page}:{}: there is no `{name}`", index + 1));
            }
        }
    }
    findings
}

/// Whether the harness can let it happen: a verb of its own at a point of the table, or a fault without a point.
fn is_drawn(fault: &str, points: &str, faults: &str) -> bool {
    match fault.split_once(" at ") {
        Some((verb, point)) => {
            let verb = verb.split_whitespace().next().unwrap_or_default();
            faults.contains(&format!("\"{verb} ")) && points.contains(&format!("\"{point}\""))
        }
        None => {
            let (kind, detail) = fault.split_once(": ").unwrap_or((fault, fault));
            let kind = kind.split(" of ").next().unwrap_or_default();
            let detail = detail.split(" of ").next().unwrap_or_default();
            faults.contains(kind) && faults.contains(detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_nobody_draws_is_found() {
        let (points, faults) = ("\"put.body\"", "\"kill {} at {}\" \"partition\"");
        assert!(is_drawn("kill producer at put.body", points, faults) && is_drawn("partition", points, faults));
        assert!(!is_drawn("kill producer at put.never", points, faults) && !is_drawn("flood", points, faults));
    }
}
