//! What an operator sets for all revisions: Knative's ConfigMap `config-autoscaler`.

use core::time::Duration;
use std::collections::BTreeMap;

use super::KPA_CLASS;
use super::setting::{Limits, Reader, SettingError, SettingErrors};

/// Smallest target of a revision.
pub(super) const TARGET_MIN: f64 = 0.01;
/// Shortest stable window; with ticks of 2 s less would miss data.
pub(super) const WINDOW_MIN: Duration = Duration::from_secs(6);
/// Longest stable window, scale-down delay and retention of the last pod.
pub(super) const WINDOW_MAX: Duration = Duration::from_secs(3_600);
/// Limits of `panic-window-percentage`.
pub(super) const PANIC_WINDOW_PERCENTAGE: Limits = Limits::Within(1.0, 100.0);
/// Limits of `panic-threshold-percentage`.
pub(super) const PANIC_THRESHOLD_PERCENTAGE: Limits = Limits::Within(110.0, 1_000.0);
/// Largest scale that can be asked for.
pub(super) const SCALE_MAX: u32 = i32::MAX as u32;
/// Longest duration without a limit of its own, about 292 years: Go's longest.
pub(super) const DURATION_MAX: Duration = Duration::from_nanos(i64::MAX as u64);

/// Utilisation aimed for where the metric is rps; no setting changes it.
pub(super) const RPS_UTILIZATION: f64 = 0.7;

/// Settings of the autoscaler for every revision; annotations of a revision go before them.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoscalerConfig {
    /// `enable-scale-to-zero`: without it every revision keeps one instance.
    pub enable_scale_to_zero: bool,
    /// `allow-zero-initial-scale`.
    pub allow_zero_initial_scale: bool,
    /// `container-concurrency-target-percentage`, as a fraction.
    pub container_concurrency_target_fraction: f64,
    /// `container-concurrency-target-default`: requests in flight an instance can take, where nothing says so.
    pub container_concurrency_target_default: f64,
    /// `requests-per-second-target-default`.
    pub requests_per_second_target_default: f64,
    /// `target-burst-capacity`; −1: without bound.
    pub target_burst_capacity: f64,
    /// `stable-window`.
    pub stable_window: Duration,
    /// `panic-window-percentage` of the stable window.
    pub panic_window_percentage: f64,
    /// `panic-threshold-percentage`.
    pub panic_threshold_percentage: f64,
    /// `max-scale-up-rate`.
    pub max_scale_up_rate: f64,
    /// `max-scale-down-rate`.
    pub max_scale_down_rate: f64,
    /// `scale-to-zero-grace-period`: how long an idle revision's requests go through the activator before it falls to 0.
    pub scale_to_zero_grace_period: Duration,
    /// `scale-to-zero-pod-retention-period`: how long at least the last instance stays after that was decided.
    pub scale_to_zero_pod_retention_period: Duration,
    /// `scale-down-delay`.
    pub scale_down_delay: Duration,
    /// `activator-capacity`: requests in flight one activator can take. Read and checked; one machine has one activator.
    pub activator_capacity: f64,
    /// `initial-scale`.
    pub initial_scale: u32,
    /// `min-scale`.
    pub min_scale: u32,
    /// `max-scale`; 0: none.
    pub max_scale: u32,
    /// `max-scale-limit`: highest `max-scale` that a revision may ask for; 0: none.
    pub max_scale_limit: u32,
    /// `progress-deadline` (Knative keeps it in `config-deployment`): how long a revision may take to become ready.
    pub progress_deadline: Duration,
}

