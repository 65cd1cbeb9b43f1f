//! One run of the job: a platform, three services, one call.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zipline_sdk::{Call, Client, Reference};

use super::cloud::Cloud;
use super::store::Store;
use super::{MAPPERS, REDUCERS, Stage, services};
use crate::commands::up::TransferMethod;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Step;

/// How often the terminal is brought up to date while the job runs.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);

/// What one run gave.
pub(super) struct Run {
    pub(super) method: &'static str,
    /// Whether the result is the right one; false until it was compared.
    pub(super) verified: bool,
    /// File of the result.
    pub(super) result: PathBuf,
    /// Requests through the activator.
    pub(super) requests: u64,
    /// Bytes of their bodies, both ways.
    pub(super) activator_payload_bytes: u64,
    pub(super) instances_started: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) edges: Vec<Edge>,
}

/// A step of the run, and how long it took.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) seconds: f64,
}

/// Bytes that went from one call to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Edge {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) method: String,
    pub(super) bytes: u64,
}

/// The driver's answer, as far as it is read.
#[derive(Debug, Deserialize)]
struct Ran {
    result: Reference,
    result_bytes: u64,
    edges: Vec<Edge>,
    phases: Vec<Phase>,
}

impl Run {
    /// Bytes that went from mappers to reducers.
    pub(super) fn shuffled_bytes(&self) -> u64 {
        let shuffle = self.edges.iter().filter(|edge| edge.from.starts_with("mapper") && edge.to.starts_with("reducer"));
        shuffle.map(|edge| edge.bytes).sum()
    }
}

/// Starts a platform whose payloads move by `transfer`, with its store where it needs one, runs the job on it, and ends it.
pub(super) async fn run(stage: &Stage, transfer: TransferMethod) -> Result<Run, Failure> {
    let output = stage.output;
    let mut phases = Vec::new();
    let store = Store::of(transfer, output).await?;

    let step = output.step(&format!("starting a platform, transfer method `{}`", transfer.name()));
    let cloud = Cloud::start(&stage.scratch.join(transfer.name()), transfer).await?;
    phases.push(Phase::new("start", step.done(&format!("state in {}", cloud.state().display()))));

    let step = output.step("deploying driver, mapper and reducer");
    let manifests = services::manifests(&stage.mapreduce, stage.language, store.variables())?;
    for (_, manifest) in &manifests {
        cloud.apply(manifest)?;
    }
    for (name, _) in &manifests {
        cloud.ready(name).await?;
    }
    let ready = cloud.status().await?.instances;
    phases.push(Phase::new("deploy", step.done(&format!("{} instances ready, {} starting", ready.ready, ready.starting))));

    let client = cloud.client(store.stores()?).await?;
    let step = output.step(&format!("counting with {MAPPERS} mappers and {REDUCERS} reducers"));
    let ran = tokio::select! {
        ran = call_driver(stage, &client) => ran?,
        never = show_instances(&step, &cloud) => match never {},
    };
    let summary: Vec<_> = ran.phases.iter().map(|phase| format!("{} {}", phase.name, format::seconds(phase.seconds))).collect();
    step.done(&summary.join(", "));
    phases.extend(ran.phases);

    let begun = Instant::now();
    let result = client.get(&ran.result).await?;
    if result.len() as u64 != ran.result_bytes {
        let message = format!("the driver announced a result of {} bytes, {} came", ran.result_bytes, result.len());
        return Err(Failure::new(Exit::Refused, "result-incomplete", message));
    }
    let path = stage.scratch.join(format!("{}.result", transfer.name()));
    std::fs::write(&path, &result).map_err(|error| Failure::system(format_args!("the file {}", path.display()), &error))?;
    phases.push(Phase::new("fetch", begun.elapsed()));

    let counters = cloud.counters().await?;
    let step = output.step("ending the platform");
    cloud.stop().await;
    phases.push(Phase::new("stop", step.done("")));
    Ok(Run {
        method: transfer.name(),
        verified: false,
        result: path,
        requests: counters.requests,
        activator_payload_bytes: counters.activator_payload_bytes,
        instances_started: counters.instances_started,
        phases,
        edges: ran.edges,
    })
}

/// Keeps a person who watches up to date, until dropped.
async fn show_instances(step: &Step, cloud: &Cloud) -> Infallible {
    let mut interval = tokio::time::interval(SHOW_INTERVAL);
    loop {
        interval.tick().await;
        if let Ok(status) = cloud.status().await {
            let instances = status.instances;
            step.update(&format!("instances: {} starting, {} ready", instances.starting, instances.ready));
        }
    }
}

async fn call_driver(stage: &Stage, client: &Client) -> Result<Ran, Failure> {
    let request = json!({
        "schema": 1,
        "documents": stage.list,
        "mappers": MAPPERS,
        "reducers": REDUCERS,
        "mapper": "mapper",
        "reducer": "reducer",
    });
    let call = Call::new("driver").header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = client.call(call.payload(request.to_string())).await?;
    if !response.status.is_success() {
        let text = String::from_utf8_lossy(&response.payload);
        let message = format!("service `driver` answered {}: {}", response.status, text.trim_end());
        return Err(Failure::new(Exit::Refused, "job-failed", message));
    }
    serde_json::from_slice(&response.payload)
        .map_err(|error| Failure::new(Exit::Refused, "protocol", format!("the driver's answer is not understood: {error}")))
}

impl Phase {
    fn new(name: &str, took: Duration) -> Self {
        Self { name: name.to_owned(), seconds: took.as_secs_f64() }
    }
}
