//! One schedule, from its seed to its verdict.
//!
//! Work goes on until it is done, under whatever faults the seed draws. Then nothing goes wrong any more; everything
//! must come to rest: objects expire, leases lapse, connections close. In the end every process is told to end, and must
//! end clean.

use core::time::Duration;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use zipline_core::object::Census;
use zipline_core::reference::KeyRing;

use crate::check::{Invariant, Violation};
use crate::coverage::{Coverage, Transition};
use crate::exec::{NATURE, ProcessId, Step};
use crate::faults::{Fault, FaultKind, Faults};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::proxy::{Birth, Proxy};
use crate::random::Rng;
use crate::trace::Trace;
use crate::workload::client::schedule;
use crate::world::{FREEZE_MS_MAX, World};

/// Tasks run in one schedule, at most.
const STEPS_MAX: u64 = 4_000_000;
/// After the last work everything must have come to rest within this.
const REST_MAX: Duration = Duration::from_secs(240);
/// Looks, a second apart, that must all find everything at rest: what whoever asked has given up may still be on the wire.
const REST_LOOKS: u32 = 5;
/// Whatever is kept open for nothing must be closed within this.
const CONNECTIONS_MAX: Duration = Duration::from_secs(100);
/// An idle revision must be where its lower bound is within this.
const SCALE_IN_MAX: Duration = Duration::from_secs(90);

/// What is left of a schedule; `None`: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Only these faults.
    pub faults: Option<BTreeSet<Fault>>,
    /// Only these items of work.
    pub items: Option<BTreeSet<usize>>,
}

/// One schedule to be run.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Draws everything.
    pub seed: u64,
    /// Leaves things out.
    pub subset: Subset,
    /// Notes what happens.
    pub traces: bool,
}

/// What became of a schedule.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// Transitions gone through.
    pub coverage: Coverage,
    /// Faults that struck, in order.
    pub faults: Vec<Fault>,
    /// Items of work in the whole schedule.
    pub items: usize,
    /// Tasks run.
    pub steps: u64,
    /// What happened, where it was to be noted.
    pub trace: Vec<String>,
    /// Stands for the trace.
    pub trace_hash: u64,
}

impl Schedule {
    /// The whole schedule of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, subset: Subset::default(), traces: false }
    }

    /// Runs it.
    pub fn run(&self) -> Outcome {
        let mut plan = Plan::draw(self.seed);
        let items = plan.items.len();
        if let Some(only) = &self.subset.items {
            let mut number = 0;
            plan.items.retain(|_| {
                number += 1;
                only.contains(&(number - 1))
            });
        }
        let faults = Faults::new(self.seed, self.subset.faults.clone());
        let mut keys = Rng::new(self.seed, 0x4e1);
        let first = key(&mut keys, 0);
        let world = World::new(self.seed, plan, faults, Trace::new(self.traces), ring(core::slice::from_ref(&first)));
        let ran = catch_unwind(AssertUnwindSafe(|| run(&world, first, keys)));
        if let Err(panic) = ran {
            world.check.fails(Invariant::Panic, panic_text(panic.as_ref()));
        }
        let outcome = Outcome {
            violation: world.check.violation(),
            coverage: world.coverage.coverage(),
            faults: world.faults.struck(),
            items,
            steps: world.exec.steps(),
            trace_hash: world.trace.hash(),
            trace: world.trace.take(),
        };
        dismantle(&world);
        outcome
    }
}

/// Breaks the circles of what holds what, so that memory is given back.
fn dismantle(world: &Rc<World>) {
    let cleared = catch_unwind(AssertUnwindSafe(|| {
        world.set_client(None);
        for proxy in world.proxies.take().into_values() {
            world.exec.kill(proxy.process);
        }
        world.net.close();
        world.exec.clear();
        if let Some(platform) = world.platform() {
            platform.forget();
        }
    }));
    drop(cleared); // After a panic in the middle of a step some of it stays in memory.
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

/// A key of the ring, as JSON, that seals from that many milliseconds of civil time on.
fn key(rng: &mut Rng, not_before_ms: u64) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (id, key) = (hex(&rng.bytes::<4>()), hex(&rng.bytes::<32>()));
    format!("{{\"id\":\"{id}\",\"key\":\"{key}\",\"not_before_ms\":{not_before_ms},\"not_after_ms\":9999999999999}}")
}

