//! From the number a decider asks for to the number of instances to run.
//!
//! Three things stand between the two. The **initial scale** holds until it was reached once. The **bounds** hold always,
//! the lower one only while a route leads to the revision. And **zero** is approached with care, so that no request meets
//! a revision without instances and without an activator to hold it:
//!
//! ```text
//!   activating ── enough instances ready ──► active ── idle, active for a stable window ──► inactive
//!       ▲  └──── progress deadline passed: 0 ─────────────────────────────────────────────► │  ▲
//!       └────────────────────── load again ─────────────────────────────────────────────────┘  │
//!                                          inactive, activator in the path, grace period over: 0
//! ```
//!
//! A revision that is marked inactive still runs its last instance while its requests are being moved to the activator.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Monotonic;

/// Beyond the progress deadline, a revision that does not come up is given this long, so that whoever watches its
/// instances can say why before they go.
const ACTIVATION_TIMEOUT_EXTRA: Duration = Duration::from_secs(30);
/// Added to a time that must have passed, so that looking again then finds it passed.
const PAST: Duration = Duration::from_millis(1);
/// How soon to look again whether the activator is in the path.
const PATH_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of a revision, and its way to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalerSpec {
    /// Fewest instances while a route leads to the revision.
    pub min_scale: u32,
    /// Most instances; 0: no bound.
    pub max_scale: u32,
    /// Instances that must have been ready once before load alone decides.
    pub initial_scale: u32,
    /// Whether the last instance may go.
    pub enable_scale_to_zero: bool,
    /// How long a revision must have been active before it may become inactive.
    #[serde(rename = "stable_window_ms", with = "super::as_millis")]
    pub stable_window: Duration,
    /// How long requests go through the activator before the last instance goes.
    #[serde(rename = "grace_period_ms", with = "super::as_millis")]
    pub grace_period: Duration,
    /// How long at least the last instance stays once the revision is inactive, while a route leads to it.
    #[serde(rename = "pod_retention_ms", with = "super::as_millis")]
    pub pod_retention: Duration,
    /// How long a revision may take to become ready.
    #[serde(rename = "progress_deadline_ms", with = "super::as_millis")]
    pub progress_deadline: Duration,
    /// The burst capacity is unbounded, so the activator never leaves the path.
    pub activator_always_in_path: bool,
}

/// Whether a revision serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Instances are wanted and not enough of them are ready.
    Activating,
    /// Enough instances are ready.
    Active,
    /// No instance is wanted; the last one may still run.
    Inactive,
}

/// Who stands between the ingress and the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestPath {
    /// The activator: it holds requests until an instance can take them.
    Proxy,
    /// Nobody: requests go straight to ready instances (to the activator all the same while none is ready).
    Serve,
}

/// What the scaler needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleInput {
    /// Now.
    pub at: Monotonic,
    /// What the decider last asked for; nothing before its first decision.
    pub desired_pods: Option<u32>,
    /// The excess burst capacity of that decision, or [`Decider::initial_excess_burst_capacity`](super::Decider::initial_excess_burst_capacity).
    pub excess_burst_capacity: i32,
    /// Instances that are ready.
    pub ready_pods: u32,
    /// Whether a route leads to the revision.
    pub reachable: bool,
    /// Whether new requests are known to go through the activator, as a probe or the router itself says.
    pub activator_in_path: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleDecision {
    /// Instances wanted; nothing while that is unknown.
    pub want: Option<u32>,
    /// Number of instances to run from now on; nothing: leave them as they are.
    pub replicas: Option<u32>,
    /// Who is to stand in the path of requests.
    pub path: RequestPath,
    /// Whether the revision serves.
    pub activity: Activity,
    /// When the decision may change though nothing else does.
    pub look_again_at: Option<Monotonic>,
}

/// The scaler of one revision.
#[derive(Clone, Debug)]
pub struct Scaler {
    spec: ScalerSpec,
    activity: Activity,
    activity_since: Monotonic,
    /// Once the initial scale was reached it is never asked for again.
    initial_scale_reached: bool,
    /// Since when requests have been sent through the activator.
    proxy_since: Option<Monotonic>,
}

