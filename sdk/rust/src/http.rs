//! Requests to the local API over a bounded pool of persistent connections.
//!
//! A connection is taken from the pool, or opened while fewer than the limit are in use, and goes back when its answer
//! was read to the end; an answer that is dropped half-way takes its connection along. A request is sent twice only
//! when hyper says that the pooled connection had ended before a byte of it was written.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zipline_contract::{ErrorCode, headers};

use crate::config::{Endpoint, Limits};
use crate::error::{Error, ProblemBody};

/// The body of a request to the local API.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of bytes that are at hand.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer that was read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The header's text, if it is there and is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The refusal, if this answer is one: a proxy's own error carries `Zipline-Error`, a function's does not.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let name = self.text(headers::ERROR)?;
        let problem: ProblemBody = serde_json::from_slice(&self.body).unwrap_or_default(); // HEAD has none.
        Some(problem.into_error(name, self.status.as_u16()))
    }

    /// The answer itself, or the refusal it is.
    pub(crate) fn accepted(self, request: &'static str) -> Result<Self, Error> {
        match self.refusal() {
            Some(error) => Err(error),
            None if self.status.is_success() => Ok(self),
            None => Err(Error::protocol(request, format_args!("status {} without a {} header", self.status, headers::ERROR))),
        }
    }
}

/// The pool.
pub(crate) struct Connections {
    endpoint: Endpoint,
    limits: Limits,
    permits: Arc<Semaphore>,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    idle: Vec<SendRequest<Body>>,
    /// Drives the connections; dropping the pool ends them.
    drivers: JoinSet<()>,
}

/// A connection in use.
struct Lent {
    sender: SendRequest<Body>,
    _permit: OwnedSemaphorePermit,
    reused: bool,
}

impl Connections {
    pub(crate) fn new(endpoint: Endpoint, limits: Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.connections_max.max(1)));
        Self { endpoint, limits, permits, shared: Mutex::default() }
    }

    /// Sends the request and reads the whole answer, at most `heap_bytes_max` bytes of it.
    pub(crate) async fn ask(&self, what: &'static str, request: Request<Body>) -> Result<Answer, Error> {
        let whole = async {
            let (lent, response) = self.send(request).await?;
            let (parts, body) = response.into_parts();
            let body = collect(body, self.limits.heap_bytes_max).await.map_err(|failure| match failure {
                CollectError::TooLarge(bytes) => Error::refused(
                    ErrorCode::PayloadTooLarge,
                    format!("an answer is received up to {} bytes, this one has {bytes} or more", self.limits.heap_bytes_max),
                ),
                CollectError::Broken(error) => Error::protocol(what, describe(&error)),
            })?;
            self.give_back(lent);
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        timeout(self.limits.answer_timeout, whole)
            .await
            .unwrap_or_else(|_| Err(self.unreachable(format!("no answer within {:?}", self.limits.answer_timeout))))
    }

    async fn send(&self, mut request: Request<Body>) -> Result<(Lent, Response<Incoming>), Error> {
        request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("zipline"));
        let mut fresh_only = false;
        loop {
            let mut lent = self.lend(fresh_only).await?;
            match lent.sender.try_send_request(request).await {
                Ok(response) => return Ok((lent, response)),
                Err(mut failure) => match failure.take_message() {
                    // The pooled connection had ended unseen; nothing of the request was written.
                    Some(unsent) if lent.reused => (request, fresh_only) = (unsent, true),
                    _ => return Err(self.unreachable(describe(failure.error()))),
                },
            }
        }
    }

    async fn lend(&self, fresh_only: bool) -> Result<Lent, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|closed| self.unreachable(closed.to_string()))?;
        let pooled = if fresh_only { None } else { self.pooled() };
        if let Some(sender) = pooled {
            return Ok(Lent { sender, _permit: permit, reused: true });
        }
        let opened = timeout(self.limits.connect_timeout, self.open()).await;
        let sender = opened
            .unwrap_or_else(|_| Err(self.unreachable(format!("no connection within {:?}", self.limits.connect_timeout))))?;
        Ok(Lent { sender, _permit: permit, reused: false })
    }

    fn pooled(&self) -> Option<SendRequest<Body>> {
        let mut shared = self.shared();
        while let Some(sender) = shared.idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn open(&self) -> Result<SendRequest<Body>, Error> {
        let failed = |error: io::Error| self.unreachable(error.to_string());
        match &self.endpoint {
            Endpoint::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                self.start(TokioIo::new(stream)).await
            }
            unix => self.start(TokioIo::new(connect_unix(unix).await.map_err(failed)?)).await,
        }
    }

    async fn start<Io>(&self, io: Io) -> Result<SendRequest<Body>, Error>
    where
        Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(512 * 1024)
            .handshake(io)
            .await
            .map_err(|error| self.unreachable(describe(&error)))?;
        let mut shared = self.shared();
        while shared.drivers.try_join_next().is_some() {}
        shared.drivers.spawn(async move {
            // How a connection ended is told to whoever waits on its sender.
            connection.await.ok();
        });
        Ok(sender)
    }

    fn give_back(&self, lent: Lent) {
        if !lent.sender.is_closed() {
            self.shared().idle.push(lent.sender);
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { api: self.endpoint.to_string(), reason }
    }
}

/// Connects to the endpoint's Unix socket.
pub(crate) async fn connect_unix(endpoint: &Endpoint) -> io::Result<UnixStream> {
    match endpoint {
        Endpoint::Unix(path) => UnixStream::connect(path).await,
        Endpoint::Abstract(name) => UnixStream::connect(format!("\0{name}")).await,
        Endpoint::Tcp(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "descriptors pass over Unix sockets only")),
    }
}

/// Why a body could not be read to its end.
pub(crate) enum CollectError {
    /// It is larger than the limit: as announced, or as far as it came.
    TooLarge(u64),
    /// Its connection broke.
    Broken(hyper::Error),
}

/// Reads a body onto the heap, at most `bytes_max` of it, with one allocation where its length is known.
pub(crate) async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, CollectError> {
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(CollectError::TooLarge(announced));
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() else { continue }; // Trailers.
        let so_far = first.as_ref().map_or(rest.len(), Bytes::len) + data.len();
        if so_far > bytes_max {
            return Err(CollectError::TooLarge(so_far as u64));
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data), // A body of one frame is not copied.
            None => rest.extend_from_slice(&data),
            Some(head) => {
                rest.reserve(so_far.max(announced as usize));
                rest.extend_from_slice(&head);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

/// An error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
