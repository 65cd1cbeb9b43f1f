//! Connections to producers: persistent, bounded for each producer, waited for in order of arrival.
//!
//! Reads and the short questions beside them (acknowledgements, renewals) have separate bounds: a read whose function
//! is slow must not keep another's acknowledgement waiting. A connection goes back to the pool only after an answer was
//! read to its end; whatever else happens closes it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use tokio::net::TcpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use zipline_fault_point::kept_for;

use super::stream::PullStream;
use super::tls;
use crate::config::{CONTROL_CONNECTIONS_MAX, POOLED_CONNECTIONS_MAX, POOLED_MAX};
use crate::error::TransferError;
use crate::node::Inner;
use crate::stored::lock;

/// Producers that are remembered before those without connections are forgotten.
const PEERS_MAX: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A body.
    Read,
    /// A question with a short answer.
    Control,
}

/// The connections to all producers.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    peers: Mutex<HashMap<SocketAddr, Arc<Peer>>>,
    parked: Notify,
    open: Arc<AtomicUsize>,
}

/// Counts one connection while it is open, in use or not.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(gauge: &Arc<AtomicUsize>) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that nobody uses now.
#[derive(Debug)]
struct Idle {
    until: Instant,
    stream: PullStream,
    open: Open,
}

#[derive(Debug)]
struct Peer {
    reads: Arc<Semaphore>,
    controls: Arc<Semaphore>,
    /// The longest unused in front.
    idle: Mutex<VecDeque<Idle>>,
}

/// A connection in use. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: PullStream,
    /// Bytes that were read beyond what was wanted.
    pub(crate) inbox: BytesMut,
    /// Taken from the pool, so that the other side may have closed it meanwhile.
    pub(crate) reused: bool,
    peer: Arc<Peer>,
    open: Open,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A connection to `address`, from the pool or a new one. Waits while as many are in use as may be.
    pub(crate) async fn connect(&self, inner: &Inner, address: SocketAddr, what: Use) -> Result<Connection, TransferError> {
        inner.config.peers.check(address)?;
        let peer = self.peer(address, inner.config.pull_peer_connections);
        let permits = match what {
            Use::Read => &peer.reads,
            Use::Control => &peer.controls,
        };
        // Nobody closes these semaphores.
        let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, open, reused) = match peer.take_idle() {
            Some(Idle { stream, open, .. }) => (stream, open, true),
            None => {
                let open = Open::count(&self.open);
                (dial(inner, address).await?, open, false)
            }
        };
        Ok(Connection { stream, inbox: BytesMut::new(), reused, peer, open, _permit: permit })
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(crate) fn park(&self, connection: Connection) {
        if !connection.inbox.is_empty() || self.idle() >= POOLED_CONNECTIONS_MAX {
            return;
        }
        let idle = Idle { until: Instant::now() + kept_for(POOLED_MAX), stream: connection.stream, open: connection.open };
        lock(&connection.peer.idle).push_back(idle);
        self.parked.notify_one();
    }

    /// Closes what was not used for long; runs as long as the node.
    pub(crate) async fn run_expiry(&self) {
        loop {
            let next = self.expire(Instant::now());
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.parked.notified() => {}
                () = due => {}
            }
        }
    }

    /// Closes what is due, and tells when the next is.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        lock(&self.peers).retain(|_, peer| {
            let mut idle = lock(&peer.idle);
            while idle.front().is_some_and(|idle| idle.until <= now) {
                idle.pop_front();
            }
            let first = idle.front().map(|idle| idle.until);
            next = [next, first].into_iter().flatten().min();
            first.is_some() || Arc::strong_count(peer) > 1
        });
        next
    }

    fn peer(&self, address: SocketAddr, reads_max: usize) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| Arc::strong_count(peer) > 1 || !lock(&peer.idle).is_empty());
        }
        let peer = peers.entry(address).or_insert_with(|| {
            Arc::new(Peer {
                reads: Arc::new(Semaphore::new(reads_max)),
                controls: Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX)),
                idle: Mutex::default(),
            })
        });
        Arc::clone(peer)
    }

    /// Connections that are open now, in use or not.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn idle(&self) -> usize {
        lock(&self.peers).values().map(|peer| lock(&peer.idle).len()).sum()
    }
}

impl Peer {
    /// The connection used last, unless the other side has closed it or says something unasked.
    fn take_idle(&self) -> Option<Idle> {
        let mut unused = lock(&self.idle);
        while let Some(mut idle) = unused.pop_back() {
            if idle.stream.is_quiet() && idle.until > Instant::now() {
                return Some(idle);
            }
        }
        None
    }
}

/// Connects, and encrypts where that is required; both within the time for connecting.
async fn dial(inner: &Inner, address: SocketAddr) -> Result<PullStream, TransferError> {
    let limit = inner.config.connect_timeout;
    let unreachable = |limit, source| TransferError::Unreachable { peer: address, limit, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    inner.set_congestion(&socket, address.ip());
    socket.set_nodelay(true)?;
    let connecting = async {
        let stream = socket.connect(address).await.map_err(|source| unreachable(None, source))?;
        if !inner.config.tls {
            return Ok(PullStream::Plain(stream));
        }
        let (ring, now) = (inner.keys.ring()?, inner.config.clock.wall());
        inner.certificates.connect(ring, now, stream).await.map_err(|source| match tls::is_disagreement(&source) {
            true => inner.no_tls(address, source),
            false => unreachable(None, source),
        })
    };
    timeout(limit, connecting).await.unwrap_or_else(|_| Err(unreachable(Some(limit), io::ErrorKind::TimedOut.into())))
}

impl Inner {
    /// Counts a connection on which no TLS came to be.
    pub(crate) fn no_tls(&self, peer: SocketAddr, source: io::Error) -> TransferError {
        self.counters.tls_failures.fetch_add(1, Ordering::Relaxed);
        TransferError::Tls { peer, source }
    }
}
