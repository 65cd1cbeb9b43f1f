//! A plain HTTP/1.1 client over TCP and Unix sockets: one connection a request, nothing retried, nothing followed.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::key_ring::hex;

/// No answer takes longer; a test that needs to wait longer says so with [`tokio::time::timeout`] around [`open`].
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers; empty where there were none.
    pub trailers: HeaderMap,
}

impl Answer {
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("an answer that is not JSON: {} {}", self.status, self.text()))
    }

    /// A header's text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of `Zipline-Error`; empty where it is absent.
    pub fn error(&self) -> &str {
        self.header(zipline_contract::headers::ERROR)
    }
}

/// An answer whose body was summed and dropped, for bodies too large to keep.
#[derive(Clone, Debug)]
pub struct Digested {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Bytes of the body.
    pub size: u64,
    /// SHA-256 of the body in lower-case hexadecimal.
    pub sha256: String,
}

/// An answer whose body has not been read. The connection is cut when it is dropped.
#[derive(Debug)]
pub struct Open {
    /// Head and body.
    pub response: Response<Incoming>,
    connection: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An empty body.
pub fn empty() -> Empty<Bytes> {
    Empty::new()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(bytes.into())
}

/// Sends a request and returns as soon as the head of its answer is there. A missing `Host` becomes `localhost`.
pub async fn open<B>(target: &Target, request: Request<B>) -> Result<Open>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
            stream.set_nodelay(true)?;
            exchange(stream, request).await
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path).await.with_context(|| format!("connecting to {}", path.display()))?;
            exchange(stream, request).await
        }
    }
}

/// Sends a request and reads the whole answer.
pub async fn send<B>(target: &Target, request: Request<B>) -> Result<Answer>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    within(async {
        let mut open = open(target, request).await?;
        let (status, headers) = (open.response.status(), open.response.headers().clone());
        let collected = open.response.body_mut().collect().await.with_context(|| format!("the body of an answer {status}"))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer { status, headers, body: collected.to_bytes(), trailers })
    })
    .await
}

/// Sends a request and sums the answer's body while it arrives.
pub async fn digest<B>(target: &Target, request: Request<B>) -> Result<Digested>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    within(async {
        let mut open = open(target, request).await?;
        let (status, headers) = (open.response.status(), open.response.headers().clone());
        let (mut sum, mut size) = (Sha256::new(), 0);
        while let Some(frame) = open.response.body_mut().frame().await {
            if let Ok(data) = frame.with_context(|| format!("the body of an answer {status}, after {size} bytes"))?.into_data() {
                sum.update(&data);
                size += data.len() as u64;
            }
        }
        Ok(Digested { status, headers, size, sha256: hex(&sum.finalize()) })
    })
    .await
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_LIMIT, work).await.with_context(|| format!("no whole answer within {ANSWER_LIMIT:?}"))?
}

async fn exchange<B>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, mut request: Request<B>) -> Result<Open>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    request.headers_mut().entry(http::header::HOST).or_insert(http::HeaderValue::from_static("localhost"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("an HTTP connection")?;
    // Owned by `Open`, which ends it; its error, if any, is the one that `send_request` or the body reports.
    let connection = tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    match sender.send_request(request).await {
        Ok(response) => Ok(Open { response, connection }),
        Err(error) => {
            connection.abort();
            Err(error).context("no answer")
        }
    }
}