/// Step on the way to zero.
struct Step {
    want: Option<u32>,
    apply: bool,
    look_again_at: Option<Monotonic>,
}

impl Step {
    const fn apply(want: u32) -> Self {
        Self { want: Some(want), apply: true, look_again_at: None }
    }

    const fn wait(want: Option<u32>, until: Monotonic) -> Self {
        Self { want, apply: false, look_again_at: Some(until) }
    }
}

impl Scaler {
    /// The scaler of a revision that begins to be activated at `now`, behind the activator.
    pub fn new(spec: ScalerSpec, now: Monotonic) -> Self {
        Self { spec, activity: Activity::Activating, activity_since: now, initial_scale_reached: false, proxy_since: Some(now) }
    }

    /// Decides what is to be done.
    pub fn scale(&mut self, input: &ScaleInput) -> ScaleDecision {
        let step = self.step(input);
        let path = match step.want {
            Some(1..) if input.excess_burst_capacity >= 0 => RequestPath::Serve,
            Some(_) | None => RequestPath::Proxy,
        };
        match path {
            RequestPath::Proxy => self.proxy_since = self.proxy_since.or(Some(input.at)),
            RequestPath::Serve => self.proxy_since = None,
        }
        self.follow_activity(input, step.want);
        ScaleDecision {
            want: step.want,
            replicas: step.want.filter(|_| step.apply),
            path,
            activity: self.activity,
            look_again_at: step.look_again_at,
        }
    }

