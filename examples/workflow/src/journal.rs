//! What one function did while it worked on one request.

use serde::{Deserialize, Serialize};

/// Seconds of the machine's monotonic clock: comparable between all processes of one machine.
pub fn now_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// One function at work on one request. Times are [`now_seconds`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// The function's role.
    pub function: String,
    /// When its handler began; the request's body had arrived.
    pub began: f64,
    /// When its answer was ready to be sent.
    pub ended: f64,
    /// Payloads it put, or sent along.
    pub puts: Vec<Moved>,
    /// Payloads it got.
    pub gets: Vec<Moved>,
    /// Requests to other functions.
    pub asked: Vec<Asked>,
}

/// A payload that was put or got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Which payload: the same number where it is put and where it is got, random.
    pub object: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether it went in the message itself, so that nothing was held or stored.
    pub along: bool,
    /// When the put or get began.
    pub began: f64,
    /// When it ended.
    pub ended: f64,
}

/// A request to another function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The service.
    pub service: String,
    /// When the request was sent.
    pub began: f64,
    /// When its answer had come.
    pub ended: f64,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub answer_bytes: u64,
}
