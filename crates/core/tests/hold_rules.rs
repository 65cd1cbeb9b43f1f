//! What holding objects does to a revision's scale: the rule, and every known cost of it, over the decider that is held to
//! Knative's own answers.
//!
//! A [`World`] is a revision whose instances do the same every second. Each second their reports are scraped, folded and
//! recorded as the driver does it, every other second the autoscaler is asked.

mod recordings;

use std::time::Duration;

use recordings::{DecisionCase, recording};
use zipline_core::kpa::{
    Activity, Autoscaler, AutoscalerConfig, Collector, Decider, DeciderSpec, KpaSpec, Metric, Observed, RequestPath, ScrapePlan,
    Tick, TickInput, average_over_population, sample_size,
};
use zipline_core::stats::{HOLD_LOAD, RequestReport, Stat};
use zipline_core::time::{Monotonic, WallTime};

/// What an instance does, second after second.
#[derive(Clone, Copy, Default)]
struct Instance {
    in_flight: f64,
    /// The requests came through the activator.
    proxied: bool,
    arrivals: f64,
    objects: u64,
}

const IDLE: Instance = Instance { in_flight: 0.0, proxied: false, arrivals: 0.0, objects: 0 };
const HOLDER: Instance = Instance { objects: 3, ..IDLE };
/// A driver that waits for one long call and holds what it has scattered.
const BLOCKED_HOLDER: Instance = Instance { in_flight: 1.0, objects: 3, ..IDLE };

impl Instance {
    fn stat(&self) -> Stat {
        let proxied = |value: f64| if self.proxied { value } else { 0.0 };
        let report = RequestReport {
            average_concurrency: self.in_flight,
            average_proxied_concurrency: proxied(self.in_flight),
            request_count: self.arrivals,
            proxied_request_count: proxied(self.arrivals),
        };
        Stat::of_instance("instance", &report, Duration::from_secs(1), Duration::from_secs(600)).holding(self.objects)
    }

    /// What the activator reports of the requests it sent here.
    fn activator_stat(&self) -> Option<Stat> {
        self.proxied.then(|| Stat {
            average_concurrent_requests: self.in_flight,
            request_count: self.arrivals,
            ..Stat::default()
        })
    }
}

struct World {
    metric: Metric,
    collector: Collector,
    autoscaler: Autoscaler,
    seconds: u64,
}

impl World {
    fn new(annotations: &[(&str, &str)], container_concurrency: u32) -> Self {
        let named: Vec<_> = annotations.iter().map(|(name, value)| (format!("autoscaling.knative.dev/{name}"), *value)).collect();
        let pairs = named.iter().map(|(name, value)| (name.as_str(), *value));
        let (spec, warnings) = KpaSpec::from_annotations(pairs, container_concurrency, &AutoscalerConfig::default())
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert!(warnings.is_empty(), "{warnings:?}");
        Self {
            metric: spec.decider.metric,
            collector: spec.collector(),
            autoscaler: Autoscaler::new(spec, 1, Monotonic::ZERO),
            seconds: 0,
        }
    }

    /// Lets `seconds` pass and answers the ticks.
    fn run(&mut self, instances: &[Instance], seconds: u64) -> Vec<Tick> {
        let population = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let mut ticks = Vec::new();
        for _ in 0..seconds {
            let now = WallTime::from_unix_secs(1_700_000_000 + self.seconds);
            let stats: Vec<Stat> = instances.iter().map(Instance::stat).collect();
            let scraped = average_over_population(&stats, population).unwrap_or_else(|few| panic!("{few}"));
            for stat in scraped.iter().chain(&instances.iter().filter_map(Instance::activator_stat).collect::<Vec<_>>()) {
                self.collector.record(now, stat);
            }
            if self.seconds.is_multiple_of(2) {
                ticks.push(self.autoscaler.tick(TickInput {
                    at: Monotonic::from_secs(self.seconds),
                    ready_pods: population,
                    observed: self.collector.observed(now, self.metric),
                    reachable: true,
                    activator_in_path: true,
                }));
            }
            self.seconds += 1;
        }
        ticks
    }
}

/// What is asked for in the end, when the last instances go as soon as fewer are wanted (but for the very last one).
fn settled(annotations: &[(&str, &str)], instances: &[Instance]) -> Tick {
    let mut world = World::new(annotations, 0);
    let mut left = instances.to_vec();
    loop {
        let ticks = world.run(&left, 200);
        let last = ticks.last().copied().unwrap_or_else(|| panic!("there were ticks"));
        let wanted = last.decision.scale.want.unwrap_or(0).max(1) as usize;
        if wanted >= left.len() {
            return last;
        }
        left.truncate(wanted);
    }
}