impl Default for AutoscalerConfig {
    fn default() -> Self {
        Self {
            enable_scale_to_zero: true,
            allow_zero_initial_scale: false,
            container_concurrency_target_fraction: 0.7,
            container_concurrency_target_default: 100.0,
            requests_per_second_target_default: 200.0,
            target_burst_capacity: 211.0,
            stable_window: Duration::from_secs(60),
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            max_scale_up_rate: 1_000.0,
            max_scale_down_rate: 2.0,
            scale_to_zero_grace_period: Duration::from_secs(30),
            scale_to_zero_pod_retention_period: Duration::ZERO,
            scale_down_delay: Duration::ZERO,
            activator_capacity: 100.0,
            initial_scale: 1,
            min_scale: 0,
            max_scale: 0,
            max_scale_limit: 0,
            progress_deadline: Duration::from_secs(600),
        }
    }
}

impl AutoscalerConfig {
    /// Reads the ConfigMap's `key: text` pairs over the defaults. The second answer lists the keys that mean nothing here.
    ///
    /// # Errors
    /// Every key whose value can't be used.
    pub fn from_settings<'a>(
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(Self, Vec<String>), SettingErrors> {
        let default = Self::default();
        // Keys beginning with an underscore are the example that Knative ships inside the map.
        let texts: BTreeMap<_, _> = settings.into_iter().filter(|(key, _)| !key.starts_with('_')).collect();
        let mut read = Reader::new("", texts);
        if let Some((name, value)) = read.text("pod-autoscaler-class").filter(|(_, class)| *class != KPA_CLASS) {
            read.reject(SettingError::UnsupportedClass { name, value: value.to_owned() });
        }
        let percentage = read.number("container-concurrency-target-percentage", Limits::AboveUpTo(0.0, 100.0));
        let config = Self {
            enable_scale_to_zero: read.switch("enable-scale-to-zero").unwrap_or(default.enable_scale_to_zero),
            allow_zero_initial_scale: read.switch("allow-zero-initial-scale").unwrap_or(default.allow_zero_initial_scale),
            // Up to 1 it has always been taken for a fraction.
            container_concurrency_target_fraction: percentage
                .map(|value| if value > 1.0 { value / 100.0 } else { value })
                .unwrap_or(default.container_concurrency_target_fraction),
            container_concurrency_target_default: read
                .number("container-concurrency-target-default", Limits::Above(0.0))
                .unwrap_or(default.container_concurrency_target_default),
            requests_per_second_target_default: read
                .number("requests-per-second-target-default", Limits::AtLeast(TARGET_MIN))
                .unwrap_or(default.requests_per_second_target_default),
            target_burst_capacity: read
                .number("target-burst-capacity", Limits::CountOrUnbounded)
                .unwrap_or(default.target_burst_capacity),
            stable_window: read.duration("stable-window", WINDOW_MIN..=WINDOW_MAX, true).unwrap_or(default.stable_window),
            panic_window_percentage: read
                .number("panic-window-percentage", PANIC_WINDOW_PERCENTAGE)
                .unwrap_or(default.panic_window_percentage),
            panic_threshold_percentage: read
                .number("panic-threshold-percentage", PANIC_THRESHOLD_PERCENTAGE)
                .unwrap_or(default.panic_threshold_percentage),
            max_scale_up_rate: read.number("max-scale-up-rate", Limits::Above(1.0)).unwrap_or(default.max_scale_up_rate),
            max_scale_down_rate: read.number("max-scale-down-rate", Limits::Above(1.0)).unwrap_or(default.max_scale_down_rate),
            scale_to_zero_grace_period: read
                .duration("scale-to-zero-grace-period", Duration::from_nanos(1)..=DURATION_MAX, false)
                .unwrap_or(default.scale_to_zero_grace_period),
            scale_to_zero_pod_retention_period: read
                .duration("scale-to-zero-pod-retention-period", Duration::ZERO..=DURATION_MAX, false)
                .unwrap_or(default.scale_to_zero_pod_retention_period),
            scale_down_delay: read
                .duration("scale-down-delay", Duration::ZERO..=WINDOW_MAX, true)
                .unwrap_or(default.scale_down_delay),
            activator_capacity: read.number("activator-capacity", Limits::AtLeast(1.0)).unwrap_or(default.activator_capacity),
            initial_scale: read.count("initial-scale", 0..=SCALE_MAX).unwrap_or(default.initial_scale),
            min_scale: read.count("min-scale", 0..=SCALE_MAX).unwrap_or(default.min_scale),
            max_scale: read.count("max-scale", 0..=SCALE_MAX).unwrap_or(default.max_scale),
            max_scale_limit: read.count("max-scale-limit", 0..=SCALE_MAX).unwrap_or(default.max_scale_limit),
            progress_deadline: read
                .duration("progress-deadline", Duration::from_secs(1)..=DURATION_MAX, true)
                .unwrap_or(default.progress_deadline),
        };
        config.check_between(&mut read);
        read.finish().map(|unknown| (config, unknown))
    }

