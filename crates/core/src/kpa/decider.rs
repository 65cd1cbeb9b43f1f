//! How many instances a revision needs, decided from its recent load.
//!
//! One call a tick. Each decision looks at two averages of the revision's metric: over the stable window, and over the
//! much shorter panic window. A burst that the panic window sees starts *panic*: from then on the larger of both counts,
//! and the number of instances does not fall until the burst has made its way into the stable window.
//!
//! Decisions are Knative's, number for number (`conformance/vectors/knative/kpa-decisions.json`). What follows a
//! decision (bounds, initial scale, scale to zero) is [`Scaler`](super::Scaler)'s.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::maximum::MaximumWindow;
use crate::time::Monotonic;

/// How often a revision's decider is asked.
pub const TICK_INTERVAL: Duration = Duration::from_secs(2);

/// What is measured and kept near its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Requests in flight.
    #[default]
    Concurrency,
    /// Requests per second.
    Rps,
}

/// What one revision's decider is to keep to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeciderSpec {
    /// What the observed values measure. The decision itself is the same for both.
    pub metric: Metric,
    /// Load to aim for in each instance, utilisation included; above 0.
    pub target_value: f64,
    /// Load that an instance can take.
    pub total_value: f64,
    /// Load that must fit on top of the present one without queueing; 0: don't care, −1: without bound.
    pub target_burst_capacity: f64,
    /// How many times the ready instances' target the panic window's load must reach to start panic.
    pub panic_threshold: f64,
    /// Most that the instances may multiply by in one decision; above 1.
    pub max_scale_up_rate: f64,
    /// Most that the instances may be divided by in one decision; above 1.
    pub max_scale_down_rate: f64,
    /// Length of the stable window: how long panic lasts beyond the burst.
    #[serde(rename = "stable_window_ms", with = "super::as_millis")]
    pub stable_window: Duration,
    /// How long a lower number must be asked for before it is decided.
    #[serde(rename = "scale_down_delay_ms", with = "super::as_millis")]
    pub scale_down_delay: Duration,
    /// Least number of instances when there is any load; without effect below 2.
    pub activation_scale: u32,
    /// Whether a route leads to the revision. One without may fall to zero in a single decision.
    pub reachable: bool,
}

/// The load seen at one tick, in the unit of the decider's metric, summed over all instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Average over the stable window.
    pub stable: f64,
    /// Average over the panic window.
    pub panic: f64,
}

/// What a decider asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Instances wanted, before bounds.
    pub desired_pods: u32,
    /// Load that the ready instances could take beyond the present one and the burst capacity. Below 0 the activator
    /// belongs in the path of requests.
    pub excess_burst_capacity: i32,
}

/// The decider of one revision.
#[derive(Clone, Debug)]
pub struct Decider {
    spec: DeciderSpec,
    panic: Option<Panic>,
    delay: Option<MaximumWindow>,
}

#[derive(Clone, Copy, Debug)]
struct Panic {
    /// When the load was last seen over the threshold.
    over_at: Monotonic,
    /// The highest number asked for since panic began.
    highest: u32,
}

impl Decider {
    /// A decider for a revision that has `ready_pods` ready instances.
    ///
    /// More than one means that somebody decided for them before: the decider then begins in panic, which keeps them
    /// until it knows the load.
    pub fn new(spec: DeciderSpec, ready_pods: u32, now: Monotonic) -> Self {
        Self {
            panic: (ready_pods > 1).then_some(Panic { over_at: now, highest: ready_pods }),
            delay: (!spec.scale_down_delay.is_zero()).then(|| MaximumWindow::new(spec.scale_down_delay, TICK_INTERVAL)),
            spec,
        }
    }

    /// Says whether a route leads to the revision.
    pub fn set_reachable(&mut self, reachable: bool) {
        self.spec.reachable = reachable;
    }

    /// What the decider keeps to.
    pub fn spec(&self) -> &DeciderSpec {
        &self.spec
    }

    /// Whether a burst is being followed.
    pub fn panicking(&self) -> bool {
        self.panic.is_some()
    }

    /// Decides at `now`. Without an observation there is no decision, and whatever was decided last stays.
    pub fn decide(&mut self, now: Monotonic, ready_pods: u32, observed: Option<Observed>) -> Option<Decision> {
        let observed = observed?;
        // A revision at zero is treated as if it had one instance, or no rate could ever lift it.
        let ready = f64::from(ready_pods.max(1));
        let stable_count = (observed.stable / self.spec.target_value).ceil();
        let panic_count = (observed.panic / self.spec.target_value).ceil();
        let stable = self.within_rates(stable_count, ready);
        let panic = self.within_rates(panic_count, ready);

        self.follow_panic(now, panic_count / ready >= self.spec.panic_threshold);
        let mut desired = stable;
        if let Some(state) = &mut self.panic {
            state.highest = state.highest.max(stable).max(panic);
            desired = state.highest;
        }
        if let Some(delay) = self.delay.as_mut().filter(|_| self.spec.reachable) {
            desired = delay.record(now, desired);
        }
        Some(Decision { desired_pods: desired, excess_burst_capacity: self.excess_burst_capacity(ready_pods, observed.panic) })
    }

    /// The excess burst capacity before there was any decision, for a revision that starts with `initial_scale` pods.
    pub fn initial_excess_burst_capacity(&self, initial_scale: u32) -> i32 {
        match self.spec.target_burst_capacity {
            unbounded_or_none if unbounded_or_none == -1.0 || unbounded_or_none == 0.0 => unbounded_or_none as i32,
            burst => (f64::from(initial_scale) * self.spec.total_value - burst) as i32,
        }
    }

    /// A count of instances, moved no further from the ready ones than the rates allow, and to the activation scale.
    fn within_rates(&self, count: f64, ready: f64) -> u32 {
        let up = (self.spec.max_scale_up_rate * ready).ceil(); // Rounded up, so that a small rate can't stop growth.
        let down = if self.spec.reachable { (ready / self.spec.max_scale_down_rate).floor() } else { 0.0 };
        let bounded = count.max(down).min(up) as u32;
        // The activation scale follows the load itself: it must not hold up what the down rate alone keeps alive.
        if self.spec.activation_scale > 1 && count > 0.0 { bounded.max(self.spec.activation_scale) } else { bounded }
    }

    fn follow_panic(&mut self, now: Monotonic, over_threshold: bool) {
        match &mut self.panic {
            Some(state) if over_threshold => state.over_at = now,
            Some(state) if state.over_at + self.spec.stable_window < now => self.panic = None,
            None if over_threshold => self.panic = Some(Panic { over_at: now, highest: 0 }),
            Some(_) | None => {}
        }
    }

    /// Measured against the panic window, so that the activator comes and goes with bursts and not with single requests.
    fn excess_burst_capacity(&self, ready_pods: u32, observed_panic: f64) -> i32 {
        let burst = self.spec.target_burst_capacity;
        if burst == 0.0 {
            0
        } else if burst > 0.0 {
            (f64::from(ready_pods) * self.spec.total_value - burst - observed_panic).floor() as i32
        } else {
            -1
        }
    }
}
