//! Reading the text settings of the autoscaler: annotations of a revision, keys of `config-autoscaler`.
//!
//! A [`Reader`] hands out parsed values by name and collects what is wrong, so that a user hears of every mistake at
//! once. Numbers and durations are written as in Knative, whose durations are Go's (`1h2m3.5s`, `500ms`).

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::BTreeMap;

/// One setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// The text is not of the kind that the setting wants.
    #[error("{name}: {value:?} is not {wanted}")]
    Unreadable {
        /// The annotation or key.
        name: String,
        /// Its text.
        value: String,
        /// What it should have been, as in "a whole number".
        wanted: &'static str,
    },
    /// The value is of the right kind and outside its limits.
    #[error("{name}: {value} is outside its limits, {limits}")]
    OutOfRange {
        /// The annotation or key.
        name: String,
        /// Its text.
        value: String,
        /// The limits, as in "6s to 1h".
        limits: String,
    },
    /// Two settings contradict each other.
    #[error("{name}: {value} contradicts {other}: {other_value}; {rule}")]
    Contradiction {
        /// The annotation or key.
        name: String,
        /// Its value.
        value: String,
        /// The other annotation or key.
        other: String,
        /// The other's value.
        other_value: String,
        /// What must hold between them.
        rule: &'static str,
    },
    /// Another autoscaler is asked for.
    #[error("{name}: class {value:?} is not supported; the only class is {:?}", super::KPA_CLASS)]
    UnsupportedClass {
        /// The annotation or key.
        name: String,
        /// The class.
        value: String,
    },
}

impl SettingError {
    /// The annotation or key that can't be used.
    pub fn name(&self) -> &str {
        match self {
            Self::Unreadable { name, .. }
            | Self::OutOfRange { name, .. }
            | Self::Contradiction { name, .. }
            | Self::UnsupportedClass { name, .. } => name,
        }
    }
}

/// Every setting of one source that can't be used; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingErrors(pub Vec<SettingError>);

impl std::error::Error for SettingErrors {}

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Settings of one source while they are being read.
pub(super) struct Reader<'a> {
    prefix: &'static str,
    texts: BTreeMap<&'a str, &'a str>,
    known: Vec<String>,
    errors: Vec<SettingError>,
}

impl<'a> Reader<'a> {
    /// Settings whose full names are `prefix` followed by the names asked for.
    pub(super) fn new(prefix: &'static str, texts: BTreeMap<&'a str, &'a str>) -> Self {
        Self { prefix, texts, known: Vec::new(), errors: Vec::new() }
    }

    /// The text of a setting under the name it has been given: `kebab-case`, else the older `camelCase`.
    pub(super) fn text(&mut self, name: &str) -> Option<(String, &'a str)> {
        let spellings = [name.to_owned(), camel_case(name)].map(|spelling| format!("{}{spelling}", self.prefix));
        let found = spellings.iter().find_map(|full| self.texts.get(full.as_str()).map(|text| (full.clone(), *text)));
        self.known.extend(spellings);
        found
    }

    /// A number within `limits`.
    pub(super) fn number(&mut self, name: &str, limits: Limits) -> Option<f64> {
        let (full, text) = self.text(name)?;
        match text.parse::<f64>() {
            Ok(number) if limits.allow(number) => Some(number),
            Ok(number) if number.is_finite() => self.out_of_range(full, text, limits.to_string()),
            Ok(_) | Err(_) => self.unreadable(full, text, "a finite number"),
        }
    }

    /// A whole number within `limits`.
    pub(super) fn count(&mut self, name: &str, limits: RangeInclusive<u32>) -> Option<u32> {
        let (full, text) = self.text(name)?;
        let shown = format!("{} to {}", limits.start(), limits.end());
        match text.parse::<i128>() {
            Ok(number) => match u32::try_from(number) {
                Ok(count) if limits.contains(&count) => Some(count),
                Ok(_) | Err(_) => self.out_of_range(full, text, shown),
            },
            Err(_) => self.unreadable(full, text, "a whole number"),
        }
    }

    /// A duration within `limits`, in whole seconds if `whole_seconds`, else rounded up to whole milliseconds.
    pub(super) fn duration(&mut self, name: &str, limits: RangeInclusive<Duration>, whole_seconds: bool) -> Option<Duration> {
        let (full, text) = self.text(name)?;
        let Some(signed) = go_duration(text) else {
            return self.unreadable(full, text, "a duration such as \"90s\" or \"1h30m\"");
        };
        match signed {
            Signed::Positive(duration) if !limits.contains(&duration) => (),
            Signed::Positive(duration) if whole_seconds && duration.subsec_nanos() != 0 => {
                return self.unreadable(full, text, "a whole number of seconds");
            }
            Signed::Positive(duration) => return Some(whole_millis(duration)),
            Signed::Negative => (),
        }
        self.out_of_range(full, text, format!("{:?} to {:?}", limits.start(), limits.end()))
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, name: &str) -> Option<bool> {
        let (full, text) = self.text(name)?;
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => self.unreadable(full, text, "true or false"),
        }
    }

    /// One of `choices`.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], wanted: &'static str) -> Option<T> {
        let (full, text) = self.text(name)?;
        match choices.iter().find(|(spelling, _)| *spelling == text) {
            Some((_, choice)) => Some(*choice),
            None => self.unreadable(full, text, wanted),
        }
    }

    /// Takes note of a mistake that no single value shows.
    pub(super) fn reject(&mut self, error: SettingError) {
        self.errors.push(error);
    }

    /// The full name of a setting.
    pub(super) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Ends reading: the names under the prefix that nobody asked for, or every mistake.
    pub(super) fn finish(self) -> Result<Vec<String>, SettingErrors> {
        if !self.errors.is_empty() {
            return Err(SettingErrors(self.errors));
        }
        let ours = self.texts.keys().filter(|name| name.starts_with(self.prefix));
        Ok(ours.filter(|name| !self.known.iter().any(|known| known == *name)).map(|name| (*name).to_owned()).collect())
    }

    fn out_of_range<T>(&mut self, name: String, value: &str, limits: String) -> Option<T> {
        self.errors.push(SettingError::OutOfRange { name, value: value.to_owned(), limits });
        None
    }

    fn unreadable<T>(&mut self, name: String, value: &str, wanted: &'static str) -> Option<T> {
        self.errors.push(SettingError::Unreadable { name, value: value.to_owned(), wanted });
        None
    }
}

