//! What one revision asks of the autoscaler: its `autoscaling.knative.dev/*` annotations over the operator's settings.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{
    AutoscalerConfig, DURATION_MAX, PANIC_THRESHOLD_PERCENTAGE, PANIC_WINDOW_PERCENTAGE, RPS_UTILIZATION, SCALE_MAX, TARGET_MIN,
    WINDOW_MAX, WINDOW_MIN,
};
use super::setting::{Limits, Reader, SettingError, SettingErrors};
use super::{Aggregation, BUCKET, Collector, DeciderSpec, Metric, ScalerSpec};

/// Prefix of the annotations that steer a revision's autoscaler.
pub const ANNOTATION_PREFIX: &str = "autoscaling.knative.dev/";
/// Prefix of the annotations of which only the progress deadline means something here.
const SERVING_PREFIX: &str = "serving.knative.dev/";
/// The one autoscaler class there is here.
pub const KPA_CLASS: &str = "kpa.autoscaling.knative.dev";

/// Everything that decides how one revision is scaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KpaSpec {
    /// For the decider.
    pub decider: DeciderSpec,
    /// For what follows the decider.
    pub scaler: ScalerSpec,
    /// Length of the panic window.
    #[serde(rename = "panic_window_ms", with = "super::as_millis")]
    pub panic_window: Duration,
    /// How the windows are averaged.
    pub aggregation: Aggregation,
}

/// An annotation that was understood and will not do what its author may expect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AnnotationWarning {
    /// No such annotation exists.
    #[error("{name}: no such annotation; it has no effect")]
    Unknown {
        /// The annotation.
        name: String,
    },
    /// An instance can't run what it is asked to aim for.
    #[error("{ANNOTATION_PREFIX}target: {target} is above containerConcurrency {container_concurrency}, which is used instead")]
    TargetAboveConcurrency {
        /// The annotation's value.
        target: f64,
        /// Requests that an instance runs at once.
        container_concurrency: u32,
    },
}

impl AnnotationWarning {
    /// The annotation.
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown { name } => name,
            Self::TargetAboveConcurrency { .. } => "autoscaling.knative.dev/target",
        }
    }
}

/// Mistakes of a revision's annotations, each of [`SettingError`]'s kinds.
pub type AnnotationErrors = SettingErrors;

