//! How long to wait before a crashed process is started again.

use std::time::Duration;

/// Wait after a first crash.
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// A process that ran this long is taken for healthy: the next crash is a first one.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Doubles from crash to crash.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    crashes: u32,
}

impl Backoff {
    /// The wait after a crash of a process that had run for `lifetime`.
    pub(super) fn after_crash(&mut self, lifetime: Duration) -> Duration {
        if lifetime >= HEALTHY_AFTER {
            self.crashes = 0;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.crashes)).min(LONGEST);
        self.crashes = self.crashes.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_limit_and_begins_anew_after_a_healthy_life() {
        let mut backoff = Backoff::default();
        let mut crash = |seconds| backoff.after_crash(Duration::from_secs(seconds)).as_millis();
        assert_eq!([crash(0), crash(1), crash(59)], [250, 500, 1000]);
        for _ in 0..100 {
            crash(0);
        }
        assert_eq!([crash(0), crash(60), crash(0)], [30_000, 250, 500]);
    }
}
