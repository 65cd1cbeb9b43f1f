//! Connections to one queue-proxy.
//!
//! HTTP/1.1 requests take an idle connection or open one; HTTP/2 requests share one. A request that could not be
//! sent, because nothing listens or an idle connection had been closed meanwhile, comes back to its owner: it was not
//! seen by anybody, so sending it elsewhere does not send it twice. One that was sent never comes back.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ingress::ForwardedBody;

/// Idle connections kept to one queue-proxy.
const IDLE_MAX: usize = 256;
/// Limit of connecting: on one machine it takes microseconds, or a full listen queue.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Idle connections that turn out to be closed before a new one is opened.
const STALE_TRIES_MAX: usize = 4;

/// The protocol a request goes on in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
}

/// Why a request was not answered.
pub(crate) enum UpstreamError {
    /// It was not sent, and is returned.
    NotSent { request: Box<Request<ForwardedBody>>, reason: String },
    /// It was sent, at least in part.
    Broken(hyper::Error),
}

/// The connections to one queue-proxy. Dropping it closes them.
pub(crate) struct Upstream {
    address: SocketAddr,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<http1::SendRequest<ForwardedBody>>,
    shared: Option<http2::SendRequest<ForwardedBody>>,
    connections: JoinSet<()>,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, pool: Mutex::new(Pool::default()) }
    }

    /// Sends a request and answers with the response's head; the body streams.
    pub(crate) async fn send(&self, wire: Wire, request: Request<ForwardedBody>) -> Result<Response<Incoming>, UpstreamError> {
        match wire {
            Wire::Http1 => self.send_http1(request).await,
            Wire::Http2 => self.send_http2(request).await,
        }
    }

    async fn send_http1(&self, mut request: Request<ForwardedBody>) -> Result<Response<Incoming>, UpstreamError> {
        for _ in 0..STALE_TRIES_MAX {
            let Some(mut sender) = self.lock().take_idle() else { break };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.lock().give_back(sender);
                    return Ok(response);
                }
                Err(error) => request = unsent(error)?,
            }
        }
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(reason) => return Err(UpstreamError::NotSent { request: Box::new(request), reason }),
        };
        let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
            Ok(ready) => ready,
            Err(error) => return Err(not_sent(request, &error)),
        };
        self.lock().drive(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a queue-proxy ended");
            }
        });
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.lock().give_back(sender);
                Ok(response)
            }
            Err(error) => {
                let cause = error.error().to_string();
                Err(UpstreamError::NotSent { request: Box::new(unsent(error)?), reason: cause })
            }
        }
    }

    async fn send_http2(&self, request: Request<ForwardedBody>) -> Result<Response<Incoming>, UpstreamError> {
        let shared = self.lock().shared.clone().filter(|sender| !sender.is_closed());
        let mut sender = match shared {
            Some(sender) => sender,
            None => {
                let stream = match self.connect().await {
                    Ok(stream) => stream,
                    Err(reason) => return Err(UpstreamError::NotSent { request: Box::new(request), reason }),
                };
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new()).adaptive_window(true);
                let (sender, connection) = match builder.handshake(TokioIo::new(stream)).await {
                    Ok(ready) => ready,
                    Err(error) => return Err(not_sent(request, &error)),
                };
                let mut pool = self.lock();
                pool.drive(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection to a queue-proxy ended");
                    }
                });
                pool.shared = Some(sender.clone());
                sender
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(error) => {
                let reason = error.error().to_string();
                Err(UpstreamError::NotSent { request: Box::new(unsent(error)?), reason })
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = match timeout(CONNECT_LIMIT, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("the instance at {} does not answer: {error}", self.address)),
            Err(_) => return Err(format!("the instance at {} did not answer within {CONNECT_LIMIT:?}", self.address)),
        };
        // Heads are small and must not wait for an acknowledgement; without the option all is well, only slower.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
        Ok(stream)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // Connections are taken out and put in whole.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn take_idle(&mut self) -> Option<http1::SendRequest<ForwardedBody>> {
        self.idle.retain(|sender| !sender.is_closed());
        // The last one used is the likeliest to be open still; one whose answer is still streaming is not idle yet.
        let at = self.idle.iter().rposition(http1::SendRequest::is_ready)?;
        Some(self.idle.swap_remove(at))
    }

    fn give_back(&mut self, sender: http1::SendRequest<ForwardedBody>) {
        if self.idle.len() < IDLE_MAX {
            self.idle.push(sender);
        }
    }

    fn drive(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.connections.try_join_next().is_some() {}
        self.connections.spawn(connection);
    }
}

/// The request, if it was not sent.
fn unsent(mut error: TrySendError<Request<ForwardedBody>>) -> Result<Request<ForwardedBody>, UpstreamError> {
    match error.take_message() {
        Some(request) => Ok(request),
        None => Err(UpstreamError::Broken(error.into_error())),
    }
}

fn not_sent(request: Request<ForwardedBody>, error: &hyper::Error) -> UpstreamError {
    UpstreamError::NotSent { request: Box::new(request), reason: error.to_string() }
}
