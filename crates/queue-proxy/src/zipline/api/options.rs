//! What a request to the local API asks for beside its path: query and ttl.
//!
//! Parsed once, here, into types that cannot be wrong. Unknown query keys are refused: a misspelt `retrieval=3` must
//! not quietly become one retrieval.

use std::num::NonZeroU32;
use std::time::Duration;

use zipline_contract::limits::RETRIEVALS_MAX;
use zipline_contract::settings;
use zipline_core::pull::SumKind;
use zipline_core::tier::Durability;

use crate::zipline::problem::Problem;

/// The query of `POST /v1/objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutQuery {
    /// How often the object may be retrieved.
    pub(crate) retrievals: NonZeroU32,
    /// How long it lives; `None` is the setting's default.
    pub(crate) ttl: Option<Duration>,
    /// The sum its blocks get.
    pub(crate) sum: SumKind,
    /// What is promised beyond the instance's life; `None` is the setting's default.
    pub(crate) durability: Option<Durability>,
    /// Whether the bytes come later, by `PUT`.
    pub(crate) open: bool,
}

impl PutQuery {
    /// Reads a query; `ttl_max` is the longest ttl that may be asked for.
    ///
    /// # Errors
    /// `request-invalid` naming the key, the value and what is allowed.
    pub(crate) fn parse(query: Option<&str>, ttl_max: Duration) -> Result<Self, Problem> {
        let mut parsed = Self { retrievals: NonZeroU32::MIN, ttl: None, sum: SumKind::Crc32c, durability: None, open: false };
        for (key, value) in pairs(query) {
            match (key, value) {
                ("retrievals", value) => parsed.retrievals = retrievals(value.parse().ok(), value)?,
                ("ttl", value) => parsed.ttl = Some(ttl(value, ttl_max)?),
                ("durability", value) => parsed.durability = Some(durability(value)?),
                ("sum", value) => parsed.sum = sum(value)?,
                ("open", "") => parsed.open = true,
                ("open", value) => return Err(Problem::invalid(format!("open={value:?}: open takes no value"))),
                (key, _) => return Err(unknown_key(key, "retrievals, ttl, durability, sum, open")),
            }
        }
        Ok(parsed)
    }
}

/// A retrieval count as it came, checked.
///
/// # Errors
/// `request-invalid` outside 1 to 1,000,000.
pub(crate) fn retrievals(count: Option<u64>, text: &str) -> Result<NonZeroU32, Problem> {
    count
        .filter(|count| *count <= u64::from(RETRIEVALS_MAX))
        .and_then(|count| u32::try_from(count).ok())
        .and_then(NonZeroU32::new)
        .ok_or_else(|| Problem::invalid(format!("retrievals={text:?} is not a whole number from 1 to {RETRIEVALS_MAX}")))
}

/// A duration in the API's notation: digits with `ms`, `s`, `m` or `h`; seconds without a unit.
///
/// # Errors
/// `request-invalid` for anything else, for zero, and above `ttl_max`.
pub(crate) fn ttl(text: &str, ttl_max: Duration) -> Result<Duration, Problem> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let unit_ms = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let ms = digits.parse::<u64>().ok().zip(unit_ms).and_then(|(count, unit_ms)| count.checked_mul(unit_ms));
    match ms {
        Some(ms) => ttl_within(Duration::from_millis(ms), ttl_max),
        None => Err(Problem::invalid(format!("ttl={text:?} is not digits with ms, s, m or h"))),
    }
}

/// Checks a ttl against zero and the longest allowed.
///
/// # Errors
/// `request-invalid` with the numbers.
pub(crate) fn ttl_within(ttl: Duration, ttl_max: Duration) -> Result<Duration, Problem> {
    if ttl.is_zero() {
        return Err(Problem::invalid("ttl is zero: the object would end before it could be read"));
    }
    if ttl > ttl_max {
        let variable = settings::TTL_SECONDS_MAX.variable;
        let (limit, value) = (ttl_max.as_secs(), ttl.as_secs());
        return Err(Problem::invalid(format!("ttl of {value} s is longer than {limit} s ({variable})")).with_limit(limit, value));
    }
    Ok(ttl)
}

