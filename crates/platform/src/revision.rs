//! A revision: what a service's instances run, and everything known about it.
//!
//! This is the meeting point: the ingress reads the path and brings requests to the activator, the control API reads
//! state, and one task, [`autoscaler::run`](crate::autoscaler), owns the instances and writes. Others ask things of
//! that task through [`Revision::demand`] and [`Revision::poke`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use zipline_core::kpa::{KpaSpec, RequestPath, Tick};
use zipline_core::stats::Stat;

use crate::activator::{Activator, Traffic};
use crate::changes::Changes;
use crate::manifest::{RevisionSpec, ServiceName};
use crate::supervisor::{Instance, InstanceLog, StopMode};

/// Reports that wait for the autoscaler; while one waits it is about to look anyway, so more may be dropped.
const POKES_MAX: usize = 16;
/// Logs kept of instances that have ended.
const ENDED_LOGS_MAX: usize = 16;

/// What is asked of a revision's autoscaler.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    /// Annotations over the settings in force.
    pub(crate) autoscaling: Arc<KpaSpec>,
    /// Whether a route leads to it, or is about to.
    pub(crate) reachable: bool,
    /// End all instances, and then yourself.
    pub(crate) end: Option<StopMode>,
}

/// A revision of a service.
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) service: ServiceName,
    pub(crate) spec: Arc<RevisionSpec>,
    pub(crate) activator: Arc<Activator>,
    pub(crate) through_activator: Arc<Traffic>,
    pub(crate) past_activator: Arc<Traffic>,
    path: AtomicBool,
    was_ready: AtomicBool,
    demand: watch::Sender<Demand>,
    pokes: mpsc::Sender<Stat>,
    instances: Mutex<Vec<Arc<Instance>>>,
    last_tick: Mutex<Option<Tick>>,
    /// Why the last instance could not be started, if so.
    trouble: Mutex<Option<String>>,
    ended_logs: Mutex<VecDeque<Arc<InstanceLog>>>,
    tunnels: Mutex<JoinSet<()>>,
    changes: Changes,
}

/// The ends of a revision's channels that its autoscaler holds.
pub(crate) struct Inbox {
    pub(crate) demand: watch::Receiver<Demand>,
    pub(crate) pokes: mpsc::Receiver<Stat>,
}

impl Revision {
    pub(crate) fn new(
        name: String,
        service: ServiceName,
        spec: Arc<RevisionSpec>,
        autoscaling: Arc<KpaSpec>,
        changes: Changes,
    ) -> (Arc<Self>, Inbox) {
        let (demand, demanded) = watch::channel(Demand { autoscaling, reachable: true, end: None });
        let (pokes, poked) = mpsc::channel(POKES_MAX);
        let revision = Self {
            name,
            service,
            activator: Arc::new(Activator::new(spec.limits.container_concurrency)),
            spec,
            through_activator: Arc::default(),
            past_activator: Arc::default(),
            path: AtomicBool::new(true),
            was_ready: AtomicBool::new(false),
            demand,
            pokes,
            instances: Mutex::new(Vec::new()),
            last_tick: Mutex::new(None),
            trouble: Mutex::new(None),
            ended_logs: Mutex::new(VecDeque::new()),
            tunnels: Mutex::new(JoinSet::new()),
            changes,
        };
        (Arc::new(revision), Inbox { demand: demanded, pokes: poked })
    }

    /// The way requests take now.
    pub(crate) fn path(&self) -> RequestPath {
        if self.path.load(Ordering::Acquire) { RequestPath::Proxy } else { RequestPath::Serve }
    }

    pub(crate) fn set_path(&self, path: RequestPath) {
        self.path.store(path == RequestPath::Proxy, Ordering::Release);
    }

    /// Brings an activator's report to the autoscaler before its turn.
    pub(crate) fn poke(&self, stat: Stat) {
        if self.pokes.try_send(stat).is_err() {
            tracing::trace!(revision = self.name, "the autoscaler is about to look anyway");
        }
    }

    /// Changes what is asked of it.
    pub(crate) fn demand(&self, change: impl FnOnce(&mut Demand)) {
        self.demand.send_modify(change);
    }

    /// What is asked of it.
    pub(crate) fn demanded(&self) -> Demand {
        self.demand.borrow().clone()
    }

    /// Its instances, those that are stopping included.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        lock(&self.instances).clone()
    }

    pub(crate) fn set_instances(&self, instances: Vec<Arc<Instance>>) {
        *lock(&self.instances) = instances;
        self.changes.note();
    }

    /// Whether an instance has been ready at least once, or none was needed.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready.load(Ordering::Acquire)
    }

    /// Answers whether this was the first time.
    pub(crate) fn note_ready(&self) -> bool {
        let first = !self.was_ready.swap(true, Ordering::AcqRel);
        if first {
            self.changes.note();
        }
        first
    }

    pub(crate) fn last_tick(&self) -> Option<Tick> {
        *lock(&self.last_tick)
    }

    pub(crate) fn set_last_tick(&self, tick: Tick) {
        *lock(&self.last_tick) = Some(tick);
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    /// Keeps the log of an instance that has ended.
    pub(crate) fn keep_log(&self, log: Arc<InstanceLog>) {
        let mut logs = lock(&self.ended_logs);
        if logs.len() == ENDED_LOGS_MAX {
            logs.pop_front();
        }
        logs.push_back(log);
    }

    /// Logs of its instances: those that ended first, oldest in front.
    pub(crate) fn logs(&self) -> Vec<Arc<InstanceLog>> {
        let mut logs: Vec<Arc<InstanceLog>> = lock(&self.ended_logs).iter().cloned().collect();
        logs.extend(lock(&self.instances).iter().map(|instance| Arc::clone(&instance.log)));
        logs
    }

    /// Owns the task of an upgraded connection, which ends with the revision.
    pub(crate) fn tunnel(&self, tunnel: impl Future<Output = ()> + Send + 'static) {
        let mut tunnels = lock(&self.tunnels);
        while tunnels.try_join_next().is_some() {}
        tunnels.spawn(tunnel);
    }

    /// Cuts what is still going on.
    pub(crate) fn cut_tunnels(&self) {
        lock(&self.tunnels).abort_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each holds one value that is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
