//! The front door: HTTP/1.1 and HTTP/2 without TLS on one port.
//!
//! A request names its service by host, `NAME.NAMESPACE.localhost`, or its revision by Knative's headers. It goes
//! through the revision's activator, or straight to an instance when the autoscaler says that there is capacity to
//! spare. Bodies, trailers and upgraded connections stream through; nothing is held back and nothing is kept.

mod forward;
mod route;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::services::Shared;
use crate::shutdown::Shutdown;
pub(crate) use forward::ForwardedBody;
pub(crate) use route::Routes;

/// Connections at once; further ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 4096;
/// How long a request's head may take to come.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// Pause after the system refused a connection, for want of descriptors for example.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// How long connections get to finish once the platform ends.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Why the ingress can't listen.
#[derive(Debug, Error)]
pub enum IngressError {
    /// Somebody else listens there.
    #[error("port {} of {} is taken by another program (hint: name another with --port, or 0 for any free one)", address.port(), address.ip())]
    Taken {
        /// Where.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("the ingress can't listen on {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds the ingress's port.
///
/// # Errors
/// When it is taken, or the system refuses.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, IngressError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => IngressError::Taken { address },
        _ => IngressError::Io { address, source },
    })
}

/// Serves until `stop` says otherwise; then connections get [`FINISH_LIMIT`] to finish.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.begun() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked; it cost this connection only");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_connection(stream, peer, Arc::clone(&shared), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if tokio::time::timeout(FINISH_LIMIT, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(open = connections.len(), "connections were cut at the end");
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, mut stop: Shutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder.http2().timer(TokioTimer::new()).adaptive_window(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(forward::forward(request, peer, &shared.routes).await) }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that went away, or does not speak HTTP: its own matter.
        tracing::debug!(%error, %peer, "a connection ended");
    }
}