/// A durability by name. Whether there is a tier for it is for the data plane to say.
///
/// # Errors
/// `request-invalid` for an unknown one.
pub(crate) fn durability(text: &str) -> Result<Durability, Problem> {
    Durability::from_name(text).ok_or_else(|| Problem::invalid(format!("durability={text:?} is not none, drain or always")))
}

/// A sum kind by name.
///
/// # Errors
/// `request-invalid` for an unknown one.
pub(crate) fn sum(text: &str) -> Result<SumKind, Problem> {
    match text {
        "crc32c" => Ok(SumKind::Crc32c),
        "blake3" => Ok(SumKind::Blake3),
        other => Err(Problem::invalid(format!("sum={other:?} is not crc32c or blake3"))),
    }
}

/// The query of `GET /v1/objects`: whether a ranged read counts as a retrieval.
///
/// # Errors
/// `request-invalid` for any other key.
pub(crate) fn get_query(query: Option<&str>) -> Result<bool, Problem> {
    let mut counts = false;
    for (key, value) in pairs(query) {
        match (key, value) {
            ("retrieval", "") => counts = true,
            ("retrieval", value) => return Err(Problem::invalid(format!("retrieval={value:?}: retrieval takes no value"))),
            (key, _) => return Err(unknown_key(key, "retrieval")),
        }
    }
    Ok(counts)
}

/// The query of a request that takes none.
///
/// # Errors
/// `request-invalid` naming the first key.
pub(crate) fn no_query(query: Option<&str>) -> Result<(), Problem> {
    match pairs(query).next() {
        Some((key, _)) => Err(unknown_key(key, "none")),
        None => Ok(()),
    }
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unknown_key(key: &str, known: &str) -> Problem {
    Problem::invalid(format!("query key {key:?} is unknown here; known: {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zipline_contract::ErrorCode;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_put_without_a_query_has_the_defaults() -> Result<(), Problem> {
        let put = PutQuery::parse(None, HOUR)?;
        assert_eq!(put, PutQuery { retrievals: NonZeroU32::MIN, ttl: None, sum: SumKind::Crc32c, durability: None, open: false });
        Ok(())
    }

    #[test]
    fn every_key_of_a_put_is_read() -> Result<(), Problem> {
        let put = PutQuery::parse(Some("retrievals=1000000&ttl=30s&durability=drain&sum=blake3&open"), HOUR)?;
        assert_eq!(
            (put.retrievals.get(), put.ttl, put.sum, put.durability, put.open),
            (1_000_000, Some(Duration::from_secs(30)), SumKind::Blake3, Some(Durability::Drain), true)
        );
        Ok(())
    }

    #[test]
    fn a_ttl_has_four_units_and_seconds_without_one() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("30", 30_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(ttl(text, HOUR), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_a_put_may_not_ask_for_is_refused_by_name() {
        for query in [
            "retrievals=0",
            "retrievals=1000001",
            "retrievals=-1",
            "retrievals=",
            "retrievals=two",
            "retrieval=2",
            "ttl=",
            "ttl=0",
            "ttl=s",
            "ttl=5d",
            "ttl=1.5s",
            "ttl=61m",
            "ttl=99999999999999999999",
            "durability=x",
            "sum=md5",
            "open=1",
            "x",
        ] {
            let refused = PutQuery::parse(Some(query), HOUR);
            assert!(matches!(&refused, Err(problem) if problem.code == ErrorCode::RequestInvalid), "{query}: {refused:?}");
            let key = query.split('=').next().unwrap_or_default();
            assert!(refused.is_err_and(|problem| problem.detail.contains(key)), "{query} is not named");
        }
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(text in "\\PC{0,40}") {
            let _ = PutQuery::parse(Some(&text), HOUR);
            let _ = get_query(Some(&text));
        }
    }
}
