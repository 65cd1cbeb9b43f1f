//! Serving the connections of one door, as many at once as its limit says.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// How long a door waits when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections come through.
pub(crate) trait Listener {
    /// A connection.
    type Stream;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves connections until it is dropped, which ends them all. Beyond `connections_max` new ones wait in the kernel's queue.
pub(crate) async fn serve<L, S>(listener: L, connections_max: usize, mut connection: impl FnMut(L::Stream) -> S)
where
    L: Listener,
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
            accepted = Listener::accept(&listener), if connections.len() < connections_max => match accepted {
                Ok(stream) => { connections.spawn(connection(stream)); }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
