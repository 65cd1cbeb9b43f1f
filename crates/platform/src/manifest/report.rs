//! What was found wrong in a manifest, and where.

use std::fmt;

use super::node::Place;

/// One mistake, or one thing that has no effect here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// Path of the field, as `spec.template.spec.containers[0].image`; empty for a whole document.
    pub path: String,
    /// Line in the file, from 1; 0 where it is not known.
    pub line: u64,
    /// Column in the line.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " (hint: {hint})"))
    }
}

/// Why a manifest was refused: every mistake in it, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// The mistakes; never empty.
    pub findings: Vec<Finding>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

/// Collects findings while a file is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
}

impl Report {
    /// Puts findings into the order of the file.
    pub(super) fn sort(&mut self) {
        for findings in [&mut self.errors, &mut self.warnings] {
            findings.sort_by_key(|finding| (finding.line, finding.column));
        }
    }

    pub(super) fn error(&mut self, path: &str, place: Place, message: impl Into<String>) {
        self.errors.push(finding(path, place, message.into(), None));
    }

    pub(super) fn error_with_hint(&mut self, path: &str, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(finding(path, place, message.into(), Some(hint.into())));
    }

    pub(super) fn warn(&mut self, path: &str, place: Place, message: impl Into<String>) {
        self.warnings.push(finding(path, place, message.into(), None));
    }
}

/// A message without the name that it begins with, where the path says it already.
pub(super) fn without_name(message: &str, name: &str) -> String {
    message.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message).to_owned()
}

fn finding(path: &str, place: Place, message: String, hint: Option<String>) -> Finding {
    Finding { path: path.to_owned(), line: place.line, column: place.column, message, hint }
}