    /// Whether the revision serves.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    fn step(&self, input: &ScaleInput) -> Step {
        if input.desired_pods.is_none() && self.activity != Activity::Activating {
            return Step { want: None, apply: false, look_again_at: None };
        }
        let min =
            if self.initial_scale_reached || !input.reachable { self.min_scale(input.reachable) } else { self.initial_floor() };
        let desired = input.desired_pods.unwrap_or(0);
        // The lower bound wins over the upper one, which an initial scale may exceed.
        let bounded = match self.spec.max_scale {
            _ if desired < min => min,
            0 => desired,
            _ if mutant!("most-instances-ignored") => desired,
            max => desired.min(max),
        };
        if bounded > 0 { Step::apply(bounded) } else { self.step_to_zero(input) }
    }

    fn step_to_zero(&self, input: &ScaleInput) -> Step {
        if !self.spec.enable_scale_to_zero {
            return Step::apply(1);
        }
        let age = input.at.since(self.activity_since);
        match self.activity {
            Activity::Activating => {
                let timeout = self.spec.progress_deadline.saturating_add(ACTIVATION_TIMEOUT_EXTRA);
                if age > timeout { Step::apply(0) } else { Step::wait(None, self.activity_since + timeout + PAST) }
            }
            Activity::Active if mutant!("zero-while-held") => Step::apply(0),
            Activity::Active if age >= self.spec.stable_window => Step::wait(Some(0), input.at + PATH_CHECK_INTERVAL),
            Activity::Active => Step { look_again_at: Some(self.activity_since + self.spec.stable_window), ..Step::apply(1) },
            Activity::Inactive => self.step_from_inactive(input, age),
        }
    }

    fn step_from_inactive(&self, input: &ScaleInput, inactive_for: Duration) -> Step {
        if !input.activator_in_path && !self.spec.activator_always_in_path {
            return Step::wait(Some(0), input.at + PATH_CHECK_INTERVAL);
        }
        let retention = if input.reachable { self.spec.pod_retention } else { Duration::ZERO };
        if inactive_for >= retention.max(self.spec.grace_period) {
            return Step::apply(0);
        }
        if inactive_for < retention {
            return Step::wait(Some(0), self.activity_since + retention);
        }
        // The revision may have been behind the activator long before it became inactive.
        let proxy_since = self.proxy_since.unwrap_or(input.at);
        if input.at.since(proxy_since) >= self.spec.grace_period {
            return Step::apply(0);
        }
        Step::wait(Some(0), proxy_since + self.spec.grace_period)
    }

    fn follow_activity(&mut self, input: &ScaleInput, want: Option<u32>) {
        let min = self.min_scale(input.reachable);
        let threshold = if self.initial_scale_reached { min.max(1) } else { min.max(self.spec.initial_scale) };
        let enough = input.ready_pods >= threshold;
        self.initial_scale_reached |= enough;
        let next = match want {
            _ if threshold == 0 => Activity::Inactive,
            Some(0) => Activity::Inactive,
            None if self.activity == Activity::Inactive => Activity::Inactive,
            _ if enough => Activity::Active,
            _ => Activity::Activating,
        };
        if next != self.activity {
            self.activity = next;
            self.activity_since = input.at;
        }
    }

    fn min_scale(&self, reachable: bool) -> u32 {
        if reachable { self.spec.min_scale } else { 0 }
    }

    /// An initial scale of 1 is where a revision starts anyway, and must not keep it from zero.
    fn initial_floor(&self) -> u32 {
        if self.spec.initial_scale > 1 { self.spec.min_scale.max(self.spec.initial_scale) } else { self.spec.min_scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ScalerSpec {
        ScalerSpec {
            min_scale: 0,
            max_scale: 0,
            initial_scale: 1,
            enable_scale_to_zero: true,
            stable_window: Duration::from_secs(60),
            grace_period: Duration::from_secs(30),
            pod_retention: Duration::ZERO,
            progress_deadline: Duration::from_secs(600),
            activator_always_in_path: false,
        }
    }

    /// One revision, with what stays the same from call to call.
    struct Revision {
        scaler: Scaler,
        input: ScaleInput,
    }

    impl Revision {
        fn new(spec: ScalerSpec) -> Self {
            let input = ScaleInput {
                at: Monotonic::ZERO,
                desired_pods: None,
                excess_burst_capacity: 0,
                ready_pods: 0,
                reachable: true,
                activator_in_path: true,
            };
            Self { scaler: Scaler::new(spec, Monotonic::ZERO), input }
        }

        fn at(&mut self, secs: u64, desired: impl Into<Option<u32>>, ready: u32) -> ScaleDecision {
            self.input =
                ScaleInput { at: Monotonic::from_secs(secs), desired_pods: desired.into(), ready_pods: ready, ..self.input };
            self.scaler.scale(&self.input)
        }
    }

    #[test]
    fn an_idle_revision_becomes_inactive_and_goes_when_it_was_proxied_for_the_grace_period() {
        let mut revision = Revision::new(spec());
        assert_eq!(revision.at(0, 1, 1).activity, Activity::Active);
        assert_eq!(revision.at(10, 0, 1).replicas, Some(1), "not yet active for a stable window");
        let marked = revision.at(60, 0, 1);
        assert_eq!((marked.want, marked.replicas, marked.activity), (Some(0), None, Activity::Inactive));
        assert_eq!(marked.path, RequestPath::Proxy);
        assert_eq!(revision.at(80, 0, 1).replicas, None);
        assert_eq!(revision.at(90, 0, 1).replicas, Some(0));
    }

    #[test]
    fn time_in_proxy_mode_before_becoming_inactive_counts() {
        let mut revision = Revision::new(spec());
        revision.input.excess_burst_capacity = -1;
        assert_eq!(revision.at(0, 1, 1).path, RequestPath::Proxy);
        assert_eq!(revision.at(60, 0, 1).activity, Activity::Inactive);
        assert_eq!(revision.at(62, 0, 1).replicas, Some(0));
    }

    #[test]
    fn a_retention_period_keeps_the_last_instance_of_a_routed_revision_only() {
        let mut revision = Revision::new(ScalerSpec { pod_retention: Duration::from_secs(120), ..spec() });
        revision.at(0, 1, 1);
        revision.at(60, 0, 1);
        assert_eq!(revision.at(179, 0, 1).replicas, None);
        assert_eq!(revision.clone_at(179, false).replicas, Some(0));
        assert_eq!(revision.at(180, 0, 1).replicas, Some(0));
    }

    impl Revision {
        fn clone_at(&self, secs: u64, reachable: bool) -> ScaleDecision {
            self.scaler.clone().scale(&ScaleInput { at: Monotonic::from_secs(secs), reachable, ..self.input })
        }
    }

    #[test]
    fn nothing_goes_to_zero_before_the_activator_is_in_the_path() {
        let mut revision = Revision::new(spec());
        revision.at(0, 1, 1);
        revision.at(60, 0, 1);
        revision.input.activator_in_path = false;
        let waiting = revision.at(600, 0, 1);
        assert_eq!((waiting.replicas, waiting.look_again_at), (None, Some(Monotonic::from_secs(601))));
    }

    #[test]
    fn load_brings_an_inactive_revision_back_through_activating() {
        let mut revision = Revision::new(spec());
        revision.at(0, 1, 1);
        revision.at(60, 0, 1);
        revision.at(90, 0, 1);
        let woken = revision.at(100, 2, 0);
        assert_eq!((woken.replicas, woken.activity), (Some(2), Activity::Activating));
        assert_eq!(revision.at(102, 2, 1).activity, Activity::Active);
    }

    #[test]
    fn the_initial_scale_holds_until_it_was_reached_once() {
        let mut revision = Revision::new(ScalerSpec { initial_scale: 3, max_scale: 2, ..spec() });
        assert_eq!(revision.at(0, None, 0).replicas, Some(3), "also before the first decision, and above the upper bound");
        assert_eq!(revision.at(2, 0, 2).replicas, Some(3));
        assert_eq!(revision.at(4, 1, 3).replicas, Some(3));
        assert_eq!(revision.at(6, 1, 3).replicas, Some(1));
    }

    #[test]
    fn a_revision_without_a_route_ignores_initial_and_smallest_scale() {
        let mut revision = Revision::new(ScalerSpec { initial_scale: 3, min_scale: 2, ..spec() });
        revision.input.reachable = false;
        assert_eq!(revision.at(0, 1, 0).replicas, Some(1));
    }

    #[test]
    fn bounds_hold_and_a_smallest_scale_keeps_from_zero() {
        let mut revision = Revision::new(ScalerSpec { min_scale: 2, max_scale: 5, ..spec() });
        assert_eq!(revision.at(0, 0, 2).replicas, Some(2));
        assert_eq!(revision.at(1_000, 0, 2).replicas, Some(2));
        assert_eq!(revision.at(1_002, 9, 2).replicas, Some(5));
    }

    #[test]
    fn a_revision_that_never_comes_up_is_given_up_after_the_deadline() {
        let mut revision = Revision::new(spec());
        let waiting = revision.at(630, None, 0);
        assert_eq!((waiting.replicas, waiting.look_again_at), (None, Some(Monotonic::from_millis(630_001))));
        let given_up = revision.at(631, None, 0);
        assert_eq!((given_up.replicas, given_up.activity), (Some(0), Activity::Inactive));
    }

    #[test]
    fn without_scale_to_zero_one_instance_stays() {
        let mut revision = Revision::new(ScalerSpec { enable_scale_to_zero: false, ..spec() });
        revision.at(0, 1, 1);
        assert_eq!(revision.at(10_000, 0, 1).replicas, Some(1));
    }

    #[test]
    fn an_initial_scale_of_zero_starts_inactive_and_stays_so_until_there_is_load() {
        let mut revision = Revision::new(ScalerSpec { initial_scale: 0, ..spec() });
        assert_eq!(revision.at(0, None, 0).activity, Activity::Inactive);
        let idle = revision.at(2, None, 0);
        assert_eq!((idle.want, idle.activity, idle.path), (None, Activity::Inactive, RequestPath::Proxy));
        assert_eq!(revision.at(4, 1, 0).activity, Activity::Activating);
    }
}
