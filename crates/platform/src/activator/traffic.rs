//! What passed the activator, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An instance answered, whatever it said.
    Ok,
    /// Too many requests waited.
    Overload,
    /// No instance became ready in time.
    Timeout,
    /// No instance could be reached, or one broke off.
    Error,
}

/// Requests and body bytes of one way through the front door.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    ok: AtomicU64,
    overload: AtomicU64,
    timeout: AtomicU64,
    error: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Requests and body bytes of one way through the front door, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCount {
    /// Requests that an instance answered.
    pub ok: u64,
    /// Requests refused because too many waited.
    pub overload: u64,
    /// Requests for which no instance became ready in time.
    pub timeout: u64,
    /// Requests for which no instance could be reached, or that broke off.
    pub error: u64,
    /// Bytes of request bodies.
    pub body_bytes_in: u64,
    /// Bytes of response bodies.
    pub body_bytes_out: u64,
}

impl PathCount {
    /// Requests, however they ended.
    pub fn requests(&self) -> u64 {
        self.ok + self.overload + self.timeout + self.error
    }

    /// Adds another's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.overload += other.overload;
        self.timeout += other.timeout;
        self.error += other.error;
        self.body_bytes_in += other.body_bytes_in;
        self.body_bytes_out += other.body_bytes_out;
    }
}

impl Traffic {
    pub(crate) fn ended(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Ok => &self.ok,
            Outcome::Overload => &self.overload,
            Outcome::Timeout => &self.timeout,
            Outcome::Error => &self.error,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn came_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn went_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> PathCount {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PathCount {
            ok: load(&self.ok),
            overload: load(&self.overload),
            timeout: load(&self.timeout),
            error: load(&self.error),
            body_bytes_in: load(&self.bytes_in),
            body_bytes_out: load(&self.bytes_out),
        }
    }
}
