//! Medians, tails and intervals of samples.
//!
//! Intervals are percentile bootstraps (Efron, 1979) from a seeded generator, so that a report made twice from one raw
//! file is the same to the digit.

use serde::{Deserialize, Serialize};

/// Resamples a bootstrap draws.
const RESAMPLES: usize = 2_000;

/// A median with the bounds of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Samples behind it; of a ratio, pairs of the same round. 0 in files of releases that did not say.
    #[serde(default)]
    pub(crate) samples: usize,
}

impl std::fmt::Display for Interval {
    /// `1.04 [1.01, 1.07] 100`: the last is the number of samples, where it is known.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.median, self.low, self.high)?;
        if self.samples > 0 { write!(f, " {}", self.samples) } else { Ok(()) }
    }
}

/// What a row says of its samples.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) samples: usize,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The value below which the share `q` (0 to 1) of the samples lies; `None` of none.
pub(crate) fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64))
}

/// Median and its 95 % interval; `None` of no samples.
pub(crate) fn interval(samples: &[f64], seed: u64) -> Option<Interval> {
    let median = quantile(samples, 0.5)?;
    let mut random = SplitMix(seed);
    let mut medians = Vec::with_capacity(RESAMPLES);
    let mut resample = vec![0.0; samples.len()];
    for _ in 0..RESAMPLES {
        resample.fill_with(|| samples[random.below(samples.len())]);
        medians.push(quantile(&resample, 0.5)?);
    }
    Some(Interval { median, low: quantile(&medians, 0.025)?, high: quantile(&medians, 0.975)?, samples: samples.len() })
}

/// Everything a row says of its samples; `None` of none.
pub(crate) fn summary(samples: &[f64], seed: u64) -> Option<Summary> {
    let Interval { median, low, high, samples: _ } = interval(samples, seed)?;
    Some(Summary { samples: samples.len(), median, p99: quantile(samples, 0.99)?, low, high })
}

/// Interval of the ratio `above / below`, sample by sample: both were taken in the same round, so drift of the machine cancels.
pub(crate) fn paired_ratio(above: &[f64], below: &[f64], seed: u64) -> Option<Interval> {
    let ratios: Vec<f64> =
        above.iter().zip(below).filter(|(_, below)| **below > 0.0).map(|(above, below)| above / below).collect();
    interval(&ratios, seed)
}

/// The slope of the least-squares line through the logarithms; `None` of fewer than two different x.
pub(crate) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let both: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| both / spread)
}

/// SplitMix64 (Steele, Lea, Flood, 2014): enough for resampling, and the same everywhere.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 up to but not 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts a list into a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }

    /// A number below `bound` (1 or more); the bias of the modulus is below 2^-40 for any number of samples here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[1.0], 0.99), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn an_interval_is_the_same_for_the_same_seed_and_holds_its_median() {
        let samples: Vec<f64> = (0..50).map(|i| f64::from(i % 7)).collect();
        let one = interval(&samples, 3).expect("there are samples");
        assert_eq!(interval(&samples, 3), Some(one));
        assert!(one.low <= one.median && one.median <= one.high);
    }

    #[test]
    fn a_paired_ratio_cancels_what_slows_both() {
        let above = [2.0, 20.0, 200.0];
        let below = [1.0, 10.0, 100.0];
        let ratio = paired_ratio(&above, &below, 1).expect("there are pairs");
        assert_eq!((ratio.low, ratio.median, ratio.high, ratio.samples), (2.0, 2.0, 2.0, 3));
    }
}
