//! What the autoscaler is told: requests in flight and requests a second, cut each second, served as Knative's `Stat`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
    by_activator: Arc<ByActivator>,
}

/// What came by the activator since the start. Numbers that only rise.
#[derive(Debug, Default)]
pub struct ByActivator {
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl ByActivator {
    /// So many bytes of a body arrived.
    pub fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes of a body were sent back.
    pub fn answered(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests, and the bytes of their bodies: in, out.
    pub fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.requests), of(&self.bytes_in), of(&self.bytes_out))
    }
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
            by_activator: Arc::default(),
        }
    }

    /// What came by the activator.
    pub fn by_activator(&self) -> &Arc<ByActivator> {
        &self.by_activator
    }

    /// Takes note of a request that came or went.
    pub fn note(&self, now: Monotonic, event: RequestEvent) {
        if event == RequestEvent::ProxiedIn {
            self.by_activator.requests.fetch_add(1, Ordering::Relaxed);
        }
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
