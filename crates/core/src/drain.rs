//! How an instance's queue-proxy shuts down: its phases, and when each ends.
//!
//! ```text
//!            /wait-for-drain           SIGTERM         quiet        requests ended    upgraded ended      nothing held
//!  serving ────────────────► announced ──────► quiet ──────► finishing ──────► upgraded ──────► holding ──────► ended
//!     ▲                          │ no SIGTERM     (SIGTERM without an announcement leads straight to quiet)      ▲
//!     └──────── called off ──────┘ in time                  grace limit over: from wherever it is ───────────────┘
//! ```
//!
//! From the announcement on probes fail, so that no new request is sent here; those that come all the same are served, and
//! each begins the quiet period anew. After it, nothing new is accepted; requests in flight end, connections that were
//! upgraded get a time of their own. **The pull port stays open until the very end**: objects are handed out in every
//! phase, and after the last request the process lives on for as long as any is held, within the grace limit. What is
//! still there then is counted in the [`Ending`].
//!
//! An announcement that no SIGTERM follows was a restart of the function by its liveness probe, not the end of the instance.
//!
//! [`Drain`] reads no clock and closes nothing. Its driver tells what happened (`handle_*`), asks for the next time at which
//! something may change ([`Drain::next_timeout`]), and carries out what [`Drain::poll_effect`] answers.

use core::time::Duration;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Monotonic;

/// How long upgraded connections may go on after the last ordinary request.
pub const UPGRADED_MAX: Duration = Duration::from_secs(60);
/// How soon after the announcement a SIGTERM must follow.
pub const ANNOUNCED_MAX: Duration = Duration::from_secs(1);

/// The settings of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainLimits {
    /// How long no request may have come before nothing new is accepted.
    pub quiet: Duration,
    /// Limit over the whole drain, from SIGTERM on. What kills the process must come later than this.
    pub grace: Duration,
}

/// Where a drain has got to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No drain.
    Serving,
    /// The function's container is being stopped; SIGTERM is expected.
    Announced,
    /// SIGTERM came; requests are still served.
    Quiet,
    /// Nothing new is accepted; requests in flight end.
    Finishing,
    /// Only upgraded connections go on.
    Upgraded,
    /// Only held objects keep the process up.
    Holding,
    /// The process may exit.
    Ended,
}

impl Phase {
    /// The phase's name, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Announced => "announced",
            Self::Quiet => "quiet",
            Self::Finishing => "finishing",
            Self::Upgraded => "upgraded",
            Self::Holding => "holding",
            Self::Ended => "ended",
        }
    }
}

/// Unread objects, by count and size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Objects that are neither acknowledged nor released, expired or stored.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was still there when the drain ended. All zero: everything was finished and handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Requests that were cut.
    pub requests: u64,
    /// Upgraded connections that were cut.
    pub upgraded: u64,
    /// Objects that nobody read in time.
    pub held: Held,
}

impl Ending {
    /// Whether nothing was cut and nothing lost.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What a driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The announced stop does not come: probes succeed again.
    CallOff,
    /// Answer those who wait for the drain (`/wait-for-drain`).
    ReleaseWaiters,
    /// Close the request port to new connections, and idle ones.
    StopAccepting,
    /// Cut upgraded connections: their time is up.
    CutUpgraded,
    /// Close everything, the pull port too, and exit.
    Exit(Ending),
}

/// The shutdown of one queue-proxy.
#[derive(Clone, Debug)]
pub struct Drain {
    limits: DrainLimits,
    phase: Phase,
    /// When the drain was announced or, without an announcement, SIGTERM came.
    begun_at: Monotonic,
    terminated_at: Monotonic,
    last_request_at: Monotonic,
    upgraded_since: Monotonic,
    /// Those who wait were answered; the drain can still be called off.
    waiters_released: bool,
    requests: u64,
    upgraded: u64,
    /// Upgraded connections that were going on when their time was up.
    upgraded_cut: u64,
    held: Held,
    effects: VecDeque<Effect>,
}

impl Drain {
    /// A queue-proxy that serves, with nothing in flight and nothing held.
    pub fn new(limits: DrainLimits) -> Self {
        Self {
            limits,
            phase: Phase::Serving,
            begun_at: Monotonic::ZERO,
            terminated_at: Monotonic::ZERO,
            last_request_at: Monotonic::ZERO,
            upgraded_since: Monotonic::ZERO,
            waiters_released: false,
            requests: 0,
            upgraded: 0,
            upgraded_cut: 0,
            held: Held::default(),
            effects: VecDeque::new(),
        }
    }

    /// Somebody asked to be told when the quiet period is over; [`Effect::ReleaseWaiters`] answers.
    pub fn handle_wait_for_drain(&mut self, now: Monotonic) {
        self.advance(now);
        if self.phase == Phase::Serving {
            self.begin(now, Phase::Announced);
        } else if self.waiters_released {
            self.effects.push_back(Effect::ReleaseWaiters);
        }
        self.advance(now);
    }

    /// SIGTERM came. Only the first counts.
    pub fn handle_sigterm(&mut self, now: Monotonic) {
        self.advance(now);
        match self.phase {
            Phase::Serving => self.begin(now, Phase::Quiet),
            Phase::Announced => self.phase = Phase::Quiet,
            Phase::Quiet | Phase::Finishing | Phase::Upgraded | Phase::Holding | Phase::Ended => return,
        }
        self.terminated_at = now;
        self.advance(now);
    }

    /// SIGINT came: as SIGTERM, but whoever sends it takes everything down at once, so no request is waited for that might
    /// still come. Only the first signal counts.
    pub fn handle_sigint(&mut self, now: Monotonic) {
        if self.phase < Phase::Quiet {
            self.limits.quiet = Duration::ZERO;
        }
        self.handle_sigterm(now);
    }

