//! Requests and responses as a function sees them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use serde::{Deserialize, Serialize};

use crate::payload::Payload;
use crate::reference::Reference;

/// A request to a serving function.
#[derive(Debug)]
#[non_exhaustive]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path and query, as they came.
    pub uri: Uri,
    /// Headers, without `Zipline-…`.
    pub headers: HeaderMap,
    /// The body, whole and verified, whatever way it came.
    pub payload: Payload,
}

impl Request {
    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.uri.path()
    }
}

/// A function's answer: what [`Server`](crate::Server) sends and what a [`Call`](crate::Call) gets.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body. Its content type is sent where `headers` has none.
    pub payload: Payload,
}

impl Response {
    /// 200 with that payload.
    pub fn ok(payload: impl Into<Payload>) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), payload: payload.into() }
    }

    /// That status with a line of text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let payload = Payload::from(text.into()).with_content_type("text/plain; charset=utf-8");
        Self { status, headers: HeaderMap::new(), payload }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// Why a handler has no answer; it becomes an answer of that status with the message as text.
///
/// Made from any error by `?`, with status 500 and the error's whole chain.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Status of the answer. From 500 on, a payload that came by reference can be read again.
    pub status: StatusCode,
    /// Text of the answer.
    pub message: String,
}

impl Failure {
    /// A failure with that status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: crate::http::describe(&error) }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        Self::text(failure.status, failure.message + "\n")
    }
}

/// The body of a request whose payload lies in a store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) reference: Reference,
    /// The payload's content type, where the request gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
}

/// The payload's content type, as a header value that may be absent.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}
