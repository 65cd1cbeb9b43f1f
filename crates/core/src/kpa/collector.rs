//! The load of one revision, gathered from what its instances and the activator report.
//!
//! Each second the driver scrapes some of the instances ([`ScrapePlan`] says which and how many), folds their answers
//! into one [`Stat`] that stands for all of them ([`average_over_population`]), and records it here; the activator's
//! reports are recorded as they come. The part of an instance's requests that came through the activator is taken off,
//! since the activator reported it already.

use core::time::Duration;

use super::{Aggregation, AverageWindow, Metric, Observed};
use crate::stats::Stat;
use crate::time::WallTime;

/// Length of one bucket: one scrape.
pub const BUCKET: Duration = Duration::from_secs(1);

/// Up to this many instances are scraped all; above, a sample of them.
const SCRAPED_WHOLE_MAX: u32 = 3;
/// Sample size for a population without bound: 95 % confidence (1.96 standard deviations), variance 100, margin of error 5.
const SAMPLE_UNBOUNDED: f64 = 1.96 * 1.96 * 100.0 / 25.0;

/// How many of `instances` must be scraped to speak for all.
pub fn sample_size(instances: u32) -> u32 {
    if instances <= SCRAPED_WHOLE_MAX {
        return instances;
    }
    let population = f64::from(instances);
    (population * SAMPLE_UNBOUNDED / (population + SAMPLE_UNBOUNDED - 1.0)).ceil() as u32
}

/// Which instances to scrape this second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapePlan {
    /// Indices of all instances, those to try first in front. The next one replaces one that doesn't answer.
    pub order: Vec<usize>,
    /// How many answers are needed.
    pub needed: u32,
}

impl ScrapePlan {
    /// A plan for instances of the given `ages`: those at least as old as the stable window first, since a young one has not
    /// had its share of requests yet. `below(n)` answers a random number below `n`, evenly spread.
    pub fn new(ages: &[Duration], stable_window: Duration, mut below: impl FnMut(usize) -> usize) -> Self {
        let needed = sample_size(u32::try_from(ages.len()).unwrap_or(u32::MAX));
        let (mut order, mut young): (Vec<usize>, Vec<usize>) = (0..ages.len()).partition(|i| ages[*i] >= stable_window);
        // Whoever is not asked this second should be somebody else the next.
        let partly_asked = if order.len() < needed as usize { &mut young } else { &mut order };
        for last in (1..partly_asked.len()).rev() {
            partly_asked.swap(last, below(last + 1).min(last));
        }
        order.append(&mut young);
        Self { order, needed }
    }
}

/// Too few instances answered a scrape to speak for all; nothing is recorded for this second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answered} of {instances} instances answered the scrape, {needed} are needed to speak for all")]
pub struct TooFewAnswers {
    /// Instances that answered.
    pub answered: usize,
    /// Answers needed.
    pub needed: u32,
    /// Instances there are.
    pub instances: u32,
}

/// Folds the answers of a sample into one report that stands for all `instances`; nothing for a revision at zero.
///
/// # Errors
/// [`TooFewAnswers`] when fewer than [`sample_size`] answered. More than needed are ignored.
pub fn average_over_population(answers: &[Stat], instances: u32) -> Result<Option<Stat>, TooFewAnswers> {
    let needed = sample_size(instances);
    if needed == 0 {
        return Ok(None);
    }
    let Some(sample) = answers.get(..needed as usize) else {
        return Err(TooFewAnswers { answered: answers.len(), needed, instances });
    };
    let of_all = |field: fn(&Stat) -> f64| {
        sample.iter().fold(0.0, |sum, stat| sum + field(stat)) / f64::from(needed) * f64::from(instances)
    };
    Ok(Some(Stat {
        pod_name: "scraped".into(),
        average_concurrent_requests: of_all(|stat| stat.average_concurrent_requests),
        average_proxied_concurrent_requests: of_all(|stat| stat.average_proxied_concurrent_requests),
        request_count: of_all(|stat| stat.request_count),
        proxied_request_count: of_all(|stat| stat.proxied_request_count),
        ..Stat::default()
    }))
}

