//! What the autoscaler is told: requests in flight and requests a second, cut each second, served as Knative's `Stat`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use zipline_core::stats::{REPORT_INTERVAL, RequestEvent, RequestStats, Stat};
use zipline_core::time::Monotonic;

use crate::clock::Clock;

/// Requests in flight, and the last report made of them.
#[derive(Debug)]
pub struct Statistics {
    clock: Clock,
    pod: String,
    requests: Mutex<RequestStats>,
    in_flight: AtomicUsize,
    latest: Mutex<Stat>,
}

impl Statistics {
    /// Statistics of a pod that begin now.
    pub fn new(pod: &str, clock: Clock) -> Self {
        Self {
            clock,
            pod: pod.to_owned(),
            requests: Mutex::new(RequestStats::new(clock.now())),
            in_flight: AtomicUsize::new(0),
            latest: Mutex::new(Stat { pod_name: pod.to_owned(), ..Stat::default() }),
        }
    }

    /// Takes note of a request that came or went.
    pub fn note(&self, now: Monotonic, event: RequestEvent) {
        match event {
            RequestEvent::ReqIn | RequestEvent::ProxiedIn => self.in_flight.fetch_add(1, Ordering::Relaxed),
            RequestEvent::ReqOut | RequestEvent::ProxiedOut => self.in_flight.fetch_sub(1, Ordering::Relaxed),
        };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).handle_event(now, event);
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Cuts a report over the time since the last one, which should be [`REPORT_INTERVAL`].
    pub fn cut(&self, held_objects: u64) {
        let now = self.clock.now();
        let report = self.requests.lock().unwrap_or_else(PoisonError::into_inner).report(now);
        let uptime = now.since_origin();
        let stat = Stat::of_instance(&*self.pod, &report, REPORT_INTERVAL, uptime).holding(held_objects);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = stat;
    }

    /// The last report, as it goes over the wire.
    pub fn message(&self) -> Vec<u8> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).to_bytes()
    }
}
