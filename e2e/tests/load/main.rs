//! Open-loop load: every request is answered, the decisions replay, their inputs are true, and nothing stays behind.
//!
//! By default one short cycle of 50 requests/s; `ZIPLINE_E2E_FULL=1` runs three of 60 s at 200 requests/s. A binary of its own, so that
//! no other test loads the machine meanwhile: on a saturated one, generator and queue-proxy rightly count different things.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use http::Request;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zipline_core::kpa::{self, LogRecord};
use zipline_testkit::{census, wait};

use up::{LIMIT, Up};

#[path = "../local/up.rs"]
#[allow(dead_code, reason = "shared with the tests of `local`, which use the rest")]
mod up;

/// How long the function works on each: long against the hops, so that queue-proxy and generator count the same.
const WORK: &str = "0.3";
const STABLE_WINDOW: Duration = Duration::from_secs(6);
const GRACE: Duration = Duration::from_secs(1);
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// How far the logged load may be from the generator's own count, of their mean.
const DIFFERENCE_MAX: f64 = 0.05;

/// Statistics are reported each second, and looked at in whole seconds.
const REPORTED_LATE_MS: f64 = 2000.0;

/// When a request was in flight, Unix milliseconds.
type Span = (f64, f64);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_that_comes_and_goes_is_answered_and_scaled_as_the_log_says() -> Result<()> {
    let full = std::env::var_os("ZIPLINE_E2E_FULL").is_some();
    let (cycles, seconds, rate) = if full { (3, 60, 200) } else { (1, 20, 50) };
    let up = Up::start().await?;
    up.apply("loaded", &[("autoscaling.knative.dev/target", "20"), ("autoscaling.knative.dev/max-scale", "6")], 0).await?;
    let mut spans = Vec::new();
    for cycle in 0..cycles {
        spans.push(load(&up, seconds, rate).await.with_context(|| format!("cycle {cycle}"))?);
        let ended = Instant::now();
        none_ready(&up, ended + STABLE_WINDOW + GRACE + Duration::from_secs(10)).await?;
        up.at_rest(QUIET_PERIOD + Duration::from_secs(10)).await?;
    }
    let own: Vec<_> =
        census::descendants(up.process.pid())?.into_iter().filter(|process| process.command.contains("function.py")).collect();
    assert!(own.is_empty(), "processes left: {own:?}");
    let log = up.decisions("loaded")?;
    let replayed = kpa::replay(log.iter().map(|(_, record)| record.clone()))?;
    assert!(replayed > seconds as usize / 2, "{replayed} decisions were logged in {seconds} s of load");
    spans.iter().for_each(|cycle| agrees(&log, cycle));
    Ok(())
}

async fn load(up: &Up, seconds: u32, requests_per_second: u32) -> Result<Vec<Span>> {
    let started = Instant::now();
    let mut requests = JoinSet::new();
    let mut spans = Vec::new();
    let (ingress, path) = (up.ingress()?, format!("/?sleep={WORK}"));
    for index in 0..seconds * requests_per_second {
        tokio::time::sleep_until(started + Duration::from_secs(1) * index / requests_per_second).await;
        let request = Request::get(&path).header("host", "loaded.default.localhost").body(zipline_testkit::http::empty())?;
        let ingress = ingress.clone();
        requests.spawn(async move {
            let begun = unix_ms();
            let answer = zipline_testkit::http::send(&ingress, request).await?;
            anyhow::ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
            anyhow::Ok((begun, unix_ms()))
        });
        while let Some(ended) = requests.try_join_next() {
            spans.push(ended??);
        }
    }
    while let Some(ended) = requests.join_next().await {
        spans.push(ended??);
    }
    Ok(spans)
}

async fn none_ready(up: &Up, deadline: Instant) -> Result<()> {
    let limit = deadline.saturating_duration_since(Instant::now());
    let ready = async || Ok(up.instances("loaded").await?.iter().filter(|instance| instance["state"] == "ready").count());
    wait::until("no ready instance", limit.min(LIMIT), ready, |ready| *ready == 0).await.map(|_| ())
}

/// The logged averages over the stable window, against the same averages of what the generator had in flight, while the load was
/// steady: at a tick whose window reaches before the load, an average over fewer seconds is what Knative decides from.
fn agrees(log: &[(u64, LogRecord)], spans: &[Span]) {
    let (mut logged, mut counted) = (Vec::new(), Vec::new());
    let window_ms = STABLE_WINDOW.as_millis() as f64;
    let (begin, end) = spans.iter().fold((f64::MAX, f64::MIN), |(begin, end), span| (begin.min(span.0), end.max(span.0)));
    for (time_ms, record) in log {
        let LogRecord::Tick(tick) = record else { continue };
        let Some(observed) = tick.input.observed else { continue };
        let to = *time_ms as f64;
        if to - window_ms < begin + REPORTED_LATE_MS || to > end {
            continue;
        }
        let in_flight: f64 = spans.iter().map(|(begun, ended)| (ended.min(to) - begun.max(to - window_ms)).max(0.0)).sum();
        logged.push(observed.stable);
        counted.push(in_flight / window_ms);
    }
    assert!(logged.len() >= 3, "{} ticks under steady load", logged.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (logged, counted) = (mean(&logged), mean(&counted));
    let difference = (logged - counted).abs() / counted;
    assert!(difference <= DIFFERENCE_MAX, "logged {logged:.2} in flight on average, the generator counted {counted:.2}");
}

fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}
