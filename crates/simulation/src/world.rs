//! Everything that one schedule's processes share: time, dice, wires, faults, checkers.

use core::time::Duration;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use zipline_core::object::{Epoch, LeaseId, Now, ObjectId};
use zipline_core::pull::Nonce;
use zipline_core::reference::KeyRing;
use zipline_core::time::{Monotonic, WallTime};

use crate::check::{Check, Invariant};
use crate::coverage::{Counter, Transition};
use crate::exec::{Exec, ProcessId};
use crate::faults::{FaultKind, Faults};
use crate::net::Net;
use crate::plan::{Plan, Settings};
use crate::platform::Platform;
use crate::proxy::Proxy;
use crate::random::Rng;
use crate::trace::Trace;
use crate::wait::Bell;

/// Civil time when a schedule begins.
const WALL_START_MS: u64 = 1_800_000_000_000;
/// A timer that fires late does so by at most this.
pub(crate) const LATE_MS_MAX: u64 = 800;
/// A process is frozen for at most this.
pub(crate) const FREEZE_MS_MAX: u64 = 6_000;

/// One schedule's world.
pub(crate) struct World {
    pub(crate) exec: Rc<Exec>,
    pub(crate) plan: Plan,
    pub(crate) faults: Faults,
    pub(crate) net: Net,
    pub(crate) check: Check,
    pub(crate) trace: Trace,
    pub(crate) coverage: Counter,
    pub(crate) proxies: RefCell<BTreeMap<ProcessId, Rc<Proxy>>>,
    /// The ring that new processes get.
    pub(crate) ring: RefCell<Rc<KeyRing>>,
    dice: RefCell<Rng>,
    ids: RefCell<Rng>,
    names: RefCell<Vec<String>>,
    clocks: RefCell<Vec<Clock>>,
    /// Bytes that each proxy holds of a shared budget.
    held: RefCell<BTreeMap<ProcessId, u64>>,
    platform: OnceCell<Rc<Platform>>,
    client: RefCell<Option<Rc<Proxy>>>,
    work_left: Cell<usize>,
    work_done: Bell,
}

/// What is wrong with a process's time.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    /// How far the wall clock is ahead, in milliseconds.
    ahead: i64,
    /// For how long it was frozen in all.
    frozen: Duration,
    has_jumped: bool,
}

/// A piece of work that is not done. Dropping it says that it is, or never will be.
pub(crate) struct Undone(Rc<World>);

