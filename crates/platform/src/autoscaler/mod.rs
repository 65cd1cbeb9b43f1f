//! The control loop of a revision: it owns the instances, and only it starts and stops them.
//!
//! `zipline_core::kpa` decides; this feeds it. Each second the instances' statistics are scraped and the activator's
//! report is taken; every two seconds, and at once when a request arrives at zero, the autoscaler is asked, its answer
//! logged with all its inputs ([`DecisionLog`]), and the number of instances brought to what it says.

mod decisions;
mod scrape;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use zipline_core::balance::scale_in_order;
use zipline_core::kpa::{Autoscaler, Collector, LogRecord, RequestPath, TICK_INTERVAL, TickInput};
use zipline_core::stats::{REPORT_INTERVAL, Stat};

use crate::clock;
use crate::revision::{Demand, Inbox, Revision};
use crate::services::Shared;
use crate::supervisor::{Instance, Phase, StopMode};
pub(crate) use decisions::DecisionLog;
pub use decisions::DecisionRecord;
pub use scrape::Held;
pub(crate) use scrape::held;

/// Runs a revision until it is told to end, or nobody can reach it any more and its last instance has ended.
pub(crate) async fn run(revision: Arc<Revision>, inbox: Inbox, shared: Arc<Shared>) {
    let mut control = Control::new(revision, inbox.demand.borrow().clone(), shared);
    let revision = Arc::clone(&control.revision);
    control.begin().await;
    control.follow(inbox).await;
    revision.activator.close();
    revision.cut_tunnels();
    control.shared.over(&revision);
}

struct Control {
    revision: Arc<Revision>,
    shared: Arc<Shared>,
    demand: Demand,
    autoscaler: Autoscaler,
    collector: Collector,
    lives: JoinSet<()>,
    living: HashMap<Id, Arc<Instance>>,
    scrapes: JoinSet<Option<Stat>>,
    /// An instance's status has changed.
    changed: Arc<Notify>,
    look_again: Option<Instant>,
}

impl Control {
    fn new(revision: Arc<Revision>, demand: Demand, shared: Arc<Shared>) -> Self {
        let spec = &*demand.autoscaling;
        Self {
            autoscaler: Autoscaler::new(spec.clone(), 0, clock::now()),
            collector: spec.collector(),
            revision,
            shared,
            demand,
            lives: JoinSet::new(),
            living: HashMap::new(),
            scrapes: JoinSet::new(),
            changed: Arc::new(Notify::new()),
            look_again: None,
        }
    }

    async fn begin(&mut self) {
        self.restart_autoscaler();
        self.scale_to(self.demand.autoscaling.initial_pods()).await;
        if self.demand.autoscaling.initial_pods() == 0 {
            // Nothing to wait for: it is as ready as it will be before its first request.
            self.shared.ready(&self.revision);
        }
        self.tick().await;
    }