    /// A request came that is no probe.
    pub fn handle_request_started(&mut self, now: Monotonic) {
        // Counted first: the port was still open, so it is served, also where its coming shows that the quiet period is
        // over (a timer may be late) and everything else would be at its end.
        self.requests = self.requests.saturating_add(1);
        self.advance(now);
        self.last_request_at = self.last_request_at.max(now);
    }

    /// A request ended.
    pub fn handle_request_ended(&mut self, now: Monotonic) {
        self.requests = self.requests.saturating_sub(1);
        self.advance(now);
    }

    /// A request in flight became an upgraded connection.
    pub fn handle_upgraded(&mut self, now: Monotonic) {
        self.upgraded = self.upgraded.saturating_add(1);
        self.handle_request_ended(now);
    }

    /// An upgraded connection ended.
    pub fn handle_upgraded_ended(&mut self, now: Monotonic) {
        self.upgraded = self.upgraded.saturating_sub(1);
        self.advance(now);
    }

    /// What is held has changed.
    pub fn handle_held(&mut self, now: Monotonic, held: Held) {
        self.held = held;
        self.advance(now);
    }

    /// The time of [`Drain::next_timeout`] has come. Too early a call changes nothing.
    pub fn handle_timeout(&mut self, now: Monotonic) {
        self.advance(now);
    }

    /// What to do next, until nothing is left.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When something may change though nothing else happens.
    pub fn next_timeout(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Serving | Phase::Ended => None,
            Phase::Announced if self.waiters_released => Some(self.called_off_at()),
            Phase::Announced => Some(self.called_off_at().min(self.quiet_ends_at())),
            Phase::Quiet => Some(self.quiet_ends_at().min(self.grace_ends_at())),
            Phase::Upgraded => Some((self.upgraded_since + UPGRADED_MAX).min(self.grace_ends_at())),
            Phase::Finishing | Phase::Holding => Some(self.grace_ends_at()),
        }
    }

    /// Where the drain has got to.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether probes are answered with 503 `shutting down`.
    pub fn fails_probes(&self) -> bool {
        self.phase != Phase::Serving
    }

    /// Whether new objects are taken in; afterwards `draining`.
    pub fn accepts_puts(&self) -> bool {
        self.phase < Phase::Quiet
    }

    /// How long at most an object put at `now` can still be read: the grace limit from now on, as SIGTERM may come at any
    /// moment, and what is left of it once SIGTERM came.
    pub fn guaranteed_for(&self, now: Monotonic) -> Duration {
        if self.phase < Phase::Quiet { self.limits.grace } else { now.until(self.grace_ends_at()) }
    }

    fn begin(&mut self, now: Monotonic, phase: Phase) {
        self.begun_at = now;
        self.waiters_released = false;
        self.phase = phase;
    }

    fn quiet_ends_at(&self) -> Monotonic {
        self.begun_at.max(self.last_request_at) + self.limits.quiet
    }

    fn called_off_at(&self) -> Monotonic {
        self.begun_at + ANNOUNCED_MAX
    }

    fn grace_ends_at(&self) -> Monotonic {
        let late = if mutant!("drain-outlives-grace") { Duration::from_secs(120) } else { Duration::ZERO };
        self.terminated_at + self.limits.grace + late
    }

    /// Goes through every phase that is over at `now`.
    fn advance(&mut self, now: Monotonic) {
        if self.phase >= Phase::Quiet && self.phase < Phase::Ended && now >= self.grace_ends_at() {
            self.release_waiters();
            self.end();
        }
        while let Some(next) = self.next_phase(now) {
            self.enter(now, next);
        }
    }

    fn next_phase(&mut self, now: Monotonic) -> Option<Phase> {
        match self.phase {
            Phase::Announced => {
                if now >= self.quiet_ends_at() {
                    self.release_waiters();
                }
                (now >= self.called_off_at()).then_some(Phase::Serving)
            }
            // Once over, the quiet period stays over, whatever requests come between the announcement and SIGTERM.
            Phase::Quiet => (self.waiters_released || now >= self.quiet_ends_at()).then_some(Phase::Finishing),
            Phase::Finishing => (self.requests == 0 || mutant!("drain-forgets-requests")).then_some(Phase::Upgraded),
            Phase::Upgraded => {
                let over = self.upgraded == 0 || now >= self.upgraded_since + UPGRADED_MAX;
                over.then_some(Phase::Holding)
            }
            Phase::Holding => (self.held.objects == 0 || mutant!("drain-forgets-held")).then_some(Phase::Ended),
            Phase::Serving | Phase::Ended => None,
        }
    }

    fn enter(&mut self, now: Monotonic, phase: Phase) {
        match phase {
            Phase::Serving => {
                self.release_waiters();
                self.effects.push_back(Effect::CallOff);
            }
            Phase::Finishing => {
                self.release_waiters();
                self.effects.push_back(Effect::StopAccepting);
            }
            Phase::Upgraded => self.upgraded_since = now,
            Phase::Holding if self.upgraded > 0 => {
                self.upgraded_cut = self.upgraded;
                self.effects.push_back(Effect::CutUpgraded);
            }
            Phase::Ended => return self.end(),
            Phase::Announced | Phase::Quiet | Phase::Holding => {}
        }
        self.phase = phase;
    }

    fn release_waiters(&mut self) {
        if !self.waiters_released {
            self.waiters_released = true;
            self.effects.push_back(Effect::ReleaseWaiters);
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        let upgraded = self.upgraded_cut.max(self.upgraded);
        let ending = Ending { requests: self.requests, upgraded, held: self.held };
        self.effects.push_back(Effect::Exit(ending));
    }
}

#[cfg(test)]
mod tests;
