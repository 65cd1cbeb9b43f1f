//! Decider and scaler of one revision, asked once a tick, with everything that went in and came out.

use serde::{Deserialize, Serialize};

use super::{Decider, Decision, KpaSpec, LOG_SCHEMA, LogRecord, Observed, ScaleDecision, ScaleInput, Scaler};
use crate::stats::Stat;
use crate::time::Monotonic;

/// Everything that a revision's autoscaler decides from at one tick.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TickInput {
    /// When, in nanoseconds of the driver's monotonic clock.
    pub at: Monotonic,
    /// Instances that are ready.
    pub ready_pods: u32,
    /// The load, as [`Collector::observed`](super::Collector::observed) answers it; nothing: no data.
    pub observed: Option<Observed>,
    /// Whether a route leads to the revision.
    pub reachable: bool,
    /// Whether new requests are known to go through the activator.
    pub activator_in_path: bool,
}

/// Everything that a revision's autoscaler decides at one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickDecision {
    /// The decider's decision; nothing without data, and the last one stays.
    pub decided: Option<Decision>,
    /// Whether the decider is in panic afterwards.
    pub panicking: bool,
    /// What is to be done.
    pub scale: ScaleDecision,
}

/// One tick of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// What went in.
    pub input: TickInput,
    /// What came out.
    pub decision: TickDecision,
}

/// The autoscaler of one revision.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    decider: Decider,
    scaler: Scaler,
    desired_pods: Option<u32>,
    excess_burst_capacity: i32,
}

impl Autoscaler {
    /// The autoscaler of a revision that has `ready_pods` ready instances at `now`.
    pub fn new(spec: KpaSpec, ready_pods: u32, now: Monotonic) -> Self {
        let initial_scale = spec.scaler.initial_scale;
        let decider = Decider::new(spec.decider, ready_pods, now);
        Self {
            desired_pods: None,
            excess_burst_capacity: decider.initial_excess_burst_capacity(initial_scale),
            decider,
            scaler: Scaler::new(spec.scaler, now),
        }
    }

    /// What a decision log must begin with, so that it can be replayed: the arguments of [`Autoscaler::new`].
    pub fn log_start(spec: &KpaSpec, ready_pods: u32, now: Monotonic) -> LogRecord {
        LogRecord::Start { schema: LOG_SCHEMA, spec: Box::new(spec.clone()), ready_pods, at: now }
    }

    /// Decides what is to be done.
    pub fn tick(&mut self, input: TickInput) -> Tick {
        self.decider.set_reachable(input.reachable);
        let decided = self.decider.decide(input.at, input.ready_pods, input.observed);
        if let Some(decision) = decided {
            self.desired_pods = Some(decision.desired_pods);
            self.excess_burst_capacity = decision.excess_burst_capacity;
        }
        let scale = self.scaler.scale(&ScaleInput {
            at: input.at,
            desired_pods: self.desired_pods,
            excess_burst_capacity: self.excess_burst_capacity,
            ready_pods: input.ready_pods,
            reachable: input.reachable,
            activator_in_path: input.activator_in_path,
        });
        Tick { input, decision: TickDecision { decided, panicking: self.decider.panicking(), scale } }
    }

    /// Whether an activator's report should bring the next tick forward: somebody waits for a revision at zero.
    pub fn is_poked_by(&self, stat: &Stat) -> bool {
        self.desired_pods == Some(0) && stat.average_concurrent_requests != 0.0
    }
}