fn ring(keys: &[String]) -> KeyRing {
    KeyRing::parse(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).expect("the ring is well formed")
}

fn run(world: &Rc<World>, first_key: String, keys: Rng) {
    let platform = Platform::begin(world);
    begin_client(world, &platform);
    schedule(world, &world.plan.items);
    if world.strikes(FaultKind::Rotate) {
        world.exec.spawn(NATURE, rotate(Rc::clone(world), first_key, keys));
    }
    let is_over = Rc::new(Cell::new(false));
    let (ending, over, whole) = (Rc::clone(world), Rc::clone(&is_over), Rc::clone(&platform));
    world.exec.spawn(NATURE, async move {
        conclude(&ending, &whole).await;
        over.set(true);
    });
    while !is_over.get() && !world.check.has_failed() {
        world.check.set_now(world.now());
        match world.exec.step() {
            Step::Ran(process) => strike(world, &platform, process),
            Step::Waited => {}
            Step::Stuck => world.check.fails(Invariant::Settles, "nothing can happen any more".into()),
        }
        if world.exec.steps() > STEPS_MAX {
            world.check.fails(Invariant::Settles, format!("{STEPS_MAX} steps were not enough"));
        }
    }
}

fn begin_client(world: &Rc<World>, platform: &Platform) {
    let birth = Birth { name: "client".to_owned(), address: platform.address(world), service: None };
    world.set_client(Some(Proxy::begin(world, birth)));
}

/// What may happen to a process at each of its steps.
fn strike(world: &Rc<World>, platform: &Rc<Platform>, process: ProcessId) {
    if process == NATURE {
        return;
    }
    if process == platform.activator {
        if world.strikes_at(FaultKind::ActivatorCrash, process) {
            platform.restart_activator(world);
        }
    } else if process == platform.autoscaler {
        if world.strikes_at(FaultKind::AutoscalerCrash, process) {
            platform.restart_autoscaler(world);
        }
    } else if let Some(proxy) = world.proxy(process) {
        strike_proxy(world, platform, &proxy);
    }
    if world.strikes_at(FaultKind::Freeze, process) {
        world.freeze(process, world.fault_millis(FaultKind::Freeze, 1, FREEZE_MS_MAX));
        world.check.books(process, |books| books.set_slack(world.slack(process)));
    }
    if world.strikes_at(FaultKind::ClockJump, process) {
        // Mostly less than what two clocks may differ by.
        let limit = world.faults.draw(FaultKind::ClockJump, 10, 100_000);
        let by = world.faults.draw(FaultKind::ClockJump, 1, limit) as i64;
        world.jump(process, if limit.is_multiple_of(2) { by } else { -by });
    }
    if world.strikes_at(FaultKind::Partition, process) {
        let until = world.now() + world.fault_millis(FaultKind::Partition, 10, 40_000);
        world.net.isolate(process, until);
    }
}

fn strike_proxy(world: &Rc<World>, platform: &Rc<Platform>, proxy: &Rc<Proxy>) {
    let process = proxy.process;
    if world.strikes_at(FaultKind::FunctionCrash, process) {
        proxy.crash_function();
    }
    if let Some(service) = proxy.service
        && world.strikes_at(FaultKind::ScaleIn, process)
    {
        platform.stop_one(world, service);
    }
    if world.strikes_at(FaultKind::Crash, process) {
        dies(world, platform, proxy, false);
    } else if world.strikes_at(FaultKind::Vanish, process) {
        // On one machine there is no dying with it and leaving others.
        dies(world, platform, proxy, !world.settings().handover);
    }
}

fn dies(world: &Rc<World>, platform: &Rc<Platform>, proxy: &Rc<Proxy>, silently: bool) {
    world.note(proxy.process, || format!("dies{}", if silently { " with its machine" } else { "" }));
    if silently {
        world.net.vanish(proxy.address, proxy.process);
    }
    proxy.end();
    platform.noticed(world, proxy.process, proxy.address, silently);
    if proxy.service.is_none() {
        begin_client(world, platform);
    }
}

