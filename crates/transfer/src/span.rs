//! What each put, pull, serving of a pull, and call leaves in a trace: one `tracing` span of level `info`.
//!
//! All have one shape, so that whoever collects them needs to know only this:
//!
//! | field | what |
//! | --- | --- |
//! | `method` | the way that was chosen: `body` or `descriptor` (put); `own`, `descriptor`, `tcp` or `store` (pull, serve); `zipline` or `inline` (invoke) |
//! | `object.bytes` | payload bytes that passed |
//! | `tier` | where the payload lies: `memory`, `disk` (at its producer), `durable` (in the store) |
//! | `wait_seconds` | until bytes could pass: room in the buffer, the producer's authenticated head |
//! | `transfer_seconds` | from then to the last byte, or to the answer's head; absent where it did not come to that |
//! | `reference`, `peer.addr` | a reference's fingerprint; the producer of a pull |
//! | `error` | the public name of what went wrong |
//! | `otel.parent`, `otel.span`, `otel.link` | the texts of a `traceparent`: the remote span it belongs under, its own place as others were told of it, and the put whose bytes a serving reads |
//!
//! A put's trace is linked to who reads it, and is not the parent of that: one put may be read in many traces, much later.
//! Where the caller named no trace a pull begins one that is not recorded, so that both sides' logs can be matched.
//! When a span ends, one event of level `debug` is logged in it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Span;
use tracing::field::{Empty, display};
use zipline_contract::ErrorCode;
use zipline_core::pull::AnswerHead;
use zipline_core::trace::TraceContext;

use crate::random;
use crate::stored::Stored;

/// The tier of what lies in a producer's memory.
pub const TIER_MEMORY: &str = "memory";

/// The tier of what a producer has on local disk.
pub(crate) const TIER_DISK: &str = "disk";
/// The tier of what is read from the durable store.
pub(crate) const TIER_DURABLE: &str = "durable";

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A payload is taken into the buffer.
    Put,
    /// A payload is read, by the nearest way.
    Pull,
    /// Another proxy's pull is answered.
    Serve,
    /// A function's call is made.
    Invoke,
}

/// The span of one piece of work. Dropping it ends the span.
#[derive(Debug)]
pub struct WorkSpan {
    span: Span,
    context: Option<TraceContext>,
    began: Instant,
    /// When bytes could pass.
    waited: Option<Instant>,
    /// When the last had passed, or it failed.
    ended: Option<Instant>,
    bytes: u64,
}

macro_rules! open {
    ($name:literal) => {
        tracing::info_span!(
            $name,
            method = Empty,
            object.bytes = Empty,
            tier = Empty,
            wait_seconds = Empty,
            transfer_seconds = Empty,
            reference = Empty,
            peer.addr = Empty,
            error = Empty,
            otel.parent = Empty,
            otel.span = Empty,
            otel.link = Empty,
        )
    };
}

impl WorkSpan {
    /// Begins work for a caller that stands at `parent` in a trace, if it said so.
    pub fn begin(work: Work, parent: Option<TraceContext>) -> Self {
        let span = match work {
            Work::Put => open!("put"),
            Work::Pull => open!("pull"),
            Work::Serve => open!("serve"),
            Work::Invoke => open!("invoke"),
        };
        // A trace is not worth failing for: without randomness there is none.
        let context = match parent {
            Some(parent) => random::span().ok().map(|id| parent.child(id)),
            None if work == Work::Pull => random::trace().ok(),
            None => None,
        };
        if let Some(parent) = parent {
            span.record("otel.parent", display(parent));
        }
        if let Some(context) = context {
            span.record("otel.span", display(context));
        }
        Self { span, context, began: Instant::now(), waited: None, ended: None, bytes: 0 }
    }

    /// Its place in the trace, for what is asked of others on its behalf.
    pub fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// The way that was chosen.
    pub fn method(&self, method: &str) {
        self.span.record("method", method);
    }

    /// Where the payload lies.
    pub fn tier(&self, tier: &str) {
        self.span.record("tier", tier);
    }

    /// A reference's fingerprint.
    pub fn reference(&self, fingerprint: impl Display) {
        self.span.record("reference", display(fingerprint));
    }

    /// The producer.
    pub fn peer(&self, peer: SocketAddr) {
        self.span.record("peer.addr", display(peer));
    }

    /// What is read is held by this producer, and was put there in that trace.
    pub(crate) fn of(&self, stored: &Stored) {
        self.tier(stored.tier());
        if let Some(put) = stored.put_trace() {
            self.linked(put);
        }
    }

    /// It was answered with the error in this head, if there is one.
    pub(crate) fn refused(&mut self, head: &AnswerHead) {
        if let Some(code) = head.error.as_ref().and_then(|name| ErrorCode::from_name(name.as_str())) {
            self.failed(code);
        }
    }

    /// The put whose bytes are read.
    pub fn linked(&self, put: TraceContext) {
        self.span.record("otel.link", display(put));
    }

    /// From now on bytes pass.
    pub fn waited(&mut self) {
        if self.waited.is_none() {
            let now = Instant::now();
            self.waited = Some(now);
            self.span.record("wait_seconds", seconds(now - self.began));
        }
    }

    /// So many more bytes have passed.
    pub fn passed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// All of it went well.
    pub fn settled(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
    }

    /// It went wrong, for this reason.
    pub fn failed(&mut self, code: ErrorCode) {
        if self.ended.is_none() {
            self.ended = Some(Instant::now());
            self.span.record("error", code.name());
        }
    }
}

impl Drop for WorkSpan {
    fn drop(&mut self) {
        if self.span.is_disabled() {
            return;
        }
        self.span.record("object.bytes", self.bytes);
        if let (Some(waited), Some(ended)) = (self.waited, self.ended) {
            self.span.record("transfer_seconds", seconds(ended - waited));
        }
        tracing::debug!(parent: &self.span, "{}", if self.ended.is_some() { "done" } else { "given up" });
    }
}

/// Whole microseconds, so that logs stay readable.
fn seconds(duration: Duration) -> f64 {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)).as_secs_f64()
}
