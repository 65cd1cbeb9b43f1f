//! The largest recommendation of the recent past: what delays a scale-down.

use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Monotonic;

/// The maximum over a window of buckets, kept as the descending run of values that can still become the maximum.
#[derive(Clone, Debug)]
pub(super) struct MaximumWindow {
    bucket_secs: u64,
    buckets: u64,
    /// (bucket, value): buckets ascend, values descend. At most one entry a bucket.
    run: VecDeque<(u64, u32)>,
}

impl MaximumWindow {
    /// A window of `window` in buckets of `bucket`, which is cut to whole seconds and is at least one.
    pub(super) fn new(window: Duration, bucket: Duration) -> Self {
        let bucket_secs = bucket.as_secs().max(1);
        let buckets = window.as_millis().div_ceil(u128::from(bucket_secs) * 1_000);
        Self { bucket_secs, buckets: u64::try_from(buckets).unwrap_or(u64::MAX).max(1), run: VecDeque::new() }
    }

    /// Adds `value` and answers the largest value of the window, `value` included.
    pub(super) fn record(&mut self, now: Monotonic, value: u32) -> u32 {
        let bucket = now.since_origin().as_secs() / self.bucket_secs;
        // Two values of one bucket count as their maximum, and so does one that comes out of order.
        while self.run.back().is_some_and(|(_, smaller)| *smaller <= value) {
            self.run.pop_back();
        }
        while self.run.front().is_some_and(|(oldest, _)| bucket.saturating_sub(*oldest) >= self.buckets) {
            self.run.pop_front();
        }
        if self.run.back().is_none_or(|(newest, _)| *newest < bucket) {
            self.run.push_back((bucket, value));
        }
        self.run.front().map_or(value, |(_, largest)| *largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_leaves_with_its_bucket() {
        let mut window = MaximumWindow::new(Duration::from_secs(4), Duration::from_secs(2));
        assert_eq!(window.record(Monotonic::from_secs(0), 9), 9);
        assert_eq!(window.record(Monotonic::from_secs(2), 3), 9);
        assert_eq!(window.record(Monotonic::from_secs(4), 1), 3);
        assert_eq!(window.record(Monotonic::from_secs(100), 0), 0);
    }

    #[test]
    fn a_smaller_value_of_the_same_bucket_does_not_replace_the_larger_one() {
        let mut window = MaximumWindow::new(Duration::from_secs(2), Duration::from_secs(2));
        assert_eq!(window.record(Monotonic::from_secs(0), 5), 5);
        assert_eq!(window.record(Monotonic::from_secs(1), 2), 5);
        assert_eq!(window.record(Monotonic::from_secs(1), 7), 7);
    }
}