/// The windows of one revision.
#[derive(Clone, Debug)]
pub struct Collector {
    aggregation: Aggregation,
    silence_is_zero: bool,
    concurrency: WindowPair,
    rps: WindowPair,
}

#[derive(Clone, Debug)]
struct WindowPair {
    stable: AverageWindow,
    panic: AverageWindow,
}

impl WindowPair {
    fn new(stable: Duration, panic: Duration) -> Self {
        Self { stable: AverageWindow::new(stable, BUCKET), panic: AverageWindow::new(panic, BUCKET) }
    }

    fn record(&mut self, now: WallTime, value: f64) {
        self.stable.record(now, value);
        self.panic.record(now, value);
    }
}

impl Collector {
    /// Windows of the given lengths. `silence_is_zero` says what it means that nothing was reported for a stable window:
    /// no load, where the activator is always in the path and only reports requests; no data otherwise.
    pub fn new(stable_window: Duration, panic_window: Duration, aggregation: Aggregation, silence_is_zero: bool) -> Self {
        let pair = WindowPair::new(stable_window, panic_window);
        Self { aggregation, silence_is_zero, concurrency: pair.clone(), rps: pair }
    }

    /// Records the report of an activator, or one that stands for all instances.
    pub fn record(&mut self, now: WallTime, stat: &Stat) {
        self.concurrency.record(now, stat.own_concurrency());
        self.rps.record(now, stat.own_requests_per_second());
    }

    /// The revision's load at `now`; nothing when nothing was recorded within the stable window.
    pub fn observed(&self, now: WallTime, metric: Metric) -> Option<Observed> {
        let pair = match metric {
            Metric::Concurrency => &self.concurrency,
            Metric::Rps => &self.rps,
        };
        let silent = pair.stable.is_empty(now) && !self.silence_is_zero;
        (!silent).then(|| Observed {
            stable: pair.stable.average(now, self.aggregation),
            panic: pair.panic.average(now, self.aggregation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(concurrency: f64, proxied: f64) -> Stat {
        Stat { average_concurrent_requests: concurrency, average_proxied_concurrent_requests: proxied, ..Stat::default() }
    }

    #[test]
    fn few_instances_are_scraped_all_and_many_by_sample() {
        let sizes = [0, 1, 2, 3, 4, 10, 50, 1_000, u32::MAX].map(sample_size);
        assert_eq!(sizes, [0, 1, 2, 3, 4, 7, 12, 16, 16]);
    }

    #[test]
    fn old_instances_are_asked_before_young_ones() {
        let seconds = [90, 5, 60, 59].map(Duration::from_secs);
        let plan = ScrapePlan::new(&seconds, Duration::from_secs(60), |n| n - 1);
        assert_eq!((plan.order, plan.needed), (vec![0, 2, 1, 3], 4));
    }

    #[test]
    fn a_sample_speaks_for_all_and_too_small_a_one_for_nobody() {
        let answers = vec![stat(2.0, 1.0); 7];
        let all = average_over_population(&answers, 10);
        assert_eq!(all.map(|all| all.map(|all| all.own_concurrency())), Ok(Some(10.0)));
        let refused = average_over_population(&answers[..6], 10);
        assert_eq!(refused, Err(TooFewAnswers { answered: 6, needed: 7, instances: 10 }));
        assert_eq!(average_over_population(&[], 0), Ok(None));
    }

    #[test]
    fn requests_through_the_activator_count_once() {
        let now = WallTime::from_unix_secs(1_700_000_000);
        let mut collector = Collector::new(Duration::from_secs(60), Duration::from_secs(6), Aggregation::Linear, false);
        assert_eq!(collector.observed(now, Metric::Concurrency), None);
        collector.record(now, &stat(3.0, 2.0));
        collector.record(now, &stat(2.0, 0.0)); // The activator's own report.
        assert_eq!(collector.observed(now, Metric::Concurrency), Some(Observed { stable: 3.0, panic: 3.0 }));
    }

    #[test]
    fn silence_is_no_load_where_only_the_activator_reports() {
        let now = WallTime::from_unix_secs(1_700_000_000);
        let collector = Collector::new(Duration::from_secs(60), Duration::from_secs(6), Aggregation::Linear, true);
        assert_eq!(collector.observed(now, Metric::Rps), Some(Observed::default()));
    }
}
