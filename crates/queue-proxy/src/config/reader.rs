//! Reading variables: text in, typed values out, problems collected on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use zipline_contract::settings::{self, Setting};

/// Names and values, from the process or from a test.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The process' environment, read once. Names or values that are not UTF-8 are kept with replacement characters,
    /// so that they are reported rather than overlooked.
    pub fn of_process() -> Self {
        std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect()
    }

    /// The value of `name`, if it is set (possibly to nothing).
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigProblem {
    /// A required variable is not set.
    #[error("{variable} is not set: {meaning}")]
    Missing {
        /// Its name.
        variable: &'static str,
        /// What it is for.
        meaning: &'static str,
    },
    /// A value can't be read as what it should be.
    #[error("{variable}: `{value}` is not {expected}")]
    Unreadable {
        /// Its name.
        variable: &'static str,
        /// What was given.
        value: String,
        /// What can be read there.
        expected: String,
    },
    /// A number lies outside its range.
    #[error("{variable}: {value} is outside {low} to {high}")]
    OutOfRange {
        /// Its name.
        variable: &'static str,
        /// What was given.
        value: String,
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
    },
}

/// All that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct ConfigError(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "{n} setting{} can't be used", if n == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads values one by one and remembers what was wrong. A bad value is answered with a harmless one, so that
/// reading goes on and finds the next; [`Reader::finish`] then refuses the whole.
pub(super) struct Reader<'a> {
    variables: &'a Variables,
    problems: Vec<ConfigProblem>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(variables: &'a Variables) -> Self {
        Self { variables, problems: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(ConfigError(self.problems)) }
    }

    /// The text of a Knative variable; empty where it is not set.
    pub(super) fn text(&self, variable: &'static str) -> &'a str {
        self.variables.value(variable).unwrap_or("")
    }

    /// The text of a Knative variable that must be set, possibly to nothing.
    pub(super) fn required(&mut self, variable: &'static str, meaning: &'static str) -> &'a str {
        match self.variables.value(variable) {
            Some(value) => value,
            None => {
                self.problems.push(ConfigProblem::Missing { variable, meaning });
                ""
            }
        }
    }

    /// A required Knative variable that is read by its type's `FromStr`.
    pub(super) fn required_as<T: FromStr + Default>(
        &mut self,
        variable: &'static str,
        meaning: &'static str,
        expected: &str,
    ) -> T {
        match self.variables.value(variable) {
            None => {
                self.problems.push(ConfigProblem::Missing { variable, meaning });
                T::default()
            }
            Some(text) => self.read(variable, text, expected, |t| t.parse().ok()).unwrap_or_default(),
        }
    }

    /// An optional Knative variable; `None` when it is not set or empty.
    pub(super) fn optional<T>(
        &mut self,
        variable: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.text(variable) {
            "" => None,
            text => self.read(variable, text, expected, parse),
        }
    }

    /// A Go boolean, as the revision controller writes them; false when not set.
    pub(super) fn flag(&mut self, variable: &'static str) -> bool {
        self.optional(variable, "`true` or `false`", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        })
        .unwrap_or(false)
    }

    /// Notes a problem that a caller found in a value it parsed itself.
    pub(super) fn unreadable(&mut self, variable: &'static str, value: &str, expected: impl Into<String>) {
        self.problems.push(ConfigProblem::Unreadable { variable, value: shortened(value), expected: expected.into() });
    }

    /// Notes what an operator should know but need not act on.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// The text of a setting, or its default.
    pub(super) fn setting(&self, setting: &Setting) -> &'a str {
        self.variables.value(setting.variable).filter(|text| !text.is_empty()).unwrap_or(setting.default)
    }

    /// A setting that its own parser reads; `None` where both value and default are empty, or the value is bad.
    pub(super) fn setting_as<T>(
        &mut self,
        setting: &Setting,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.setting(setting) {
            "" => None,
            text => self.read(setting.variable, text, expected, parse),
        }
    }

    /// A whole number of bytes.
    pub(super) fn bytes(&mut self, setting: &Setting) -> u64 {
        self.ranged(setting, "a number of bytes, such as `65536` or `64KiB`", bytes).unwrap_or(0)
    }

    /// A duration.
    pub(super) fn seconds(&mut self, setting: &Setting) -> Duration {
        self.optional_seconds(setting).unwrap_or_default()
    }

    /// A duration that may be left open.
    pub(super) fn optional_seconds(&mut self, setting: &Setting) -> Option<Duration> {
        let seconds = self.ranged(setting, "a number of seconds", |text| text.parse::<f64>().ok().filter(|s| s.is_finite()))?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// A whole number.
    pub(super) fn count<T: TryFrom<u64> + Default>(&mut self, setting: &Setting) -> T {
        self.optional_count(setting).unwrap_or_default()
    }

    /// A whole number that may be left open.
    pub(super) fn optional_count<T: TryFrom<u64>>(&mut self, setting: &Setting) -> Option<T> {
        let number = self.ranged(setting, "a whole number", |text| text.parse::<u64>().ok())?;
        T::try_from(number).ok()
    }

    fn ranged<T: Ranged>(&mut self, setting: &Setting, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.setting(setting);
        let number = self.setting_as(setting, expected, parse)?;
        if let Some((low, high)) = setting.range
            && !(low..=high).contains(&number.number())
        {
            self.problems.push(ConfigProblem::OutOfRange { variable: setting.variable, value: text.to_owned(), low, high });
            return None;
        }
        Some(number)
    }

    fn read<T>(
        &mut self,
        variable: &'static str,
        text: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            self.unreadable(variable, text, expected);
        }
        value
    }

    /// What was warned about, and a warning for every `ZIPLINE_*` variable that no setting has, naming the nearest one.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        let unknown =
            self.variables.0.keys().filter(|name| {
                name.starts_with("ZIPLINE_") && settings::ALL.iter().all(|setting| setting.variable != name.as_str())
            });
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(unknown.map(|name| unknown_name(name)));
        warnings
    }
}

