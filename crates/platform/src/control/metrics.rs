//! The platform's metrics in Prometheus' text format.

use std::fmt::Write;

use zipline_contract::metrics::{self, Kind, Metric};

use super::model::Status;
use crate::activator::PathCount;

/// Writes them all. Writing to a string can't fail.
pub(super) fn render(status: &Status) -> String {
    let mut text = Text(String::new());
    for (requests, bytes, count) in [
        (&metrics::ACTIVATOR_REQUESTS, &metrics::ACTIVATOR_BODY_BYTES, &status.activator),
        (&metrics::DIRECT_REQUESTS, &metrics::DIRECT_BODY_BYTES, &status.direct),
    ] {
        text.path(requests, bytes, count);
    }
    text.metric(&metrics::ACTIVATOR_WAITING, &[(None, status.waiting as u64)]);
    let instances = status.instances;
    text.metric(
        &metrics::INSTANCES,
        &[
            (Some("starting"), instances.starting as u64),
            (Some("ready"), instances.ready as u64),
            (Some("stopping"), instances.stopping as u64),
        ],
    );
    text.metric(&metrics::INSTANCE_STARTS, &[(None, status.instance_starts)]);
    text.metric(&metrics::INSTANCE_CRASHES, &[(None, status.instance_crashes)]);
    text.0
}

struct Text(String);

impl Text {
    fn path(&mut self, requests: &Metric, bytes: &Metric, count: &PathCount) {
        let results = [("ok", count.ok), ("overload", count.overload), ("timeout", count.timeout), ("error", count.error)];
        self.metric(requests, &results.map(|(result, n)| (Some(result), n)));
        self.metric(bytes, &[(Some("in"), count.body_bytes_in), (Some("out"), count.body_bytes_out)]);
    }

    fn metric(&mut self, metric: &Metric, values: &[(Option<&str>, u64)]) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let written = self.try_metric(metric, kind, values);
        debug_assert!(written.is_ok(), "a string takes everything");
    }

    fn try_metric(&mut self, metric: &Metric, kind: &str, values: &[(Option<&str>, u64)]) -> std::fmt::Result {
        let name = metric.name;
        writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help)?;
        for (label, value) in values {
            match (metric.labels.first(), label) {
                (Some(key), Some(label)) => writeln!(self.0, "{name}{{{key}=\"{label}\"}} {value}")?,
                _ => writeln!(self.0, "{name} {value}")?,
            }
        }
        Ok(())
    }
}
