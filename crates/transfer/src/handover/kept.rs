//! Hand-over connections without a lease, kept for the next object of the same producer.
//!
//! What makes a hand-over long is waking processes, and a new connection wakes its producer once more. One that the
//! producer has closed meanwhile is noticed by whoever uses it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::channel::Channel;
use crate::config::{HANDOVER_KEPT_MAX, POOLED_MAX};
use crate::stored::lock;

/// The connections that nobody uses now.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The longest unused in front.
    idle: Mutex<VecDeque<Idle>>,
    kept: Notify,
}

#[derive(Debug)]
struct Idle {
    until: Instant,
    producer: SocketAddr,
    channel: Channel,
}

impl Kept {
    /// The connection to `producer` that was used last.
    pub(super) fn take(&self, producer: SocketAddr) -> Option<Channel> {
        let mut idle = lock(&self.idle);
        let at = idle.iter().rposition(|idle| idle.producer == producer)?;
        idle.remove(at).filter(|idle| idle.until > Instant::now()).map(|idle| idle.channel)
    }

    /// Keeps a connection on which every question was answered and no lease is left.
    pub(super) fn keep(&self, producer: SocketAddr, channel: Channel) {
        let mut idle = lock(&self.idle);
        if idle.len() >= HANDOVER_KEPT_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { until: Instant::now() + zipline_fault_point::kept_for(POOLED_MAX), producer, channel });
        let first = idle.len() == 1;
        drop(idle);
        if first {
            self.kept.notify_one(); // Whoever waits for the first one to grow old has nothing to wait for yet.
        }
    }

    /// Closes what was not used for long; runs as long as the node.
    pub(crate) async fn run_expiry(&self) {
        loop {
            match self.expire(Instant::now()) {
                Some(next) => sleep_until(next).await,
                None => self.kept.notified().await,
            }
        }
    }

    /// Closes what is due, and tells when the next is.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut idle = lock(&self.idle);
        while idle.front().is_some_and(|idle| idle.until <= now) {
            idle.pop_front();
        }
        idle.front().map(|idle| idle.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    fn channel() -> Channel {
        let (near, _far) = UnixStream::pair().expect("a pair");
        Channel::new(near).expect("our own")
    }

    #[tokio::test]
    async fn connections_are_kept_by_producer_bounded_and_for_a_while() {
        let kept = Kept::default();
        let [one, other]: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse().expect("an address"));
        kept.keep(one, channel());
        assert!(kept.take(other).is_none());
        assert!(kept.take(one).is_some());
        assert!(kept.take(one).is_none(), "it was given out");
        for _ in 0..2 * HANDOVER_KEPT_MAX {
            kept.keep(one, channel());
        }
        assert_eq!(lock(&kept.idle).len(), HANDOVER_KEPT_MAX);
        let next = kept.expire(Instant::now()).expect("some are kept");
        assert_eq!(kept.expire(next + POOLED_MAX), None);
        assert!(kept.take(one).is_none());
    }
}
