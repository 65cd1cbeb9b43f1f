//! Carrying out a drain.
//!
//! `zipline_core::drain` decides; this tells it what happens, keeps its timer, and turns its effects into signals that the
//! ingress, the admin port and `run` wait for. Requests are reported by [`Visit`] guards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use zipline_core::drain::{self, DrainLimits, Effect, Ending, Held, Phase};

use crate::clock::Clock;

/// How far the servers have to wind down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Open,
    /// Nothing new is accepted; requests in flight end, idle connections close.
    Closing,
    /// Upgraded connections are cut as well.
    CutUpgraded,
}

/// Returns once the servers have to wind down that far. Safe to cancel.
pub async fn reached(stage: &mut watch::Receiver<Stage>, at_least: Stage) {
    // If the drain itself is gone, so is the process.
    drop(stage.wait_for(|stage| *stage >= at_least).await);
}

/// The signals that begin a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// SIGTERM: requests may still come for a while.
    Terminate,
    /// SIGINT: everything around ends too.
    Interrupt,
}

/// The drain of this process.
#[derive(Debug)]
pub struct Drain {
    clock: Clock,
    state: Mutex<drain::Drain>,
    /// Wakes [`Drain::run`] when something happened that may have an effect.
    changed: Notify,
    /// Answers `/wait-for-drain`.
    released: Notify,
    stage: watch::Sender<Stage>,
    /// What was unread when everything was closed.
    left: Mutex<Option<Held>>,
}

impl Drain {
    /// Nothing is drained yet.
    pub fn new(limits: DrainLimits, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::new(drain::Drain::new(limits)),
            changed: Notify::new(),
            released: Notify::new(),
            stage: watch::Sender::new(Stage::Open),
            left: Mutex::default(),
        })
    }

    /// Drives the drain until the process may exit. Called once.
    pub async fn run(&self) -> Ending {
        loop {
            if let Some(ending) = self.carry_out() {
                return ending;
            }
            let timeout = self.state().next_timeout();
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => self.state().handle_timeout(self.clock.now()),
                () = self.changed.notified() => {}
            }
        }
    }

    fn carry_out(&self) -> Option<Ending> {
        loop {
            let effect = self.state().poll_effect()?;
            tracing::debug!(?effect, "drain");
            match effect {
                Effect::CallOff => tracing::info!("no SIGTERM followed: the function was restarted, this instance serves on"),
                Effect::ReleaseWaiters => self.released.notify_waiters(),
                Effect::StopAccepting => self.wind_down(Stage::Closing),
                Effect::CutUpgraded => self.wind_down(Stage::CutUpgraded),
                Effect::Exit(ending) => {
                    self.wind_down(Stage::CutUpgraded);
                    return Some(ending);
                }
            }
        }
    }

    /// SIGTERM came, or SIGINT, which skips the quiet period.
    pub fn terminate(&self, signal: Termination) {
        match signal {
            Termination::Terminate => self.state().handle_sigterm(self.clock.now()),
            Termination::Interrupt => self.state().handle_sigint(self.clock.now()),
        }
        self.changed.notify_one();
    }

    /// What is held has changed; told from SIGTERM on.
    pub fn holds(&self, held: Held) {
        self.state().handle_held(self.clock.now(), held);
        self.changed.notify_one();
    }

    /// The doors are closed: this much was given up, whatever is held from now on.
    pub fn leaves(&self, left: Held) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }

    /// What the drain has still to wait for, of the objects that are `held` now: nothing before SIGTERM.
    pub fn left(&self, held: Held) -> Held {
        let given_up = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        match given_up {
            Some(left) => left,
            None if self.phase() < Phase::Quiet => Held::default(),
            None => held,
        }
    }

    /// Announces the drain and returns when its quiet period is over, or when it is called off.
    pub async fn wait(&self) {
        let released = self.released.notified();
        let mut released = std::pin::pin!(released);
        released.as_mut().enable(); // From here on no release is missed.
        self.state().handle_wait_for_drain(self.clock.now());
        self.changed.notify_one();
        released.await;
    }

    /// Whether probes are answered with 503.
    pub fn fails_probes(&self) -> bool {
        self.state().fails_probes()
    }

    /// Where the drain has got to.
    pub fn phase(&self) -> Phase {
        self.state().phase()
    }

    /// How far the servers have to wind down, now and from now on.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// A request came that is no probe.
    pub fn visit(self: &Arc<Self>) -> Visit {
        self.tell(|state, now| state.handle_request_started(now));
        Visit { drain: Arc::clone(self), is_upgraded: false }
    }

    fn wind_down(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let further = stage > *current;
            *current = (*current).max(stage);
            further
        });
    }

    fn tell(&self, event: impl FnOnce(&mut drain::Drain, zipline_core::time::Monotonic)) {
        let mut state = self.state();
        event(&mut state, self.clock.now());
        let draining = state.phase() != Phase::Serving;
        drop(state);
        if draining {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, drain::Drain> {
        // Nothing in here panics half way; a poisoned lock still guards sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight, or the upgraded connection that it became.
#[derive(Debug)]
pub struct Visit {
    drain: Arc<Drain>,
    is_upgraded: bool,
}

impl Visit {
    /// The request became an upgraded connection.
    pub fn upgraded(&mut self) {
        if !self.is_upgraded {
            self.is_upgraded = true;
            self.drain.tell(|state, now| state.handle_upgraded(now));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let is_upgraded = self.is_upgraded;
        self.drain.tell(
            |state, now| {
                if is_upgraded { state.handle_upgraded_ended(now) } else { state.handle_request_ended(now) }
            },
        );
    }
}
