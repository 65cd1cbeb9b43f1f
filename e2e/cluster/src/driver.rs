//! Load from inside a cluster: what the driver pod is told, and what it reports. Shared by the tests and the pod's program.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Requests to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `http://HOST[:PORT]/PATH`; the host is looked up in the pod.
    pub url: String,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// Headers of every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Bytes of every body.
    #[serde(default)]
    pub body_bytes: u64,
    /// Requests in all.
    pub requests: u64,
    /// Requests a second, begun whether or not earlier ones were answered; 0: all at once, as far as `at_once` allows.
    #[serde(default)]
    pub rate: f64,
    /// Requests in flight.
    #[serde(default = "one")]
    pub at_once: usize,
    /// A request that takes longer has failed.
    #[serde(default = "limit")]
    pub limit_seconds: f64,
    /// Whether connections are kept for the next request.
    #[serde(default)]
    pub keep_alive: bool,
}

fn get() -> String {
    "GET".into()
}

fn one() -> usize {
    1
}

fn limit() -> f64 {
    60.0
}

impl Plan {
    /// That many GETs, one after the other.
    pub fn get(url: impl Into<String>, requests: u64) -> Self {
        Self {
            url: url.into(),
            method: get(),
            headers: BTreeMap::new(),
            body_bytes: 0,
            requests,
            rate: 0.0,
            at_once: one(),
            limit_seconds: limit(),
            keep_alive: false,
        }
    }

    /// That many POSTs with a body, one after the other.
    pub fn post(url: impl Into<String>, body_bytes: u64, requests: u64) -> Self {
        Self { method: "POST".into(), body_bytes, ..Self::get(url, requests) }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// That many in flight.
    pub fn at_once(mut self, at_once: usize) -> Self {
        self.at_once = at_once;
        self
    }

    /// That many a second, with at most 64 in flight.
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self.at_once = self.at_once.max(64);
        self
    }
}

/// What came of a plan so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whether everything was sent and answered, or failed.
    pub done: bool,
    /// Requests begun.
    pub sent: u64,
    /// Whole answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, by what was wrong.
    pub failures: BTreeMap<String, u64>,
    /// Answers by the pod that gave them.
    pub pods: BTreeMap<String, u64>,
    /// Most requests that one answering function had in flight at once.
    pub in_flight_max: u64,
    /// Milliseconds from the first byte out to the last byte in, sorted.
    pub milliseconds: Vec<f64>,
    /// The first answers, to look at.
    pub answers: Vec<Answer>,
}

/// One answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// The body's beginning.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Report {
    /// Whole answers with a status below 400.
    pub fn succeeded(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| **status < 400).map(|(_, count)| count).sum()
    }

    /// The value below which that share of answers came, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let last = self.milliseconds.len().saturating_sub(1);
        self.milliseconds.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
    }
}