/// What [`Reader::ranged`] compares with a range.
trait Ranged: Copy {
    fn number(self) -> f64;
}

impl Ranged for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Ranged for u64 {
    #[expect(clippy::cast_precision_loss, reason = "ranges end far below 2^53")]
    fn number(self) -> f64 {
        self as f64
    }
}

/// Reads `65536`, `64KiB`, `512MiB`, `2GiB`.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (digits, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    digits.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn unknown_name(name: &str) -> String {
    /// Beyond that many edits two names are not taken for each other.
    const EDITS_MAX: usize = 6;
    let nearest = settings::ALL.iter().map(|setting| (edits(name, setting.variable), setting.variable)).min();
    match nearest {
        Some((distance, known)) if distance <= EDITS_MAX => {
            format!("{name} is not a setting and has no effect; is {known} meant?")
        }
        _ => format!("{name} is not a setting and has no effect"),
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = if x == y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

/// A value as it may stand in a message.
fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 200;
    match value.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        assert_eq!(bytes("65536"), Some(65536));
        assert_eq!(bytes("64KiB"), Some(65536));
        assert_eq!(bytes("2 GiB"), Some(2 << 30));
        assert_eq!(bytes("64KB"), None);
        assert_eq!(bytes("-1"), None);
        assert_eq!(bytes("99999999999999999999"), None);
        assert_eq!(bytes("18014398509481984KiB"), None);
    }

    #[test]
    fn a_misspelt_name_is_led_to_the_nearest_known_one() {
        let text = unknown_name("ZIPLINE_BUFER_BYTES");
        assert!(text.contains("is ZIPLINE_BUFFER_BYTES meant"), "{text}");
        assert!(!unknown_name("ZIPLINE_SOMETHING_ELSE_ENTIRELY").contains("meant"));
    }
}
