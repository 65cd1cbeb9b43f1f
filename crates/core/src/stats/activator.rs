//! What an activator reports about one revision.

use serde::{Deserialize, Serialize};

use super::{RequestEvent, RequestStats, Stat};
use crate::time::Monotonic;

/// The statistics of one revision behind one activator.
///
/// The first request after a silent period is reported at once, as one request in flight ([`ActivatorStats::request_in`]
/// answers the `Stat` to send), because a revision at zero must not wait for the end of the second. What was reported
/// ahead is taken off the period's own report.
#[derive(Clone, Debug)]
pub struct ActivatorStats {
    reporter: String,
    seen: Option<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    requests: RequestStats,
    in_flight: u64,
    /// Requests already reported ahead of the period's end: 1 in a first period, else 0.
    reported_ahead: f64,
}

/// What [`ActivatorStats::report`] answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActivatorReport {
    /// For the autoscaler: the average since the last report, and the number of requests (not a rate).
    pub stat: Stat,
    /// Nothing was in flight in the whole period and nothing is: the revision may be forgotten.
    pub silent: bool,
}

impl ActivatorStats {
    /// Statistics of a revision that has had no request; `reporter` names the activator.
    pub fn new(reporter: impl Into<String>) -> Self {
        Self { reporter: reporter.into(), seen: None }
    }

    /// Takes note of a request, and answers what must be sent to the autoscaler at once, if it is the first in a while.
    pub fn request_in(&mut self, now: Monotonic) -> Option<Stat> {
        let first = self.seen.is_none();
        let seen = self.seen.get_or_insert_with(|| Seen { requests: RequestStats::new(now), in_flight: 0, reported_ahead: 1.0 });
        seen.requests.handle_event(now, RequestEvent::ReqIn);
        seen.in_flight = seen.in_flight.saturating_add(1);
        first.then(|| Stat {
            pod_name: self.reporter.clone(),
            average_concurrent_requests: 1.0,
            request_count: 1.0,
            ..Stat::default()
        })
    }

    /// Takes note that a request ended. Without a request in flight it is ignored.
    pub fn request_out(&mut self, now: Monotonic) {
        if let Some(seen) = self.seen.as_mut().filter(|seen| seen.in_flight > 0) {
            seen.requests.handle_event(now, RequestEvent::ReqOut);
            seen.in_flight -= 1;
        }
    }

    /// Requests in flight, queued ones included.
    pub fn in_flight(&self) -> u64 {
        self.seen.as_ref().map_or(0, |seen| seen.in_flight)
    }

    /// Ends the reporting period; nothing to report when no request was seen since the last silent one.
    pub fn report(&mut self, now: Monotonic) -> Option<ActivatorReport> {
        let seen = self.seen.as_mut()?;
        let report = seen.requests.report(now);
        let ahead = core::mem::replace(&mut seen.reported_ahead, 0.0);
        let silent = report.average_concurrency == 0.0 && seen.in_flight == 0;
        if silent {
            self.seen = None;
        }
        Some(ActivatorReport {
            stat: Stat {
                pod_name: self.reporter.clone(),
                // What was sent ahead stood for a whole second, which may be more than the request took.
                average_concurrent_requests: (report.average_concurrency - ahead).max(0.0),
                request_count: report.request_count - ahead,
                ..Stat::default()
            },
            silent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_is_reported_at_once_and_not_twice() {
        let mut stats = ActivatorStats::new("activator");
        let ahead = stats.request_in(Monotonic::ZERO).map(|stat| (stat.average_concurrent_requests, stat.request_count));
        assert_eq!(ahead, Some((1.0, 1.0)));
        assert_eq!(stats.request_in(Monotonic::ZERO), None);

        let first = stats.report(Monotonic::from_secs(1)).map(|report| report.stat);
        assert_eq!(first.map(|stat| (stat.average_concurrent_requests, stat.request_count)), Some((1.0, 1.0)));
        let second = stats.report(Monotonic::from_secs(2)).map(|report| report.stat);
        assert_eq!(second.map(|stat| (stat.average_concurrent_requests, stat.request_count)), Some((2.0, 0.0)));
    }

    #[test]
    fn after_a_silent_period_the_next_request_is_a_first_one_again() {
        let mut stats = ActivatorStats::new("activator");
        assert!(stats.request_in(Monotonic::ZERO).is_some());
        stats.request_out(Monotonic::from_millis(100));
        assert_eq!(stats.report(Monotonic::from_secs(1)).map(|report| report.silent), Some(false));
        assert_eq!(stats.report(Monotonic::from_secs(2)).map(|report| report.silent), Some(true));
        assert_eq!(stats.report(Monotonic::from_secs(3)), None);
        assert!(stats.request_in(Monotonic::from_secs(4)).is_some());
    }

    #[test]
    fn a_request_that_never_came_cannot_go() {
        let mut stats = ActivatorStats::new("activator");
        stats.request_out(Monotonic::ZERO);
        assert_eq!((stats.in_flight(), stats.report(Monotonic::from_secs(1))), (0, None));
    }
}
