//! Instances: how they begin, become ready, and end.

use core::time::Duration;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use zipline_core::time::Monotonic;

use super::{Platform, Revision};
use crate::exec::{NATURE, ProcessId};
use crate::faults::FaultKind;
use crate::proxy::{Birth, PULL_PORT, Proxy};
use crate::world::World;

/// A readiness probe is sent this often.
const PROBE_MS: u64 = 1_000;
/// A machine that is gone is noticed after this at most.
const NOTICED_MS_MAX: u64 = 10_000;

/// One instance.
pub(super) struct Pod {
    pub(super) proxy: Rc<Proxy>,
    pub(super) is_ready: Cell<bool>,
    pub(super) ready_since: Cell<Option<Monotonic>>,
}

impl Pod {
    pub(super) fn stays(&self) -> bool {
        self.proxy.is_alive() && !self.proxy.is_told()
    }
}

impl Platform {
    /// Starts an instance.
    pub(super) fn launch(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>) {
        let number = revision.pods_made.get();
        revision.pods_made.set(number + 1);
        let name = format!("{}-{number}", revision.service);
        let proxy = Proxy::begin(world, Birth { name, address: self.address(world), service: Some(revision.service) });
        let pod = Pod { proxy: Rc::clone(&proxy), is_ready: Cell::new(false), ready_since: Cell::new(None) };
        revision.pods.borrow_mut().insert(number, pod);
        let (world, revision) = (Rc::clone(world), Rc::clone(revision));
        world.exec.clone().spawn(NATURE, async move { revision.probes(&world, number, &proxy).await });
    }

    /// An address for a process: a new one, or that of one that is no more.
    pub(crate) fn address(&self, world: &World) -> SocketAddr {
        if world.strikes(FaultKind::Recycle)
            && let Some(address) = self.recycled.borrow_mut().pop()
        {
            return address;
        }
        let number = self.addresses.get() + 1;
        self.addresses.set(number);
        let [.., c, d] = number.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, 0, c, d), PULL_PORT))
    }

    /// Tells an instance to end.
    pub(super) fn stop(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>, number: u32) {
        let Some(proxy) = revision.pods.borrow().get(&number).map(|pod| Rc::clone(&pod.proxy)) else { return };
        if world.chance(0.3) {
            proxy.wait_for_drain();
        }
        proxy.terminate();
        let (world, revision, platform) = (Rc::clone(world), Rc::clone(revision), Rc::clone(self));
        world.exec.clone().spawn(NATURE, async move {
            world.sleep(Duration::from_millis(world.between(0, PROBE_MS))).await;
            revision.set_ready(&world, number, false);
            platform.replace(&world, &revision);
        });
    }

    /// A process is no more: its instance is replaced once that is noticed.
    pub(crate) fn noticed(self: &Rc<Self>, world: &Rc<World>, process: ProcessId, address: SocketAddr, silently: bool) {
        let limit = if silently { NOTICED_MS_MAX } else { PROBE_MS };
        let after = Duration::from_millis(world.between(1, limit));
        let (world, platform) = (Rc::clone(world), Rc::clone(self));
        world.exec.clone().spawn(NATURE, async move {
            world.sleep(after).await;
            platform.recycled.borrow_mut().push(address);
            for revision in &platform.revisions {
                let number = revision.pods.borrow().iter().find(|(_, pod)| pod.proxy.process == process).map(|(n, _)| *n);
                if let Some(number) = number {
                    revision.pods.borrow_mut().remove(&number);
                    revision.publish_ready(&world);
                    platform.replace(&world, revision);
                }
            }
        });
    }

    fn replace(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>) {
        if !self.is_closing.get() {
            let staying = self.staying(revision.service) as u32;
            for _ in staying..revision.desired.get() {
                self.launch(world, revision);
            }
        }
    }

    /// Nothing is started any more; every instance is told to end.
    pub(crate) fn close(self: &Rc<Self>, world: &Rc<World>) {
        self.is_closing.set(true);
        world.exec.end_tasks(self.autoscaler);
        for revision in &self.revisions {
            let staying: Vec<u32> = revision.pods.borrow().keys().copied().collect();
            for number in staying {
                self.stop(world, revision, number);
            }
        }
    }
}

impl Revision {
    /// Readiness as the platform sees it, from the start on.
    async fn probes(self: &Rc<Self>, world: &Rc<World>, number: u32, proxy: &Rc<Proxy>) {
        world.sleep(self.plan.start_time).await;
        loop {
            if !proxy.is_alive() || proxy.is_told() {
                return;
            }
            if !world.strikes_at(FaultKind::ProbeLost, proxy.process) {
                break;
            }
            world.sleep(Duration::from_millis(PROBE_MS)).await;
        }
        self.set_ready(world, number, true);
        // A ready instance misses a probe now and then.
        while world.strikes_at(FaultKind::ProbeLost, proxy.process) {
            world.sleep(Duration::from_millis(world.between(1, 10 * PROBE_MS))).await;
            if !proxy.is_alive() || proxy.is_told() {
                return;
            }
            self.set_ready(world, number, false);
            world.sleep(Duration::from_millis(world.between(PROBE_MS, 3 * PROBE_MS))).await;
            if proxy.is_told() {
                return;
            }
            self.set_ready(world, number, true);
        }
    }

    pub(super) fn set_ready(&self, world: &World, number: u32, is_ready: bool) {
        if let Some(pod) = self.pods.borrow().get(&number) {
            pod.is_ready.set(is_ready && pod.stays());
            pod.ready_since.set(is_ready.then(|| world.now()));
        }
        self.publish_ready(world);
    }
}
