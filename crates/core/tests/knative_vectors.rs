//! Replays what Knative Serving itself answered, one test a file.
//!
//! The folder is the one named by `KNATIVE_VECTORS` (a relative path is taken from the repository's root), by default the
//! project's own copy. `conformance/README.md` says what every field means.

mod recordings;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use recordings::{DecisionCase, FOLDER_VARIABLE, recording};
use serde::Deserialize;
use zipline_core::forwarded::ForwardedHeaders;
use zipline_core::kpa::{Aggregation, AverageWindow, Decider};
use zipline_core::stats::{RequestEvent, RequestReport, RequestStats};
use zipline_core::time::{Monotonic, WallTime};

/// Units in the last place by which a weighted average of a foreign recording may differ. The weights are a root, and
/// the last bits of a root depend on the recorder's processor. Our own copy is held to the last bit.
const FOREIGN_ULPS_MAX: u64 = 4;

/// Whether the recordings are not the project's copy.
#[allow(clippy::disallowed_methods, reason = "a test may be told where its vectors are")]
fn foreign() -> bool {
    std::env::var_os(FOLDER_VARIABLE).is_some()
}

fn check<T: PartialEq + Debug>(answer: T, recorded: T, place: impl FnOnce() -> String) {
    assert!(answer == recorded, "{}: answered {answer:?}, recorded {recorded:?}", place());
}

#[derive(Deserialize)]
struct ForwardedCase {
    headers: BTreeMap<String, String>,
    forwarded: String,
}

#[test]
fn knative_vectors_forwarded() {
    for case in recording::<ForwardedCase>("forwarded.json") {
        let header = |name: &str| {
            let found = case.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_bytes()).unwrap_or_default()
        };
        let headers = ForwardedHeaders {
            forwarded: header("Forwarded"),
            x_forwarded_for: header("X-Forwarded-For"),
            x_forwarded_proto: header("X-Forwarded-Proto"),
            x_forwarded_host: header("X-Forwarded-Host"),
        };
        let answer = headers.missing_forwarded().unwrap_or_else(|| headers.forwarded.to_vec());
        check(String::from_utf8_lossy(&answer).as_ref(), case.forwarded.as_str(), || format!("{:?}", case.headers));
    }
}

#[test]
fn knative_vectors_kpa_decisions() {
    for case in recording::<DecisionCase>("kpa-decisions.json") {
        let started = Monotonic::from_millis(case.steps.first().map_or(0, |step| step.at_ms));
        let mut decider = Decider::new(case.spec, case.ready_pods_at_start, started);
        for (i, step) in case.steps.iter().enumerate() {
            let decision = decider.decide(Monotonic::from_millis(step.at_ms), step.ready_pods, step.observed());
            let valid = decision.is_some();
            let decision = decision.unwrap_or_default(); // An invalid answer is recorded as zeros.
            check(
                (valid, decision.desired_pods, decision.excess_burst_capacity, decider.panicking()),
                (step.scale_valid, step.desired_pods, step.excess_burst_capacity, step.panicking_after),
                || format!("{}, step {i}: {step:?}", case.name),
            );
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum StatsStep {
    ReqIn { at_us: u64 },
    ReqOut { at_us: u64 },
    ProxiedIn { at_us: u64 },
    ProxiedOut { at_us: u64 },
    Report(RecordedReport),
}

#[derive(Debug, Deserialize)]
struct RecordedReport {
    at_us: u64,
    #[serde(flatten)]
    report: RequestReport,
}

#[test]
fn knative_vectors_request_stats() {
    for (case, steps) in recording::<Vec<StatsStep>>("request-stats.json").into_iter().enumerate() {
        let mut stats = RequestStats::new(Monotonic::ZERO);
        for (i, step) in steps.iter().enumerate() {
            let (at_us, event) = match step {
                StatsStep::ReqIn { at_us } => (*at_us, RequestEvent::ReqIn),
                StatsStep::ReqOut { at_us } => (*at_us, RequestEvent::ReqOut),
                StatsStep::ProxiedIn { at_us } => (*at_us, RequestEvent::ProxiedIn),
                StatsStep::ProxiedOut { at_us } => (*at_us, RequestEvent::ProxiedOut),
                StatsStep::Report(recorded) => {
                    let answer = stats.report(Monotonic::from_micros(recorded.at_us));
                    check(answer, recorded.report, || format!("case {case}, step {i}: {step:?}"));
                    continue;
                }
            };
            stats.handle_event(Monotonic::from_micros(at_us), event);
        }
    }
}

#[derive(Deserialize)]
struct WindowCase {
    window_ms: u64,
    granularity_ms: u64,
    base_unix_s: u64,
    ops: Vec<WindowStep>,
}

#[derive(Debug, Deserialize)]
struct WindowStep {
    at_ms: u64,
    record: Option<f64>,
    window_average: f64,
    weighted_average: f64,
    empty: bool,
}

#[test]
fn knative_vectors_windows() {
    let ulps_max = if foreign() { FOREIGN_ULPS_MAX } else { 0 };
    for (case, recorded) in recording::<WindowCase>("windows.json").into_iter().enumerate() {
        let millis = Duration::from_millis;
        let mut window = AverageWindow::new(millis(recorded.window_ms), millis(recorded.granularity_ms));
        for (i, step) in recorded.ops.iter().enumerate() {
            let place = || format!("case {case}, step {i}: {step:?}");
            let now = WallTime::from_unix_secs(recorded.base_unix_s) + millis(step.at_ms);
            if let Some(value) = step.record {
                window.record(now, value);
            }
            check(window.average(now, Aggregation::Linear), step.window_average, place);
            check(window.is_empty(now), step.empty, place);
            let weighted = window.average(now, Aggregation::WeightedExponential);
            let ulps = weighted.to_bits().abs_diff(step.weighted_average.to_bits());
            assert!(ulps <= ulps_max, "{}: answered {weighted:?}, {ulps} units in the last place off", place());
        }
    }
}
