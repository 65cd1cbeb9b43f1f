//! How long S3 takes in its own region, as published: log-normal delays, drawn per operation from a seeded generator.
//!
//! | service | operation | milliseconds (size in MiB) |
//! | --- | --- | --- |
//! | S3 Standard | first byte of a GET | median 27, sigma 0.62, floor 10; then 80–90 MB/s a connection |
//! | S3 Standard | PUT | median 60 + 20 · size, sigma 0.29, floor 10 |
//! | S3 Express One Zone | first byte of a GET | median 2.5, sigma 0.57, floor 1 |
//! | S3 Express One Zone | PUT | median 6.5 + 10 · size, sigma 0.24, floor 1 |
//!
//! Sources: in-region benchmarks published 2023–2025 (endive project notes, Quickwit). A `factor` of 0.5 or 2 halves or
//! doubles every time, that of the bytes included. Pure: no clock, no I/O.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::stats::SplitMix;

const MIB: f64 = 1_048_576.0;
/// Bytes a second of one connection that reads from S3 Standard: drawn evenly between these.
const STANDARD_READ_RATE: (f64, f64) = (80e6, 90e6);

/// A service whose delays are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    /// S3 Standard.
    Standard,
    /// S3 Express One Zone.
    Express,
}

/// A log-normal delay, in milliseconds.
struct LogNormal {
    median: f64,
    sigma: f64,
    floor: f64,
}

impl Service {
    /// Its name on the command line and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Express => "express",
        }
    }

    fn first_byte(self) -> LogNormal {
        match self {
            Self::Standard => LogNormal { median: 27.0, sigma: 0.62, floor: 10.0 },
            Self::Express => LogNormal { median: 2.5, sigma: 0.57, floor: 1.0 },
        }
    }

    fn put(self, bytes: u64) -> LogNormal {
        let mib = bytes as f64 / MIB;
        match self {
            Self::Standard => LogNormal { median: 60.0 + 20.0 * mib, sigma: 0.29, floor: 10.0 },
            Self::Express => LogNormal { median: 6.5 + 10.0 * mib, sigma: 0.24, floor: 1.0 },
        }
    }
}

/// What a GET is made to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Get {
    /// From the request to the first byte of its answer.
    pub(crate) first_byte: Duration,
    /// Bytes a second from there on; `None`: as fast as they come.
    pub(crate) bytes_per_second: Option<f64>,
}

/// Draws delays.
pub(crate) struct Delays {
    service: Service,
    factor: f64,
    random: SplitMix,
}

impl Delays {
    /// Delays of a service, each times `factor`.
    pub(crate) fn new(service: Service, factor: f64, seed: u64) -> Self {
        Self { service, factor, random: SplitMix(seed) }
    }

    /// The next GET's.
    pub(crate) fn get(&mut self) -> Get {
        let first_byte = self.draw(&self.service.first_byte());
        let bytes_per_second = match self.service {
            Service::Standard => {
                let (low, high) = STANDARD_READ_RATE;
                Some((low + (high - low) * self.random.unit()) / self.factor)
            }
            Service::Express => None,
        };
        Get { first_byte, bytes_per_second }
    }

    /// The next PUT's, from the request to its answer, of so many bytes.
    pub(crate) fn put(&mut self, bytes: u64) -> Duration {
        self.draw(&self.service.put(bytes))
    }

    fn draw(&mut self, of: &LogNormal) -> Duration {
        let milliseconds = (of.median * (of.sigma * self.normal()).exp()).max(of.floor);
        Duration::from_secs_f64(milliseconds / 1e3 * self.factor)
    }

    /// A standard normal number, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.random.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.random.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::quantile;

    const DRAWS: usize = 40_000;

    fn milliseconds(service: Service, factor: f64, draw: impl Fn(&mut Delays) -> Duration) -> Vec<f64> {
        let mut delays = Delays::new(service, factor, 42);
        (0..DRAWS).map(|_| draw(&mut delays).as_secs_f64() * 1e3).collect()
    }

    fn near(samples: &[f64], q: f64, expected: f64) {
        let value = quantile(samples, q).expect("samples");
        assert!((value / expected - 1.0).abs() < 0.03, "quantile {q} is {value}, expected {expected}");
    }

    #[test]
    fn quantiles_are_those_of_the_published_log_normals() {
        let get = |delays: &mut Delays| delays.get().first_byte;
        let put = |bytes| move |delays: &mut Delays| delays.put(bytes);
        // A log-normal's quantile is median × e^(sigma × z).
        let cases: [(Vec<f64>, f64, f64); 5] = [
            (milliseconds(Service::Standard, 1.0, get), 27.0, 0.62),
            (milliseconds(Service::Standard, 1.0, put(0)), 60.0, 0.29),
            (milliseconds(Service::Standard, 1.0, put(10 << 20)), 260.0, 0.29),
            (milliseconds(Service::Express, 1.0, get), 2.5, 0.57),
            (milliseconds(Service::Express, 1.0, put(1 << 20)), 16.5, 0.24),
        ];
        for (samples, median, sigma) in cases {
            near(&samples, 0.5, median);
            near(&samples, 0.8413, median * f64::exp(sigma));
            near(&samples, 0.9772, median * f64::exp(2.0 * sigma));
        }
    }

    #[test]
    fn nothing_is_faster_than_the_floor() {
        for (service, floor) in [(Service::Standard, 10.0), (Service::Express, 1.0)] {
            let samples = milliseconds(service, 1.0, |delays| delays.get().first_byte);
            let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
            assert!((least - floor).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn a_factor_scales_every_time() {
        let of = |factor| {
            let mut delays = Delays::new(Service::Standard, factor, 7);
            (delays.get(), delays.put(5 << 20))
        };
        let ((get, put), (half_get, half_put)) = (of(1.0), of(0.5));
        let twice = |half: Duration, whole: Duration| (half * 2).abs_diff(whole) < Duration::from_micros(1);
        assert!(twice(half_get.first_byte, get.first_byte) && twice(half_put, put));
        assert_eq!(half_get.bytes_per_second, get.bytes_per_second.map(|rate| rate * 2.0));
    }

    #[test]
    fn reads_of_standard_are_limited_to_the_published_rates_and_a_seed_repeats_itself() {
        let rates = |seed| {
            let mut delays = Delays::new(Service::Standard, 1.0, seed);
            (0..1000).map(|_| delays.get().bytes_per_second.expect("a rate")).collect::<Vec<_>>()
        };
        assert!(rates(1).iter().all(|rate| (80e6..90e6).contains(rate)));
        assert_eq!(rates(1), rates(1));
        assert_ne!(rates(1), rates(2));
        assert_eq!(Delays::new(Service::Express, 1.0, 1).get().bytes_per_second, None);
    }
}
