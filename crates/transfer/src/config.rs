//! What a node is told at its start, and the limits that nobody sets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use zipline_contract::limits::SPILL_WATERMARK_PERCENT;
use zipline_core::object::{HoldingLimits, RoomLimits, SpillLimits};
use zipline_core::pull::{PeerPolicy, ReaderLimits};
use zipline_core::reference::Receiver;
use zipline_core::tier::Durability;
use zipline_sys::SharedBudget;

use crate::clock::Clock;
use crate::tier::TierConfig;

/// A head on the pull port must have come whole after this; also the first message of a hand-over connection.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection to the pull port without a request is closed after this.
pub(crate) const SERVER_IDLE_MAX: Duration = Duration::from_secs(60);
/// A pooled connection is closed after this, well before the other side would.
pub(crate) const POOLED_MAX: Duration = Duration::from_secs(15);
/// Connections beside those that read, to one producer: acknowledgements must not wait for bodies.
pub(crate) const CONTROL_CONNECTIONS_MAX: usize = 4;
/// Connections that are kept without use, over all producers. Each costs one descriptor on both sides.
pub(crate) const POOLED_CONNECTIONS_MAX: usize = 128;
/// A question to a producer (state, acknowledgement, release, end) must be answered after this.
pub(crate) const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// A reader of an object that is still being written hears from it at least this often.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Leases that are being given back at once; beyond it they are left to lapse.
pub(crate) const RETURNS_MAX: usize = 64;
/// Hand-over connections served at once; more are closed at once. Each may hold one descriptor.
pub(crate) const HANDOVER_CONNECTIONS_MAX: usize = 1024;
/// Hand-over connections that are kept without a lease, over all producers; the longest unused is closed for one more.
pub(crate) const HANDOVER_KEPT_MAX: usize = 64;
/// Room that a writer of unknown size takes at a time, at first; it doubles up to [`GROW_BYTES_MAX`].
pub(crate) const GROW_BYTES_MIN: u64 = 256 * 1024;
/// Room that a writer of unknown size takes at a time, at most.
pub(crate) const GROW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Work on that many bytes of memory files or sums, or more, is done off the event loop: it takes about 50 us there.
pub(crate) const OFF_LOOP_BYTES: usize = 256 * 1024;
/// Blocks that are kept for the next read, 1 MiB each.
pub(crate) const BLOCKS_KEPT: usize = 4;

const _: () = assert!(POOLED_MAX.as_secs() < SERVER_IDLE_MAX.as_secs(), "the consumer closes first");

/// Everything about one node. Each field follows the setting of its name, where there is one.
#[derive(Debug)]
pub struct NodeConfig {
    /// Where the pull port listens. With port 0 the kernel chooses, and [`NodeConfig::peers`] must allow it.
    pub listen: SocketAddr,
    /// The address in references, where the pull port is reached; its port is that of [`NodeConfig::listen`].
    pub advertised: IpAddr,
    /// As whom this node reads: `NAMESPACE/SERVICE`. References for others are refused. The first is told to producers.
    pub receivers: Vec<Receiver>,
    /// Which producers are dialled.
    pub peers: PeerPolicy,
    /// Objects below it lie on the heap.
    pub heap_threshold_bytes: u64,
    /// Bytes held, and separately bytes being received.
    pub buffer_bytes: u64,
    /// Objects held.
    pub buffer_objects: usize,
    /// Puts that wait for room.
    pub put_waiters: usize,
    /// How long they wait.
    pub put_wait: Duration,
    /// Expiry of a put that names none.
    pub put_ttl: Duration,
    /// Longest expiry a put may ask for.
    pub ttl_max: Duration,
    /// Limit of a drain: objects are promised for no longer than that.
    pub grace: Duration,
    /// Leases an object grants beyond its retrievals.
    pub attempts_extra: u32,
    /// A lease without progress lapses after it.
    pub lease: Duration,
    /// A read without progress ends after it.
    pub pull_idle_timeout: Duration,
    /// Connecting ends after it.
    pub connect_timeout: Duration,
    /// How often one read goes on over a new connection.
    pub pull_resumes: u32,
    /// Connections the pull port serves.
    pub pull_connections: usize,
    /// Connections to one producer that read.
    pub pull_peer_connections: usize,
    /// Reads at once.
    pub pulls: usize,
    /// Congestion control of pulls.
    pub congestion: Congestion,
    /// Whether pulls go over mutual TLS only, made and accepted.
    pub tls: bool,
    /// Directory of the hand-over sockets; `None`: off.
    pub handover_dir: Option<PathBuf>,
    /// The budget shared with other proxies, and our slot in it.
    pub shared_budget: Option<(SharedBudget, usize)>,
    /// Durability of a put that names none; more than [`Durability::None`] needs a tier.
    pub durability: Durability,
    /// The durable tier; `None`: nothing ever goes to a store.
    pub tier: Option<TierConfig>,
    /// The local disk behind memory; `None`: none.
    pub spill: Option<SpillConfig>,
    /// The clocks.
    pub clock: Clock,
}