#[test]
fn each_rule_and_each_cost_of_a_hold_asks_for_the_number_it_should() {
    const RPS: (&str, &str) = ("metric", "rps");
    /// One request fills an instance, and one more than it would mean panic.
    const TARGET_1: &[(&str, &str)] = &[("target", "1"), ("target-utilization-percentage", "100")];
    let busy = |in_flight| Instance { in_flight, ..IDLE };
    let at_rate = |arrivals| Instance { arrivals, ..IDLE };
    let proxied = Instance { proxied: true, ..BLOCKED_HOLDER };
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<Instance>, u32);
    let cases: [Case<'_>; 16] = [
        ("an idle revision goes", &[], vec![IDLE], 0),
        ("an idle holder stays", &[], vec![HOLDER], 1),
        ("an idle holder of an rps revision stays", &[RPS], vec![HOLDER], 1),
        ("many idle holders keep at most themselves", &[], vec![HOLDER; 40], 1),
        (
            "also at the smallest target there is",
            &[("target", "0.01"), ("target-utilization-percentage", "100")],
            vec![HOLDER; 3],
            3,
        ),
        ("a driver blocked in one call is one request", TARGET_1, vec![BLOCKED_HOLDER], 1),
        ("also when the call came through the activator", TARGET_1, vec![proxied], 1),
        ("a blocked driver of an rps revision stays", &[RPS], vec![BLOCKED_HOLDER], 1),
        ("a hold does not add to a loaded instance", &[], vec![Instance { objects: 9, ..busy(70.0) }], 1),
        ("nor to the rate of one", &[RPS], vec![Instance { objects: 9, ..at_rate(140.0) }], 1),
        ("cost: at exact saturation an idle holder tips the ceiling", &[], vec![busy(70.0), HOLDER], 2),
        ("not below it", &[], vec![busy(69.0), HOLDER], 1),
        ("the same for rps", &[RPS], vec![at_rate(140.0), HOLDER], 2),
        ("cost: a hold keeps activation-scale instances", &[("activation-scale", "4")], vec![HOLDER], 4),
        ("which nothing keeps without it", &[("activation-scale", "4")], vec![IDLE], 0),
        ("requests and holders together ask for no more than both", TARGET_1, vec![busy(1.0), busy(1.0), HOLDER, HOLDER], 3),
    ];
    for (case, annotations, instances, desired) in cases {
        let tick = settled(annotations, &instances);
        assert_eq!(tick.decision.decided.map(|decision| decision.desired_pods), Some(desired), "{case}");
        assert!(!tick.decision.panicking, "{case}: panic");
    }
}

#[test]
fn a_hold_added_to_a_real_request_would_mean_two_instances_and_panic() {
    // Why the rule is a maximum and not a sum.
    let annotations = [("target", "1"), ("target-utilization-percentage", "100")];
    let tick = settled(&annotations, &[Instance { in_flight: 1.0 + HOLD_LOAD, ..IDLE }]);
    assert_eq!(tick.decision.decided.map(|decision| decision.desired_pods), Some(2));
    assert!(tick.decision.panicking);
}

#[test]
fn at_exact_saturation_a_hold_tips_the_excess_burst_capacity() {
    // 2 instances of 100 with 60 in flight leave room for a burst of 140, not for 140 and a trace.
    let annotations = [("target-burst-capacity", "140"), ("min-scale", "2")];
    let busy = Instance { in_flight: 60.0, ..IDLE };
    let [without, with] = [IDLE, HOLDER].map(|other| settled(&annotations, &[busy, other]).decision);
    let excess = |decision: zipline_core::kpa::TickDecision| decision.decided.map(|decided| decided.excess_burst_capacity);
    assert_eq!((excess(without), without.scale.path), (Some(0), RequestPath::Serve));
    assert_eq!((excess(with), with.scale.path), (Some(-1), RequestPath::Proxy));
}

#[test]
fn a_hold_stays_in_the_window_for_one_stable_window_after_the_last_object() {
    let mut world = World::new(&[], 0);
    world.run(&[HOLDER], 120);
    let after = world.run(&[IDLE], 80);
    let gone = after.iter().position(|tick| tick.decision.decided.is_some_and(|decision| decision.desired_pods == 0));
    let gone_after = gone.map(|i| after[i].input.at - Monotonic::from_secs(120));
    // The last second with a hold is second 119; it leaves a window of 60 s with the tick at second 180.
    assert_eq!(gone_after, Some(Duration::from_secs(60)));
}

