//! The buffer in front of a revision: it holds requests until an instance has room for them.
//!
//! `zipline_core::balance` decides who goes where and who waits; this wraps it for tasks that wait. A [`Place`] is a
//! request's room at an instance and gives it back when dropped, and so does whoever stops waiting. Beside the places
//! that respect the revision's concurrency there are direct ones, for when there is capacity to spare and the
//! activator is out of the path.
//!
//! Payloads stream past (`ingress::forward`); the activator never holds one.

mod traffic;
pub(crate) mod upstream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use zipline_core::balance::{Assignment, Route, Throttler};
use zipline_core::breaker::{QueueFull, Ticket};
use zipline_core::stats::{ActivatorReport, ActivatorStats, Stat};

use crate::clock;
use crate::supervisor::{Busy, Instance};
pub use traffic::PathCount;
pub(crate) use traffic::{Outcome, Traffic};
use upstream::Upstream;

/// Why a request got no place.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum NoPlace {
    #[error(transparent)]
    Full(#[from] QueueFull),
    #[error("no instance became ready for the request in time")]
    Late,
    #[error("the service was deleted while the request waited")]
    Closed,
}

/// A ready instance and the connections to it.
pub(crate) struct Backend {
    pub(crate) instance: Arc<Instance>,
    pub(crate) upstream: Upstream,
}

/// The activator of one revision.
pub(crate) struct Activator {
    inner: Mutex<Inner>,
}

struct Inner {
    throttler: Throttler<Key>,
    /// Without a limit: for requests that do not go through the activator.
    direct: Throttler<Key>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Assignment<Key>>>,
    backends: BTreeMap<Key, Arc<Backend>>,
    stats: ActivatorStats,
    closed: bool,
}

/// Instances in the order of their addresses, which is the order of their making.
type Key = std::net::Ipv4Addr;

impl Activator {
    /// An activator without instances, for a revision whose instances run `container_concurrency` requests at once.
    pub(crate) fn new(container_concurrency: u32) -> Self {
        Self {
            inner: Mutex::new(Inner {
                throttler: Throttler::new(container_concurrency),
                direct: Throttler::new(0),
                waiting: BTreeMap::new(),
                backends: BTreeMap::new(),
                stats: ActivatorStats::new("activator"),
                closed: false,
            }),
        }
    }

    /// Names the instances that are ready now, and lets those in who wait for them.
    pub(crate) fn set_ready(&self, instances: &[Arc<Instance>]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut known = std::mem::take(&mut inner.backends);
        for instance in instances {
            let backend = known.remove(&instance.address).unwrap_or_else(|| {
                Arc::new(Backend { instance: Arc::clone(instance), upstream: Upstream::new(instance.request_address()) })
            });
            inner.backends.insert(instance.address, backend);
        }
        let keys = || instances.iter().map(|instance| instance.address);
        let nobody = inner.direct.set_pods(keys(), below);
        debug_assert!(nobody.is_empty(), "nobody waits for a direct place");
        for (ticket, assignment) in inner.throttler.set_pods(keys(), below) {
            inner.let_in(ticket, assignment);
        }
    }

    /// Nothing listens at an instance that was taken for ready: it gets no more requests until it was probed again.
    pub(crate) fn unreachable(&self, instance: &Instance) {
        instance.unreachable();
        let ready: Vec<Arc<Instance>> = {
            let inner = self.lock();
            let others = inner.backends.values().filter(|backend| backend.instance.address != instance.address);
            others.map(|backend| Arc::clone(&backend.instance)).collect()
        };
        self.set_ready(&ready);
    }

