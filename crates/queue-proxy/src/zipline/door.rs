//! Serving the connections of one door, as many at once as its limit says.
//!
//! Every connection is a task of the door's [`JoinSet`]: dropping the future that [`serve`] returns ends them all.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::zipline::api::listen::UnixDoor;

/// How long a door waits when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Something that connections come in by.
pub(crate) trait Door {
    /// A connection.
    type Connection: Send + 'static;

    /// The next one; safe to cancel.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Door for UnixDoor {
    type Connection = UnixStream;

    fn next(&self) -> impl Future<Output = io::Result<UnixStream>> + Send {
        self.accept()
    }
}

impl Door for TcpListener {
    type Connection = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Serves connections until it is dropped. Beyond `connections_max` new ones wait in the kernel's queue.
pub(crate) async fn serve<D, F, S>(door: D, connections_max: usize, mut connection: F)
where
    D: Door,
    F: FnMut(D::Connection) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked; it cost this connection only");
                }
            }
            accepted = door.next(), if connections.len() < connections_max => match accepted {
                Ok(stream) => { connections.spawn(connection(stream)); }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// What a connection does once its HTTP part is over, left by the request that upgraded it.
#[derive(Clone, Default)]
pub(crate) struct Upgrade(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Upgrade {
    /// Leaves what comes next; it runs in the connection's own task.
    pub(crate) fn to(&self, next: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(next));
    }

    /// Takes what was left, after the HTTP part has ended.
    pub(crate) fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
