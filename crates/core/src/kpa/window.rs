//! Averages over the recent past, from buckets of a second or more.
//!
//! An [`AverageWindow`] sums what is recorded into buckets and answers either the plain average over them or one in
//! which older buckets weigh exponentially less. A window that has not filled up yet averages over the part it has, so
//! that a young revision is not underestimated; gaps count as zero; a window's length of silence empties it.
//!
//! The numbers are Knative's to the last bit (`conformance/vectors/knative/windows.json`), which is why sums are kept
//! running and in Knative's order instead of being computed afresh.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::WallTime;

/// How a window weighs its buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// All alike.
    #[default]
    Linear,
    /// Each bucket less than the one after it; the newest weighs at least a fifth.
    WeightedExponential,
}

/// The smallest share that the newest bucket gets in a weighted average. With very long windows less would come close to
/// the plain average.
const DECAY_MIN: f64 = 0.2;
/// What the weights of a full window leave out at most, unless [`DECAY_MIN`] leaves out less.
const WEIGHT_LEFT_OUT: f64 = 0.0001;
/// Plain averages are rounded to this part of one, which hides the rest that running sums leave behind.
const ROUNDED_TO: f64 = 1_000_000.0;
/// Sums by bucket over the last `window`.
#[derive(Clone, Debug)]
pub struct AverageWindow {
    buckets: Vec<f64>,
    bucket_secs: u64,
    window_secs: u64,
    /// The share of the newest bucket in a weighted average.
    decay: f64,
    /// The sum of all buckets.
    total: f64,
    written: Option<Written>,
}

/// Beginnings of the oldest and the newest bucket that count, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Written {
    first: u64,
    last: u64,
}

impl AverageWindow {
    /// A window of `window` in buckets of `bucket`. Both are cut to whole seconds and are at least one; a last bucket
    /// that only half fits counts whole. Takes 8 bytes a bucket.
    pub fn new(window: Duration, bucket: Duration) -> Self {
        let window_secs = window.as_secs().max(1);
        let bucket_secs = bucket.as_secs().clamp(1, window_secs);
        let buckets = window_secs.div_ceil(bucket_secs);
        Self {
            buckets: vec![0.0; usize::try_from(buckets).unwrap_or(usize::MAX)],
            bucket_secs,
            window_secs,
            decay: decay(buckets as f64),
            total: 0.0,
            written: None,
        }
    }

    /// Adds `value` to the bucket of `now`. What lies a window or more behind the newest record is ignored.
    pub fn record(&mut self, now: WallTime, value: f64) {
        let bucket = self.bucket_start(now);
        let Some(written) = self.written else {
            self.written = Some(Written { first: bucket, last: bucket });
            self.add(bucket, value);
            return;
        };
        if bucket.saturating_add(self.window_secs) <= written.last {
            return;
        }
        let mut first = written.first.min(bucket);
        if bucket.saturating_sub(written.last) >= self.window_secs {
            self.buckets.fill(0.0);
            self.total = 0.0;
            first = bucket;
        } else {
            // Buckets that were passed over since the last record still hold what they held a window ago.
            for index in self.indices_after(written.last, bucket) {
                self.total -= self.buckets[index];
                self.buckets[index] = 0.0;
            }
        }
        self.written = Some(Written { first, last: written.last.max(bucket) });
        self.add(bucket, value);
    }

    /// Whether nothing was recorded for longer than the window.
    pub fn is_empty(&self, now: WallTime) -> bool {
        let now = self.bucket_start(now);
        self.written.is_none_or(|written| now.saturating_sub(written.last) > self.window_secs)
    }

    /// The average over the window's buckets up to `now`, weighed as `aggregation` says; 0 when there is nothing.
    pub fn average(&self, now: WallTime, aggregation: Aggregation) -> f64 {
        match aggregation {
            Aggregation::Linear => self.linear_average(now),
            Aggregation::WeightedExponential => self.weighted_average(now),
        }
    }

    fn linear_average(&self, now: WallTime) -> f64 {
        let now = self.bucket_start(now);
        let Some(written) = self.written else { return 0.0 };
        if now.saturating_sub(written.last) >= self.window_secs {
            return 0.0;
        }
        let outdated = self.indices_after(written.last, now);
        let sum = outdated.clone().fold(self.total, |sum, index| sum - self.buckets[index]);
        let spanned = (written.last - written.first) / self.bucket_secs + 1;
        let valid = (spanned as f64).min((self.buckets.len() - outdated.count()) as f64);
        (sum / valid * ROUNDED_TO).round() / ROUNDED_TO
    }