/// A new key for the trust domain, which each process reads at its own time; later the old one goes.
async fn rotate(world: Rc<World>, old: String, mut rng: Rng) {
    let draw = |low, high| world.fault_millis(FaultKind::Rotate, low, high);
    world.sleep(draw(1, 15_000)).await;
    let begins = world.clocks(NATURE).wall + draw(1, 8_000);
    let new = key(&mut rng, begins.unix_millis());
    spread_ring(&world, &[old, new.clone()]);
    world.sleep(draw(20_000, 60_000)).await;
    spread_ring(&world, &[new]);
}

fn spread_ring(world: &Rc<World>, keys: &[String]) {
    world.ring.replace(Rc::new(ring(keys)));
    for proxy in world.proxies.borrow().values() {
        let (world, proxy) = (Rc::clone(world), Rc::clone(proxy));
        let after = world.fault_millis(FaultKind::Rotate, 1, 6_000);
        world.exec.clone().spawn(proxy.process, async move {
            world.sleep(after).await;
            world.hit(Transition::KeyRotated);
            proxy.reread_ring();
        });
    }
}

/// After the work: rest, and a clean end.
async fn conclude(world: &Rc<World>, platform: &Rc<Platform>) {
    world.all_done().await;
    world.note(NATURE, || "all work is done; nothing goes wrong from here on".into());
    world.faults.end();
    let until = world.now() + REST_MAX;
    let mut looks = 0;
    while looks < REST_LOOKS {
        match restless(world, platform) {
            Some(restless) if world.now() > until => {
                return world.check.fails(Invariant::Freed, format!("long after the last work: {restless}"));
            }
            Some(_) => looks = 0,
            None => looks += 1,
        }
        world.sleep(Duration::from_secs(1)).await;
    }
    scaled_in(world, platform).await;
    let until = world.now() + CONNECTIONS_MAX;
    while world.net.open() > 0 {
        if world.now() > until {
            return world.check.fails(Invariant::Budgets, format!("{} connections stay open for nothing", world.net.open()));
        }
        world.sleep(Duration::from_secs(5)).await;
    }
    world.check.request(|requests| requests.over());
    world.note(NATURE, || "everything is told to end".into());
    platform.close(world);
    if let Some(client) = world.client() {
        client.terminate();
    }
    let settings = world.settings();
    world.sleep(settings.quiet + settings.quiet + Duration::from_secs(5) + world.longest_slack()).await;
    let left: Vec<String> = world.proxies.borrow().keys().map(|process| world.name(*process)).collect();
    if !left.is_empty() {
        world.check.fails(Invariant::Drain, format!("{left:?} do not end though they have nothing left to do"));
    }
}

/// What is not at rest.
fn restless(world: &World, platform: &Platform) -> Option<String> {
    if platform.waiting() > 0 {
        return Some(format!("{} requests wait in the activator", platform.waiting()));
    }
    world.proxies.borrow().values().find_map(|proxy| {
        let (census, busy) = (proxy.census(), proxy.busy());
        (census != Census::EMPTY || busy.is_some()).then(|| format!("{}: {census:?} {busy:?}", world.name(proxy.process)))
    })
}

/// Without requests and objects nothing keeps instances.
async fn scaled_in(world: &Rc<World>, platform: &Platform) {
    if world.has_jumped(platform.autoscaler) {
        return; // Its windows are kept by the wall clock.
    }
    let until = world.now() + SCALE_IN_MAX;
    for revision in &platform.revisions {
        let Some(spec) = &revision.plan.scaling else { continue };
        while platform.staying(revision.service) > spec.scaler.min_scale as usize {
            if world.now() > until {
                let count = platform.staying(revision.service);
                let detail = format!("service {} keeps {count} idle instances that hold nothing", revision.service);
                return world.check.fails(Invariant::Drain, detail);
            }
            world.sleep(Duration::from_secs(1)).await;
        }
    }
}
