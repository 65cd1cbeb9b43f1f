//! Errors as answers: the one place where an [`ErrorCode`] becomes something a client reads.
//!
//! HTTP clients get RFC 9457 problem details, gRPC clients a trailers-only answer. Both carry `Zipline-Error`, which
//! tells our error from a function's own answer with the same status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use zipline_contract::{ErrorCode, PROBLEM_MEDIA_TYPE, headers};
use zipline_core::object::Refusal;
use zipline_transfer::TransferError;

/// When to come back after a 503, where nothing better is known.
const RETRY_AFTER_SECONDS: u64 = 1;
/// Nobody is sent away for longer: room may come sooner than the next expiry, by a retrieval.
const RETRY_AFTER_SECONDS_MAX: u64 = 30;

/// Bytes of a detail in `grpc-message`, which travels in a header.
const GRPC_MESSAGE_BYTES_MAX: usize = 1024;

/// An error with the numbers of this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Which of the public errors it is.
    pub(crate) code: ErrorCode,
    /// One sentence naming the thing, the value and the limit.
    pub(crate) detail: String,
    /// The limit that was met, if it was one.
    pub(crate) limit: Option<u64>,
    /// The value that met it.
    pub(crate) value: Option<u64>,
    /// When a retry can help, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

/// How the client that asked reads errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A status and a problem document.
    Http,
    /// `200`, `grpc-status` and `grpc-message`, no body.
    Grpc,
}

impl Dialect {
    /// The dialect of a request with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE) {
            Some(media_type) if media_type.as_bytes().starts_with(b"application/grpc") => Self::Grpc,
            _ => Self::Http,
        }
    }
}

impl Problem {
    /// An error without numbers.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), limit: None, value: None, retry_after: None }
    }

    /// A request that the local API does not understand.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::RequestInvalid, detail)
    }

    /// The same error with the limit that was met and the value that met it.
    pub(crate) fn with_limit(mut self, limit: u64, value: u64) -> Self {
        self.limit = Some(limit);
        self.value = Some(value);
        self
    }

    /// The fields of the problem document, which a descriptor channel's answer shares.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("title".into(), json!(self.code.title()));
        fields.insert("status".into(), json!(self.code.http_status()));
        fields.insert("detail".into(), json!(self.detail));
        fields.insert("retry".into(), json!(self.code.retry().name()));
        fields.insert("fault".into(), json!(self.code.fault().name()));
        fields.insert("hint".into(), json!(self.code.hint()));
        for (name, number) in [("limit", self.limit), ("value", self.value), ("retry_after_seconds", self.retry_after_seconds())]
        {
            if let Some(number) = number {
                fields.insert(name.into(), json!(number));
            }
        }
        fields
    }

    /// The answer to a client of this dialect.
    pub(crate) fn response(&self, dialect: Dialect) -> Response<Full<Bytes>> {
        let mut response = match dialect {
            Dialect::Http => self.http(),
            Dialect::Grpc => self.grpc(),
        };
        response.headers_mut().insert(HeaderName::from_static(headers::ERROR), HeaderValue::from_static(self.code.name()));
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn http(&self) -> Response<Full<Bytes>> {
        let mut document = Map::new();
        document.insert("type".into(), json!(format!("urn:zipline:error:{}", self.code.name())));
        document.append(&mut self.fields());
        let mut response = Response::new(Full::new(Bytes::from(Value::Object(document).to_string())));
        *response.status_mut() = StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let media_type = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        if self.code == ErrorCode::EgressUnauthorized {
            response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"zipline egress\""));
        }
        if self.code == ErrorCode::ApiUnauthorized {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"zipline\""));
        }
        response
    }

    fn grpc(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.code.grpc_status())));
        let message = grpc_message(&format!("{}: {}", self.code.name(), self.detail));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
        response
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        let known = self.retry_after.map(|after| after.as_secs().clamp(1, RETRY_AFTER_SECONDS_MAX));
        (self.code.http_status() == 503).then(|| known.unwrap_or(RETRY_AFTER_SECONDS))
    }
}

impl From<TransferError> for Problem {
    fn from(error: TransferError) -> Self {
        let problem = Self::new(error.code(), error.to_string());
        match error {
            TransferError::Room(Refusal::TooLarge { bytes, bytes_max }) => problem.with_limit(bytes_max, bytes),
            TransferError::Room(Refusal::Full { bytes, bytes_max, next_expiry, .. }) => {
                Self { retry_after: next_expiry, ..problem.with_limit(bytes_max, bytes) }
            }
            _ => problem,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code.name())
    }
}

impl std::error::Error for Problem {}

/// An answer to a method that a path does not have.
pub(crate) fn method_unknown(allowed: &'static str, problem: &Problem) -> Response<Full<Bytes>> {
    let mut response = problem.response(Dialect::Http);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Percent-encodes as the gRPC protocol asks for: everything but printable ASCII, and the percent sign.
fn grpc_message(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes().take(GRPC_MESSAGE_BYTES_MAX) {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                // Writing to a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            printable => encoded.push(char::from(printable)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn document(response: Response<Full<Bytes>>) -> Value {
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        serde_json::from_slice(&body).unwrap_or_default()
    }

    #[tokio::test]
    async fn every_error_is_a_problem_document_with_its_name_status_fault_and_way_out() {
        for code in ErrorCode::ALL {
            let response = Problem::new(*code, "the detail").response(Dialect::Http);
            assert_eq!(response.status().as_u16(), code.http_status());
            assert_eq!(response.headers()[headers::ERROR], code.name());
            assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), code.http_status() == 503);
            let document = document(response).await;
            assert_eq!(document["type"], format!("urn:zipline:error:{}", code.name()));
            assert_eq!(document["status"], code.http_status());
            assert_eq!(document["detail"], "the detail");
            for field in ["title", "retry", "fault", "hint"] {
                assert!(document[field].is_string(), "{} lacks {field}", code.name());
            }
        }
    }

    #[tokio::test]
    async fn a_grpc_client_gets_a_trailers_only_answer() {
        let mut request = HeaderMap::new();
        request.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let problem = Problem::new(ErrorCode::ReferenceExpired, "expired 5 % ago, at\nnoon");
        let response = problem.response(Dialect::of(&request));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "9");
        assert_eq!(response.headers()["grpc-message"], "reference-expired: expired 5 %25 ago, at%0Anoon");
        assert_eq!(response.headers()[headers::ERROR], "reference-expired");
        assert!(response.into_body().collect().await.is_ok_and(|body| body.to_bytes().is_empty()));
    }

    #[tokio::test]
    async fn numbers_stand_in_the_document() {
        let problem = Problem::new(ErrorCode::BufferFull, "full").with_limit(512, 600);
        let document = document(problem.response(Dialect::Http)).await;
        assert_eq!((&document["limit"], &document["value"]), (&json!(512), &json!(600)));
        assert_eq!(document["retry_after_seconds"], RETRY_AFTER_SECONDS);
    }
}
