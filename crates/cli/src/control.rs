//! Requests to the control API of a running platform, over its Unix socket.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use zipline_contract::Retry;

use crate::failure::{Exit, Failure};

/// The control API of one platform. Each request has a connection of its own: commands make few.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    socket: PathBuf,
}

/// An answer whose body is read as it comes.
pub(crate) struct Streamed {
    body: Incoming,
    /// Drives the connection; dropping it ends the stream.
    _driver: JoinSet<()>,
}

/// The members of a problem body that are shown.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    hint: Option<String>,
    retry: Option<String>,
}

impl Control {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends a request and reads its JSON answer; one without a body is read as `null`.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, Failure> {
        let (response, _driver) = self.send(method, path, body).await?;
        let body = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    /// Sends a GET and gives its body piece by piece.
    pub(crate) async fn stream(&self, path: &str) -> Result<Streamed, Failure> {
        let (response, driver) = self.send(Method::GET, path, Body::None).await?;
        Ok(Streamed { body: response.into_body(), _driver: driver })
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<(Response<Incoming>, JoinSet<()>), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.not_running(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // How it ended is told to whoever waits on its sender.
            connection.await.ok();
        });
        let mut request = Request::builder().method(method).uri(path).header(HOST, "zipline");
        let bytes = match body {
            Body::None => Bytes::new(),
            Body::Of(content_type, bytes) => {
                request = request.header(CONTENT_TYPE, content_type);
                bytes
            }
        };
        let request = request.body(Full::new(bytes)).map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok((response, driver));
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        Err(refusal(status, &body))
    }

    fn not_running(&self, error: &std::io::Error) -> Failure {
        let state = self.socket.parent().unwrap_or(&self.socket).display();
        Failure::new(Exit::NotRunning, "not-running", format!("no platform runs on the state directory {state}: {error}"))
            .hint("start one with `zipline up`, or name its state directory with --state or ZIPLINE_STATE")
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        let message = format!("the platform's answer on {} is not understood: {error}", self.socket.display());
        Failure::new(Exit::NotRunning, "protocol", message)
    }
}

/// The body of a request.
pub(crate) enum Body {
    None,
    /// Content type and bytes.
    Of(&'static str, Bytes),
}

impl Streamed {
    /// The next piece, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame =
                frame.map_err(|error| Failure::new(Exit::NotRunning, "protocol", format!("the platform went away: {error}")))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// Text as part of a path or a query: everything but unreserved characters percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if unreserved(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let exit = match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        _ => Exit::Refused,
    };
    let name = problem.kind.rsplit(':').next().filter(|name| !name.is_empty()).unwrap_or("refused");
    let message = match (problem.detail.is_empty(), problem.title.is_empty()) {
        (false, _) => problem.detail,
        (true, false) => problem.title,
        (true, true) => format!("the platform answered {status}: {}", String::from_utf8_lossy(body).trim_end()),
    };
    let mut failure = Failure::new(exit, name, message);
    failure.hint = problem.hint.filter(|hint| !hint.is_empty());
    failure.retry = if problem.retry.as_deref() == Some("later") { Retry::Later } else { Retry::Never };
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_a_failure_that_keeps_name_and_hint() {
        let body = br#"{"type":"urn:zipline:error:service-unknown","title":"t","status":404,"detail":"service `x` does not exist","hint":"look","retry":"never"}"#;
        let failure = refusal(StatusCode::NOT_FOUND, body);
        assert_eq!((failure.exit, failure.name.as_str()), (Exit::NotFound, "service-unknown"));
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("service `x` does not exist", Some("look")));
        let failure = refusal(StatusCode::BAD_GATEWAY, b"oops\n");
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Refused, "the platform answered 502 Bad Gateway: oops"));
    }

    #[tokio::test]
    async fn without_a_platform_the_failure_names_the_state_directory() {
        let control = Control::new(PathBuf::from("/nonexistent/state/control.sock"));
        let failure = control.ask::<()>(Method::GET, "/v1", Body::None).await.expect_err("nothing listens");
        assert_eq!(failure.exit, Exit::NotRunning);
        assert!(failure.message.contains("/nonexistent/state:"), "{}", failure.message);
    }
}