    async fn follow(&mut self, mut inbox: Inbox) {
        let every = |period| {
            let mut turns = interval(period);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            turns
        };
        let mut reports = every(REPORT_INTERVAL);
        let mut ticks = every(TICK_INTERVAL);
        ticks.reset();
        let changed = Arc::clone(&self.changed);
        loop {
            let look_again = self.look_again;
            tokio::select! {
                biased;
                // Not after its sender is gone: the revision, which holds it, outlives this task.
                Ok(()) = inbox.demand.changed() => {
                    let demand = inbox.demand.borrow_and_update().clone();
                    self.obey(demand).await;
                }
                Some(ended) = self.lives.join_next_with_id() => self.buried(match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                }),
                () = changed.notified() => self.publish_ready(),
                Some(stat) = inbox.pokes.recv() => {
                    self.collector.record(clock::wall_now(), &stat);
                    if self.autoscaler.is_poked_by(&stat) {
                        self.tick().await;
                    }
                }
                _ = reports.tick() => self.report(),
                Some(scraped) = self.scrapes.join_next() => {
                    if let Ok(Some(stat)) = scraped {
                        self.collector.record(clock::wall_now(), &stat);
                    }
                }
                _ = ticks.tick() => self.tick().await,
                () = at(look_again) => self.tick().await,
            }
            let ending = self.demand.end.is_some() || !self.demand.reachable;
            if ending && self.living.is_empty() && self.revision.activator.in_flight() == 0 {
                return;
            }
            if self.demand.end.is_some() && self.living.is_empty() {
                return;
            }
        }
    }

    async fn obey(&mut self, demand: Demand) {
        let respecified = self.demand.autoscaling != demand.autoscaling;
        let rerouted = self.demand.reachable != demand.reachable;
        self.demand = demand;
        if let Some(mode) = self.demand.end {
            self.revision.activator.close();
            for instance in self.living.values() {
                instance.stop(mode);
            }
            return;
        }
        if respecified {
            self.collector = self.demand.autoscaling.collector();
            self.restart_autoscaler();
        }
        if respecified || rerouted {
            self.tick().await;
        }
    }

    fn restart_autoscaler(&mut self) {
        let (spec, ready, now) = (&*self.demand.autoscaling, self.ready_count(), clock::now());
        self.autoscaler = Autoscaler::new(spec.clone(), ready, now);
        self.shared.decisions.write(&self.revision, Autoscaler::log_start(spec, ready, now));
    }

    fn report(&mut self) {
        if let Some(report) = self.revision.activator.report() {
            self.collector.record(clock::wall_now(), &report.stat);
        }
        // One that takes longer than a second counts for the next one.
        if self.scrapes.is_empty() && self.demand.end.is_none() {
            let ready: Vec<Arc<Instance>> = self.ready().cloned().collect();
            if !ready.is_empty() {
                let stable_window = self.demand.autoscaling.decider.stable_window;
                self.scrapes.spawn(scrape::scrape(ready, stable_window));
            }
        }
    }

    async fn tick(&mut self) {
        if self.demand.end.is_some() {
            return;
        }
        let metric = self.demand.autoscaling.decider.metric;
        let input = TickInput {
            at: clock::now(),
            ready_pods: self.ready_count(),
            observed: self.collector.observed(clock::wall_now(), metric),
            reachable: self.demand.reachable,
            activator_in_path: self.revision.path() == RequestPath::Proxy,
        };
        let tick = self.autoscaler.tick(input);
        self.shared.decisions.write(&self.revision, LogRecord::Tick(tick));
        self.revision.set_last_tick(tick);
        let scale = tick.decision.scale;
        self.revision.set_path(scale.path);
        self.look_again = scale.look_again_at.map(|at| Instant::now() + input.at.until(at));
        if let Some(replicas) = scale.replicas {
            self.scale_to(replicas).await;
        }
    }

    async fn scale_to(&mut self, replicas: u32) {
        let staying: Vec<Arc<Instance>> = self.living.values().filter(|instance| stays(instance)).cloned().collect();
        let (have, want) = (staying.len(), replicas as usize);
        if want > have {
            self.launch(want - have);
        } else if want < have {
            for instance in victims(staying, have - want).await {
                instance.log.say(format!("scaled in: {want} of {have} instances are to stay"));
                instance.stop(StopMode::Drain);
            }
        } else {
            return;
        }
        self.publish();
    }

    fn launch(&mut self, count: usize) {
        let revision = &self.revision;
        for _ in 0..count {
            let (spec, changed) = (Arc::clone(&revision.spec), Arc::clone(&self.changed));
            let counters = Arc::clone(&self.shared.counters);
            match Instance::claim(&self.shared.host, &revision.service, &revision.name, spec, counters, changed) {
                Ok(instance) => {
                    revision.set_trouble(None);
                    let life = Arc::clone(&instance).run(Arc::clone(&self.shared.host));
                    let id = self.lives.spawn(life).id();
                    self.living.insert(id, instance);
                }
                Err(error) => {
                    tracing::warn!(revision = revision.name, %error, "an instance could not be started");
                    revision.set_trouble(Some(error.to_string()));
                    return;
                }
            }
        }
    }

    fn buried(&mut self, id: Id) {
        if let Some(instance) = self.living.remove(&id) {
            // Lines may be asked for later; an open file for each of them would be too much.
            instance.log.close();
            self.revision.keep_log(Arc::clone(&instance.log));
        }
        self.publish();
    }

    fn publish(&self) {
        let mut living: Vec<Arc<Instance>> = self.living.values().cloned().collect();
        living.sort_by_key(|instance| instance.started);
        self.revision.set_instances(living);
        self.publish_ready();
    }

    fn publish_ready(&self) {
        let ready: Vec<Arc<Instance>> = self.ready().cloned().collect();
        self.revision.activator.set_ready(&ready);
        if !ready.is_empty() && self.demand.end.is_none() {
            self.shared.ready(&self.revision);
        }
    }

    fn ready(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.living.values().filter(|instance| instance.is_ready())
    }

    fn ready_count(&self) -> u32 {
        u32::try_from(self.ready().count()).unwrap_or(u32::MAX)
    }
}

fn stays(instance: &Instance) -> bool {
    matches!(instance.status().phase, Phase::Starting | Phase::Ready)
}

/// Those that go when `count` have to: in the order of a ReplicaSet, with the bytes they hold as their cost.
async fn victims(instances: Vec<Arc<Instance>>, count: usize) -> Vec<Arc<Instance>> {
    if count >= instances.len() {
        return instances;
    }
    let costs = futures_util::future::join_all(instances.iter().map(|instance| held(instance.address))).await;
    // Of one that does not answer nothing is known; it is not ready either, and goes first for that.
    let cost = |held: &Option<Held>| held.as_ref().map_or(0, |held| held.held_bytes);
    let candidates: Vec<_> = instances.iter().zip(&costs).map(|(instance, held)| instance.candidate(cost(held))).collect();
    scale_in_order(&candidates).into_iter().take(count).map(|i| Arc::clone(&instances[i])).collect()
}

async fn at(when: Option<Instant>) {
    match when {
        // A decision that is due again at once would otherwise spin.
        Some(when) => sleep_until(when.max(Instant::now() + Duration::from_millis(50))).await,
        None => std::future::pending().await,
    }
}