#[test]
fn a_revision_that_holds_is_never_told_to_go_to_zero() {
    for (annotations, instance) in [
        (&[][..], HOLDER),
        (&[("metric", "rps")], HOLDER),
        (&[("metric", "rps")], BLOCKED_HOLDER),
        (&[("target-burst-capacity", "-1")], HOLDER),
        (&[("metric-aggregation-algorithm", "weighted-exponential")], HOLDER),
        (&[("window", "6s")], HOLDER),
    ] {
        let ticks = World::new(annotations, 1).run(&[instance], 1_200);
        assert!(ticks.iter().all(|tick| tick.decision.scale.replicas != Some(0)), "{annotations:?}");
        assert_eq!(ticks.last().map(|tick| tick.decision.scale.activity), Some(Activity::Active), "{annotations:?}");
        // The same without objects goes, so the objects are what kept it.
        let idle = World::new(annotations, 1).run(&[IDLE], 1_200);
        assert_eq!(idle.last().and_then(|tick| tick.decision.scale.replicas), Some(0), "{annotations:?}");
    }
}

#[test]
fn class_hpa_has_no_decider_that_a_hold_could_reach() {
    let class = [("autoscaling.knative.dev/class", "hpa.autoscaling.knative.dev")];
    let refused = KpaSpec::from_annotations(class, 0, &AutoscalerConfig::default()).err();
    let message = refused.map(|errors| errors.to_string()).unwrap_or_default();
    assert!(message.contains("class \"hpa.autoscaling.knative.dev\" is not supported"), "{message}");
}

/// Plays Knative's recordings with one idle holder more. As long as no ceiling is tipped, every decision is as recorded;
/// never is it a smaller one.
#[test]
fn one_idle_holder_more_changes_a_recorded_decision_only_by_tipping_a_ceiling() {
    let mut untouched = 0;
    for case in recording::<DecisionCase>("kpa-decisions.json") {
        let target = case.spec.target_value;
        let tips = |load: f64| ((load + HOLD_LOAD) / target).ceil() != (load / target).ceil();
        let mut decider = Decider::new(case.spec, case.ready_pods_at_start, Monotonic::ZERO);
        let mut tipped = false;
        for (i, step) in case.steps.iter().enumerate() {
            let observed = step.observed().map(|mut observed| {
                tipped |= tips(observed.stable) || tips(observed.panic);
                observed.stable += HOLD_LOAD;
                observed.panic += HOLD_LOAD;
                observed
            });
            let decided = decider.decide(Monotonic::from_millis(step.at_ms), step.ready_pods, observed);
            assert_eq!(decided.is_some(), step.scale_valid);
            let decided = decided.unwrap_or_default();
            let place = format!("{}, step {i}: {step:?}, decided {decided:?}", case.name);
            assert!(decided.desired_pods >= step.desired_pods, "{place}");
            let excess_lost = step.excess_burst_capacity - decided.excess_burst_capacity;
            assert!((0..=1).contains(&excess_lost), "{place}");
            if !tipped {
                assert_eq!((decided.desired_pods, decider.panicking()), (step.desired_pods, step.panicking_after), "{place}");
                untouched += 1;
            }
        }
    }
    assert!(untouched > 0, "some decision must have been comparable");
}

/// Plays Knative's recordings with N idle holders more: never more instances than the recording's own and the holders.
#[test]
fn idle_holders_never_ask_for_more_than_the_requests_and_themselves() {
    let (mut compared, mut raised) = (0, 0);
    for holders in [1_u32, 2, 7, 40] {
        for case in recording::<DecisionCase>("kpa-decisions.json") {
            // What is known to go beyond it: each hold keeps `activation-scale` instances.
            let spec = DeciderSpec { activation_scale: 0, ..case.spec };
            let mut without = Decider::new(spec.clone(), case.ready_pods_at_start, Monotonic::ZERO);
            let mut with = Decider::new(spec, case.ready_pods_at_start, Monotonic::ZERO);
            for (i, step) in case.steps.iter().enumerate() {
                let (at, load) = (Monotonic::from_millis(step.at_ms), step.observed());
                let held = load.map(|load| held_by(load, holders));
                let (Some(without), Some(with)) =
                    (without.decide(at, step.ready_pods, load), with.decide(at, step.ready_pods, held))
                else {
                    continue;
                };
                let most = without.desired_pods + holders;
                assert!(with.desired_pods <= most, "{}, step {i}, {holders} holders: {with:?}, {without:?}", case.name);
                compared += 1;
                raised += u32::from(with.desired_pods > without.desired_pods);
            }
        }
    }
    assert!(compared > 1_000 && raised > 0, "{compared} decisions were compared, {raised} were raised");
}

