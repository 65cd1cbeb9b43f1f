//! One proxy's data plane: its objects, its pull port, its reads.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zipline_core::object::{Census, Counts, Epoch};
use zipline_core::pull::{NonceWindow, ObjectSize, PullMethod, Wanted};
use zipline_core::reference::{Narrowing, Reference, Token};
use zipline_core::time::WallTime;

use crate::blocks::Blocks;
use crate::config::{NodeConfig, RETURNS_MAX};
use crate::counters::{Counted, Counters, TierCounted};
use crate::error::TransferError;
use crate::handover::{self, HandoverSocket, Kept};
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::pull::pool::Pool;
use crate::pull::serve;
use crate::pull::tls::Certificates;
use crate::random;
use crate::spill::{self, Spill};
use crate::stored::lock;
use crate::tier::{self, Tier, TierError, may_lie_there};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// One proxy's data plane. Clones share it; with the last of them, and of what it has made, everything ends.
#[derive(Clone, Debug)]
pub struct Node {
    running: Arc<Running>,
}

/// Ends the tasks of a node with its last handle. They themselves have [`Inner`] only.
#[derive(Debug)]
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0.tasks).abort_all();
    }
}

/// What the node's tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: NodeConfig,
    pub(crate) keys: Arc<Keys>,
    pub(crate) epoch: Epoch,
    /// Where the pull port is reached, as references say.
    pub(crate) address: SocketAddr,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) counters: Counters,
    pub(crate) nonces: Mutex<NonceWindow>,
    pub(crate) certificates: Certificates,
    pub(crate) pool: Pool,
    pub(crate) handovers: Kept,
    pub(crate) blocks: Arc<Blocks>,
    /// Reads at once.
    pub(crate) pulls: Arc<Semaphore>,
    /// Leases being given back at once.
    pub(crate) returns: Arc<Semaphore>,
    pub(crate) tier: Option<Arc<Tier>>,
    draining: AtomicBool,
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
    congestion_refused: AtomicBool,
    _handover: Option<HandoverSocket>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pull port cannot be opened.
    #[error("pull port {address} cannot be opened: {source}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The hand-over socket cannot be opened.
    #[error("a hand-over socket in {} cannot be opened: {source}", .directory.display())]
    Handover {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory of the local disk cannot be used.
    #[error("objects can't be spilled to {}: {source}", .directory.display())]
    Spill {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread, or no randomness.
    #[error("the system refuses what a data plane needs: {0}")]
    System(#[from] io::Error),
}

/// An object as its producer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectState {
    /// Bytes that the reference shows, once that is known.
    pub size: Option<u64>,
    /// Retrievals it still grants.
    pub retrievals_left: u32,
    /// When it expires.
    pub expires: WallTime,
}

impl Node {
    /// Opens the doors and begins to serve, on the current runtime.
    ///
    /// # Errors
    /// The door that cannot be opened, with its address and the reason.
    pub async fn start(mut config: NodeConfig, keys: Arc<Keys>) -> Result<Self, StartError> {
        let refused = |source| StartError::Listen { address: config.listen, source };
        let listener = listen(config.listen).map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        let address = SocketAddr::new(config.advertised, port);
        let handover = match &config.handover_dir {
            Some(directory) => {
                let failed = |source| StartError::Handover { directory: directory.clone(), source };
                Some(HandoverSocket::bind(directory, address).map_err(failed)?)
            }
            None => None,
        };
        let (handover, handover_listener) = handover.unzip();
        let spill = match config.spill.clone() {
            Some(spill) => {
                let failed = |source| StartError::Spill { directory: spill.directory.clone(), source };
                Some(Arc::new(Spill::open(spill.clone()).map_err(failed)?))
            }
            None => None,
        };
        let ledger = Ledger::new(config.holding_limits(), config.spill_limits(), config.clock, config.shared_budget.take())?;
        let inner = Arc::new(Inner {
            keys,
            epoch: random::epoch()?,
            address,
            ledger: Arc::clone(&ledger),
            counters: Counters::default(),
            nonces: Mutex::default(),
            certificates: Certificates::default(),
            pool: Pool::default(),
            handovers: Kept::default(),
            blocks: Arc::default(),
            pulls: Arc::new(Semaphore::new(config.pulls)),
            returns: Arc::new(Semaphore::new(RETURNS_MAX)),
            tier: config.tier.clone().map(Tier::new),
            draining: AtomicBool::new(false),
            tasks: Mutex::default(),
            runtime: Handle::current(),
            congestion_refused: AtomicBool::new(false),
            _handover: handover,
            config,
        });
        inner.spawn(ledger.run_timers());
        inner.spawn(serve::listen(Arc::clone(&inner), listener));
        let pooling = Arc::clone(&inner);
        inner.spawn(async move {
            tokio::join!(pooling.pool.run_expiry(), pooling.handovers.run_expiry());
        });
        if let Some(listener) = handover_listener {
            inner.spawn(handover::listen(Arc::clone(&inner), listener));
        }
        if let Some(spill) = spill {
            inner.spawn(spill::run(Arc::clone(&inner), spill));
        }
        if let Some(tier) = &inner.tier {
            inner.spawn(tier::remove_forgotten(Arc::clone(&inner), Arc::clone(tier)));
            inner.spawn(tier::tend(Arc::clone(&inner), Arc::clone(tier)));
        }
        Ok(Self { running: Arc::new(Running(inner)) })
    }

    /// Where the pull port is reached.
    pub fn address(&self) -> SocketAddr {
        self.inner().address
    }

    /// What tells this instance from any other at its address.
    pub fn epoch(&self) -> Epoch {
        self.inner().epoch
    }

    /// The keys it seals and opens with.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.inner().keys
    }

    /// Whether references can be made and opened at all.
    pub fn has_keys(&self) -> bool {
        self.keys().is_some()
    }

    /// How it was configured.
    pub fn config(&self) -> &NodeConfig {
        &self.inner().config
    }

    /// What a token says.
    ///
    /// # Errors
    /// A token that is none, is sealed with an unknown key, or has expired.
    pub fn open(&self, token: &str) -> Result<Reference, TransferError> {
        self.keys().open(token, self.config().clock.wall())
    }

    /// A token for less than `token` gives.
    ///
    /// # Errors
    /// As [`Node::open`], and a narrowing that would widen.
    pub fn narrow(&self, token: &str, narrowing: Narrowing) -> Result<Token, TransferError> {
        let reference = self.open(token)?.narrow(narrowing)?;
        self.keys().seal(&reference, self.config().clock.wall())
    }

    /// The state of an object, wherever it is held.
    ///
    /// # Errors
    /// As [`Node::fetch`].
    pub async fn stat(&self, token: &str) -> Result<ObjectState, TransferError> {
        let reference = self.open(token)?;
        reference.check_receiver(&self.config().receivers)?;
        let wanted = self.wanted(&reference, None)?;
        let shown = |size: Option<u64>| reference.range.map_or(size, |range| Some(range.length().get()));
        let state = match (self.state(&reference, &wanted).await, self.tier_of(&reference)) {
            (Err(lost), Some(tier)) if may_lie_there(&lost) => match tier.facts(self.inner(), &wanted).await {
                Ok(copy) => ObjectState { size: Some(copy.size), retrievals_left: copy.retrievals_left, expires: copy.expires },
                Err(TransferError::Tier(TierError::NoCopy { .. })) => return Err(lost),
                Err(error) => return Err(error),
            },
            (state, _) => state?,
        };
        Ok(ObjectState { size: shown(state.size), ..state })
    }

    async fn state(&self, reference: &Reference, wanted: &Wanted) -> Result<ObjectState, TransferError> {
        if self.is_own(reference)? {
            let view = |view: zipline_core::object::View<'_, _>| ObjectState {
                size: view.size,
                retrievals_left: view.retrievals_left,
                expires: view.expires,
            };
            return Ok(self.ledger().command(|holdings, now| holdings.status(wanted.object, None, now).map(view))?);
        }
        let head = self.inner().ask(wanted, PullMethod::Head, None).await?;
        let missing = || TransferError::pull(wanted.producer)(zipline_core::pull::PullError::Contradicts("state"));
        Ok(ObjectState {
            size: head.size.and_then(ObjectSize::known),
            retrievals_left: head.retrievals_left.ok_or_else(missing)?,
            expires: head.expires.ok_or_else(missing)?,
        })
    }

    /// Ends an object for everybody. One that has ended already is no error.
    ///
    /// # Errors
    /// As [`Node::fetch`], but not for an object that is over.
    pub async fn free(&self, token: &str) -> Result<(), TransferError> {
        let reference = self.open(token)?;
        reference.check_receiver(&self.config().receivers)?;
        let wanted = self.wanted(&reference, None)?;
        match (self.free_at_producer(&reference, &wanted).await, self.tier_of(&reference)) {
            (Err(lost), Some(tier)) if may_lie_there(&lost) => match tier.facts(self.inner(), &wanted).await {
                Ok(copy) => Ok(tier.end(&wanted, &copy).await?),
                Err(TransferError::Tier(TierError::NoCopy { .. })) => Err(lost),
                Err(error) => Err(error),
            },
            (freed, _) => freed,
        }
    }

    async fn free_at_producer(&self, reference: &Reference, wanted: &Wanted) -> Result<(), TransferError> {
        if self.is_own(reference)? {
            self.ledger().command(|holdings, now| holdings.free(wanted.object, now));
            return Ok(());
        }
        self.inner().ask(wanted, PullMethod::Free, None).await.map(|_| ())
    }

    /// What is held and received now.
    pub fn census(&self) -> Census {
        self.ledger().census()
    }

    /// What happened to objects and leases since the start.
    pub fn counts(&self) -> Counts {
        self.ledger().counts()
    }

    /// What passed over connections since the start.
    pub fn counters(&self) -> Counted {
        self.inner().counters.read(self.inner().pool.open())
    }

    /// What was done with the durable tier since the start; `None` without one.
    pub fn tier(&self) -> Option<TierCounted> {
        self.inner().tier.as_ref().map(|tier| tier.counters.counted(tier.is_up()))
    }

    /// From now on no new puts; those that wait are refused. What is held stays readable, and what was promised to
    /// outlive this instance is written to the durable tier.
    pub fn drain(&self) {
        let inner = self.inner();
        self.ledger().command(|holdings, _| holdings.drain());
        if let Some(tier) = &inner.tier
            && !inner.draining.swap(true, Ordering::Relaxed)
        {
            inner.spawn(tier::drain(Arc::clone(inner), Arc::clone(tier)));
        }
    }

    /// Returns once nothing that is held needs this instance: all retrieved, released, expired, aborted, or in the
    /// durable tier and not being read; and the copies of what has ended are removed.
    pub async fn unneeded(&self) {
        self.ledger().unneeded().await;
        if let Some(tier) = &self.inner().tier {
            tier.settled().await;
        }
    }

    /// Closes every door and connection; what is still held is given up and said. Writers and reads that are left fail.
    pub async fn stop(&self) -> Census {
        let mut tasks = std::mem::take(&mut *lock(&self.inner().tasks));
        tasks.shutdown().await;
        self.census()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.running.0
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.inner().ledger
    }
}

impl Inner {
    /// Starts a task that ends with the node.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Sets the congestion control of a pull connection. Where the kernel refuses, the system's stays, which is said once.
    pub(crate) fn set_congestion(&self, socket: &impl AsFd, peer: IpAddr) {
        let Some(name) = self.config.congestion.for_peer(peer) else { return };
        if let Err(error) = zipline_sys::congestion::set_congestion(socket, name)
            && !self.congestion_refused.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(congestion = name, %error, "congestion control cannot be set; the system's is used");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // A restarted instance must not wait for its predecessor's last connections.
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
