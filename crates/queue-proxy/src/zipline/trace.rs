//! Where a request stands in a trace.
//!
//! Its `traceparent` says so, unless whoever took the request in knows better and has left a [`TraceContext`] among the
//! request's extensions: a proxy that exports a span of its own for the request puts it there, so that puts, pulls and
//! calls come to stand below that span. The header itself is passed through as it came.

use http::{Extensions, HeaderMap};
use zipline_contract::headers::TRACEPARENT;
use zipline_core::trace::TraceContext;

/// Where a request with these headers and extensions stands; `None` where nobody said.
pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Option<TraceContext> {
    let said = || headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok();
    extensions.get::<TraceContext>().copied().or_else(said)
}