impl KpaSpec {
    /// Reads a revision's annotations: those of [`ANNOTATION_PREFIX`], and `serving.knative.dev/progress-deadline`. Others
    /// are ignored. `container_concurrency` 0 means no limit.
    ///
    /// Both spellings of a name are read (`min-scale`, and the older `minScale`); the first goes before the second.
    ///
    /// # Errors
    /// Every annotation that can't be used, with its value and limit; an autoscaler class other than [`KPA_CLASS`].
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        container_concurrency: u32,
        config: &AutoscalerConfig,
    ) -> Result<(Self, Vec<AnnotationWarning>), AnnotationErrors> {
        let texts: BTreeMap<_, _> = annotations.into_iter().collect();
        let mut deadline = Reader::new(SERVING_PREFIX, texts.clone());
        let progress_deadline = deadline.duration("progress-deadline", Duration::ZERO..=DURATION_MAX, true);
        let mut read = Reader::new(ANNOTATION_PREFIX, texts);
        if let Some((name, value)) = read.text("class").filter(|(_, class)| *class != KPA_CLASS) {
            read.reject(SettingError::UnsupportedClass { name, value: value.to_owned() });
        }
        let metrics = [("concurrency", Metric::Concurrency), ("rps", Metric::Rps)];
        let metric = read.choice("metric", &metrics, "\"concurrency\" or \"rps\"").unwrap_or_default();
        let target = Target::read(&mut read, metric, container_concurrency, config);
        let scales = Scales::read(&mut read, config);
        let stable_window = read.duration("window", WINDOW_MIN..=WINDOW_MAX, true).unwrap_or(config.stable_window);
        let panic_percentage =
            read.number("panic-window-percentage", PANIC_WINDOW_PERCENTAGE).unwrap_or(config.panic_window_percentage);
        let threshold =
            read.number("panic-threshold-percentage", PANIC_THRESHOLD_PERCENTAGE).unwrap_or(config.panic_threshold_percentage);
        let burst = read.number("target-burst-capacity", Limits::CountOrUnbounded).unwrap_or(config.target_burst_capacity);
        let spec = Self {
            decider: DeciderSpec {
                metric,
                target_value: target.target,
                total_value: target.total,
                target_burst_capacity: burst,
                panic_threshold: threshold / 100.0,
                max_scale_up_rate: config.max_scale_up_rate,
                max_scale_down_rate: config.max_scale_down_rate,
                stable_window,
                scale_down_delay: read
                    .duration("scale-down-delay", Duration::ZERO..=WINDOW_MAX, true)
                    .unwrap_or(config.scale_down_delay),
                activation_scale: scales.activation,
                reachable: true,
            },
            scaler: ScalerSpec {
                min_scale: scales.min,
                max_scale: scales.max,
                initial_scale: scales.initial,
                enable_scale_to_zero: config.enable_scale_to_zero,
                stable_window,
                grace_period: config.scale_to_zero_grace_period,
                pod_retention: read
                    .duration("scale-to-zero-pod-retention-period", Duration::ZERO..=WINDOW_MAX, false)
                    .unwrap_or(config.scale_to_zero_pod_retention_period),
                progress_deadline: progress_deadline.unwrap_or(config.progress_deadline),
                activator_always_in_path: burst == -1.0,
            },
            panic_window: panic_window(stable_window, panic_percentage),
            aggregation: read.choice("metric-aggregation-algorithm", &AGGREGATIONS, AGGREGATIONS_SHOWN).unwrap_or_default(),
        };
        spec.finish(read, deadline, target.warning)
    }

    fn finish(
        self,
        read: Reader<'_>,
        deadline: Reader<'_>,
        warning: Option<AnnotationWarning>,
    ) -> Result<(Self, Vec<AnnotationWarning>), AnnotationErrors> {
        match (read.finish(), deadline.finish()) {
            (Ok(unknown), Ok(_)) => {
                let unknown = unknown.into_iter().map(|name| AnnotationWarning::Unknown { name });
                Ok((self, unknown.chain(warning).collect()))
            }
            (Err(errors), Ok(_)) | (Ok(_), Err(errors)) => Err(errors),
            (Err(SettingErrors(mut errors)), Err(more)) => {
                errors.extend(more.0);
                Err(SettingErrors(errors))
            }
        }
    }

    /// How many instances the revision begins with.
    pub fn initial_pods(&self) -> u32 {
        self.scaler.initial_scale.max(self.scaler.min_scale)
    }

    /// The windows that gather this revision's load.
    pub fn collector(&self) -> Collector {
        let silence_is_zero = self.scaler.activator_always_in_path;
        Collector::new(self.decider.stable_window, self.panic_window, self.aggregation, silence_is_zero)
    }
}

const AGGREGATIONS: [(&str, Aggregation); 3] = [
    ("linear", Aggregation::Linear),
    ("weighted-exponential", Aggregation::WeightedExponential),
    ("weightedExponential", Aggregation::WeightedExponential),
];
const AGGREGATIONS_SHOWN: &str = "\"linear\" or \"weighted-exponential\"";

/// The share of the stable window, to the next whole second, and at least one bucket.
fn panic_window(stable_window: Duration, percentage: f64) -> Duration {
    let seconds = (stable_window.as_secs_f64() * percentage / 100.0).round();
    Duration::from_secs(seconds as u64).max(BUCKET)
}

/// What an instance can take, and what it is to be kept at.
struct Target {
    target: f64,
    total: f64,
    warning: Option<AnnotationWarning>,
}

impl Target {
    fn read(read: &mut Reader<'_>, metric: Metric, container_concurrency: u32, config: &AutoscalerConfig) -> Self {
        let annotated = read.number("target", Limits::AtLeast(TARGET_MIN));
        let utilization =
            read.number("target-utilization-percentage", Limits::Within(1.0, 100.0)).map(|percentage| percentage / 100.0);
        let limit = (metric == Metric::Concurrency && container_concurrency > 0).then_some(f64::from(container_concurrency));
        let (default, default_utilization) = match metric {
            Metric::Concurrency => {
                let total = limit.unwrap_or(config.container_concurrency_target_default);
                (total, config.container_concurrency_target_fraction)
            }
            Metric::Rps => (config.requests_per_second_target_default, RPS_UTILIZATION),
        };
        let above = annotated.filter(|target| limit.is_some_and(|limit| *target > limit));
        let total = annotated.map_or(default, |target| limit.map_or(target, |limit| target.min(limit)));
        Self {
            target: (total * utilization.unwrap_or(default_utilization)).max(TARGET_MIN),
            total,
            warning: above.map(|target| AnnotationWarning::TargetAboveConcurrency { target, container_concurrency }),
        }
    }
}

