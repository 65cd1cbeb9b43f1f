//! W3C trace context: where a piece of work stands in a trace.
//!
//! A request brings one in its `traceparent`; every pull carries one on, outside its MAC, since it says nothing that is
//! decided upon. Who makes ids is the driver's matter. `tracestate` is not looked at.

use core::fmt;
use core::str::FromStr;

use crate::hex;

/// A place in a trace. Its text is the value of `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Another span of the same trace.
    #[must_use]
    pub const fn child(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not VERSION-TRACE-SPAN-FLAGS in lower-case hexadecimal, as W3C trace context writes it")]
pub struct TraceContextError;

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Of the flags only whether the trace is recorded is kept; a version above 0 is read as far as it is known.
    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let mut parts = text.splitn(5, '-');
        let mut part = || parts.next().ok_or(TraceContextError);
        let [version] = digits::<1>(part()?)?;
        let (trace, span, [flags]) = (digits(part()?)?, digits(part()?)?, digits::<1>(part()?)?);
        let context =
            Self { trace_id: u128::from_be_bytes(trace), span_id: u64::from_be_bytes(span), is_sampled: flags & 1 == 1 };
        let is_known = version < u8::MAX && (version > 0 || parts.next().is_none());
        if is_known && context.trace_id != 0 && context.span_id != 0 { Ok(context) } else { Err(TraceContextError) }
    }
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], TraceContextError> {
    hex::decode(text).ok_or(TraceContextError)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_back_from_its_own_text() {
        let context: TraceContext = TEXT.parse().expect("a context");
        assert_eq!((context.span_id, context.is_sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(context.to_string(), TEXT);
        assert_eq!(context.child(1).to_string(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01");
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later: TraceContext = TEXT.replacen("00", "cc", 1).replacen("-01", "-02-more", 1).parse().expect("a context");
        assert!(!later.is_sampled);
    }

    #[test]
    fn what_is_none_is_refused() {
        let wrong = [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ];
        for text in wrong {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextError), "{text}");
        }
    }
}
