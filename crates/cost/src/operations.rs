//! What one workflow request did, as a bench measures it or a user writes it down.

use serde::{Deserialize, Serialize};

/// A run of a function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Memory size, GB.
    pub gb: f64,
    /// Run time, seconds; billed by the started millisecond.
    pub seconds: f64,
}

/// Memory held for a consumer, from the producer's return to the last retrieval. It is priced as given, which is setting
/// (c) where `gb` are the buffered bytes; setting (b) takes the function's size in its place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Memory held, GB.
    pub gb: f64,
    /// How long, seconds.
    pub seconds: f64,
}

/// What one workflow request did. Every field may be left out and is then zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// PUT operations on a store.
    pub puts: f64,
    /// GET operations on a store.
    pub gets: f64,
    /// Payload bytes written to a store, all PUTs together.
    pub bytes: f64,
    /// Payload bytes read from a store, all GETs together; as many as were written where left out.
    pub bytes_read: Option<f64>,
    /// How long a stored byte lies there, seconds.
    pub stored_seconds: f64,
    /// Function runs.
    pub functions: Vec<Run>,
    /// Function requests; as many as there are runs where left out.
    pub invocations: Option<f64>,
    /// Memory held for consumers.
    pub holds: Vec<Hold>,
}

/// Why operations can't be priced.
#[derive(Debug, thiserror::Error)]
pub enum OperationsError {
    /// Not JSON, or not this shape.
    #[error("the operations are not a JSON object of puts, gets, bytes, functions, invocations, holds: {0}")]
    Shape(#[from] serde_json::Error),
    /// A number that counts or measures something is negative or not finite.
    #[error("`{field}` is {value}; it must be a number of zero or more")]
    Number {
        /// Which.
        field: &'static str,
        /// What it was.
        value: f64,
    },
}

impl Operations {
    /// Reads and checks them.
    ///
    /// # Errors
    /// Not JSON, an unknown field, or a negative or infinite number.
    pub fn from_json(text: &str) -> Result<Self, OperationsError> {
        let operations: Self = serde_json::from_str(text)?;
        operations.checked()
    }

    fn checked(self) -> Result<Self, OperationsError> {
        match self.wrong_number() {
            Some((field, value)) => Err(OperationsError::Number { field, value }),
            None => Ok(self),
        }
    }

    /// The first number that is none of zero or more.
    pub(crate) fn wrong_number(&self) -> Option<(&'static str, f64)> {
        let mut numbers = vec![
            ("puts", self.puts),
            ("gets", self.gets),
            ("bytes", self.bytes),
            ("bytes_read", self.bytes_read()),
            ("stored_seconds", self.stored_seconds),
            ("invocations", self.invocations()),
        ];
        numbers.extend(self.functions.iter().flat_map(|run| [("functions.gb", run.gb), ("functions.seconds", run.seconds)]));
        numbers.extend(self.holds.iter().flat_map(|hold| [("holds.gb", hold.gb), ("holds.seconds", hold.seconds)]));
        numbers.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0)
    }

    /// Bytes read from a store.
    pub fn bytes_read(&self) -> f64 {
        self.bytes_read.unwrap_or(self.bytes)
    }

    /// Function requests.
    pub fn invocations(&self) -> f64 {
        self.invocations.unwrap_or(self.functions.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_may_be_left_out() {
        assert_eq!(Operations::from_json("{}").expect("empty is nothing done"), Operations::default());
    }

    #[test]
    fn a_negative_or_unknown_field_is_named() {
        let negative = Operations::from_json(r#"{"holds":[{"gb":-1,"seconds":2}]}"#).expect_err("negative memory");
        assert!(negative.to_string().contains("holds.gb"), "{negative}");
        let unknown = Operations::from_json(r#"{"putz":1}"#).expect_err("no such field");
        assert!(unknown.to_string().contains("putz"), "{unknown}");
    }
}