    /// What must hold between settings that are each within their own limits.
    fn check_between(&self, read: &mut Reader<'_>) {
        let mut contradiction = |name: &str, value: String, other: &str, other_value: String, rule| {
            let (name, other) = (read.full_name(name), read.full_name(other));
            read.reject(SettingError::Contradiction { name, value, other, other_value, rule });
        };
        if self.initial_scale == 0 && !self.allow_zero_initial_scale {
            contradiction("initial-scale", "0".into(), "allow-zero-initial-scale", "false".into(), "0 must be allowed first");
        }
        if self.max_scale > 0 && self.min_scale > self.max_scale {
            let (min, max) = (self.min_scale.to_string(), self.max_scale.to_string());
            contradiction("min-scale", min, "max-scale", max, "the smallest scale must not be above the largest");
        }
        if self.max_scale_limit > 0 && !(1..=self.max_scale_limit).contains(&self.max_scale) {
            let (max, limit) = (self.max_scale.to_string(), self.max_scale_limit.to_string());
            contradiction("max-scale", max, "max-scale-limit", limit, "under a limit it must be set, and not be above it");
        }
        let target = self.container_concurrency_target_fraction * self.container_concurrency_target_default;
        if target < TARGET_MIN {
            contradiction(
                "container-concurrency-target-default",
                self.container_concurrency_target_default.to_string(),
                "container-concurrency-target-percentage",
                self.container_concurrency_target_fraction.to_string(),
                "their product must be at least 0.01",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_map_gives_the_defaults_and_unknown_keys_are_named() {
        let read = AutoscalerConfig::from_settings([("_example", "…"), ("tick-interval", "2s")]);
        assert_eq!(read, Ok((AutoscalerConfig::default(), vec!["tick-interval".to_owned()])));
    }

    #[test]
    fn values_are_read_as_knative_reads_them() {
        let settings = [
            ("container-concurrency-target-percentage", "80"),
            ("stable-window", "6s"),
            ("scale-to-zero-grace-period", "1s"),
            ("target-burst-capacity", "-1"),
            ("enable-scale-to-zero", "False"),
        ];
        let read = AutoscalerConfig::from_settings(settings).map(|(config, _)| config);
        let expected = AutoscalerConfig {
            container_concurrency_target_fraction: 0.8,
            stable_window: Duration::from_secs(6),
            scale_to_zero_grace_period: Duration::from_secs(1),
            target_burst_capacity: -1.0,
            enable_scale_to_zero: false,
            ..AutoscalerConfig::default()
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn contradictions_and_limits_are_all_reported() {
        let settings = [
            ("initial-scale", "0"),
            ("min-scale", "5"),
            ("max-scale", "3"),
            ("max-scale-limit", "2"),
            ("stable-window", "5s"),
            ("pod-autoscaler-class", "hpa.autoscaling.knative.dev"),
        ];
        let Err(SettingErrors(errors)) = AutoscalerConfig::from_settings(settings) else {
            panic!("five mistakes must not pass");
        };
        assert_eq!(errors.len(), 5, "{errors:?}");
    }
}
