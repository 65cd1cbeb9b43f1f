//! Reads a mapping field by field, so that nothing in it can be passed over.
//!
//! Whoever reads a mapping takes the fields it knows, names those it ignores or refuses, and calls
//! [`Fields::finish`], which reports what is left as unknown. A field with the value `null` counts as absent, as it
//! does for Kubernetes.

use std::ops::RangeInclusive;

use super::node::{Node, Place, Value};
use super::report::Report;

/// A value and its path.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) path: String,
    pub(super) place: Place,
    value: Value,
}

impl Field {
    /// The root of a document.
    pub(super) fn root(node: Node) -> Self {
        Self { path: String::new(), place: node.place, value: node.value }
    }

    pub(super) fn fields(self, report: &mut Report) -> Option<Fields> {
        match self.value {
            Value::Map(entries) => Some(Fields { path: self.path, place: self.place, entries, known: Vec::new() }),
            other => expected("a mapping", &other, &self.path, self.place, report),
        }
    }

    pub(super) fn items(self, report: &mut Report) -> Option<Vec<Self>> {
        match self.value {
            Value::List(items) => Some(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(i, node)| Self { path: format!("{}[{i}]", self.path), place: node.place, value: node.value })
                    .collect(),
            ),
            other => expected("a list", &other, &self.path, self.place, report),
        }
    }

    /// Text. Numbers and booleans are not turned into it: Kubernetes refuses them too, and `1.10` would change.
    pub(super) fn text(self, report: &mut Report) -> Option<String> {
        match self.value {
            Value::Text(text) => Some(text),
            ref scalar @ (Value::Bool(_) | Value::Integer(_) | Value::Float(_)) => {
                report.error_with_hint(
                    &self.path,
                    self.place,
                    format!("must be text, not {}", scalar.kind()),
                    "put it in quotation marks",
                );
                None
            }
            other => expected("text", &other, &self.path, self.place, report),
        }
    }

    /// The text, if it is one; whoever cares reports the rest by [`Field::text`].
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn boolean(self, report: &mut Report) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            other => expected("true or false", &other, &self.path, self.place, report),
        }
    }

    /// A whole number within `range`.
    pub(super) fn whole(self, range: RangeInclusive<i64>, report: &mut Report) -> Option<i64> {
        match self.value {
            Value::Integer(value) if range.contains(&value) => Some(value),
            Value::Integer(value) => {
                let message = format!("{value} lies outside {} to {}", range.start(), range.end());
                report.error(&self.path, self.place, message);
                None
            }
            other => expected("a whole number", &other, &self.path, self.place, report),
        }
    }

    /// A port: a number, or the name of a container port.
    pub(super) fn port(self, report: &mut Report) -> Option<PortName> {
        match self.value {
            Value::Text(name) => Some(PortName::Name(name)),
            _ => self.whole(0..=65_535, report).map(PortName::Number),
        }
    }

    pub(super) fn texts(self, report: &mut Report) -> Option<Vec<String>> {
        let items = self.items(report)?;
        let expected = items.len();
        let texts: Vec<String> = items.into_iter().filter_map(|item| item.text(report)).collect();
        (texts.len() == expected).then_some(texts)
    }
}

/// How a probe names its port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PortName {
    Number(i64),
    Name(String),
}

fn expected<T>(what: &str, found: &Value, path: &str, place: Place, report: &mut Report) -> Option<T> {
    report.error(path, place, format!("must be {what}, not {}", found.kind()));
    None
}

/// A mapping being read.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) path: String,
    pub(super) place: Place,
    entries: Vec<(String, Node)>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Removes a field; `None` if it is absent or null.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field> {
        self.known.push(name);
        let at = self.entries.iter().position(|(key, _)| key == name)?;
        let (_, node) = self.entries.remove(at);
        (node.value != Value::Null).then(|| Field { path: self.child(name), place: node.place, value: node.value })
    }

    /// Removes a field; its absence is an error.
    pub(super) fn require(&mut self, name: &'static str, report: &mut Report) -> Option<Field> {
        let field = self.take(name);
        if field.is_none() {
            report.error(&self.child(name), self.place, "is missing");
        }
        field
    }

    /// A field that is harmless to ignore: a warning names it.
    pub(super) fn ignore(&mut self, name: &'static str, why: &str, report: &mut Report) {
        if let Some(field) = self.take(name) {
            report.warn(&field.path, field.place, format!("is ignored: {why}"));
        }
    }

    /// A field that means something we can't do: an error.
    pub(super) fn refuse(&mut self, name: &'static str, hint: &str, report: &mut Report) {
        if let Some(field) = self.take(name) {
            report.error_with_hint(&field.path, field.place, "is not supported on the local platform", hint);
        }
    }

    /// All entries, for mappings whose keys are the user's (labels, annotations).
    pub(super) fn into_entries(self) -> Vec<(String, Field)> {
        let Self { path, entries, .. } = self;
        let entry = |(key, node): (String, Node)| {
            let field = Field { path: format!("{path}[{key}]"), place: node.place, value: node.value };
            (key, field)
        };
        entries.into_iter().map(entry).collect()
    }

    /// Reports what nobody took.
    pub(super) fn finish(self, report: &mut Report) {
        for (name, node) in &self.entries {
            let path = self.child(name);
            match nearest(name, &self.known) {
                Some(known) => {
                    report.error_with_hint(&path, node.place, "is not a known field", format!("did you mean `{known}`?"));
                }
                None => report.error(&path, node.place, "is not a known field"),
            }
        }
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// Edits beyond which a name is no longer taken for a misspelling.
const EDITS_MAX: usize = 2;

/// The known name closest to `name`, if it is a likely misspelling.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    known.iter().map(|candidate| (edits(name, candidate), *candidate)).filter(|(n, _)| *n <= EDITS_MAX).min().map(|(_, c)| c)
}

/// Levenshtein distance, upper and lower case alike.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}
