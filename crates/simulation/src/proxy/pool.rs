//! Connections to producers: kept for the next question, bounded for each producer.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::time::Monotonic;

use super::Proxy;
use crate::coverage::Transition as T;
use crate::exec::NATURE;
use crate::net::{Door, End};
use crate::wait::{Permit, Permits, timeout_at};

/// A kept connection is closed after this.
const POOLED_MAX: Duration = Duration::from_secs(15);
/// Connections beside those that read, to one producer.
const CONTROL_CONNECTIONS_MAX: usize = 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Control,
}

/// The connections of one proxy to all producers.
#[derive(Default)]
pub(super) struct Pool {
    peers: RefCell<BTreeMap<SocketAddr, Rc<Peer>>>,
}

struct Peer {
    reads: Rc<Permits>,
    controls: Rc<Permits>,
    idle: RefCell<Vec<(Monotonic, End)>>,
}

/// A connection in use. Dropping it closes it.
pub(super) struct Connection {
    pub(super) end: End,
    pub(super) reused: bool,
    peer: Rc<Peer>,
    _permit: Permit,
}

impl Proxy {
    /// A connection to a producer, kept or new.
    pub(super) async fn connection(self: &Rc<Self>, to: SocketAddr, what: Use) -> Result<Connection, ErrorCode> {
        self.peers.check(to).map_err(|forbidden| forbidden.code())?;
        let world = &self.world;
        let peer = Rc::clone(self.pool.peers.borrow_mut().entry(to).or_insert_with(|| {
            Rc::new(Peer {
                reads: Permits::new(&world.exec, world.settings().peer_connections),
                controls: Permits::new(&world.exec, CONTROL_CONNECTIONS_MAX),
                idle: RefCell::default(),
            })
        }));
        let permits = match what {
            Use::Read => &peer.reads,
            Use::Control => &peer.controls,
        };
        let permit = permits.acquire().await;
        let kept = peer.take_idle(world.now());
        let reused = kept.is_some();
        let end = match kept {
            Some(end) => end,
            None => {
                let until = world.now() + world.settings().connect_timeout;
                let dialled = timeout_at(&world.exec, until, world.connect(self.process, to, Door::Pull)).await;
                let Ok(Ok(end)) = dialled else {
                    world.hit(T::Unreachable);
                    self.note(|| format!("cannot reach {to}: {}", if dialled.is_err() { "no answer" } else { "refused" }));
                    return Err(ErrorCode::ProducerUnreachable);
                };
                end
            }
        };
        Ok(Connection { end, reused, peer, _permit: permit })
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn park(&self, connection: Connection) {
        let Connection { end, peer, .. } = connection;
        let until = self.world.now() + POOLED_MAX;
        peer.idle.borrow_mut().push((until, end));
        let (world, peer) = (Rc::clone(&self.world), Rc::downgrade(&peer));
        self.world.exec.spawn(NATURE, async move {
            world.exec.sleep_until(until).await;
            if let Some(peer) = peer.upgrade() {
                let expired: Vec<_> = peer.idle.borrow_mut().extract_if(.., |(until, _)| *until <= world.now()).collect();
                drop(expired);
            }
        });
    }

    /// Closes what is kept.
    pub(super) fn close_pool(&self) {
        self.pool.peers.take();
    }
}

impl Peer {
    /// The one used last, unless the other side has closed it.
    fn take_idle(&self, now: Monotonic) -> Option<End> {
        loop {
            let (until, end) = self.idle.borrow_mut().pop()?;
            if until > now && !end.is_readable() {
                return Some(end);
            }
        }
    }
}
