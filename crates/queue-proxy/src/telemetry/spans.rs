//! Spans that have ended and wait to be exported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use zipline_core::trace::TraceContext;

/// Spans that wait; further ones are dropped and counted. The default of OpenTelemetry's own exporters.
const WAITING_MAX: usize = 2048;
/// Spans that are exported at once, and that wake the exporter before its time.
pub(super) const BATCH_MAX: usize = 512;

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its place.
    pub context: TraceContext,
    /// The span around it; 0: none.
    pub parent_id: u64,
    /// The caller's `tracestate`.
    pub trace_state: String,
    /// What was done.
    pub name: String,
    /// For whom.
    pub kind: SpanKind,
    /// From when.
    pub began: SystemTime,
    /// Until when.
    pub ended: SystemTime,
    /// What is known about it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Spans of other traces that it has to do with.
    pub links: Vec<TraceContext>,
    /// Whether it failed, and why.
    pub error: Option<String>,
}

impl Span {
    /// As one line of JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let nanos = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        let attributes: serde_json::Map<_, _> =
            self.attributes.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        serde_json::json!({
            "Name": self.name,
            "SpanContext": { "TraceID": format!("{:032x}", self.context.trace_id), "SpanID": format!("{:016x}", self.context.span_id) },
            "ParentSpanID": format!("{:016x}", self.parent_id),
            "SpanKind": self.kind as i32,
            "StartTimeUnixNano": nanos(self.began),
            "EndTimeUnixNano": nanos(self.ended),
            "Attributes": attributes,
            "Links": self.links.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "Error": self.error,
        })
    }
}

impl From<&Attribute> for serde_json::Value {
    fn from(value: &Attribute) -> Self {
        match value {
            Attribute::Text(text) => text.as_str().into(),
            Attribute::Int(number) => (*number).into(),
            Attribute::Float(number) => (*number).into(),
            Attribute::Bool(is) => (*is).into(),
        }
    }
}

/// For whom a span was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// For ourselves.
    Internal = 1,
    /// For a client.
    Server = 2,
    /// By a server that was asked.
    Client = 3,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the types say it")]
pub enum Attribute {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// The spans that wait.
#[derive(Debug, Default)]
pub struct SpanQueue {
    waiting: Mutex<Vec<Span>>,
    dropped: AtomicU64,
    /// Wakes the exporter.
    pub(super) is_full: Notify,
}

impl SpanQueue {
    /// Adds a span, if there is room.
    pub fn push(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push(span);
        if waiting.len() == BATCH_MAX {
            self.is_full.notify_one();
        }
    }

    /// Takes the oldest spans, at most a batch.
    pub fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(BATCH_MAX);
        let rest = waiting.split_off(count);
        std::mem::replace(&mut *waiting, rest)
    }

    /// How many were dropped since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_without_room_are_dropped_and_counted() {
        let queue = SpanQueue::default();
        let span = Span {
            context: TraceContext { trace_id: 1, span_id: 1, is_sampled: true },
            parent_id: 0,
            trace_state: String::new(),
            name: "a".to_owned(),
            kind: SpanKind::Internal,
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        (0..WAITING_MAX + 3).for_each(|_| queue.push(span.clone()));
        assert_eq!(queue.take_dropped(), 3);
        assert_eq!(queue.take_dropped(), 0);
        let mut batches = 0;
        while !queue.take().is_empty() {
            batches += 1;
        }
        assert_eq!(batches, WAITING_MAX / BATCH_MAX);
    }
}
