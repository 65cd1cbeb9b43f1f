//! What everything in this process shares.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::HeaderMap;
use http::StatusCode;
use tokio::time::Instant;
use zipline_contract::headers::K_PROXY_REQUEST;
use zipline_core::stats::RequestEvent;

use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::config::{Config, Sidecar};
use crate::drain::Drain;
use crate::metrics::Invocations;
use crate::probe::Readiness;
use crate::statistics::{ByActivator, Statistics};
use crate::telemetry::Telemetry;
use crate::upstream::Upstream;
use crate::zipline::Zipline;

/// One function instance's proxy.
pub struct Instance {
    /// The clock of statistics and drain.
    pub clock: Clock,
    /// What the revision says about the function.
    pub sidecar: Sidecar,
    /// The shutdown.
    pub drain: Arc<Drain>,
    /// What the autoscaler is told.
    pub statistics: Statistics,
    /// The limit on what the function works on at once; `None`: no limit.
    pub breaker: Option<Arc<Breaker>>,
    /// What the user is told.
    pub invocations: Invocations,
    /// Whether the function is ready.
    pub readiness: Readiness,
    /// The function.
    pub upstream: Upstream,
    /// References and everything behind them.
    pub zipline: Arc<Zipline>,
    /// What is told about each request.
    pub telemetry: Arc<Telemetry>,
}

impl Instance {
    /// The proxy of the function that `sidecar` describes. Nothing is opened yet.
    pub fn new(
        config: &Config,
        sidecar: &Sidecar,
        (clock, drain): (Clock, Arc<Drain>),
        zipline: Arc<Zipline>,
        telemetry: Arc<Telemetry>,
    ) -> Arc<Self> {
        let breaker = NonZeroU32::new(sidecar.concurrency).map(Breaker::new);
        Arc::new(Self {
            clock,
            drain,
            statistics: Statistics::new(&config.identity.pod, clock),
            invocations: Invocations::new(breaker.is_some()),
            breaker,
            readiness: Readiness::new(&sidecar.probes, sidecar.detect_http2),
            upstream: Upstream::new(sidecar.user_port, sidecar.concurrency),
            zipline,
            telemetry,
            sidecar: sidecar.clone(),
        })
    }

    /// Requests the function works on, and requests that wait for it.
    pub fn load(&self) -> (usize, usize) {
        self.breaker.as_ref().map_or_else(|| (self.statistics.in_flight(), 0), |breaker| breaker.load())
    }
}

/// A request in the statistics: it counts from its arrival to its end, also while it waits.
pub struct Counted {
    instance: Arc<Instance>,
    end: RequestEvent,
}

impl Counted {
    /// A request with these headers arrives.
    pub fn arrive(instance: &Arc<Instance>, headers: &HeaderMap) -> Self {
        let proxied = headers.get(K_PROXY_REQUEST).is_some_and(|by| by.as_bytes() == b"activator");
        let (begin, end) = if proxied {
            (RequestEvent::ProxiedIn, RequestEvent::ProxiedOut)
        } else {
            (RequestEvent::ReqIn, RequestEvent::ReqOut)
        };
        instance.statistics.note(instance.clock.now(), begin);
        Self { instance: Arc::clone(instance), end }
    }

    /// So many bytes of its body and of its answer's have passed.
    pub fn moved(&self, bytes_in: u64, bytes_out: u64) {
        if let Some(by_activator) = self.by_activator() {
            by_activator.received(bytes_in);
            by_activator.answered(bytes_out);
        }
    }

    /// Where to count its body's bytes, if it came by the activator.
    pub fn by_activator(&self) -> Option<&Arc<ByActivator>> {
        (self.end == RequestEvent::ProxiedOut).then(|| self.instance.statistics.by_activator())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.instance.statistics.note(self.instance.clock.now(), self.end);
    }
}

/// A request in the user's metrics, from the moment it may run to its response's last byte. Recorded when it is dropped, if it
/// was answered; a client that left before is in no status.
pub struct Invocation {
    instance: Arc<Instance>,
    began: Instant,
    status: Option<StatusCode>,
}

impl Invocation {
    /// A request may run.
    pub fn begin(instance: &Arc<Instance>) -> Self {
        if let Some(breaker) = &instance.breaker {
            let (running, waiting) = breaker.load();
            instance.invocations.begin(running + waiting);
        }
        Self { instance: Arc::clone(instance), began: Instant::now(), status: None }
    }

    /// It is answered with this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if let Some(status) = self.status {
            self.instance.invocations.record(status, self.began.elapsed());
        }
    }
}
