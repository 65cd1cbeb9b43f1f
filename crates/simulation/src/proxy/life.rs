//! A proxy's tasks, its drain, its function's crashes, and its end.

use std::rc::Rc;

use zipline_core::drain::{Effect, Ending, Phase};
use zipline_core::stats::REPORT_INTERVAL;
use zipline_core::stats::Stat;

use super::Proxy;
use super::ledger::held;
use crate::check::lives::{PlannedEnd, ended, reported};
use crate::coverage::Transition as T;
use crate::wait::race;

impl Proxy {
    /// Begins the tasks that run as long as the proxy.
    pub(super) fn run(self: &Rc<Self>) {
        self.spawn(Rc::clone(self).keep_time());
        self.spawn(Rc::clone(self).follow_drain());
    }

    /// Whether a planned end has begun.
    pub(crate) fn is_told(&self) -> bool {
        self.told_at.get().is_some()
    }

    /// The function's container asks to be told when the quiet period is over.
    pub(crate) fn wait_for_drain(&self) {
        self.world.hit(T::DrainAnnounced);
        self.drain.borrow_mut().handle_wait_for_drain(self.world.now());
        self.drain_changed.ring(&self.world.exec);
    }

    /// SIGTERM.
    pub(crate) fn terminate(self: &Rc<Self>) {
        if !self.is_alive() || self.is_told() {
            return;
        }
        let now = self.world.now();
        self.told_at.set(Some(now));
        self.note(|| format!("is told to end: {:?}", self.census()));
        self.quiesce();
        self.drain.borrow_mut().handle_held(now, held(self.census()));
        self.drain.borrow_mut().handle_sigterm(now);
        self.drain_changed.ring(&self.world.exec);
    }

    async fn follow_drain(self: Rc<Self>) {
        let world = Rc::clone(&self.world);
        let mut phase = Phase::Serving;
        loop {
            let next = self.drain.borrow_mut().poll_effect();
            match next {
                Some(Effect::CallOff) => world.hit(T::DrainCalledOff),
                Some(Effect::StopAccepting | Effect::ReleaseWaiters | Effect::CutUpgraded) => {}
                Some(Effect::Exit(ending)) => {
                    self.exit(ending);
                    return;
                }
                None => {
                    let now = self.drain.borrow().phase();
                    if now != phase {
                        phase = now;
                        self.entered(phase);
                    }
                    let timeout = self.drain.borrow().next_timeout();
                    let mut was_polled = false;
                    let changed =
                        self.drain_changed.until(&world.exec, || core::mem::replace(&mut was_polled, true).then_some(()));
                    let due = async {
                        match timeout {
                            Some(at) => world.timer(self.process, at).await,
                            None => std::future::pending().await,
                        }
                    };
                    race(changed, due).await;
                    self.drain.borrow_mut().handle_timeout(world.now());
                }
            }
        }
    }

    fn entered(&self, phase: Phase) {
        self.note(|| format!("drain: {}", phase.name()));
        match phase {
            Phase::Quiet => self.world.hit(T::DrainQuiet),
            Phase::Finishing => self.world.hit(T::DrainFinishing),
            Phase::Holding => self.world.hit(T::DrainHolding),
            _ => {}
        }
    }

    /// The drain is over.
    fn exit(self: &Rc<Self>, ending: Ending) {
        let world = &self.world;
        let settings = world.settings();
        self.note(|| format!("ends as planned: {ending:?}"));
        if ending.is_clean() {
            world.hit(T::DrainClean);
        } else {
            world.hit(T::DrainGraceOver);
            if ending.held.objects > 0 {
                world.hit(T::DrainLeftObjects);
            }
        }
        let end = PlannedEnd {
            told_at: self.told_at.get().unwrap_or(world.now()),
            ended_at: world.now(),
            grace: settings.grace,
            slack: world.slack(self.process),
            requests: self.requests.get(),
            ending,
        };
        let books = world.check.closed(self.process);
        if let Some(books) = books {
            world.check.take(ended(end, &books));
        }
        self.end();
    }

    /// The process is no more, planned or not.
    pub(crate) fn end(self: &Rc<Self>) {
        let world = &self.world;
        world.check.closed(self.process);
        world.net.unlisten(self.address, self.process);
        world.exec.kill(self.process);
        world.proxies.borrow_mut().remove(&self.process);
        if world.publish(self.process, 0) {
            self.wake_others();
        }
        self.close_pool();
    }

    /// What still goes on, beside what is held.
    pub(crate) fn busy(&self) -> Option<String> {
        let requests = self.requests.get();
        let (running, waiting) = self.breaker.as_ref().map_or((0, 0), |gate| {
            let breaker = &gate.borrow().breaker;
            (breaker.running(), breaker.waiting())
        });
        let is_busy = requests > 0 || running > 0 || waiting > 0;
        is_busy.then(|| format!("{requests} requests, {running} run, {waiting} wait"))
    }

    /// The function dies, and is started again.
    pub(crate) fn crash_function(&self) {
        self.function_lives.set(self.function_lives.get() + 1);
        self.function_bell.ring(&self.world.exec);
        // Its container's stop is announced as any other, and no SIGTERM follows.
        self.wait_for_drain();
    }

    /// What the statistics port answers now.
    pub(crate) fn stat(&self) -> Stat {
        let world = &self.world;
        let report = self.stats.borrow_mut().report(world.now());
        let uptime = world.now().since(self.started);
        let measured = Stat::of_instance(world.name(self.process), &report, REPORT_INTERVAL, uptime);
        let unread = self.census().objects;
        let told = measured.clone().holding(unread as u64);
        world.check.take(reported(&measured, &told, unread));
        if unread > 0 && told != measured {
            world.hit(T::HeldIdle);
        }
        told
    }
}