/// A local disk behind memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillConfig {
    /// A directory that only this user may enter; it is made where it is not there.
    pub directory: PathBuf,
    /// Bytes of objects in it.
    pub bytes_max: u64,
}

/// TCP congestion control of pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// `reno` where both ends are loopback addresses (a pacing default is several times slower there), else the system's.
    Auto,
    /// The system's.
    System,
    /// This one, by the kernel's name.
    Named(String),
}

impl Congestion {
    /// The algorithm to ask the kernel for, on a connection with this address at its end.
    pub(crate) fn for_peer(&self, peer: IpAddr) -> Option<&str> {
        match self {
            Self::Auto if peer.is_loopback() => Some("reno"),
            Self::Auto | Self::System => None,
            Self::Named(name) => Some(name),
        }
    }
}

impl NodeConfig {
    /// The settings' defaults, for a node at one address.
    pub fn new(listen: SocketAddr, peers: PeerPolicy) -> Self {
        Self {
            listen,
            advertised: listen.ip(),
            receivers: Vec::new(),
            peers,
            heap_threshold_bytes: 32 * 1024,
            buffer_bytes: 512 * 1024 * 1024,
            buffer_objects: 200_000,
            put_waiters: 256,
            put_wait: Duration::from_secs(5),
            put_ttl: Duration::from_secs(300),
            ttl_max: Duration::from_secs(3600),
            grace: Duration::from_secs(300),
            attempts_extra: 8,
            lease: Duration::from_secs(30),
            pull_idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            pull_resumes: 4,
            pull_connections: 1024,
            pull_peer_connections: 16,
            pulls: 256,
            congestion: Congestion::Auto,
            tls: false,
            handover_dir: None,
            shared_budget: None,
            durability: Durability::None,
            tier: None,
            spill: None,
            clock: Clock::system(),
        }
    }

    pub(crate) fn holding_limits(&self) -> HoldingLimits {
        let room = |places_max| RoomLimits {
            bytes_max: self.buffer_bytes,
            places_max,
            waiters_max: self.put_waiters,
            wait_max: self.put_wait,
        };
        HoldingLimits {
            held: room(self.buffer_objects),
            receiving: room(self.buffer_objects),
            attempts_extra: self.attempts_extra,
            lease: self.lease,
        }
    }

    pub(crate) fn spill_limits(&self) -> Option<SpillLimits> {
        self.spill.as_ref().map(|spill| SpillLimits {
            bytes_max: spill.bytes_max,
            watermark_bytes: self.buffer_bytes / 100 * SPILL_WATERMARK_PERCENT,
            object_bytes_min: self.heap_threshold_bytes,
        })
    }

    pub(crate) fn reader_limits(&self) -> ReaderLimits {
        ReaderLimits { resumes_max: self.pull_resumes, idle: self.pull_idle_timeout }
    }
}
