//! Zipline's own metrics in Prometheus' text format, from the counters of those who count.

use std::fmt::{Display, Write};

use zipline_contract::metrics::{self as names, Kind, Metric};
use zipline_core::object::{Census, Counts};
use zipline_transfer::{Counted, PULL_SECONDS_BUCKETS, TierCounted};

use super::counters::Counters;

/// Everything that is counted, at one moment.
pub(super) struct Snapshot<'a> {
    pub(super) census: Census,
    pub(super) counts: Counts,
    pub(super) counted: Counted,
    pub(super) tier: TierCounted,
    pub(super) buffer_limit_bytes: u64,
    pub(super) counters: &'a Counters,
}

impl Snapshot<'_> {
    /// Appends every metric.
    pub(super) fn write(&self, text: &mut String) {
        let mut page = Page(text);
        self.write_held(&mut page);
        self.write_tiers(&mut page);
        self.write_life(&mut page);
        self.write_pulls(&mut page);
        page.family(
            &names::HANDOVERS,
            [
                ("function", self.counters.handed_over()),
                ("producer", self.counted.handovers_made),
                ("consumer", self.counted.handovers_taken),
            ],
        );
        let (out, into) = self.counters.swaps();
        page.family(&names::SWAPS, [("out", out), ("in", into)]);
        page.family(&names::ERRORS, self.counters.errors().map(|(code, count)| (code.name(), count)));
    }

    fn write_held(&self, page: &mut Page<'_>) {
        page.single(&names::HELD_BYTES, self.census.bytes);
        page.single(&names::HELD_OBJECTS, self.census.objects);
        page.single(&names::RECEIVING_BYTES, self.census.receiving_bytes);
        page.single(&names::BUFFER_LIMIT_BYTES, self.buffer_limit_bytes);
        page.single(&names::LEASES, self.census.leases);
        page.single(&names::PUT_WAITERS, self.census.waiters);
    }

    fn write_tiers(&self, page: &mut Page<'_>) {
        let (census, counted, tier) = (&self.census, &self.counted, &self.tier);
        page.single(&names::SPILLED_BYTES, census.spilled_bytes);
        page.single(&names::SPILLED_OBJECTS, census.spilled_objects);
        let spills = [("ok", counted.spills_ok), ("abandoned", counted.spills_abandoned), ("failed", counted.spills_failed)];
        page.family(&names::SPILLS, spills);
        page.single(&names::STORED_BYTES, census.stored_bytes);
        page.single(&names::STORED_OBJECTS, census.stored_objects);
        let copies = [
            ("written", tier.written),
            ("read", tier.read),
            ("removed", tier.removed),
            ("swept", tier.swept),
            ("failed", tier.failed),
        ];
        page.family(&names::TIER_COPIES, copies);
        page.family(&names::TIER_BYTES, [("written", tier.bytes_written), ("read", tier.bytes_read)]);
        page.single(&names::TIER_UP, u8::from(tier.up));
    }

    fn write_life(&self, page: &mut Page<'_>) {
        let counts = &self.counts;
        page.family(
            &names::OBJECT_TRANSITIONS,
            [
                ("writing", counts.writing),
                ("available", counts.available),
                ("retrieved", counts.retrieved),
                ("released", counts.released),
                ("expired", counts.expired),
                ("aborted", counts.aborted),
            ],
        );
        page.single(&names::ATTEMPTS, counts.attempts);
        page.single(&names::ACKNOWLEDGEMENTS, counts.acknowledgements);
        page.family(
            &names::LEASES_LOST,
            [("released", counts.leases_released), ("lapsed", counts.leases_lapsed), ("cut", counts.leases_cut)],
        );
    }

    fn write_pulls(&self, page: &mut Page<'_>) {
        let counted = &self.counted;
        let connections = [("server", counted.connections_served), ("client", counted.connections_made)];
        page.family(&names::PULL_CONNECTIONS, connections);
        let failed = counted.pulls_failed.iter().map(|(code, count)| (code.name(), *count));
        page.family(&names::PULLS, std::iter::once(("ok", counted.pulls_ok)).chain(failed));
        page.family(&names::PULL_BYTES, [("sent", counted.bytes_sent), ("received", counted.bytes_received)]);
        page.histogram(&names::PULL_SECONDS, &PULL_SECONDS_BUCKETS, &counted.pull_seconds, counted.pull_seconds_sum);
        page.single(&names::PULL_RESUMES, counted.resumes);
        page.single(&names::PULL_TLS_FAILURES, counted.tls_failures);
    }
}

/// Text to which metrics are appended. Writing to a string cannot fail, so results are not looked at.
struct Page<'a>(&'a mut String);

impl Page<'_> {
    fn head(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
    }

    fn single(&mut self, metric: &Metric, value: impl Display) {
        self.head(metric);
        let _ = writeln!(self.0, "{} {value}", metric.name);
    }

    /// A metric with one label, whose name the contract gives.
    fn family<'l, V: Display>(&mut self, metric: &Metric, values: impl IntoIterator<Item = (&'l str, V)>) {
        self.head(metric);
        let label = metric.labels.first().copied().unwrap_or("label");
        for (name, value) in values {
            let _ = writeln!(self.0, "{}{{{label}=\"{name}\"}} {value}", metric.name);
        }
    }

    /// `counts` has one bucket more than there are bounds, and is not cumulative.
    fn histogram(&mut self, metric: &Metric, bounds: &[f64], counts: &[u64], sum: f64) {
        self.head(metric);
        let mut so_far = 0;
        for (at, count) in counts.iter().enumerate() {
            so_far += count;
            match bounds.get(at) {
                Some(bound) => drop(writeln!(self.0, "{}_bucket{{le=\"{bound}\"}} {so_far}", metric.name)),
                None => drop(writeln!(self.0, "{}_bucket{{le=\"+Inf\"}} {so_far}", metric.name)),
            }
        }
        let _ = writeln!(self.0, "{}_sum {sum}\n{}_count {so_far}", metric.name, metric.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_infinity() {
        let mut text = String::new();
        Page(&mut text).histogram(&names::PULL_SECONDS, &[0.1, 1.0], &[2, 3, 4], 12.5);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "zipline_pull_duration_seconds_bucket{le=\"0.1\"} 2",
                "zipline_pull_duration_seconds_bucket{le=\"1\"} 5",
                "zipline_pull_duration_seconds_bucket{le=\"+Inf\"} 9",
                "zipline_pull_duration_seconds_sum 12.5",
                "zipline_pull_duration_seconds_count 9",
            ]
        );
    }

    #[test]
    fn a_family_has_the_label_that_the_contract_names() {
        let mut text = String::new();
        Page(&mut text).family(&names::SWAPS, [("out", 1), ("in", 2)]);
        assert!(
            text.ends_with(
                "zipline_swapped_bodies_total{direction=\"out\"} 1\nzipline_swapped_bodies_total{direction=\"in\"} 2\n"
            )
        );
    }
}
