//! Open-loop load: requests come when they come, whatever became of those before.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;
use zipline_core::kpa::LogRecord;
use zipline_platform::DecisionRecord;

use crate::world::World;

const REQUESTS_PER_SECOND: u64 = 100;
const SECONDS: u64 = 14;
/// A request as its caller saw it.
struct Call {
    began: f64,
    ended: f64,
    status: u16,
}

/// Sends requests at an even rate over one HTTP/2 connection, each of which takes a tenth of a second.
async fn generate(world: &World, name: &str) -> Result<Vec<Call>> {
    let address = world.platform.info().ingress.trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(address).await?;
    // A request must not wait for the acknowledgement of the one before it.
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut requests = JoinSet::new();
    let mut arrivals = interval(Duration::from_nanos(1_000_000_000 / REQUESTS_PER_SECOND));
    for _ in 0..REQUESTS_PER_SECOND * SECONDS {
        arrivals.tick().await;
        let mut sender = sender.clone();
        let request = Request::get(format!("http://{name}.default.localhost/?sleep=0.1"));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new())?;
        requests.spawn(async move {
            let began = now_ms()?;
            let status = sender.send_request(request).await?.status().as_u16();
            Ok::<_, anyhow::Error>(Call { began, ended: now_ms()?, status })
        });
    }
    let mut calls = Vec::new();
    while let Some(call) = requests.join_next().await {
        calls.push(call??);
    }
    driver.abort();
    Ok(calls)
}

fn now_ms() -> Result<f64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64() * 1_000.0)
}

/// Requests in flight on average between two times.
fn in_flight(calls: &[Call], from: f64, to: f64) -> f64 {
    calls.iter().map(|call| (call.ended.min(to) - call.began.max(from)).max(0.0)).sum::<f64>() / (to - from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_autoscaler_decides_from_is_what_the_callers_had_in_flight() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[("autoscaling.knative.dev/max-scale", "2")], "timeoutSeconds: 20").await?;
    world.ready("echo").await?;
    let calls = generate(&world, "echo").await?;
    ensure!(calls.iter().all(|call| call.status == 200), "not every answer is 200");

    // Each tick looks back over the stable window of 6 s; those whose window lies within the load are compared.
    let window_ms = 6_000.0;
    let first = calls.iter().map(|call| call.began).fold(f64::MAX, f64::min);
    let last = calls.iter().map(|call| call.began).fold(0.0, f64::max);
    let decisions = std::fs::read_to_string(&world.platform.info().decision_log)?;
    let mut compared = Vec::new();
    for line in decisions.lines() {
        let record: DecisionRecord = serde_json::from_str(line)?;
        let LogRecord::Tick(tick) = record.record else { continue };
        let at = record.time_ms.unix_millis() as f64;
        if let Some(observed) = tick.input.observed.filter(|_| at >= first + window_ms + 1_000.0 && at <= last) {
            compared.push((observed.stable, in_flight(&calls, at - window_ms, at)));
        }
    }
    ensure!(compared.len() >= 3, "{compared:?}");
    let mean = |of: fn(&(f64, f64)) -> f64| compared.iter().map(of).sum::<f64>() / compared.len() as f64;
    let (logged, own) = (mean(|pair| pair.0), mean(|pair| pair.1));
    ensure!((logged - own).abs() <= 0.05 * own, "logged {logged:.2}, the generator's own {own:.2}: {compared:?}");
    world.until_no_instance().await?;
    world.end().await;
    Ok(())
}
