//! Connections to producers: persistent, bounded for each producer, waited for in order of arrival.
//!
//! Whoever waits for one of a producer that nobody has a connection to is waiting for a connection to be made: that has the
//! limit of connecting, in line or not, so that a node that is gone is told to everybody within it.
//!
//! Reads and the short questions beside them (acknowledgements, renewals) have separate bounds: a read whose function
//! is slow must not keep another's acknowledgement waiting. A connection goes back to the pool only after an answer was
//! read to its end; whatever else happens closes it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
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

/// Counts one connection to a producer while it stands, in use or not.
#[derive(Debug)]
struct Standing(Arc<watch::Sender<usize>>);

impl Standing {
    fn count(gauge: &Arc<watch::Sender<usize>>) -> Self {
        gauge.send_modify(|standing| *standing += 1);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.send_modify(|standing| *standing -= 1);
    }
}

/// A connection that nobody uses now.
#[derive(Debug)]
struct Idle {
    until: Instant,
    stream: PullStream,
    open: Open,
    standing: Standing,
}

#[derive(Debug)]
struct Peer {
    reads: Arc<Semaphore>,
    controls: Arc<Semaphore>,
    standing: Arc<watch::Sender<usize>>,
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
    standing: Standing,
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
        let limit = inner.config.connect_timeout;
        let (permit, until) = peer.wait(permits, limit).await.map_err(|source| unreachable(address, Some(limit), source))?;
        let (stream, open, standing, reused) = match peer.take_idle() {
            Some(Idle { stream, open, standing, .. }) => (stream, open, standing, true),
            None => {
                let open = Open::count(&self.open);
                let stream = dial(inner, address, until).await?;
                (stream, open, Standing::count(&peer.standing), false)
            }
        };
        Ok(Connection { stream, inbox: BytesMut::new(), reused, peer, open, standing, _permit: permit })
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(crate) fn park(&self, connection: Connection) {
        if !connection.inbox.is_empty() || self.idle() >= POOLED_CONNECTIONS_MAX {
            return;
        }
        let Connection { stream, peer, open, standing, .. } = connection;
        lock(&peer.idle).push_back(Idle { until: Instant::now() + kept_for(POOLED_MAX), stream, open, standing });
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
                standing: Arc::new(watch::Sender::new(0)),
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
    /// Waits to be allowed a connection, and returns until when a new one has to be made. Fails when for `limit` nobody had one.
    async fn wait(&self, permits: &Arc<Semaphore>, limit: Duration) -> io::Result<(OwnedSemaphorePermit, Instant)> {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok((permit, Instant::now() + limit));
        }
        let mut until = Instant::now() + limit;
        let mut standing = self.standing.subscribe();
        let is_out_of_reach = async {
            // The sender lives in `self`, so only time ends these waits.
            while timeout_at(until, standing.wait_for(|standing| *standing > 0)).await.is_ok() {
                standing.wait_for(|standing| *standing == 0).await.ok();
                until = Instant::now() + limit;
            }
        };
        let permit = tokio::select! {
            // Nobody closes these semaphores.
            permit = Arc::clone(permits).acquire_owned() => permit.map_err(io::Error::other)?,
            () = is_out_of_reach => return Err(io::ErrorKind::TimedOut.into()),
        };
        // Beside connections that stand, a new one has all the time.
        let is_reached = *self.standing.borrow() > 0;
        Ok((permit, if is_reached { Instant::now() + limit } else { until }))
    }

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

/// Connects, and encrypts where that is required; both until then.
async fn dial(inner: &Inner, address: SocketAddr, until: Instant) -> Result<PullStream, TransferError> {
    let limit = inner.config.connect_timeout;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    inner.set_congestion(&socket, address.ip());
    socket.set_nodelay(true)?;
    let connecting = async {
        let stream = socket.connect(address).await.map_err(|source| unreachable(address, None, source))?;
        if !inner.config.tls {
            return Ok(PullStream::Plain(stream));
        }
        let (ring, now) = (inner.keys.ring()?, inner.config.clock.wall());
        inner.certificates.connect(ring, now, stream).await.map_err(|source| match tls::is_disagreement(&source) {
            true => inner.no_tls(address, source),
            false => unreachable(address, None, source),
        })
    };
    let timed_out = |_| Err(unreachable(address, Some(limit), io::ErrorKind::TimedOut.into()));
    timeout_at(until, connecting).await.unwrap_or_else(timed_out)
}

fn unreachable(peer: SocketAddr, limit: Option<Duration>, source: io::Error) -> TransferError {
    TransferError::Unreachable { peer, limit, source }
}

impl Inner {
    /// Counts a connection on which no TLS came to be.
    pub(crate) fn no_tls(&self, peer: SocketAddr, source: io::Error) -> TransferError {
        self.counters.tls_failures.fetch_add(1, Ordering::Relaxed);
        TransferError::Tls { peer, source }
    }
}
