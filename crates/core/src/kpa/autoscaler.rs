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
    /// What stands for `desired_pods` as long as there was no data.
    initial_pods: u32,
    excess_burst_capacity: i32,
}

impl Autoscaler {
    /// The autoscaler of a revision that has `ready_pods` ready instances at `now`.
    pub fn new(spec: KpaSpec, ready_pods: u32, now: Monotonic) -> Self {
        let initial_scale = spec.scaler.initial_scale;
        let initial_pods = spec.initial_pods();
        let decider = Decider::new(spec.decider, ready_pods, now);
        Self {
            desired_pods: None,
            initial_pods,
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

    /// Whether an activator's report should bring the next tick forward: somebody waits for a revision at zero, be it one
    /// that began there and has had no data yet.
    pub fn is_poked_by(&self, stat: &Stat) -> bool {
        self.desired_pods.unwrap_or(self.initial_pods) == 0 && stat.average_concurrent_requests != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kpa::AutoscalerConfig;

    fn autoscaler(annotations: &[(&str, &str)]) -> Autoscaler {
        let config = AutoscalerConfig::from_settings([("allow-zero-initial-scale", "true")]).expect("settings").0;
        let (spec, _) = KpaSpec::from_annotations(annotations.iter().copied(), 0, &config).expect("annotations");
        Autoscaler::new(spec, 0, Monotonic::ZERO)
    }

    #[test]
    fn a_first_request_pokes_a_revision_that_began_at_zero_and_none_that_is_starting() {
        let waiting = Stat { average_concurrent_requests: 1.0, ..Stat::default() };
        let at_zero = autoscaler(&[("autoscaling.knative.dev/initial-scale", "0")]);
        assert!(at_zero.is_poked_by(&waiting));
        assert!(!at_zero.is_poked_by(&Stat::default()), "nobody waits");
        assert!(!autoscaler(&[]).is_poked_by(&waiting), "its first instance is on its way");
        let kept = autoscaler(&[("autoscaling.knative.dev/initial-scale", "0"), ("autoscaling.knative.dev/min-scale", "2")]);
        assert!(!kept.is_poked_by(&waiting), "min-scale has it start");
    }
}