/// Plays Knative's recordings with forty idle holders whose objects expire halfway: once the windows have let go of them,
/// every decision is the recorded one.
#[test]
fn holds_pin_nothing_once_their_objects_have_expired() {
    let mut compared = 0;
    for case in recording::<DecisionCase>("kpa-decisions.json") {
        let Some(half) = case.steps.get(case.steps.len() / 2).map(|step| Monotonic::from_millis(step.at_ms)) else { continue };
        // A report is in the window for as long as it is wide; a panic and a delay that it began last as long again.
        let in_window = half + case.spec.stable_window;
        let let_go = in_window + case.spec.stable_window + case.spec.scale_down_delay + Duration::from_secs(4);
        let mut decider = Decider::new(case.spec, case.ready_pods_at_start, Monotonic::ZERO);
        for (i, step) in case.steps.iter().enumerate() {
            let at = Monotonic::from_millis(step.at_ms);
            let load = step.observed().map(|load| if at < in_window { held_by(load, 40) } else { load });
            let decided = decider.decide(at, step.ready_pods, load).unwrap_or_default();
            if at >= let_go {
                assert_eq!(decided.desired_pods, step.desired_pods, "{}, step {i}: {step:?}", case.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} decisions were compared");
}

fn held_by(load: Observed, holders: u32) -> Observed {
    let more = HOLD_LOAD * f64::from(holders);
    Observed { stable: load.stable + more, panic: load.panic + more }
}

/// A second of a thousand instances: as many questions as speak for all, however many do not answer in time, and a state
/// that does not grow with them.
#[test]
fn a_thousand_instances_are_scraped_by_a_bounded_sample() {
    const INSTANCES: usize = 1_000;
    let needed = sample_size(INSTANCES as u32) as usize;
    assert_eq!(needed, 16);
    let ages = vec![Duration::from_secs(600); INSTANCES];
    let mut world = World::new(&[("target", "10"), ("target-utilization-percentage", "100")], 0);
    let mut asked_of = vec![0_u32; INSTANCES];
    let mut seed = 1_u64;
    let mut wanted = None;
    for second in 0..300 {
        let plan = ScrapePlan::new(&ages, Duration::from_secs(60), |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        });
        let (mut asked, mut lost, mut answers) = (0, 0, Vec::new());
        for instance in plan.order {
            if answers.len() >= plan.needed as usize {
                break;
            }
            asked += 1;
            asked_of[instance] += 1;
            // One in five does not answer; of the rest every second one runs fifteen requests, the others hold objects.
            match instance % 10 {
                0 | 5 => lost += 1,
                even if even % 2 == 0 => answers.push(Instance { in_flight: 15.0, ..IDLE }.stat()),
                _ => answers.push(HOLDER.stat()),
            }
        }
        assert_eq!(asked, needed + lost, "second {second}: nobody is asked beyond who is needed");
        let now = WallTime::from_unix_secs(1_700_000_000 + second);
        let stat = average_over_population(&answers, INSTANCES as u32).unwrap_or_else(|few| panic!("{few}"));
        world.collector.record(now, &stat.unwrap_or_else(|| panic!("there are instances")));
        let observed = world.collector.observed(now, Metric::Concurrency);
        let at = Monotonic::from_secs(second);
        let input = TickInput { at, ready_pods: INSTANCES as u32, observed, reachable: true, activator_in_path: true };
        wanted = world.autoscaler.tick(input).decision.decided.map(|decision| decision.desired_pods);
    }
    // 7.5 requests an instance: a sample of sixteen a second, over sixty seconds, is not far off.
    let wanted = wanted.unwrap_or_default();
    assert!((650..=850).contains(&wanted), "{wanted} instances for 7,500 requests at ten each");
    let reached = asked_of.iter().filter(|times| **times > 0).count();
    assert!(reached > INSTANCES * 9 / 10, "only {reached} instances were ever asked: it is always the same ones");
}