    /// A place at an instance that has room; waits for one until `deadline`.
    pub(crate) async fn place(self: &Arc<Self>, deadline: Instant) -> Result<Place, NoPlace> {
        let mut waiting = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(NoPlace::Closed);
            }
            match inner.throttler.arrive(below)? {
                Route::To(assignment) => return inner.placed(self, assignment, Kind::Throttled).ok_or(NoPlace::Closed),
                Route::Wait(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    inner.waiting.insert(ticket, sender);
                    Waiting { activator: self, ticket, receiver }
                }
            }
        };
        let assignment = match timeout_at(deadline, &mut waiting.receiver).await {
            Ok(Ok(assignment)) => assignment,
            Ok(Err(_closed)) => return Err(NoPlace::Closed),
            Err(_elapsed) => return Err(NoPlace::Late),
        };
        self.lock().placed(self, assignment, Kind::Throttled).ok_or(NoPlace::Closed)
    }

    /// A place at a ready instance, whatever it has to do; `None` when none is ready.
    pub(crate) fn direct_place(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.lock();
        if inner.backends.is_empty() || inner.closed {
            return None;
        }
        match inner.direct.arrive(below).ok()? {
            Route::To(assignment) => inner.placed(self, assignment, Kind::Direct),
            Route::Wait(ticket) => {
                inner.direct.abandon(ticket);
                None
            }
        }
    }

    /// Takes note of a request, from its arrival until the answered guard is dropped. The `Stat`, if there is one, must
    /// reach the autoscaler at once.
    pub(crate) fn count_request(self: &Arc<Self>) -> (InFlight, Option<Stat>) {
        let ahead = self.lock().stats.request_in(clock::now());
        (InFlight { activator: Arc::clone(self) }, ahead)
    }

    /// What happened since the last report.
    pub(crate) fn report(&self) -> Option<ActivatorReport> {
        self.lock().stats.report(clock::now())
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().throttler.waiting()
    }

    /// Requests between their arrival and their end, waiting ones included.
    pub(crate) fn in_flight(&self) -> u64 {
        self.lock().stats.in_flight()
    }

    /// Gives nobody a place any more, and refuses those who wait.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every step leaves whole state behind, or panics before it changed anything.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn let_in(&mut self, ticket: Ticket, assignment: Assignment<Key>) {
        // Whoever waits holds its receiver until it has abandoned its ticket under this lock: sending can't fail
        // unless the activator was closed, and then places do not matter any more.
        if let Some(sender) = self.waiting.remove(&ticket)
            && sender.send(assignment).is_err()
        {
            debug_assert!(self.closed, "a waiter left without abandoning its ticket");
        }
    }

    fn placed(&mut self, activator: &Arc<Activator>, assignment: Assignment<Key>, kind: Kind) -> Option<Place> {
        // An instance that stopped being ready after it was assigned is still the best there is: it drains.
        match self.backends.get(&assignment.pod) {
            Some(backend) => {
                let busy = backend.instance.count_request();
                let (activator, backend) = (Arc::clone(activator), Arc::clone(backend));
                Some(Place { activator, backend, assignment, kind, _busy: busy })
            }
            None => {
                self.finish(&assignment, kind);
                None
            }
        }
    }

    fn finish(&mut self, assignment: &Assignment<Key>, kind: Kind) {
        match kind {
            Kind::Throttled => {
                if let Some((ticket, assignment)) = self.throttler.finish(assignment, below) {
                    self.let_in(ticket, assignment);
                }
            }
            Kind::Direct => {
                let nobody = self.direct.finish(assignment, below);
                debug_assert!(nobody.is_none(), "nobody waits for a direct place");
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Throttled,
    Direct,
}

/// A request's room at an instance, given back when this is dropped.
pub(crate) struct Place {
    activator: Arc<Activator>,
    pub(crate) backend: Arc<Backend>,
    assignment: Assignment<Key>,
    kind: Kind,
    _busy: Busy,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.activator.lock().finish(&self.assignment, self.kind);
    }
}

struct Waiting<'a> {
    activator: &'a Activator,
    ticket: Ticket,
    receiver: oneshot::Receiver<Assignment<Key>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.activator.lock();
        inner.waiting.remove(&self.ticket);
        if !inner.throttler.abandon(self.ticket)
            && let Ok(assignment) = self.receiver.try_recv()
        {
            // Let in between its deadline and now: the place goes to the next.
            inner.finish(&assignment, Kind::Throttled);
        }
    }
}

/// A request that counts as in flight until this is dropped.
pub(crate) struct InFlight {
    activator: Arc<Activator>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activator.lock().stats.request_out(clock::now());
    }
}

fn below(n: usize) -> usize {
    if n <= 1 { 0 } else { rand::random_range(0..n) }
}
