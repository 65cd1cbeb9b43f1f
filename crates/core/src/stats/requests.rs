//! Requests in flight, integrated over time.

use serde::{Deserialize, Serialize};

use crate::time::Monotonic;

/// A request that came or went. One that came proxied must go proxied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestEvent {
    /// A request arrived; it counts from here on, also while it waits in the breaker.
    ReqIn,
    /// A request ended.
    ReqOut,
    /// A request arrived through the activator (`K-Proxy-Request: activator`).
    ProxiedIn,
    /// A request that had arrived through the activator ended.
    ProxiedOut,
}

/// What happened in one reporting period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestReport {
    /// Requests in flight, weighted by time; 0 for a period without length.
    pub average_concurrency: f64,
    /// The part of them that came through the activator.
    pub average_proxied_concurrency: f64,
    /// Requests that arrived in the period.
    pub request_count: f64,
    /// The part of them that came through the activator.
    pub proxied_request_count: f64,
}

/// The request statistics of one instance or of one revision behind an activator.
///
/// Events may be fed slightly out of order: time that seems to run backwards is ignored, the counts are not.
#[derive(Clone, Debug)]
pub struct RequestStats {
    in_flight: f64,
    proxied_in_flight: f64,
    last_change: Monotonic,
    period: Period,
}

/// What adds up until the next report.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    requests: f64,
    proxied_requests: f64,
    request_seconds: f64,
    proxied_request_seconds: f64,
    seconds: f64,
}

impl RequestStats {
    /// Statistics that begin at `started`, with nothing in flight.
    pub fn new(started: Monotonic) -> Self {
        Self { in_flight: 0.0, proxied_in_flight: 0.0, last_change: started, period: Period::default() }
    }

    /// Takes note of a request that came or went at `now`.
    pub fn handle_event(&mut self, now: Monotonic, event: RequestEvent) {
        self.advance(now);
        match event {
            RequestEvent::ReqIn | RequestEvent::ProxiedIn => {
                self.period.requests += 1.0;
                self.in_flight += 1.0;
            }
            RequestEvent::ReqOut | RequestEvent::ProxiedOut => self.in_flight -= 1.0,
        }
        match event {
            RequestEvent::ProxiedIn => {
                self.period.proxied_requests += 1.0;
                self.proxied_in_flight += 1.0;
            }
            RequestEvent::ProxiedOut => self.proxied_in_flight -= 1.0,
            RequestEvent::ReqIn | RequestEvent::ReqOut => {}
        }
    }

    /// Ends the reporting period at `now` and begins the next one. Requests in flight stay in flight.
    pub fn report(&mut self, now: Monotonic) -> RequestReport {
        self.advance(now);
        let period = core::mem::take(&mut self.period);
        let average = |sum: f64| if period.seconds > 0.0 { sum / period.seconds } else { 0.0 };
        RequestReport {
            average_concurrency: average(period.request_seconds),
            average_proxied_concurrency: average(period.proxied_request_seconds),
            request_count: period.requests,
            proxied_request_count: period.proxied_requests,
        }
    }

    fn advance(&mut self, now: Monotonic) {
        if now <= self.last_change {
            return;
        }
        let seconds = now.since(self.last_change).as_secs_f64();
        self.period.seconds += seconds;
        self.period.request_seconds += self.in_flight * seconds;
        self.period.proxied_request_seconds += self.proxied_in_flight * seconds;
        self.last_change = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_requests_of_half_a_second_each_make_one_in_flight() {
        let mut stats = RequestStats::new(Monotonic::ZERO);
        for _ in 0..2 {
            stats.handle_event(Monotonic::ZERO, RequestEvent::ReqIn);
        }
        for _ in 0..2 {
            stats.handle_event(Monotonic::from_millis(500), RequestEvent::ReqOut);
        }
        let report = stats.report(Monotonic::from_secs(1));
        assert_eq!((report.average_concurrency, report.request_count), (1.0, 2.0));
    }

    #[test]
    fn a_period_without_length_reports_counts_and_no_average() {
        let mut stats = RequestStats::new(Monotonic::from_secs(5));
        stats.handle_event(Monotonic::from_secs(4), RequestEvent::ReqIn);
        let report = stats.report(Monotonic::from_secs(5));
        assert_eq!((report.average_concurrency, report.request_count), (0.0, 1.0));
    }
}
