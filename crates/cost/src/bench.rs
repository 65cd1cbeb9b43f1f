//! Raw files of `zipline bench apps`, as operations that can be priced.
//!
//! Only what a bill needs is read; everything else of the file is passed over (`docs/reference/bench-raw.md`).

use serde::Deserialize;

use crate::{Hold, Operations, Run};

/// Bytes of a GB, as bills count it.
const GB: f64 = 1e9;

/// One row of a run: an application under a method, and what each of its requests did.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchRow {
    /// Application.
    pub app: String,
    /// `sequential` or `parallel`.
    pub variant: String,
    /// `warm` or `cold`.
    pub start: String,
    /// The method's name in the run.
    pub method: String,
    /// The SDK's transfer method: `zipline`, `inline`, `s3`, `redis`.
    pub transfer: String,
    /// Operations of each request.
    pub requests: Vec<Operations>,
}

/// Why a raw file can't be priced.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Not JSON, or not this shape.
    #[error("the raw file is not one of `zipline bench apps`: {0}")]
    Shape(#[from] serde_json::Error),
    /// Of another schema.
    #[error("the raw file has schema {found}; this release reads 1")]
    Schema {
        /// What it says.
        found: u32,
    },
    /// Of another bench.
    #[error("the raw file is of `zipline bench {kind}`; only those of `apps` have requests to price")]
    Kind {
        /// Which.
        kind: String,
    },
    /// It was measured before anything was answered.
    #[error("the raw file has no answered request")]
    Empty,
    /// A number that counts or measures something is negative.
    #[error("`{field}` of a sample of {app} under {method} is {value}; it must be zero or more")]
    Number {
        /// Application.
        app: String,
        /// Method.
        method: String,
        /// Which.
        field: &'static str,
        /// What it was.
        value: f64,
    },
}

#[derive(Deserialize)]
struct Head {
    schema: u32,
    kind: String,
}

#[derive(Deserialize)]
struct File {
    methods: Vec<Method>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Method {
    name: String,
    transfer: String,
}

#[derive(Deserialize)]
struct Row {
    app: String,
    variant: String,
    start: String,
    method: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    functions: Vec<(String, f64)>,
    puts: f64,
    gets: f64,
    put_bytes: f64,
    got_bytes: f64,
    #[serde(default)]
    stored_byte_seconds: f64,
    #[serde(default)]
    holds: Vec<SampleHold>,
}

#[derive(Deserialize)]
struct SampleHold {
    seconds: f64,
    byte_seconds: f64,
}

/// Reads a raw file; every function counts as one of `function_gb`.
///
/// # Errors
/// Another shape, schema or bench, or nothing in it.
pub fn bench_rows(text: &str, function_gb: f64) -> Result<Vec<BenchRow>, BenchError> {
    let head: Head = serde_json::from_str(text)?;
    if head.schema != 1 {
        return Err(BenchError::Schema { found: head.schema });
    }
    if head.kind != "apps" {
        return Err(BenchError::Kind { kind: head.kind });
    }
    let file: File = serde_json::from_str(text)?;
    let mut rows = Vec::new();
    for row in file.rows {
        let transfer = file.methods.iter().find(|method| method.name == row.method);
        let transfer = transfer.map_or_else(|| row.method.clone(), |method| method.transfer.clone());
        let checked = |operations: Operations| match operations.wrong_number() {
            None => Ok(operations),
            Some((field, value)) => Err(BenchError::Number { app: row.app.clone(), method: row.method.clone(), field, value }),
        };
        let requests = row.samples.iter().map(|sample| checked(sample.operations(function_gb))).collect::<Result<Vec<_>, _>>()?;
        if !requests.is_empty() {
            rows.push(BenchRow { app: row.app, variant: row.variant, start: row.start, method: row.method, transfer, requests });
        }
    }
    if rows.is_empty() { Err(BenchError::Empty) } else { Ok(rows) }
}

impl Sample {
    fn operations(&self, function_gb: f64) -> Operations {
        Operations {
            puts: self.puts,
            gets: self.gets,
            bytes: self.put_bytes,
            bytes_read: Some(self.got_bytes),
            stored_seconds: if self.put_bytes > 0.0 { self.stored_byte_seconds / self.put_bytes } else { 0.0 },
            functions: self.functions.iter().map(|(_, seconds)| Run { gb: function_gb, seconds: *seconds }).collect(),
            invocations: None,
            holds: self.holds.iter().filter(|hold| hold.seconds > 0.0).map(SampleHold::hold).collect(),
        }
    }
}

impl SampleHold {
    fn hold(&self) -> Hold {
        Hold { gb: self.byte_seconds / self.seconds / GB, seconds: self.seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "schema": 1, "kind": "apps", "mode": "quick", "seed": 42, "new": [],
        "methods": [{"name": "zipline-tcp", "transfer": "zipline", "description": "…"}],
        "rows": [{"app": "stacking", "variant": "parallel", "start": "warm", "method": "zipline-tcp", "seconds": {"median": 1.0},
            "samples": [{"round": 0, "seconds": 1.5, "functions": [["driver", 1.2], ["trainer", 0.4]], "puts": 13, "gets": 17,
                "put_bytes": 9900000, "got_bytes": 19800000, "stored_byte_seconds": 19800000, "body_bytes_max": 4,
                "holds": [{"function": "trainer", "seconds": 2.0, "byte_seconds": 4e9}]}]}]}"#;

    #[test]
    fn a_run_of_the_applications_becomes_operations() {
        let rows = bench_rows(FILE, 2.0).expect("well formed");
        assert_eq!((rows[0].app.as_str(), rows[0].transfer.as_str()), ("stacking", "zipline"));
        let request = &rows[0].requests[0];
        assert_eq!((request.puts, request.gets, request.bytes, request.bytes_read()), (13.0, 17.0, 9.9e6, 19.8e6));
        assert_eq!(request.stored_seconds, 2.0);
        assert_eq!(request.functions[0], Run { gb: 2.0, seconds: 1.2 });
        assert_eq!(request.holds, [Hold { gb: 2.0, seconds: 2.0 }]);
    }

    #[test]
    fn what_cannot_be_priced_says_so() {
        let cases = [
            (FILE.replace("\"apps\"", "\"transfer\""), "bench transfer"),
            (FILE.replace("\"schema\": 1", "\"schema\": 9"), "schema 9"),
            (FILE.replace("\"puts\": 13", "\"puts\": -13"), "`puts` of a sample of stacking"),
            (FILE.replace("\"gets\"", "\"got\""), "gets"),
            ("{}".to_owned(), "schema"),
        ];
        for (text, words) in cases {
            let error = bench_rows(&text, 1.0).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
