//! HTTP/2 connections to the function, without TLS and by prior knowledge.
//!
//! One connection carries as many requests as the function allows on it at once; only beyond that a further one is opened.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::connect::{ConnectError, connect};
use crate::ingress::RequestBody;

/// Requests on one connection before the function has said how many it allows.
const STREAMS_AT_FIRST: usize = 100;
/// Bytes that the function may send on one stream ahead of the client.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that the function may send on one connection ahead of all clients.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of a response's headers; the same as over HTTP/1.
const HEADER_BYTES_MAX: u32 = 10 << 20;

/// Connections that are open.
#[derive(Debug)]
pub struct Http2Pool {
    address: SocketAddr,
    state: Mutex<State>,
    /// Held while a connection is opened, so that a burst opens one and not one a request.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Arc<Shared>>,
    /// The tasks that drive them.
    drivers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    sender: SendRequest<RequestBody>,
    in_use: AtomicUsize,
    streams_max: AtomicUsize,
    is_over: AtomicBool,
}

/// One request's share of a connection; lives until its response is complete.
#[derive(Debug)]
pub struct InUse(Arc<Shared>);

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The function does not speak HTTP/2, reset the stream, or broke the connection.
    #[error("http2: {}", deepest(.0))]
    Http2(#[source] hyper::Error),
}

impl Http2Pool {
    /// No connection is open yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, state: Mutex::default(), opening: tokio::sync::Mutex::new(()) }
    }

    /// Sends a request and waits for its response's head.
    ///
    /// # Errors
    /// [`SendError`]. The request is sent once; only where a kept connection had ended before it took any of it, another is used.
    pub async fn send(&self, mut request: Request<RequestBody>) -> Result<(Response<Incoming>, InUse), SendError> {
        let mut may_try_again = true;
        loop {
            let share = self.share().await?;
            // Cloning a sender is what it is made for: it is a handle to the connection's queue.
            let mut error = match share.0.sender.clone().try_send_request(request).await {
                Ok(response) => return Ok((response, share)),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if may_try_again => {
                    share.0.is_over.store(true, Ordering::Relaxed);
                    may_try_again = false;
                    request = unsent;
                }
                _ => return Err(SendError::Http2(error.into_error())),
            }
        }
    }

    async fn share(&self) -> Result<InUse, ConnectError> {
        if let Some(share) = self.free() {
            return Ok(share);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(share) = self.free() {
            return Ok(share);
        }
        self.open().await
    }

    /// A share of a connection with room; forgets those that have ended.
    fn free(&self) -> Option<InUse> {
        let mut state = self.state();
        while state.drivers.try_join_next().is_some() {}
        state.open.retain(|shared| !shared.is_over.load(Ordering::Relaxed) && !shared.sender.is_closed());
        state.open.iter().find_map(InUse::of)
    }

    async fn open(&self) -> Result<InUse, ConnectError> {
        let stream = connect(self.address).await?;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .handshake::<TokioIo<TcpStream>, RequestBody>(TokioIo::new(stream));
        let (sender, connection) = handshake
            .await
            .map_err(|error| ConnectError::Refused { address: self.address, source: std::io::Error::other(error) })?;
        let shared = Arc::new(Shared {
            sender,
            in_use: AtomicUsize::new(1),
            streams_max: AtomicUsize::new(STREAMS_AT_FIRST),
            is_over: AtomicBool::new(false),
        });
        let mut state = self.state();
        state.open.push(Arc::clone(&shared));
        state.drivers.spawn(drive(connection, Arc::clone(&shared)));
        drop(state);
        Ok(InUse(shared))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way; a poisoned lock still guards sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    fn of(shared: &Arc<Shared>) -> Option<Self> {
        let streams_max = shared.streams_max.load(Ordering::Relaxed);
        let room = |in_use: usize| (in_use < streams_max).then_some(in_use + 1);
        shared.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Moves a connection's frames, and takes note of how many streams the function allows.
async fn drive(mut connection: Connection<TokioIo<TcpStream>, RequestBody, TokioExecutor>, shared: Arc<Shared>) {
    let ended = std::future::poll_fn(|cx| {
        let progress = Pin::new(&mut connection).poll(cx);
        shared.streams_max.store(connection.current_max_send_streams().max(1), Ordering::Relaxed);
        progress
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an HTTP/2 connection to the function broke");
    }
    shared.is_over.store(true, Ordering::Relaxed);
}

/// The text of the innermost cause: hyper's own names the step that failed, not why.
fn deepest(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