    fn weighted_average(&self, now: WallTime) -> f64 {
        let Some(written) = self.written.filter(|_| !self.is_empty(now)) else { return 0.0 };
        let silent = self.indices_after(written.last, self.bucket_start(now)).count();
        let mut weight = self.decay * power(1.0 - self.decay, silent);
        let newest = self.index(written.last) + self.buckets.len();
        let mut average = 0.0;
        for age in 0..self.buckets.len() - silent {
            average += self.buckets[(newest - age) % self.buckets.len()] * weight;
            weight *= 1.0 - self.decay;
        }
        average
    }

    fn add(&mut self, bucket: u64, value: f64) {
        let index = self.index(bucket);
        self.buckets[index] += value;
        self.total += value;
    }

    /// The beginning of the bucket `now` lies in, in seconds since 1970.
    fn bucket_start(&self, now: WallTime) -> u64 {
        now.unix_secs() - now.unix_secs() % self.bucket_secs
    }

    fn index(&self, bucket: u64) -> usize {
        let turn = bucket / self.bucket_secs % self.buckets.len() as u64;
        turn as usize // Below the number of buckets.
    }

    /// Indices of the buckets after that of `last` up to that of `now`; none if `now` is not later, at most all.
    fn indices_after(&self, last: u64, now: u64) -> impl Iterator<Item = usize> + Clone + use<> {
        let (start, buckets) = (self.index(last), self.buckets.len());
        let passed = (now.saturating_sub(last) / self.bucket_secs).min(buckets as u64);
        (1..=passed as usize).map(move |step| (start + step) % buckets)
    }
}

/// The share of the newest bucket, so that the weights of `buckets` buckets add up to nearly one.
fn decay(buckets: f64) -> f64 {
    // Roots as Knative's runtime takes them: `powf` differs in the last bits.
    let remaining = match buckets {
        1.0 => WEIGHT_LEFT_OUT,
        2.0 => WEIGHT_LEFT_OUT.sqrt(),
        _ => (1.0 / buckets * WEIGHT_LEFT_OUT.ln()).exp(),
    };
    (1.0 - remaining).max(DECAY_MIN)
}

/// `base` to the power of `exponent` by squaring, for the same reason.
fn power(mut base: f64, mut exponent: usize) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(secs: u64) -> WallTime {
        WallTime::from_unix_secs(1_700_000_000 + secs)
    }

    #[test]
    fn a_young_window_averages_over_the_part_it_has() {
        let mut window = AverageWindow::new(60 * SECOND, SECOND);
        window.record(at(0), 10.0);
        window.record(at(1), 20.0);
        assert_eq!(window.average(at(1), Aggregation::Linear), 15.0);
    }

    #[test]
    fn a_gap_counts_as_zero_and_a_windows_length_of_silence_empties() {
        let mut window = AverageWindow::new(10 * SECOND, SECOND);
        window.record(at(0), 10.0);
        window.record(at(4), 10.0);
        assert_eq!(window.average(at(4), Aggregation::Linear), 4.0);
        assert!(!window.is_empty(at(14)));
        assert_eq!(window.average(at(14), Aggregation::Linear), 0.0);
        assert!(window.is_empty(at(15)));
        window.record(at(30), 7.0);
        assert_eq!(window.average(at(30), Aggregation::Linear), 7.0);
    }

    #[test]
    fn late_records_count_in_their_own_bucket_unless_a_window_has_passed() {
        let mut window = AverageWindow::new(10 * SECOND, SECOND);
        window.record(at(20), 6.0);
        window.record(at(18), 3.0);
        assert_eq!(window.average(at(20), Aggregation::Linear), 3.0);
        window.record(at(10), 900.0);
        assert_eq!(window.average(at(20), Aggregation::Linear), 3.0);
    }

    #[test]
    fn recent_buckets_outweigh_older_ones_in_a_weighted_average() {
        let (mut rising, mut falling) = (AverageWindow::new(6 * SECOND, SECOND), AverageWindow::new(6 * SECOND, SECOND));
        for second in 0..6 {
            rising.record(at(second), second as f64);
            falling.record(at(second), (5 - second) as f64);
        }
        let weighed = |window: &AverageWindow| window.average(at(5), Aggregation::WeightedExponential);
        assert!(weighed(&rising) > 4.0 && weighed(&falling) < 1.0);
    }

    #[test]
    fn any_clock_value_is_survived() {
        let mut window = AverageWindow::new(SECOND, SECOND);
        window.record(WallTime::MAX, 1.0);
        window.record(WallTime::UNIX_EPOCH, 1.0);
        assert_eq!(window.average(WallTime::MAX, Aggregation::Linear), 1.0);
        assert_eq!(window.average(WallTime::UNIX_EPOCH, Aggregation::WeightedExponential), 1.0 - WEIGHT_LEFT_OUT);
    }
}