impl Drop for Undone {
    fn drop(&mut self) {
        self.0.work_left.set(self.0.work_left.get() - 1);
        self.0.work_done.ring(&self.0.exec);
    }
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, faults: Faults, trace: Trace, ring: KeyRing) -> Rc<Self> {
        Rc::new(Self {
            exec: Rc::new(Exec::new(Rng::new(seed, 0x0e))),
            plan,
            faults,
            net: Net::default(),
            check: Check::default(),
            trace,
            coverage: Counter::default(),
            proxies: RefCell::default(),
            ring: RefCell::new(Rc::new(ring)),
            dice: RefCell::new(Rng::new(seed, 0xd1ce)),
            ids: RefCell::new(Rng::new(seed, 0x1d)),
            names: RefCell::new(vec!["nature".to_owned()]),
            clocks: RefCell::new(vec![Clock::default()]),
            held: RefCell::default(),
            platform: OnceCell::new(),
            client: RefCell::new(None),
            work_left: Cell::new(0),
            work_done: Bell::default(),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.plan.settings
    }

    /// A new process with that name.
    pub(crate) fn process(&self, name: impl Into<String>) -> ProcessId {
        self.names.borrow_mut().push(name.into());
        self.clocks.borrow_mut().push(Clock::default());
        self.exec.process()
    }

    pub(crate) fn name(&self, process: ProcessId) -> String {
        self.names.borrow()[process.0 as usize].clone()
    }

    /// Notes what happened to a process.
    pub(crate) fn note(&self, process: ProcessId, what: impl FnOnce() -> String) {
        self.trace.note(self.exec.now(), &self.names.borrow()[process.0 as usize], what);
    }

    pub(crate) fn hit(&self, transition: Transition) {
        self.coverage.hit(transition);
    }

    pub(crate) fn now(&self) -> Monotonic {
        self.exec.now()
    }

    /// Both clocks of a process.
    pub(crate) fn clocks(&self, process: ProcessId) -> Now {
        let mono = self.exec.now();
        let ahead = self.clocks.borrow()[process.0 as usize].ahead;
        let wall = (WALL_START_MS + mono.as_millis()).saturating_add_signed(ahead);
        Now { mono, wall: WallTime::from_unix_millis(wall) }
    }

    /// Sets a process's wall clock ahead, or back.
    pub(crate) fn jump(&self, process: ProcessId, millis: i64) {
        let clock = &mut self.clocks.borrow_mut()[process.0 as usize];
        clock.ahead += millis;
        clock.has_jumped = true;
    }

    /// Whether a process's wall clock has ever jumped.
    pub(crate) fn has_jumped(&self, process: ProcessId) -> bool {
        self.clocks.borrow()[process.0 as usize].has_jumped
    }

    /// Runs nothing of a process for a while.
    pub(crate) fn freeze(&self, process: ProcessId, duration: Duration) {
        let clock = &mut self.clocks.borrow_mut()[process.0 as usize];
        clock.frozen += duration;
        self.exec.freeze(process, self.now() + duration);
    }

    /// How late a process may be with what it does by time.
    pub(crate) fn slack(&self, process: ProcessId) -> Duration {
        let late = if self.faults.has(FaultKind::LateTimer) { Duration::from_millis(LATE_MS_MAX) } else { Duration::ZERO };
        late + self.clocks.borrow()[process.0 as usize].frozen
    }

    /// A fault of that kind strikes here and now.
    pub(crate) fn strikes(&self, kind: FaultKind) -> bool {
        self.faults.strikes(kind)
    }

    /// As [`World::strikes`]; where it does, the trace says so.
    pub(crate) fn strikes_at(&self, kind: FaultKind, process: ProcessId) -> bool {
        let strikes = self.faults.strikes(kind);
        if strikes {
            self.note(process, || format!("! {kind}"));
        }
        strikes
    }

    /// How long a fault lasts.
    pub(crate) fn fault_millis(&self, kind: FaultKind, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.faults.draw(kind, low, high))
    }

    pub(crate) fn below(&self, limit: usize) -> usize {
        if limit <= 1 { 0 } else { self.dice.borrow_mut().below(limit as u64) as usize }
    }

    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.dice.borrow_mut().between(low, high)
    }

    pub(crate) fn spread(&self, low: u64, high: u64) -> u64 {
        self.dice.borrow_mut().spread(low, high)
    }

    pub(crate) fn chance(&self, probability: f64) -> bool {
        self.dice.borrow_mut().chance(probability)
    }

    pub(crate) fn number(&self) -> u64 {
        self.ids.borrow_mut().next()
    }

    pub(crate) fn object_id(&self) -> ObjectId {
        ObjectId::from_bytes(self.ids.borrow_mut().bytes())
    }

    pub(crate) fn lease_id(&self) -> LeaseId {
        LeaseId::from_bytes(self.ids.borrow_mut().bytes())
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch::from_bytes(self.ids.borrow_mut().bytes())
    }

    pub(crate) fn nonce(&self) -> Nonce {
        Nonce::from_bytes(self.ids.borrow_mut().bytes())
    }

    pub(crate) fn random_bytes<const N: usize>(&self) -> [u8; N] {
        self.ids.borrow_mut().bytes()
    }

    /// Waits, in virtual time.
    pub(crate) async fn sleep(&self, duration: Duration) {
        self.exec.sleep_until(self.now() + duration).await;
    }

    /// Waits for a timer of a process: it may fire late.
    pub(crate) async fn timer(&self, process: ProcessId, at: Monotonic) {
        let late = if at < Monotonic::MAX && self.strikes_at(FaultKind::LateTimer, process) {
            self.fault_millis(FaultKind::LateTimer, 1, LATE_MS_MAX)
        } else {
            Duration::ZERO
        };
        self.exec.sleep_until(at + late).await;
    }

    /// A proxy that lives.
    pub(crate) fn proxy(&self, process: ProcessId) -> Option<Rc<Proxy>> {
        self.proxies.borrow().get(&process).cloned()
    }

    /// The longest slack of any process.
    pub(crate) fn longest_slack(&self) -> Duration {
        let frozen = self.clocks.borrow().iter().map(|clock| clock.frozen).max().unwrap_or_default();
        frozen + Duration::from_millis(LATE_MS_MAX)
    }

    /// Tells what a proxy holds of a shared budget; true when that has become less.
    pub(crate) fn publish(&self, process: ProcessId, bytes: u64) -> bool {
        let before = if bytes == 0 {
            self.held.borrow_mut().remove(&process).unwrap_or(0)
        } else {
            self.held.borrow_mut().insert(process, bytes).unwrap_or(0)
        };
        let (sum, most) = (self.held.borrow().values().sum::<u64>(), self.settings().limits.held.bytes_max);
        if self.settings().shared_budget && sum > most {
            self.check.fails(Invariant::Budgets, format!("all together hold {sum} bytes of {most}"));
        }
        bytes < before
    }

    /// What all other proxies hold of a shared budget.
    pub(crate) fn held_elsewhere(&self, process: ProcessId) -> u64 {
        self.held.borrow().iter().filter(|(other, _)| **other != process).map(|(_, bytes)| bytes).sum()
    }

    pub(crate) fn set_platform(&self, platform: &Rc<Platform>) {
        // There is one platform a world, and it is set once.
        let _ = self.platform.set(Rc::clone(platform));
    }

    pub(crate) fn platform(&self) -> Option<&Rc<Platform>> {
        self.platform.get()
    }

    /// The client's proxy.
    pub(crate) fn client(&self) -> Option<Rc<Proxy>> {
        self.client.borrow().clone()
    }

    pub(crate) fn set_client(&self, client: Option<Rc<Proxy>>) {
        self.client.replace(client);
    }

    /// A piece of work is to be done.
    pub(crate) fn undone(self: &Rc<Self>) -> Undone {
        self.work_left.set(self.work_left.get() + 1);
        Undone(Rc::clone(self))
    }

    /// Waits until all work is done.
    pub(crate) async fn all_done(&self) {
        self.work_done.until(&self.exec, || (self.work_left.get() == 0).then_some(())).await;
    }
}
