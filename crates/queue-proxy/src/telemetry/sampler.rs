//! Which traces are recorded, and where a request's spans stand in them.

use http::{HeaderMap, HeaderName, HeaderValue};
use zipline_core::trace::TraceContext;

/// The header that carries a context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what vendors add to one.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The context that a request came with.
pub(super) fn of(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
}

/// Another span of the same trace.
pub(super) fn child(context: TraceContext) -> TraceContext {
    context.child(span_id())
}

/// Puts a context on a request.
pub(super) fn inject(context: TraceContext, headers: &mut HeaderMap) {
    // Hexadecimal digits and dashes make a header value.
    if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// All.
    Always,
    /// None.
    Never,
    /// As the caller decided; where nobody did, this share of traces, decided by the trace's number alone, so that every proxy
    /// decides alike.
    Share(f64),
}

impl Sampler {
    /// The sampler of a rate from 0 to 1.
    pub fn of_rate(rate: f64) -> Self {
        match rate {
            rate if rate >= 1.0 => Self::Always,
            rate if rate > 0.0 => Self::Share(rate),
            _ => Self::Never,
        }
    }

    /// The context of a new span under `parent`, or of a new trace.
    pub fn start(self, parent: Option<TraceContext>) -> TraceContext {
        let trace_id = parent.map_or_else(trace_id, |parent| parent.trace_id);
        let is_sampled = match (self, parent) {
            (Self::Always, _) => true,
            (Self::Never, _) => false,
            (Self::Share(_), Some(parent)) => parent.is_sampled,
            (Self::Share(rate), None) => is_within(trace_id, rate),
        };
        TraceContext { trace_id, span_id: span_id(), is_sampled }
    }
}

/// As OpenTelemetry's ratio sampler decides: by the lower 63 bits of the trace's upper-ended lower half.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 < rate < 1")]
fn is_within(trace_id: u128, rate: f64) -> bool {
    let bound = (rate * (1_u64 << 63) as f64) as u64;
    (trace_id as u64) >> 1 < bound
}

fn trace_id() -> u128 {
    loop {
        let id = u128::from(random()) << 64 | u128::from(random());
        if id != 0 {
            return id;
        }
    }
}

fn span_id() -> u64 {
    loop {
        let id = random();
        if id != 0 {
            return id;
        }
    }
}

/// Ids need to differ, not to be secret: a generator seeded once a thread does, without a system call each.
fn random() -> u64 {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::process::id()));
    }
    // SplitMix64.
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_share_follows_the_caller_and_is_decided_by_the_trace_alone() {
        let parent: TraceContext = TEXT.parse().expect("a context");
        let unsampled = TraceContext { is_sampled: false, ..parent };
        assert!(Sampler::of_rate(0.1).start(Some(parent)).is_sampled);
        assert!(!Sampler::of_rate(0.9).start(Some(unsampled)).is_sampled);
        assert!(Sampler::of_rate(1.0).start(Some(unsampled)).is_sampled);
        assert!(!Sampler::of_rate(0.0).start(Some(parent)).is_sampled);
        let roots = (0..1000).filter(|_| Sampler::of_rate(0.25).start(None).is_sampled).count();
        assert!((150..350).contains(&roots), "{roots} of 1000 at a quarter");
        let child = Sampler::Always.start(Some(parent));
        assert_eq!(child.trace_id, parent.trace_id);
        assert_ne!(child.span_id, parent.span_id);
    }
}
