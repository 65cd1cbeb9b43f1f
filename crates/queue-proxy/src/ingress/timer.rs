//! The limits on one request's time, and the one timer a connection needs for all of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Timeouts;

/// When a request has taken too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// For all of it.
    whole: Option<Instant>,
    /// For the response's head; gone once that is there.
    start: Option<Instant>,
    /// Between two pieces of the response.
    idle: Option<Duration>,
    /// When the request came, or the last piece of its response was sent.
    last: Instant,
}

impl Deadlines {
    /// The deadlines of a request that came at `now`.
    pub(super) fn new(limits: &Timeouts, now: Instant) -> Self {
        Self {
            whole: (!limits.whole.is_zero()).then(|| now + limits.whole),
            start: limits.start.map(|limit| now + limit),
            idle: limits.idle,
            last: now,
        }
    }

    /// The response's head is there.
    pub(super) fn started(&mut self) {
        self.start = None;
        self.progressed();
    }

    /// A piece of the response was sent.
    pub(super) fn progressed(&mut self) {
        if self.idle.is_some() {
            self.last = Instant::now();
        }
    }

    /// When all of it must be over.
    pub(super) const fn whole(&self) -> Option<Instant> {
        self.whole
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        let idle = self.idle.map(|limit| self.last + limit);
        [self.whole, self.start, idle].into_iter().flatten().min()
    }
}

/// Tells when a deadline has passed. Deadlines that only move away, request after request, cost no timer operation: the
/// timer is armed anew when it has fired, not when the deadline moves.
#[derive(Debug, Default)]
pub(super) struct Timer {
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Timer {
    /// Ready once `deadline` has passed; never without one.
    pub(super) fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let armed = self.armed.get_or_insert_with(|| Armed { sleep: Box::pin(sleep_until(deadline)), at: deadline });
        if deadline < armed.at {
            armed.arm(deadline);
        }
        while armed.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            armed.arm(deadline);
        }
        Poll::Pending
    }
}

impl Armed {
    fn arm(&mut self, at: Instant) {
        self.at = at;
        self.sleep.as_mut().reset(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_away_is_kept_and_one_that_moves_near_is_met() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut timer = Timer::default();
        let mut passed = async |deadline| {
            std::future::poll_fn(|cx| timer.poll(Some(deadline), cx)).await;
            Instant::now() - begin
        };
        assert!(futures_util::future::poll_immediate(std::pin::pin!(passed(at(10)))).await.is_none());
        assert_eq!(passed(at(20)).await, Duration::from_secs(20));
        assert!(futures_util::future::poll_immediate(std::pin::pin!(passed(at(90)))).await.is_none());
        assert_eq!(passed(at(30)).await, Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_limit_counts_from_the_last_piece() {
        let limits =
            Timeouts { whole: Duration::from_secs(60), start: Some(Duration::from_secs(5)), idle: Some(Duration::from_secs(10)) };
        let begin = Instant::now();
        let mut deadlines = Deadlines::new(&limits, begin);
        assert_eq!(deadlines.next(), Some(begin + Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(4)).await;
        deadlines.started();
        assert_eq!(deadlines.next(), Some(begin + Duration::from_secs(14)));
    }
}
