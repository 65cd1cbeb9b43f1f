//! The seam between the way of a request and Zipline: a payload that takes the place of a request's empty body.
//!
//! Between the breaker's slot and the function (steps 9 and 10 of the contract) the ingress takes every `zipline-*`
//! header off the request. If a reference was among them, [`Zipline::resolve`](crate::zipline::Zipline::resolve) opens
//! it and answers with a [`Payload`], or with a [`Refusal`] that goes to the client without the function having seen
//! anything.

use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;

/// The bytes of a payload. An error frame cuts the function's request before its `Content-Length` is reached; if the
/// function has not answered, the client gets the refusal.
pub type PayloadBody = UnsyncBoxBody<Bytes, Refusal>;

/// What stands in for the empty body of a request with a reference.
pub struct Payload {
    /// Its bytes, exactly [`Payload::length`] of them where that is known.
    pub body: PayloadBody,
    /// Becomes `Content-Length`; `None`: not known yet, the body travels chunked.
    pub length: Option<u64>,
    /// Told the status when the function's response head arrives. Dropped without a call when none arrives: the
    /// function failed, the client left, or the request timed out.
    pub answered: Box<dyn FnOnce(StatusCode) + Send>,
}

/// A finished answer to the client in the place of the function's: problem details, or a trailers-only gRPC answer.
pub struct Refusal(pub Box<Response<Full<Bytes>>>);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({}, {:?})", self.0.status(), self.0.headers().get(zipline_contract::headers::ERROR))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.headers().get(zipline_contract::headers::ERROR).and_then(|name| name.to_str().ok());
        write!(f, "the request was answered with {} ({})", self.0.status(), name.unwrap_or("no error name"))
    }
}

impl std::error::Error for Refusal {}