/// Bounds on the number of instances.
struct Scales {
    min: u32,
    max: u32,
    initial: u32,
    activation: u32,
}

impl Scales {
    fn read(read: &mut Reader<'_>, config: &AutoscalerConfig) -> Self {
        let min = read.count("min-scale", 0..=SCALE_MAX);
        // Under a limit, "no maximum" is as much out of range as too high a one.
        let limits = if config.max_scale_limit > 0 { 1..=config.max_scale_limit } else { 0..=SCALE_MAX };
        let max = read.count("max-scale", limits);
        let least_initial = u32::from(!config.allow_zero_initial_scale);
        let initial = read.count("initial-scale", least_initial..=SCALE_MAX);
        let activation = read.count("activation-scale", 2..=SCALE_MAX);

        let mut in_order =
            |name: &str, value: Option<u32>, bound_name: &str, bound: Option<u32>, wrong: fn(u32, u32) -> bool, rule| {
                if let (Some(value), Some(bound)) = (value, bound)
                    && wrong(value, bound)
                {
                    let (name, other) = (read.full_name(name), read.full_name(bound_name));
                    let (value, other_value) = (value.to_string(), bound.to_string());
                    read.reject(SettingError::Contradiction { name, value, other, other_value, rule });
                }
            };
        let bounded = max.filter(|max| *max > 0);
        in_order(
            "max-scale",
            bounded,
            "min-scale",
            min,
            |max, min| max < min,
            "the largest scale must not be below the smallest",
        );
        in_order(
            "activation-scale",
            activation,
            "min-scale",
            min,
            |value, min| value < min,
            "it must not be below the smallest scale",
        );
        in_order(
            "activation-scale",
            activation,
            "max-scale",
            bounded,
            |value, max| value > max,
            "it must not be above the largest scale",
        );
        Self {
            min: min.unwrap_or(config.min_scale),
            max: max.unwrap_or(config.max_scale),
            initial: initial.unwrap_or(config.initial_scale),
            activation: activation.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        annotations: &[(&str, &str)],
        container_concurrency: u32,
    ) -> Result<(KpaSpec, Vec<AnnotationWarning>), AnnotationErrors> {
        let named: Vec<_> = annotations.iter().map(|(name, value)| (format!("{ANNOTATION_PREFIX}{name}"), *value)).collect();
        let pairs = named.iter().map(|(name, value)| (name.as_str(), *value));
        KpaSpec::from_annotations(pairs, container_concurrency, &AutoscalerConfig::default())
    }

    fn spec(annotations: &[(&str, &str)], container_concurrency: u32) -> KpaSpec {
        match read(annotations, container_concurrency) {
            Ok((spec, _)) => spec,
            Err(errors) => panic!("{errors}"),
        }
    }

    #[test]
    fn a_revision_that_says_nothing_gets_the_defaults() {
        let spec = spec(&[], 0);
        assert_eq!((spec.decider.target_value, spec.decider.total_value), (70.0, 100.0));
        assert_eq!((spec.decider.panic_threshold, spec.decider.target_burst_capacity), (2.0, 211.0));
        assert_eq!((spec.decider.stable_window, spec.panic_window), (Duration::from_secs(60), Duration::from_secs(6)));
        assert_eq!((spec.scaler.min_scale, spec.scaler.max_scale, spec.initial_pods()), (0, 0, 1));
    }

    #[test]
    fn targets_follow_metric_concurrency_and_utilization() {
        let target = |annotations: &[(&str, &str)], concurrency| {
            let decider = spec(annotations, concurrency).decider;
            (decider.target_value, decider.total_value)
        };
        assert_eq!(target(&[], 10), (7.0, 10.0));
        assert_eq!(target(&[("target", "50")], 10), (7.0, 10.0));
        assert_eq!(target(&[("target", "5"), ("target-utilization-percentage", "100")], 10), (5.0, 5.0));
        assert_eq!(target(&[("metric", "rps")], 10), (140.0, 200.0));
        assert_eq!(target(&[("metric", "rps"), ("target", "50")], 10), (35.0, 50.0));
        assert_eq!(target(&[("target", "0.01"), ("target-utilization-percentage", "50")], 0), (0.01, 0.01));
    }

    #[test]
    fn panic_windows_are_whole_seconds_and_at_least_one() {
        let panic_secs =
            |window, percentage| spec(&[("window", window), ("panic-window-percentage", percentage)], 0).panic_window.as_secs();
        assert_eq!((panic_secs("6s", "10"), panic_secs("6s", "1"), panic_secs("1h", "12.5")), (1, 1, 450));
    }

    #[test]
    fn unknown_annotations_and_an_unreachable_target_are_warned_about() {
        let warnings = read(&[("target", "50"), ("min-scales", "1")], 10).map(|(_, warnings)| warnings);
        let expected = vec![
            AnnotationWarning::Unknown { name: "autoscaling.knative.dev/min-scales".into() },
            AnnotationWarning::TargetAboveConcurrency { target: 50.0, container_concurrency: 10 },
        ];
        assert_eq!(warnings, Ok(expected));
    }

    #[test]
    fn each_mistake_is_an_error_that_names_value_and_limit() {
        let message = |name, value| read(&[(name, value)], 0).err().map(|errors| errors.to_string()).unwrap_or_default();
        let cases = [
            ("class", "hpa.autoscaling.knative.dev", "class \"hpa.autoscaling.knative.dev\" is not supported"),
            ("metric", "cpu", "\"cpu\" is not \"concurrency\" or \"rps\""),
            ("metric-aggregation-algorithm", "median", "\"median\" is not \"linear\" or \"weighted-exponential\""),
            ("window", "5s", "5s is outside its limits, 6s to 3600s"),
            ("window", "90", "\"90\" is not a duration"),
            ("panic-window-percentage", "0.5", "0.5 is outside its limits, 1 to 100"),
            ("panic-threshold-percentage", "109", "109 is outside its limits, 110 to 1000"),
            ("target", "0", "0 is outside its limits, at least 0.01"),
            ("target-utilization-percentage", "101", "101 is outside its limits, 1 to 100"),
            ("target-burst-capacity", "-2", "-2 is outside its limits, 0 or more, or -1 for no bound"),
            ("min-scale", "-1", "-1 is outside its limits, 0 to 2147483647"),
            ("max-scale", "many", "\"many\" is not a whole number"),
            ("initial-scale", "0", "0 is outside its limits, 1 to 2147483647"),
            ("activation-scale", "1", "1 is outside its limits, 2 to 2147483647"),
            ("scale-down-delay", "61m", "61m is outside its limits, 0ns to 3600s"),
            ("scale-down-delay", "1500ms", "\"1500ms\" is not a whole number of seconds"),
            ("scale-to-zero-pod-retention-period", "-1s", "-1s is outside its limits, 0ns to 3600s"),
        ];
        for (name, value, expected) in cases {
            let message = message(name, value);
            assert!(message.starts_with(&format!("{ANNOTATION_PREFIX}{name}: ")) && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn scales_that_contradict_each_other_are_errors() {
        let rejected = |annotations: &[(&str, &str)]| read(annotations, 0).err().map(|errors| errors.0.len());
        assert_eq!(rejected(&[("min-scale", "3"), ("max-scale", "2")]), Some(1));
        assert_eq!(rejected(&[("min-scale", "3"), ("max-scale", "0")]), None);
        assert_eq!(rejected(&[("min-scale", "3"), ("activation-scale", "2")]), Some(1));
        assert_eq!(rejected(&[("max-scale", "3"), ("activation-scale", "4")]), Some(1));
    }

    #[test]
    fn a_limit_of_the_operator_bounds_what_a_revision_may_ask_for() {
        let config = AutoscalerConfig { max_scale: 3, max_scale_limit: 5, ..AutoscalerConfig::default() };
        let ask = |max| KpaSpec::from_annotations([("autoscaling.knative.dev/max-scale", max)], 0, &config).is_ok();
        assert_eq!(["5", "6", "0"].map(ask), [true, false, false]);
    }

    #[test]
    fn the_progress_deadline_stands_under_its_own_prefix() {
        let read =
            |text| KpaSpec::from_annotations([("serving.knative.dev/progress-deadline", text)], 0, &AutoscalerConfig::default());
        assert_eq!(
            read("20s").map(|(spec, warnings)| (spec.scaler.progress_deadline, warnings)),
            Ok((Duration::from_secs(20), vec![]))
        );
        assert!(read("soon").is_err());
    }
}
