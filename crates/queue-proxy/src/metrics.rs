//! Metrics in Prometheus' text format.
//!
//! The user's ([`Invocations`]) have the names that Knative's OpenTelemetry exporter gives them; ours have the names of
//! `zipline_contract::metrics`. Recording is a few atomic additions; the text is made when it is asked for.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use zipline_contract::metrics::{Kind, Metric};

/// Media type of the text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the duration histogram, in milliseconds; Knative's.
const BOUNDS_MS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000];

/// How long the function took to answer, by status code.
#[derive(Debug)]
pub struct Invocations {
    /// One place a status code from 100 to 999, filled when it first occurs.
    by_status: Box<[OnceLock<Box<Histogram>>]>,
    /// Requests in the breaker when the last one began; there is none without a breaker.
    queue_depth: Option<AtomicU64>,
}

/// How long answers of one status took.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The status.
    pub status: u16,
    /// How many took up to each bound, and in the last place how many took longer; not cumulative.
    pub buckets: Vec<u64>,
    /// All together.
    pub seconds: f64,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Observations up to each bound, not cumulative; the last place is what lies above all.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    nanos: AtomicU64,
}

const STATUS_MIN: usize = 100;
const STATUSES: usize = 900;

impl Invocations {
    /// Nothing was recorded yet.
    pub fn new(with_breaker: bool) -> Self {
        let by_status = (0..STATUSES).map(|_| OnceLock::new()).collect();
        Self { by_status, queue_depth: with_breaker.then(AtomicU64::default) }
    }

    /// A request left the queue; so many are in the breaker.
    pub fn begin(&self, in_breaker: usize) {
        if let Some(depth) = &self.queue_depth {
            depth.store(in_breaker as u64, Ordering::Relaxed);
        }
    }

    /// A request was answered with this status after this time.
    pub fn record(&self, status: StatusCode, took: Duration) {
        let Some(place) = self.by_status.get(usize::from(status.as_u16()).wrapping_sub(STATUS_MIN)) else { return };
        let histogram = place.get_or_init(Box::default);
        let ms = took.as_nanos().div_ceil(1_000_000);
        let bucket = BOUNDS_MS.iter().position(|bound| ms <= u128::from(*bound)).unwrap_or(BOUNDS_MS.len());
        histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        histogram.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was recorded, status by status.
    pub fn measured(&self) -> impl Iterator<Item = Measured> {
        let recorded = self.by_status.iter().enumerate().filter_map(|(at, place)| Some((at, place.get()?)));
        recorded.map(|(at, histogram)| Measured {
            status: (at + STATUS_MIN) as u16,
            buckets: histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            seconds: Duration::from_nanos(histogram.nanos.load(Ordering::Relaxed)).as_secs_f64(),
        })
    }

    /// Requests in the breaker when the last one began; `None`: there is no breaker.
    pub fn queue_depth(&self) -> Option<u64> {
        self.queue_depth.as_ref().map(|depth| depth.load(Ordering::Relaxed))
    }

    /// Upper bounds of [`Measured::buckets`], in seconds; the last bucket has none.
    pub fn bounds_seconds() -> Vec<f64> {
        BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64()).collect()
    }

    /// Appends both metrics. `labels` are those of the revision, in the text format and without braces.
    pub fn write(&self, labels: &str, text: &mut String) {
        const DURATION: &str = "kn_serving_invocation_duration_seconds";
        const DEPTH: &str = "kn_serving_queue_depth";
        let mut lines = Lines(text);
        lines.head(DURATION, "histogram", "The duration of task execution");
        for (at, place) in self.by_status.iter().enumerate() {
            let Some(histogram) = place.get() else { continue };
            let labels = format!("http_response_status_code=\"{}\",{labels}", at + STATUS_MIN);
            let mut count = 0;
            for (bound, bucket) in BOUNDS_MS.iter().zip(&histogram.buckets) {
                count += bucket.load(Ordering::Relaxed);
                let bound = Duration::from_millis(*bound).as_secs_f64();
                lines.sample(&format!("{DURATION}_bucket"), &format!("{labels},le=\"{bound}\""), count);
            }
            count += histogram.buckets[BOUNDS_MS.len()].load(Ordering::Relaxed);
            lines.sample(&format!("{DURATION}_bucket"), &format!("{labels},le=\"+Inf\""), count);
            let sum = Duration::from_nanos(histogram.nanos.load(Ordering::Relaxed)).as_secs_f64();
            lines.sample(&format!("{DURATION}_sum"), &labels, sum);
            lines.sample(&format!("{DURATION}_count"), &labels, count);
        }
        if let Some(depth) = &self.queue_depth {
            lines.head(DEPTH, "gauge", "Number of current requests in the queue");
            lines.sample(DEPTH, labels, depth.load(Ordering::Relaxed));
        }
    }
}

/// Appends one of our metrics that has no labels.
pub fn write_single(metric: &Metric, value: u64, text: &mut String) {
    let mut lines = Lines(text);
    lines.head(metric.name, kind(metric), metric.help);
    lines.sample(metric.name, "", value);
}

/// Appends one of our metrics that has one label, whose name the contract gives.
pub fn write_family(metric: &Metric, values: &[(&str, u64)], text: &mut String) {
    let label = metric.labels.first().copied().unwrap_or("label");
    let mut lines = Lines(text);
    lines.head(metric.name, kind(metric), metric.help);
    for (name, value) in values {
        lines.sample(metric.name, &format!("{label}=\"{name}\""), *value);
    }
}

const fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// A label's value as it stands between quotes.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Lines<'a>(&'a mut String);

impl Lines<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string can't fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        writeln!(self.0, "{name}{open}{labels}{close} {value}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_reach() {
        let invocations = Invocations::new(true);
        invocations.begin(3);
        for ms in [5, 6, 20_000] {
            invocations.record(StatusCode::OK, Duration::from_millis(ms));
        }
        invocations.record(StatusCode::BAD_GATEWAY, Duration::ZERO);
        let mut text = String::new();
        invocations.write("a=\"b\"", &mut text);
        for line in [
            "kn_serving_invocation_duration_seconds_bucket{http_response_status_code=\"200\",a=\"b\",le=\"0.005\"} 1",
            "kn_serving_invocation_duration_seconds_bucket{http_response_status_code=\"200\",a=\"b\",le=\"0.01\"} 2",
            "kn_serving_invocation_duration_seconds_bucket{http_response_status_code=\"200\",a=\"b\",le=\"10\"} 2",
            "kn_serving_invocation_duration_seconds_bucket{http_response_status_code=\"200\",a=\"b\",le=\"+Inf\"} 3",
            "kn_serving_invocation_duration_seconds_sum{http_response_status_code=\"200\",a=\"b\"} 20.011",
            "kn_serving_invocation_duration_seconds_count{http_response_status_code=\"502\",a=\"b\"} 1",
            "kn_serving_queue_depth{a=\"b\"} 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
    }
}
