//! The driver: sends load as a plan says, and reports while it goes on.
//!
//! ```text
//! POST /drive         a plan as JSON: {"id": N} at once
//! GET  /report?id=N   what came of it so far
//! GET  /ended?id=N    the same, once it has ended, or after 20 s
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zipline_e2e_cluster::driver::{Answer, Plan, Report};
use zipline_testkit::Payload;

use crate::function::resolve;

/// Plans are small, and so are the answers that are looked at.
const PLAN_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const ANSWERS_KEPT_MAX: usize = 4;
const ANSWER_KEPT_BYTES_MAX: usize = 16 * 1024;
const FAILURES_KEPT_MAX: usize = 16;

/// Everything that was asked for since the pod started.
static REPORTS: Mutex<Vec<watch::Receiver<Report>>> = Mutex::new(Vec::new());
/// How long an answer is held back for the end of a plan.
const HELD_BACK: Duration = Duration::from_secs(20);

/// Answers one request to the driver itself.
pub(crate) async fn answer(request: Request<Incoming>) -> Result<Value> {
    match request.uri().path() {
        "/" => Ok(json!({})),
        "/drive" => {
            let body = Limited::new(request.into_body(), PLAN_BYTES_MAX).collect().await;
            let plan: Plan = serde_json::from_slice(&body.map_err(|error| anyhow::anyhow!("the plan: {error}"))?.to_bytes())?;
            let (report, seen) = watch::channel(Report::default());
            let id = {
                let mut reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
                reports.push(seen);
                reports.len() - 1
            };
            // It lives as long as the pod, whose only work it is.
            tokio::spawn(drive(plan, report));
            Ok(json!({ "id": id }))
        }
        path @ ("/report" | "/ended") => {
            let id: usize = request.uri().query().and_then(|query| query.strip_prefix("id=")?.parse().ok()).context("`id`")?;
            let report = REPORTS.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
            let mut report = report.context("no such plan")?;
            if path == "/ended" {
                // A plan that goes on longer is asked for again.
                let _ = tokio::time::timeout(HELD_BACK, report.wait_for(|report| report.done)).await;
            }
            let report = report.borrow().clone();
            Ok(serde_json::to_value(report)?)
        }
        path => bail!("{path}: not known"),
    }
}

type Body = http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>;
/// Connections that wait for their next request.
type Idle = Arc<Mutex<Vec<SendRequest<Body>>>>;

async fn drive(plan: Plan, report: watch::Sender<Report>) {
    let report = Arc::new(report);
    let plan = Arc::new(plan);
    let places = Arc::new(Semaphore::new(plan.at_once));
    let idle: Idle = Idle::default();
    let started = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..plan.requests {
        if plan.rate > 0.0 {
            tokio::time::sleep_until(started + Duration::from_secs_f64(number as f64 / plan.rate)).await;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let (plan, report, idle) = (Arc::clone(&plan), Arc::clone(&report), Arc::clone(&idle));
        report.send_modify(|report| report.sent += 1);
        requests.spawn(async move {
            let begun = Instant::now();
            let limit = Duration::from_secs_f64(plan.limit_seconds);
            let ended = tokio::time::timeout(limit, one(&plan, number, &idle)).await;
            let took = begun.elapsed().as_secs_f64() * 1000.0;
            let ended = ended.unwrap_or_else(|_| Err(anyhow::anyhow!("no whole answer within {limit:?}")));
            report.send_modify(|report| enter(report, ended, took));
            drop(place);
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
    report.send_modify(|report| {
        report.milliseconds.sort_by(f64::total_cmp);
        report.done = true;
    });
}

/// Enters what came of one request.
fn enter(report: &mut Report, ended: Result<Answer>, milliseconds: f64) {
    match ended {
        Ok(answer) => {
            *report.statuses.entry(answer.status).or_default() += 1;
            let body = answer.json();
            if let Some(pod) = body["pod"].as_str() {
                *report.pods.entry(pod.to_owned()).or_default() += 1;
            }
            report.in_flight_max = report.in_flight_max.max(body["in_flight"].as_u64().unwrap_or(0));
            report.milliseconds.push(milliseconds);
            // The first few, and the first of every kind of error.
            if report.answers.len() < ANSWERS_KEPT_MAX || (answer.status >= 400 && report.statuses[&answer.status] == 1) {
                report.answers.push(answer);
            }
        }
        Err(error) => {
            let text = format!("{error:#}");
            if report.failures.len() < FAILURES_KEPT_MAX || report.failures.contains_key(&text) {
                *report.failures.entry(text).or_default() += 1;
            } else {
                *report.failures.entry("other".into()).or_default() += 1;
            }
        }
    }
}

/// Sends one request and reads its answer.
async fn one(plan: &Plan, number: u64, idle: &Idle) -> Result<Answer> {
    let uri: http::Uri = plan.url.parse()?;
    let authority = uri.authority().context("a host")?;
    let mut request = Request::builder().method(plan.method.as_str());
    request = request.uri(uri.path_and_query().map_or("/", |path| path.as_str()));
    if !plan.headers.keys().any(|name| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", authority.as_str());
    }
    for (name, value) in &plan.headers {
        request = request.header(name, value);
    }
    let request = request.body(Payload::new(plan.body_bytes, number).body().boxed())?;
    let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().filter(|_| plan.keep_alive);
    let mut sender = match kept {
        Some(sender) if sender.is_ready() => sender,
        _ => connect(authority.as_str()).await?,
    };
    let response = sender.send_request(request).await.context("no answer")?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("a cut answer {}: {error}", head.status))?.to_bytes();
    if plan.keep_alive {
        idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: String::from_utf8_lossy(&body[..body.len().min(ANSWER_KEPT_BYTES_MAX)]).into_owned(),
    })
}

async fn connect(host: &str) -> Result<SendRequest<Body>> {
    let address = resolve(host).await?;
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}
