//! What the proxy itself answers.
//!
//! Error texts end in a newline and are marked against sniffing, as Go's `http.Error` writes them; clients and Knative's control
//! plane compare some of them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::BodyExt;

use crate::payload::Refusal;

/// A complete answer. Framing, `Date` and `Connection` are added where it is written.
pub(super) type Answer = Response<Bytes>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An error: its text and a newline.
pub(super) fn error(status: StatusCode, text: impl std::fmt::Display) -> Answer {
    let mut answer = plain(status, format!("{text}\n"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A text as it is.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(text.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

/// A status alone.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = status;
    answer
}

/// A status and a header.
pub(super) fn with_header(status: StatusCode, name: HeaderName, value: HeaderValue) -> Answer {
    let mut answer = empty(status);
    answer.headers_mut().insert(name, value);
    answer
}

/// The request took too long.
pub(super) fn timed_out() -> Answer {
    plain(StatusCode::GATEWAY_TIMEOUT, "request timeout")
}

/// The function could not be asked, or gave no answer.
pub(super) fn bad_gateway(fault: impl std::fmt::Display) -> Answer {
    error(StatusCode::BAD_GATEWAY, fault)
}

/// What Zipline answers in the function's place.
pub(super) async fn refused(refusal: Refusal) -> Answer {
    let (head, body) = refusal.0.into_parts();
    // The body is at hand and can't fail.
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Response::from_parts(head, bytes)
}
