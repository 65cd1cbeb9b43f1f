//! The bodies that Zipline's side of the proxy sends and passes on.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Body as HttpBody;

use crate::zipline::problem::Problem;

/// Any body; never polled from two threads at once, so it need not be `Sync`.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end. Whoever was sending it cuts the connection, so that it cannot pass for whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection it came by failed.
    #[error("the connection it came by failed: {0}")]
    Connection(#[from] hyper::Error),
    /// The payload behind a reference could not be read to its end.
    #[error("{0}")]
    Payload(Problem),
    /// The call took longer than it may.
    #[error("the call took longer than {0} s")]
    Deadline(u64),
}

/// No bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Bytes that are at hand.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    full_body(Full::new(bytes.into()))
}

/// A whole body that is at hand.
pub(crate) fn full_body(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}

/// A body that is still coming, passed on frame by frame.
pub(crate) fn passed_on(coming: impl HttpBody<Data = Bytes, Error = hyper::Error> + Send + 'static) -> Body {
    coming.map_err(BodyError::Connection).boxed_unsync()
}
