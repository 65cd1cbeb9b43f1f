//! What the data plane has done, for metrics. Everything else that is counted stands in the ledger's own counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use zipline_contract::ErrorCode;

/// Upper bounds of the buckets of [`Counted::pull_seconds`], in seconds; one more bucket takes the rest.
pub const PULL_SECONDS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Numbers that only rise, and gauges of connections.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) resumes: AtomicU64,
    pub(crate) tls_failures: AtomicU64,
    pub(crate) handovers_made: AtomicU64,
    pub(crate) handovers_taken: AtomicU64,
    pub(crate) connections_served: AtomicUsize,
    pub(crate) spills_ok: AtomicU64,
    pub(crate) spills_abandoned: AtomicU64,
    pub(crate) spills_failed: AtomicU64,
    pulls_ok: AtomicU64,
    pulls_failed: [AtomicU64; ErrorCode::ALL.len()],
    pull_buckets: [AtomicU64; PULL_SECONDS_BUCKETS.len() + 1],
    pull_nanos: AtomicU64,
}

/// What was done with the durable tier.
#[derive(Debug, Default)]
pub(crate) struct TierCounters {
    written: AtomicU64,
    read: AtomicU64,
    removed: AtomicU64,
    swept: AtomicU64,
    failed: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
}

impl TierCounters {
    pub(crate) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read_bytes(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn removed(&self) {
        self.removed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn swept(&self) {
        self.swept.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counted(&self, up: bool) -> TierCounted {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TierCounted {
            up,
            written: load(&self.written),
            read: load(&self.read),
            removed: load(&self.removed),
            swept: load(&self.swept),
            failed: load(&self.failed),
            bytes_written: load(&self.bytes_written),
            bytes_read: load(&self.bytes_read),
        }
    }
}

/// What was done with the durable tier, at one moment; all zero without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounted {
    /// Whether the store answered the last request.
    pub up: bool,
    /// Copies written.
    pub written: u64,
    /// Copies read to the end of what was asked for.
    pub read: u64,
    /// Copies removed with their objects.
    pub removed: u64,
    /// Copies removed that nobody else had removed.
    pub swept: u64,
    /// Writes and removals that were given up.
    pub failed: u64,
    /// Payload bytes written.
    pub bytes_written: u64,
    /// Payload bytes read.
    pub bytes_read: u64,
}

/// A copy of the numbers at one moment.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Payload bytes sent to other proxies over TCP.
    pub bytes_sent: u64,
    /// Payload bytes received from other proxies over TCP.
    pub bytes_received: u64,
    /// Reads continued on a new connection.
    pub resumes: u64,
    /// Connections whose TLS handshake failed, or whose two sides differ in whether there is one.
    pub tls_failures: u64,
    /// Descriptors handed over to other proxies.
    pub handovers_made: u64,
    /// Descriptors taken from other proxies.
    pub handovers_taken: u64,
    /// Objects written to local disk.
    pub spills_ok: u64,
    /// Objects that were read or ended while they were written to local disk.
    pub spills_abandoned: u64,
    /// Objects that could not be written to local disk.
    pub spills_failed: u64,
    /// Open connections to the pull port.
    pub connections_served: usize,
    /// Open connections to others' pull ports.
    pub connections_made: usize,
    /// Reads from other proxies that ended well.
    pub pulls_ok: u64,
    /// Reads from other proxies that failed, by error, those that happened.
    pub pulls_failed: Vec<(ErrorCode, u64)>,
    /// How many reads took how long, by bucket of [`PULL_SECONDS_BUCKETS`]; not cumulative.
    pub pull_seconds: [u64; PULL_SECONDS_BUCKETS.len() + 1],
    /// Seconds that all reads took together.
    pub pull_seconds_sum: f64,
}

impl Counters {
    pub(crate) fn pulled(&self, took: Duration) {
        self.pulls_ok.fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = PULL_SECONDS_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(PULL_SECONDS_BUCKETS.len());
        if let Some(bucket) = self.pull_buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.pull_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn pull_failed(&self, code: ErrorCode) {
        let place = ErrorCode::ALL.iter().position(|other| *other == code);
        if let Some(count) = place.and_then(|place| self.pulls_failed.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self, connections_made: usize) -> Counted {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failed = ErrorCode::ALL.iter().zip(&self.pulls_failed).map(|(code, count)| (*code, load(count)));
        Counted {
            bytes_sent: load(&self.bytes_sent),
            bytes_received: load(&self.bytes_received),
            resumes: load(&self.resumes),
            tls_failures: load(&self.tls_failures),
            handovers_made: load(&self.handovers_made),
            handovers_taken: load(&self.handovers_taken),
            spills_ok: load(&self.spills_ok),
            spills_abandoned: load(&self.spills_abandoned),
            spills_failed: load(&self.spills_failed),
            connections_served: self.connections_served.load(Ordering::Relaxed),
            connections_made,
            pulls_ok: load(&self.pulls_ok),
            pulls_failed: failed.filter(|(_, count)| *count > 0).collect(),
            pull_seconds: std::array::from_fn(|bucket| self.pull_buckets.get(bucket).map(load).unwrap_or_default()),
            #[expect(clippy::cast_precision_loss, reason = "a sum of durations in a metric")]
            pull_seconds_sum: load(&self.pull_nanos) as f64 / 1e9,
        }
    }
}

/// Counts one open connection as long as it lives.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    pub(crate) fn count(gauge: &'a AtomicUsize) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
