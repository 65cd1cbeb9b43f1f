//! Serving the connections of one door, as many at once as its limit says.

use std::future::Future;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a door waits when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections until it is dropped, which ends them all. Beyond `connections_max` new ones wait in the kernel's queue.
pub(crate) async fn serve<S>(listener: TcpListener, connections_max: usize, mut connection: impl FnMut(TcpStream) -> S)
where
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
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => { connections.spawn(connection(stream)); }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
