//! Reading recordings of Knative's answers. `conformance/README.md` says what every field means.
#![allow(clippy::disallowed_methods, reason = "a test reads its vectors")]

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zipline_core::kpa::{DeciderSpec, Observed};

/// The environment variable that names another folder than the project's copy.
pub(crate) const FOLDER_VARIABLE: &str = "KNATIVE_VECTORS";

/// The folder that holds the recordings; a relative path is taken from the repository's root.
fn folder() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os(FOLDER_VARIABLE).filter(|named| !named.is_empty()) {
        Some(named) => root.join(named),
        None => root.join("conformance/vectors/knative"),
    }
}

/// The cases of one file; a missing or an empty file is a failure.
pub(crate) fn recording<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Vec<T> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!cases.is_empty(), "{} holds no case", path.display());
    cases
}

/// The life of one decider.
#[derive(Clone, Deserialize)]
pub(crate) struct DecisionCase {
    pub(crate) name: String,
    pub(crate) spec: DeciderSpec,
    pub(crate) ready_pods_at_start: u32,
    pub(crate) steps: Vec<DecisionStep>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DecisionStep {
    pub(crate) at_ms: u64,
    pub(crate) ready_pods: u32,
    observed_stable: f64,
    observed_panic: f64,
    no_data: bool,
    pub(crate) scale_valid: bool,
    pub(crate) desired_pods: u32,
    pub(crate) excess_burst_capacity: i32,
    pub(crate) panicking_after: bool,
}

impl DecisionStep {
    /// The recorded load; nothing for a step without data.
    pub(crate) fn observed(&self) -> Option<Observed> {
        (!self.no_data).then_some(Observed { stable: self.observed_stable, panic: self.observed_panic })
    }
}
