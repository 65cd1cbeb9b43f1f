//! How many instances: scrapes, ticks, and what follows.

use core::time::Duration;
use std::rc::Rc;

use zipline_core::balance::{Candidate, scale_in_order};
use zipline_core::kpa::{Autoscaler, KpaSpec, RequestPath, ScrapePlan, TICK_INTERVAL, TickInput, average_over_population};
use zipline_core::stats::{REPORT_INTERVAL, Stat};

use super::{Platform, Revision, Scaling};
use crate::check::Invariant;
use crate::coverage::Transition as T;
use crate::exec::ProcessId;
use crate::faults::FaultKind;
use crate::wait::{First, race};
use crate::world::World;

/// Reports that make a tick.
const REPORTS_A_TICK: u32 = (TICK_INTERVAL.as_secs() / REPORT_INTERVAL.as_secs()) as u32;

impl Platform {
    /// Begins the control loops of all revisions that are scaled.
    pub(super) fn run_autoscalers(self: &Rc<Self>, world: &Rc<World>) {
        for revision in &self.revisions {
            if let Some(spec) = &revision.plan.scaling {
                let ready = revision.ready_count();
                let autoscaler = Autoscaler::new(spec.clone(), ready, world.now());
                revision.scaling.replace(Some(Scaling { collector: spec.collector(), autoscaler }));
                let (world, platform, revision) = (Rc::clone(world), Rc::clone(self), Rc::clone(revision));
                world.exec.clone().spawn(self.autoscaler, async move { platform.control(&world, &revision).await });
            }
        }
    }

    /// The autoscaler dies with all that it has measured, and begins again.
    pub(crate) fn restart_autoscaler(self: &Rc<Self>, world: &Rc<World>) {
        world.note(self.autoscaler, || "dies, and begins again".into());
        world.exec.end_tasks(self.autoscaler);
        let (platform, world) = (Rc::clone(self), Rc::clone(world));
        // After its tasks are gone.
        world.exec.clone().spawn(crate::exec::NATURE, async move { platform.run_autoscalers(&world) });
    }

    async fn control(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>) {
        let mut reports = 0;
        let mut next_report = world.now() + REPORT_INTERVAL;
        loop {
            let poked = revision.poked.until(&world.exec, || (!revision.pokes.borrow().is_empty()).then_some(()));
            match race(poked, world.exec.sleep_until(next_report)).await {
                First::Left(()) => {
                    let pokes = revision.pokes.take();
                    let mut is_poked = false;
                    if let Some(scaling) = &mut *revision.scaling.borrow_mut() {
                        for stat in &pokes {
                            scaling.collector.record(world.clocks(self.autoscaler).wall, stat);
                            is_poked |= scaling.autoscaler.is_poked_by(stat);
                        }
                    }
                    if is_poked {
                        world.hit(T::Poked);
                        self.tick(world, revision);
                    }
                }
                First::Right(()) => {
                    next_report = world.now() + REPORT_INTERVAL;
                    revision.report(world, self.autoscaler);
                    reports += 1;
                    if reports % REPORTS_A_TICK == 0 {
                        self.tick(world, revision);
                    }
                }
            }
        }
    }

    fn tick(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>) {
        let now = world.clocks(self.autoscaler);
        let tick = {
            let mut scaling = revision.scaling.borrow_mut();
            let Some(Scaling { collector, autoscaler }) = &mut *scaling else { return };
            let metric = revision.plan.scaling.as_ref().map(|spec| spec.decider.metric).unwrap_or_default();
            autoscaler.tick(TickInput {
                at: now.mono,
                ready_pods: revision.ready_count(),
                observed: collector.observed(now.wall, metric),
                reachable: true,
                activator_in_path: revision.path.get() == RequestPath::Proxy,
            })
        };
        if tick.decision.panicking {
            world.hit(T::Panicked);
        }
        let scale = tick.decision.scale;
        world.note(self.autoscaler, || {
            let (service, observed, ready) = (revision.service, tick.input.observed, tick.input.ready_pods);
            format!("service {service}: {ready} ready, {observed:?}: {scale:?}")
        });
        revision.path.set(scale.path);
        if let Some(replicas) = scale.replicas {
            self.check_replicas(world, revision, replicas, tick.input.activator_in_path);
            self.scale_to(world, revision, replicas);
        }
    }

    fn check_replicas(&self, world: &World, revision: &Revision, replicas: u32, was_in_path: bool) {
        let Some(KpaSpec { scaler, .. }) = &revision.plan.scaling else { return };
        let most = scaler.max_scale.max(scaler.initial_scale).max(scaler.min_scale);
        if scaler.max_scale > 0 && replicas > most {
            world.check.fails(Invariant::Budgets, format!("{replicas} instances are wanted, {most} may be"));
        }
        if replicas == 0 && !was_in_path {
            world.check.fails(Invariant::Ends, "a revision goes to zero and nobody takes its requests".into());
        }
    }