/// What a number may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limits {
    /// From the first to the second, both included.
    Within(f64, f64),
    /// At least this.
    AtLeast(f64),
    /// More than this.
    Above(f64),
    /// Above the first, up to the second.
    AboveUpTo(f64, f64),
    /// −1, which stands for "without bound", or at least 0.
    CountOrUnbounded,
}

impl Limits {
    fn allow(self, number: f64) -> bool {
        number.is_finite()
            && match self {
                Self::Within(low, high) => (low..=high).contains(&number),
                Self::AtLeast(low) => number >= low,
                Self::Above(low) => number > low,
                Self::AboveUpTo(low, high) => number > low && number <= high,
                Self::CountOrUnbounded => number >= 0.0 || number == -1.0,
            }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(low, high) => write!(f, "{low} to {high}"),
            Self::AtLeast(low) => write!(f, "at least {low}"),
            Self::Above(low) => write!(f, "above {low}"),
            Self::AboveUpTo(low, high) => write!(f, "above {low} up to {high}"),
            Self::CountOrUnbounded => f.write_str("0 or more, or -1 for no bound"),
        }
    }
}

/// Logs keep milliseconds; a replay must see the value that was decided with.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

fn camel_case(kebab: &str) -> String {
    let mut words = kebab.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Positive(Duration),
    Negative,
}

/// Reads a duration in Go's notation: numbers with units, one after the other, under one sign; or a plain `0`.
fn go_duration(text: &str) -> Option<Signed> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut nanos: u128 = 0;
    if unsigned != "0" {
        let mut rest = unsigned;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            nanos = nanos.checked_add(part_nanos(number, unit)?)?;
            rest = next;
        }
    }
    // Go counts in a signed 64-bit number of nanoseconds.
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos <= i64::MAX as u64)?;
    Some(if negative && nanos > 0 { Signed::Negative } else { Signed::Positive(Duration::from_nanos(nanos)) })
}

fn part_nanos(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits_only(fraction) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits beyond the 18th can't change a nanosecond of an hour.
    let fraction = &fraction[..fraction.len().min(18)];
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(scale)?.checked_add(parts * scale / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let positive = |text| match go_duration(text) {
            Some(Signed::Positive(duration)) => Some(duration),
            Some(Signed::Negative) | None => None,
        };
        assert_eq!(positive("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(positive("+.5s"), Some(Duration::from_millis(500)));
        assert_eq!(positive("1.s"), Some(Duration::from_secs(1)));
        assert_eq!(positive("0"), Some(Duration::ZERO));
        assert_eq!(positive("3µs"), Some(Duration::from_micros(3)));
        assert_eq!(go_duration("-1m"), Some(Signed::Negative));
        for nonsense in ["", "-", "5", "s", "1.2.3s", "1d", ".s", "1 s", "99999999999h", "1e3s"] {
            assert_eq!(go_duration(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn both_spellings_of_a_name_are_known_and_the_newer_one_wins() {
        let texts =
            BTreeMap::from([("x/min-scale", "1"), ("x/minScale", "2"), ("x/maxScale", "3"), ("x/more", "4"), ("y/z", "5")]);
        let mut reader = Reader::new("x/", texts);
        assert_eq!(reader.count("min-scale", 0..=9), Some(1));
        assert_eq!(reader.count("max-scale", 0..=9), Some(3));
        assert_eq!(reader.finish(), Ok(vec!["x/more".to_owned()]));
    }

    #[test]
    fn every_mistake_is_reported_with_value_and_limit() {
        let texts = BTreeMap::from([("a", "12"), ("b", "7s"), ("c", "nan"), ("d", "-3"), ("e", "1.5s")]);
        let mut reader = Reader::new("", texts);
        assert_eq!(reader.number("a", Limits::Within(1.0, 10.0)), None);
        assert_eq!(reader.duration("b", Duration::ZERO..=Duration::from_secs(5), true), None);
        assert_eq!(reader.number("c", Limits::AtLeast(0.0)), None);
        assert_eq!(reader.count("d", 0..=5), None);
        assert_eq!(reader.duration("e", Duration::ZERO..=Duration::from_secs(5), true), None);
        let message = reader.finish().map_err(|errors| errors.to_string());
        let expected = "a: 12 is outside its limits, 1 to 10\n\
                        b: 7s is outside its limits, 0ns to 5s\n\
                        c: \"nan\" is not a finite number\n\
                        d: -3 is outside its limits, 0 to 5\n\
                        e: \"1.5s\" is not a whole number of seconds";
        assert_eq!(message, Err(expected.to_owned()));
    }
}
