//! A simulated queue-proxy: the driver around core's decisions, as `transfer` and the queue-proxy are in earnest.
//!
//! | file | what it drives |
//! | --- | --- |
//! | `ledger` | `object::Holdings` and its timer |
//! | `put` | a writer: room, bytes, end |
//! | `serve`, `send` | the producer's side of a pull and of a hand-over |
//! | `fetch`, `read`, `pool` | the consumer's side: references, `pull::PullReader`, leases |
//! | `ingress` | a request on its way to the function: `breaker::Breaker`, the payload, the answer |
//! | `invoke` | a request on its way out: the payload becomes an object |
//! | `life` | `drain::Drain`, the function's crashes, the process's end |

pub(crate) mod fetch;
pub(crate) mod ingress;
pub(crate) mod invoke;
pub(crate) mod ledger;
mod life;
mod pool;
pub(crate) mod put;
mod read;
mod send;
mod serve;

use core::num::NonZeroU32;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use zipline_core::breaker::{Breaker, Ticket};
use zipline_core::drain::{Drain, DrainLimits};
use zipline_core::object::{Epoch, Now};
use zipline_core::pull::{NonceWindow, PeerPolicy};
use zipline_core::reference::{KeyRing, Receiver};
use zipline_core::stats::RequestStats;
use zipline_core::time::Monotonic;

use crate::check::books::Books;
use crate::check::queues::Line;
use crate::exec::ProcessId;
use crate::wait::{Bell, Permits, Sender};
use crate::world::World;
use ledger::Table;
use pool::Pool;

/// The trust domain's one pull port.
pub(crate) const PULL_PORT: u16 = 8122;
/// Leases that are being given back at once; beyond it they are left to lapse.
const RETURNS_MAX: usize = 64;

/// One queue-proxy, with or without a function.
pub(crate) struct Proxy {
    pub(crate) world: Rc<World>,
    pub(crate) process: ProcessId,
    pub(crate) address: SocketAddr,
    pub(crate) epoch: Epoch,
    /// Which service's instance; `None`: the client's proxy.
    pub(crate) service: Option<usize>,
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) started: Monotonic,
    table: RefCell<Table>,
    rearm: Bell,
    nonces: RefCell<NonceWindow>,
    ring: RefCell<Rc<KeyRing>>,
    peers: PeerPolicy,
    pulls: Rc<Permits>,
    returns: Rc<Permits>,
    serving: Rc<Permits>,
    pool: Pool,
    breaker: Option<RefCell<Gate>>,
    pub(crate) stats: RefCell<RequestStats>,
    drain: RefCell<Drain>,
    drain_changed: Bell,
    told_at: Cell<Option<Monotonic>>,
    requests: Cell<u64>,
    function_lives: Cell<u32>,
    function_bell: Bell,
}

/// The breaker, and who waits in front of it.
pub(crate) struct Gate {
    breaker: Breaker,
    waiting: BTreeMap<Ticket, Sender<()>>,
    line: Line,
    places: usize,
}

/// What a proxy is made of.
pub(crate) struct Birth {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) service: Option<usize>,
}

impl Proxy {
    /// Begins a proxy: it listens, and its timers run.
    pub(crate) fn begin(world: &Rc<World>, birth: Birth) -> Rc<Self> {
        let settings = world.settings();
        let process = world.process(birth.name);
        let concurrency = birth.service.map_or(0, |service| world.plan.services[service].concurrency);
        let breaker = NonZeroU32::new(concurrency).map(|concurrency| {
            let (breaker, places) = (Breaker::for_instance(concurrency), concurrency.get() as usize);
            RefCell::new(Gate { breaker, waiting: BTreeMap::new(), line: Line::default(), places })
        });
        let peers = PeerPolicy::parse("10.0.0.0/8", None, PULL_PORT);
        let proxy = Rc::new(Self {
            process,
            address: birth.address,
            epoch: world.epoch(),
            service: birth.service,
            receivers: birth.service.map(receiver_of).into_iter().collect(),
            started: world.now(),
            table: RefCell::new(Table::new(settings.limits)),
            rearm: Bell::default(),
            nonces: RefCell::default(),
            ring: RefCell::new(Rc::clone(&world.ring.borrow())),
            peers: peers.expect("the setting is a network"),
            pulls: Permits::new(&world.exec, settings.pulls),
            returns: Permits::new(&world.exec, RETURNS_MAX),
            serving: Permits::new(&world.exec, settings.pull_connections),
            pool: Pool::default(),
            breaker,
            stats: RefCell::new(RequestStats::new(world.now())),
            drain: RefCell::new(Drain::new(DrainLimits { quiet: settings.quiet, grace: settings.grace })),
            drain_changed: Bell::default(),
            told_at: Cell::new(None),
            requests: Cell::new(0),
            function_lives: Cell::new(0),
            function_bell: Bell::default(),
            world: Rc::clone(world),
        });
        world.check.opened(process, Books::new(settings.limits, world.slack(process)));
        world.proxies.borrow_mut().insert(process, Rc::clone(&proxy));
        world.net.listen(proxy.address, &proxy);
        world.note(process, || format!("begins at {} with epoch {}", proxy.address, proxy.epoch));
        proxy.run();
        proxy
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        self.world.clocks(self.process)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.world.exec.is_alive(self.process)
    }

    /// Begins a task of this proxy.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.exec.spawn(self.process, task);
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(self.process, what);
    }

    /// The ring was replaced in the file that this proxy reads.
    pub(crate) fn reread_ring(&self) {
        let ring = Rc::clone(&self.world.ring.borrow());
        self.note(|| format!("reads a ring of {} keys", ring.keys().len()));
        self.ring.replace(ring);
    }

    pub(crate) fn ring(&self) -> Rc<KeyRing> {
        Rc::clone(&self.ring.borrow())
    }
}

/// The name of a service as a receiver.
pub(crate) fn receiver_of(service: usize) -> Receiver {
    Receiver::new("default", &format!("service-{service}")).expect("both are DNS labels")
}

impl core::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Proxy({:?})", self.process)
    }
}
