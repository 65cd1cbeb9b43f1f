//! A simulated platform: what stands between callers and instances, and how many of these there are.
//!
//! | file | what it drives |
//! | --- | --- |
//! | `activator` | `balance::Throttler`, `stats::ActivatorStats`: requests on their way to an instance |
//! | `autoscaler` | `kpa`: scrapes, ticks, more or fewer instances |
//! | `pods` | instances: start, readiness, planned and unplanned ends, replacements |

mod activator;
mod autoscaler;
mod pods;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use zipline_core::balance::{Assignment, Throttler};
use zipline_core::breaker::Ticket;
use zipline_core::kpa::{Autoscaler, Collector, RequestPath};
use zipline_core::stats::{ActivatorStats, Stat};

use crate::check::queues::Line;
use crate::exec::ProcessId;
use crate::plan::ServicePlan;
use crate::wait::{Bell, Sender};
use crate::world::World;
pub(crate) use activator::route;
use pods::Pod;

/// The platform of one world.
pub(crate) struct Platform {
    pub(crate) activator: ProcessId,
    pub(crate) autoscaler: ProcessId,
    pub(crate) revisions: Vec<Rc<Revision>>,
    addresses: Cell<u32>,
    /// Addresses of instances that are no more.
    recycled: RefCell<Vec<std::net::SocketAddr>>,
    /// Nothing is replaced any more.
    is_closing: Cell<bool>,
}

/// One service's only revision.
pub(crate) struct Revision {
    pub(crate) service: usize,
    pub(crate) plan: ServicePlan,
    desired: Cell<u32>,
    path: Cell<RequestPath>,
    pods: RefCell<BTreeMap<u32, Pod>>,
    pods_made: Cell<u32>,
    desk: RefCell<Desk>,
    scaling: RefCell<Option<Scaling>>,
    pokes: RefCell<Vec<Stat>>,
    poked: Bell,
}

/// What the activator knows of a revision; gone when the activator dies.
struct Desk {
    throttler: Throttler<u32>,
    line: Line,
    waiting: BTreeMap<Ticket, Sender<Assignment<u32>>>,
    ready: BTreeSet<u32>,
    stats: ActivatorStats,
    /// How often the activator has begun.
    life: u32,
}

/// What the autoscaler knows of a revision; gone when the autoscaler dies.
struct Scaling {
    collector: Collector,
    autoscaler: Autoscaler,
}

impl Platform {
    /// Begins the platform with its first instances.
    pub(crate) fn begin(world: &Rc<World>) -> Rc<Self> {
        let revisions = world.plan.services.iter().enumerate().map(|(service, plan)| Rc::new(Revision::new(service, plan)));
        let platform = Rc::new(Self {
            activator: world.process("activator"),
            autoscaler: world.process("autoscaler"),
            revisions: revisions.collect(),
            addresses: Cell::new(0),
            recycled: RefCell::default(),
            is_closing: Cell::new(false),
        });
        world.set_platform(&platform);
        for revision in &platform.revisions {
            platform.scale_to(world, revision, revision.desired.get());
        }
        platform.run_autoscalers(world);
        platform
    }

    /// Instances that are neither gone nor told to go.
    pub(crate) fn staying(&self, service: usize) -> usize {
        self.revisions[service].pods.borrow().values().filter(|pod| pod.stays()).count()
    }

    /// Lets go of every instance.
    pub(crate) fn forget(&self) {
        for revision in &self.revisions {
            revision.pods.take();
        }
    }

    /// Requests that wait in the activator.
    pub(crate) fn waiting(&self) -> usize {
        self.revisions.iter().map(|revision| revision.desk.borrow().throttler.waiting()).sum()
    }
}

impl Revision {
    fn new(service: usize, plan: &ServicePlan) -> Self {
        let desired = plan.scaling.as_ref().map_or(plan.initial, zipline_core::kpa::KpaSpec::initial_pods);
        Self {
            service,
            plan: plan.clone(),
            desired: Cell::new(desired),
            path: Cell::new(if plan.scaling.is_some() { RequestPath::Proxy } else { RequestPath::Serve }),
            pods: RefCell::default(),
            pods_made: Cell::new(0),
            desk: RefCell::new(Desk::new(plan, 0)),
            scaling: RefCell::new(None),
            pokes: RefCell::default(),
            poked: Bell::default(),
        }
    }
}

impl Desk {
    fn new(plan: &ServicePlan, life: u32) -> Self {
        Self {
            throttler: Throttler::new(plan.concurrency),
            line: Line::default(),
            waiting: BTreeMap::new(),
            ready: BTreeSet::new(),
            stats: ActivatorStats::new("activator"),
            life,
        }
    }
}
