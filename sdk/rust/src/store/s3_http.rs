//! How the S3 client sends its requests: hyper's pooled connections, counted, and answers sorted by who must act.
//!
//! `object_store` signs, splits and repeats; this carries one request at a time. A refusal becomes an error with the
//! store's own code here, because this is where status and body are at hand: what may pass by itself (500 and above,
//! 429) in the kind that the client repeats within its bound, the rest in a kind that it does not. Only "there is no such
//! object" stays an answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Error as SendError;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use zipline_store::{Idle, Pooled, Schemes};

use super::counters::Counters;
use super::key::Kind;
use crate::error::Error;

/// Connections that are kept: parts of large objects go side by side.
const IDLE: Idle = Idle { connections_max: 64, timeout: Duration::from_secs(60) };
/// Bytes of a refusal's body that are looked at.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Characters of its message that are told.
const MESSAGE_CHARS_MAX: usize = 200;

/// The store refused: status, and code and message of its error body.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    code: String,
    message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status.as_u16())?;
        [&self.code, &self.message].into_iter().filter(|text| !text.is_empty()).try_for_each(|text| write!(f, ", {text}"))
    }
}

impl std::error::Error for Refused {}

impl Refused {
    fn of(status: StatusCode, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once(&format!("</{name}>"))?.0.chars().take(MESSAGE_CHARS_MAX).collect::<String>())
        };
        Self { status, code: element("Code").unwrap_or_default(), message: element("Message").unwrap_or_default() }
    }

    fn passes_by_itself(&self) -> bool {
        self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS
    }
}

/// hyper as the S3 client's transport.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Pooled,
    counters: Arc<Counters>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    pub(crate) fn new(schemes: Schemes, counters: Arc<Counters>) -> Result<Self, Error> {
        let client = Pooled::new(schemes, IDLE);
        let client = client.map_err(|error| Error::system("reading the system's certificates")(std::io::Error::other(error)))?;
        Ok(Self { client, counters })
    }

    fn count(&self, method: &Method, failed: bool, throttled: bool) {
        self.counters.note(Kind::S3, |operations| match *method {
            _ if failed => {
                operations.failed += 1;
                operations.throttled += u64::from(throttled);
            }
            Method::PUT | Method::POST => operations.puts += 1,
            Method::DELETE => operations.deletes += 1,
            _ => operations.gets += 1,
        });
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let method = request.method().clone();
        let response = self.client.send(request).await.map_err(|error| {
            self.count(&method, true, false);
            unsent(error)
        })?;
        let status = response.status();
        let fine = status.is_success() || status.is_redirection() || status == StatusCode::PRECONDITION_FAILED;
        if fine {
            self.count(&method, false, false);
            let (parts, body) = response.into_parts();
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(broken))));
        }
        let (parts, refused) = refusal(response).await;
        let passes = refused.passes_by_itself();
        self.count(&method, passes, matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS));
        if status == StatusCode::NOT_FOUND && refused.code != "NoSuchBucket" {
            let nothing = HttpResponseBody::new(Empty::<Bytes>::new().map_err(|never| match never {}));
            return Ok(HttpResponse::from_parts(parts, nothing));
        }
        Err(HttpError::new(if passes { HttpErrorKind::Request } else { HttpErrorKind::Unknown }, refused))
    }
}

/// The answer's head, and what its body says.
async fn refusal(response: Response<Incoming>) -> (http::response::Parts, Refused) {
    let (parts, body) = response.into_parts();
    // A body that breaks off has nothing to say; the status stands.
    let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let refused = Refused::of(parts.status, &body);
    (parts, refused)
}

fn unsent(error: SendError) -> HttpError {
    HttpError::new(if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted }, error)
}

fn broken(error: hyper::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, error)
}

impl HttpService for Transport {
    // As `async_trait` spells an `async fn call`.
    fn call<'life0, 'async_trait>(&'life0 self, request: HttpRequest) -> BoxFuture<'async_trait, Result<HttpResponse, HttpError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.send(request))
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_stores_own_words() {
        let body =
            b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce.</Message><Key>secret</Key></Error>";
        let refused = Refused::of(StatusCode::SERVICE_UNAVAILABLE, body);
        assert!(refused.passes_by_itself());
        assert_eq!(refused.to_string(), "status 503, SlowDown, Please reduce.");
        assert_eq!(Refused::of(StatusCode::FORBIDDEN, b"\xff").to_string(), "status 403");
    }
}
