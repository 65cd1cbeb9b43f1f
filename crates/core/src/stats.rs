//! What an instance and an activator tell the autoscaler about their requests.
//!
//! [`RequestStats`] integrates the number of requests in flight over time, as Knative's queue-proxy does: its driver
//! feeds an event for every request that comes or goes and cuts a [`RequestReport`] each second, from which a [`Stat`]
//! is made. [`ActivatorStats`] does the same for one revision behind an activator and says when a first request must
//! reach the autoscaler at once. [`Stat`] is Knative's message of the same name (`pkg/autoscaler/metrics/stat.proto`); what
//! carries its bytes belongs to whoever puts it on a wire.
//!
//! **The hold rule** ([`Stat::holding`]): an instance whose functions do nothing, but whose objects still wait for their
//! consumers, must not be scaled away. It then reports a trace of load, [`HOLD_LOAD`], in each of the two measured fields
//! that lies below it. A request in flight measures 1.0 and stays 1.0, because 1.01 would mean two pods and panic where
//! the target is 1. Where the metric is rps, an instance blocked in one long call measures 0 new requests: for that metric
//! it is idle, so the rule applies to it too. Proxied fields are never touched: the autoscaler subtracts them, since the
//! activator reports those requests itself. The costs of a hold stand in `tests/hold_rules.rs`, each with its decision.

mod activator;
mod requests;

pub use activator::{ActivatorReport, ActivatorStats};
pub use requests::{RequestEvent, RequestReport, RequestStats};

use core::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};

/// How often statistics are cut and scraped.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The load that an idle instance reports while it holds objects, in requests in flight or per second.
pub const HOLD_LOAD: f64 = 0.01;

/// One report of an instance or an activator to the autoscaler; the fields of Knative's `Stat` message.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub struct Stat {
    /// Who reports; `SERVING_POD` in a queue-proxy.
    #[prost(string, tag = "1")]
    pub pod_name: String,
    /// Requests in flight, averaged over the reporting period, weighted by time. Queued ones count.
    #[prost(double, tag = "2")]
    pub average_concurrent_requests: f64,
    /// The part of them that came through the activator, which reports them as well.
    #[prost(double, tag = "3")]
    pub average_proxied_concurrent_requests: f64,
    /// Requests that arrived, per second.
    #[prost(double, tag = "4")]
    pub request_count: f64,
    /// The part of them that came through the activator.
    #[prost(double, tag = "5")]
    pub proxied_request_count: f64,
    /// Age of the reporting process in seconds.
    #[prost(double, tag = "6")]
    pub process_uptime: f64,
    /// When the statistics were cut, in the reporter's own notation; Knative leaves it 0.
    #[prost(int64, tag = "7")]
    pub timestamp: i64,
}

impl Stat {
    /// The statistics of one reporting period that was `period` long, of a process that is `uptime` old.
    pub fn of_instance(pod_name: impl Into<String>, report: &RequestReport, period: Duration, uptime: Duration) -> Self {
        let per_second = |count: f64| if period.is_zero() { count } else { count / period.as_secs_f64() };
        Self {
            pod_name: pod_name.into(),
            average_concurrent_requests: report.average_concurrency,
            average_proxied_concurrent_requests: report.average_proxied_concurrency,
            request_count: per_second(report.request_count),
            proxied_request_count: per_second(report.proxied_request_count),
            process_uptime: uptime.as_secs_f64(),
            timestamp: 0,
        }
    }

    /// Applies the hold rule: what an instance reports while it holds `unexpired_objects` objects.
    ///
    /// Without objects nothing changes. An instance that received SIGTERM is no longer scraped, so its hold is over.
    #[must_use]
    pub fn holding(mut self, unexpired_objects: u64) -> Self {
        if mutant!("hold-on-top") && unexpired_objects > 0 {
            self.average_concurrent_requests += HOLD_LOAD;
        }
        if unexpired_objects > 0 && !mutant!("hold-forgotten") {
            self.average_concurrent_requests = self.average_concurrent_requests.max(HOLD_LOAD);
            self.request_count = self.request_count.max(HOLD_LOAD);
        }
        self
    }

    /// The message as it goes over the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatError> {
        Self::decode(bytes).map_err(StatError)
    }

    /// Requests in flight that nobody else reports.
    pub fn own_concurrency(&self) -> f64 {
        self.average_concurrent_requests - self.average_proxied_concurrent_requests
    }

    /// Requests per second that nobody else reports.
    pub fn own_requests_per_second(&self) -> f64 {
        self.request_count - self.proxied_request_count
    }
}

/// Bytes that are no [`Stat`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Stat message: {0}")]
pub struct StatError(prost::DecodeError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_the_fields_and_numbers_of_knatives() {
        let stat = Stat {
            pod_name: "p".into(),
            average_concurrent_requests: 1.0,
            average_proxied_concurrent_requests: 2.0,
            request_count: -2.0,
            proxied_request_count: 0.5,
            process_uptime: 4.0,
            timestamp: 300,
        };
        // Written by hand from the .proto: each field's number and wire type in one byte, then its value.
        let mut bytes = vec![0x0a, 1, b'p'];
        for (tag, value) in [(0x11, 1.0_f64), (0x19, 2.0), (0x21, -2.0), (0x29, 0.5), (0x31, 4.0)] {
            bytes.push(tag);
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0x38, 0xac, 0x02]);
        assert_eq!(stat.to_bytes(), bytes);
        assert_eq!(Stat::from_bytes(&bytes), Ok(stat));
        assert!(Stat::from_bytes(&bytes[..20]).is_err());
    }

    #[test]
    fn a_hold_raises_what_is_idle_and_nothing_else() {
        let idle = Stat { pod_name: "a".into(), ..Stat::default() };
        let held = idle.clone().holding(3);
        assert_eq!((held.average_concurrent_requests, held.request_count), (HOLD_LOAD, HOLD_LOAD));
        assert_eq!((held.average_proxied_concurrent_requests, held.proxied_request_count), (0.0, 0.0));
        assert_eq!(idle.clone().holding(0), idle);
    }

    #[test]
    fn a_hold_is_never_added_to_real_requests() {
        let busy = Stat { average_concurrent_requests: 1.0, request_count: 7.0, ..Stat::default() };
        assert_eq!(busy.clone().holding(1), busy);
        let proxied = Stat { average_proxied_concurrent_requests: 1.0, proxied_request_count: 7.0, ..busy };
        assert_eq!(proxied.clone().holding(1), proxied);
        assert_eq!(proxied.holding(1).own_concurrency(), 0.0);
    }

    #[test]
    fn counts_are_per_second_whatever_the_period() {
        let report = RequestReport { request_count: 6.0, proxied_request_count: 3.0, ..RequestReport::default() };
        let stat = Stat::of_instance("a", &report, Duration::from_secs(2), Duration::from_secs(90));
        assert_eq!((stat.request_count, stat.proxied_request_count, stat.process_uptime), (3.0, 1.5, 90.0));
    }
}