    /// Brings a revision to that many instances.
    pub(super) fn scale_to(self: &Rc<Self>, world: &Rc<World>, revision: &Rc<Revision>, replicas: u32) {
        let staying: Vec<u32> = revision.pods.borrow().iter().filter(|(_, pod)| pod.stays()).map(|(number, _)| *number).collect();
        let (have, want) = (staying.len() as u32, replicas);
        revision.desired.set(want);
        if want > have {
            world.hit(if have == 0 { T::ScaledFromZero } else { T::ScaledOut });
            for _ in have..want {
                self.launch(world, revision);
            }
        } else if want < have {
            world.hit(if want == 0 { T::ScaledToZero } else { T::ScaledIn });
            for pod in revision.victims(&staying).into_iter().take((have - want) as usize) {
                self.stop(world, revision, pod);
            }
        }
    }

    /// An operator has one instance of a service stopped; another takes its place.
    pub(crate) fn stop_one(self: &Rc<Self>, world: &Rc<World>, service: usize) {
        let revision = &self.revisions[service];
        let staying: Vec<u32> = revision.pods.borrow().iter().filter(|(_, pod)| pod.stays()).map(|(number, _)| *number).collect();
        if let Some(pod) = revision.victims(&staying).first() {
            self.stop(world, revision, *pod);
        }
    }
}

impl Revision {
    /// Takes a second's statistics: of the activator, and of the instances.
    fn report(&self, world: &Rc<World>, autoscaler: ProcessId) {
        let activator = self.desk.borrow_mut().stats.report(world.now());
        let wall = world.clocks(autoscaler).wall;
        let mut scaling = self.scaling.borrow_mut();
        let Some(Scaling { collector, .. }) = &mut *scaling else { return };
        if let Some(report) = activator {
            collector.record(wall, &report.stat);
        }
        match self.scrape(world) {
            Some(stat) if world.strikes_at(FaultKind::ScrapeLate, autoscaler) => {
                let late = world.fault_millis(FaultKind::ScrapeLate, 100, 4_000);
                drop(scaling);
                self.arrives_late(world, autoscaler, stat, late);
            }
            Some(stat) => collector.record(wall, &stat),
            None => {}
        }
    }

    /// A report that stands for a time that has passed when it comes.
    fn arrives_late(&self, world: &Rc<World>, autoscaler: ProcessId, stat: Stat, late: Duration) {
        let Some(platform) = world.platform() else { return };
        let (world, revision) = (Rc::clone(world), Rc::clone(&platform.revisions[self.service]));
        world.exec.clone().spawn(autoscaler, async move {
            world.sleep(late).await;
            if let Some(Scaling { collector, .. }) = &mut *revision.scaling.borrow_mut() {
                collector.record(world.clocks(autoscaler).wall, &stat);
            }
        });
    }

    fn scrape(&self, world: &World) -> Option<Stat> {
        let pods: Vec<_> =
            self.pods.borrow().values().filter(|pod| pod.is_ready.get()).map(|pod| Rc::clone(&pod.proxy)).collect();
        if pods.is_empty() {
            return None;
        }
        let ages: Vec<Duration> = pods.iter().map(|proxy| world.now().since(proxy.started)).collect();
        let stable_window = self.plan.scaling.as_ref()?.decider.stable_window;
        let plan = ScrapePlan::new(&ages, stable_window, |n| world.below(n));
        let answers = plan.order.iter().filter_map(|index| {
            let proxy = &pods[*index];
            let reached = proxy.is_alive() && !world.exec.is_frozen(proxy.process);
            (reached && !world.strikes_at(FaultKind::ScrapeLost, proxy.process)).then(|| proxy.stat())
        });
        let answers: Vec<Stat> = answers.take(plan.needed as usize).collect();
        match average_over_population(&answers, u32::try_from(pods.len()).unwrap_or(u32::MAX)) {
            Ok(stat) => stat,
            Err(_) => {
                world.hit(T::ScrapeTooFew);
                None
            }
        }
    }

    fn ready_count(&self) -> u32 {
        self.pods.borrow().values().filter(|pod| pod.is_ready.get()).count() as u32
    }

    /// Who goes first.
    fn victims(&self, staying: &[u32]) -> Vec<u32> {
        let pods = self.pods.borrow();
        let candidates: Vec<Candidate> = staying
            .iter()
            .filter_map(|number| pods.get(number))
            .map(|pod| Candidate {
                ready_since: pod.ready_since.get().filter(|_| pod.is_ready.get()),
                held_bytes: pod.proxy.census().bytes,
                restarts: 0,
                started: pod.proxy.started,
            })
            .collect();
        scale_in_order(&candidates).into_iter().map(|index| staying[index]).collect()
    }
}
