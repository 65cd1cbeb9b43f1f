//! Laws of scaling that hold for every specification and every load.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use zipline_core::kpa::{
    Aggregation, Autoscaler, AutoscalerConfig, AverageWindow, Decider, DeciderSpec, Decision, KpaSpec, LogRecord, Metric,
    Observed, ReplayError, ScaleInput, Scaler, ScalerSpec, ScrapePlan, TickInput, replay, sample_size,
};
use zipline_core::stats::{RequestEvent, RequestStats};
use zipline_core::time::{Monotonic, WallTime};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn load() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..2.0, 0.0..5_000.0]
}

prop_compose! {
    fn decider_spec()(
        target in prop_oneof![Just(0.01), Just(1.0), 0.01..200.0],
        spare in 1.0..2.0,
        burst in prop_oneof![Just(-1.0), Just(0.0), 0.0..500.0],
        threshold in 1.1..10.0,
        up in 1.01..1_000.0,
        down in 1.01..10.0,
        window in 6_u64..120,
        delay in prop_oneof![Just(0_u64), 1..90_u64],
        activation_scale in 0_u32..6,
        reachable: bool,
        rps: bool,
    ) -> DeciderSpec {
        DeciderSpec {
            metric: if rps { Metric::Rps } else { Metric::Concurrency },
            target_value: target,
            total_value: target * spare,
            target_burst_capacity: burst,
            panic_threshold: threshold,
            max_scale_up_rate: up,
            max_scale_down_rate: down,
            stable_window: Duration::from_secs(window),
            scale_down_delay: Duration::from_secs(delay),
            activation_scale,
            reachable,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    pause_secs: u64,
    ready_pods: u32,
    observed: Option<Observed>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let observed = proptest::option::weighted(0.9, (load(), load()).prop_map(|(stable, panic)| Observed { stable, panic }));
    let step = (prop_oneof![Just(2_u64), 0..40_u64], 0_u32..60, observed);
    prop::collection::vec(step.prop_map(|(pause_secs, ready_pods, observed)| Step { pause_secs, ready_pods, observed }), 1..60)
}

/// Runs a decider over `steps` and answers the decisions with their times and whether it panics after each.
fn decide(spec: DeciderSpec, ready_at_start: u32, steps: &[Step]) -> Vec<(Monotonic, Option<Decision>, bool)> {
    let mut now = Monotonic::ZERO;
    let mut decider = Decider::new(spec, ready_at_start, now);
    let decided = steps.iter().map(|step| {
        now += seconds(step.pause_secs);
        let decision = decider.decide(now, step.ready_pods, step.observed);
        (now, decision, decider.panicking())
    });
    decided.collect()
}

fn desired(decision: Option<Decision>) -> Option<u32> {
    decision.map(|decision| decision.desired_pods)
}

proptest! {
    #[test]
    fn outside_panic_and_delay_a_decision_stays_within_its_rates(spec in decider_spec(), steps in steps()) {
        let spec = DeciderSpec { scale_down_delay: Duration::ZERO, ..spec };
        for (step, (_, decision, panicking)) in steps.iter().zip(decide(spec.clone(), 0, &steps)) {
            let Some(desired) = desired(decision).filter(|_| !panicking) else { continue };
            let ready = f64::from(step.ready_pods.max(1));
            let up = (ready * spec.max_scale_up_rate).ceil().max(f64::from(spec.activation_scale));
            let down = if spec.reachable { (ready / spec.max_scale_down_rate).floor() } else { 0.0 };
            prop_assert!(f64::from(desired) <= up && f64::from(desired) >= down, "{desired} outside {down} to {up}");
        }
    }

    #[test]
    fn there_is_a_decision_exactly_when_there_is_data(spec in decider_spec(), steps in steps()) {
        for (step, (_, decision, _)) in steps.iter().zip(decide(spec, 3, &steps)) {
            prop_assert_eq!(decision.is_some(), step.observed.is_some());
        }
    }

    #[test]
    fn in_panic_the_number_never_falls(spec in decider_spec(), steps in steps(), ready in 0_u32..20) {
        let spec = DeciderSpec { scale_down_delay: Duration::ZERO, ..spec };
        let mut before = (ready > 1).then_some(ready);
        for (_, decision, panicking) in decide(spec, ready, &steps) {
            let Some(desired) = desired(decision) else { continue };
            if let Some(before) = before.filter(|_| panicking) {
                prop_assert!(desired >= before, "{before} then {desired}");
            }
            before = panicking.then_some(desired);
        }
    }

    #[test]
    fn more_load_never_asks_for_less(spec in decider_spec(), steps in steps(), more in 0.0..100.0) {
        let heavier: Vec<Step> = steps.iter().map(|step| Step {
            observed: step.observed.map(|observed| Observed { stable: observed.stable + more, panic: observed.panic + more }),
            ..*step
        }).collect();
        let pairs = decide(spec.clone(), 0, &steps).into_iter().zip(decide(spec, 0, &heavier));
        for ((_, light, _), (_, heavy, _)) in pairs {
            prop_assert!(desired(heavy) >= desired(light));
            let excess = |decision: Option<Decision>| decision.map(|decision| decision.excess_burst_capacity);
            prop_assert!(excess(heavy) <= excess(light));
        }
    }

    #[test]
    fn a_delay_answers_the_largest_number_of_its_window(spec in decider_spec(), steps in steps(), delay in 1_u64..90) {
        let undelayed = DeciderSpec { scale_down_delay: Duration::ZERO, reachable: true, ..spec };
        let delayed = DeciderSpec { scale_down_delay: seconds(delay), ..undelayed.clone() };
        let undelayed = decide(undelayed, 0, &steps);
        let bucket = |at: Monotonic| at.since_origin().as_secs() / 2;
        for (at, decision, _) in decide(delayed, 0, &steps) {
            let Some(answered) = desired(decision) else { continue };
            let recent = undelayed.iter().filter(|(then, _, _)| *then <= at && bucket(*then) + delay.div_ceil(2) > bucket(at));
            // Decisions of the same bucket that come later are in the list too, and may be larger.
            let up_to_now = recent.clone().filter(|(then, _, _)| *then < at).filter_map(|(_, decision, _)| desired(*decision)).max();
            let largest = recent.filter_map(|(_, decision, _)| desired(*decision)).max();
            prop_assert!(Some(answered) >= up_to_now && Some(answered) <= largest, "{answered}: {up_to_now:?} {largest:?}");
        }
    }

    #[test]
    fn replicas_stay_within_bounds_and_reach_zero_only_behind_the_activator(
        (min, max, initial) in (0_u32..4, 0_u32..8, 1_u32..5),
        (always_in_path, scale_to_zero) in any::<(bool, bool)>(),
        inputs in prop::collection::vec((0_u64..50, prop::option::of(0_u32..12), -2_i32..2, 0_u32..8, any::<bool>(), any::<bool>()), 1..80),
    ) {
        let max = if max == 0 { 0 } else { max.max(min) }; // Annotations that contradict each other don't get this far.
        let spec = ScalerSpec {
            min_scale: min,
            max_scale: max,
            initial_scale: initial,
            enable_scale_to_zero: scale_to_zero,
            stable_window: seconds(60),
            grace_period: seconds(30),
            pod_retention: Duration::ZERO,
            progress_deadline: seconds(600),
            activator_always_in_path: always_in_path,
        };
        let mut scaler = Scaler::new(spec, Monotonic::ZERO);
        let mut at = Monotonic::ZERO;
        for (pause, desired_pods, excess_burst_capacity, ready_pods, reachable, activator_in_path) in inputs {
            at += seconds(pause);
            let input = ScaleInput { at, desired_pods, excess_burst_capacity, ready_pods, reachable, activator_in_path };
            let before = scaler.activity();
            let decision = scaler.scale(&input);
            if let Some(replicas) = decision.replicas {
                let highest = if max == 0 { u32::MAX } else { max.max(min).max(initial) };
                prop_assert!(replicas <= highest);
                prop_assert!(!reachable || replicas >= min);
                if replicas == 0 {
                    prop_assert!(scale_to_zero);
                    let given_up = before == zipline_core::kpa::Activity::Activating;
                    prop_assert!(given_up || always_in_path || activator_in_path);
                }
            }
            // A time that was asked for lies ahead, or a driver would spin.
            prop_assert!(decision.look_again_at.is_none_or(|again| again > at));
        }
    }

    #[test]
    fn a_plain_average_is_the_mean_of_the_buckets_there_are(
        (window, bucket) in (1_u64..40, 1_u64..5),
        records in prop::collection::vec((0_u64..6, load()), 1..80),
        silence in 0_u64..60,
    ) {
        let mut averages = AverageWindow::new(seconds(window), seconds(bucket));
        let bucket = bucket.min(window);
        let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
        let mut now = 1_700_000_000;
        for (pause, value) in records {
            now += pause;
            let turn = now / bucket;
            // A window's length of silence forgets everything.
            if sums.last_key_value().is_some_and(|(last, _)| (turn - last) * bucket >= window) {
                sums.clear();
            }
            *sums.entry(turn).or_default() += value;
            averages.record(WallTime::from_unix_secs(now), value);
        }
        now += silence;
        let (newest, first) = (*sums.keys().next_back().unwrap_or(&0), *sums.keys().next().unwrap_or(&0));
        let turn = now / bucket;
        let answer = averages.average(WallTime::from_unix_secs(now), Aggregation::Linear);
        let expected = if (turn - newest) * bucket >= window { 0.0 } else {
            let oldest = (turn + 1).saturating_sub(window.div_ceil(bucket)).max(first);
            sums.range(oldest..).map(|(_, sum)| sum).sum::<f64>() / (newest + 1 - oldest) as f64
        };
        prop_assert!((answer - expected).abs() < 1e-5 * expected.max(1.0), "{answer} for {expected}");
        let weighted = averages.average(WallTime::from_unix_secs(now), Aggregation::WeightedExponential);
        let largest = sums.values().copied().fold(0.0, f64::max);
        prop_assert!(weighted >= 0.0 && weighted <= largest * (1.0 + 1e-9));
    }

    #[test]
    fn averages_of_requests_lie_between_the_fewest_and_the_most_in_flight(
        events in prop::collection::vec((0_u64..500, 0_u8..5), 1..200),
    ) {
        let mut stats = RequestStats::new(Monotonic::ZERO);
        let mut now = Monotonic::ZERO;
        let (mut plain, mut proxied) = (0_u32, 0_u32);
        let (mut fewest, mut most, mut arrived) = (0_u32, 0_u32, 0_u32);
        for (pause, kind) in events {
            now += Duration::from_millis(pause);
            let event = match kind {
                0 => { plain += 1; arrived += 1; RequestEvent::ReqIn }
                1 => { proxied += 1; arrived += 1; RequestEvent::ProxiedIn }
                2 if plain > 0 => { plain -= 1; RequestEvent::ReqOut }
                3 if proxied > 0 => { proxied -= 1; RequestEvent::ProxiedOut }
                _ => {
                    let report = stats.report(now);
                    let average = report.average_concurrency;
                    prop_assert!(average <= f64::from(most) + 1e-9, "{average} above {most}");
                    prop_assert!(average == 0.0 || average >= f64::from(fewest) - 1e-9, "{average} below {fewest}");
                    prop_assert!(report.average_proxied_concurrency <= average + 1e-9);
                    prop_assert_eq!(report.request_count, f64::from(arrived));
                    (fewest, most, arrived) = (plain + proxied, plain + proxied, 0);
                    continue;
                }
            };
            stats.handle_event(now, event);
            (fewest, most) = (fewest.min(plain + proxied), most.max(plain + proxied));
        }
    }

    #[test]
    fn a_scrape_asks_for_enough_and_tries_each_instance_once(ages in prop::collection::vec(0_u64..120, 0..60), seed: usize) {
        let ages: Vec<Duration> = ages.into_iter().map(Duration::from_secs).collect();
        let plan = ScrapePlan::new(&ages, seconds(60), |n| seed % n);
        let mut tried = plan.order.clone();
        tried.sort_unstable();
        prop_assert_eq!(tried, (0..ages.len()).collect::<Vec<_>>());
        prop_assert_eq!(plan.needed, sample_size(ages.len() as u32));
        let old = plan.order.iter().take_while(|i| ages[**i] >= seconds(60)).count();
        prop_assert!(plan.order[old..].iter().all(|i| ages[*i] < seconds(60)));
    }

    #[test]
    fn a_decision_log_replays_identically_and_a_changed_decision_is_noticed(
        decider in decider_spec(), steps in steps(), ready in 0_u32..5, changed: prop::sample::Index,
    ) {
        let Ok((mut spec, _)) = KpaSpec::from_annotations([], 0, &AutoscalerConfig::default()) else {
            return Err(TestCaseError::fail("no annotation, no mistake"));
        };
        spec.decider = decider;
        let mut now = Monotonic::from_nanos(123_456_789);
        let mut autoscaler = Autoscaler::new(spec.clone(), ready, now);
        let mut log = vec![Autoscaler::log_start(&spec, ready, now)];
        for step in &steps {
            now += seconds(step.pause_secs);
            let (at, ready_pods, observed) = (now, step.ready_pods, step.observed);
            let input = TickInput { at, ready_pods, observed, reachable: true, activator_in_path: ready_pods % 2 == 0 };
            log.push(LogRecord::Tick(autoscaler.tick(input)));
        }
        let lines = log.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let lines = lines.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let read = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<LogRecord>, _>>();
        let mut read = read.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(replay(read.iter().cloned()), Ok(steps.len()));

        let record = 1 + changed.index(steps.len());
        if let LogRecord::Tick(tick) = &mut read[record] {
            tick.decision.panicking = !tick.decision.panicking;
        }
        let noticed = replay(read);
        prop_assert!(matches!(noticed, Err(ReplayError::Differs { record: at, .. }) if at == record), "{:?}", noticed);
    }
}

#[test]
fn a_log_without_a_start_or_of_another_schema_is_refused() {
    let Ok((spec, _)) = KpaSpec::from_annotations([], 0, &AutoscalerConfig::default()) else {
        panic!("no annotation, no mistake")
    };
    let at = Monotonic::ZERO;
    let mut autoscaler = Autoscaler::new(spec.clone(), 0, at);
    let input = TickInput { at, ready_pods: 0, observed: None, reachable: true, activator_in_path: true };
    let tick = LogRecord::Tick(autoscaler.tick(input));
    assert_eq!(replay([tick]), Err(ReplayError::NoStart { record: 0 }));
    let foreign = LogRecord::Start { schema: 99, spec: Box::new(spec), ready_pods: 0, at };
    assert_eq!(replay([foreign]), Err(ReplayError::Schema { record: 0, schema: 99 }));
}
