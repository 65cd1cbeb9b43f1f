//! One run of the job: a platform or a cluster, three services, one call.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Command;
use zipline_contract::{Transfer, settings};
use zipline_sdk::{Call, Client, PutOptions, Reference};

use super::cloud::Cloud;
use super::services::{self, Names, Program};
use super::store::Store;
use super::{MAPPERS, REDUCERS, Stage};
use crate::commands::object::read_payload;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Step;
use crate::programs;

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

/// Runs the job with payloads that move by `transfer`: on a platform that is started for it, with its store where it needs one,
/// or on the stage's cluster.
pub(super) async fn run(stage: &Stage<'_>, transfer: Transfer) -> Result<Run, Failure> {
    let output = stage.output;
    let mut phases = Vec::new();
    let store = Store::of(transfer, output).await?;
    let (cloud, names) = match &stage.cluster {
        Some((cluster, _)) => (Cloud::Cluster(cluster), Names::new(&format!("demo-{}-{}-", std::process::id(), transfer.name()))),
        None => {
            let step = output.step(&format!("starting a platform, transfer method `{}`", transfer.name()));
            let cloud = Cloud::start(&stage.scratch.join(transfer.name()), transfer).await?;
            phases.push(Phase::new("start", step.done(&cloud.place())));
            (cloud, Names::new(""))
        }
    };
    deploy(stage, transfer, &cloud, &names, &store, &mut phases).await?;

    let client = cloud.client(store.stores()?).await?;
    let (inputs, mut edges) = match &stage.cluster {
        Some(_) => send_documents(stage, &client, &mut phases).await?,
        None => (Vec::new(), Vec::new()),
    };
    let step = output.step(&format!("counting with {MAPPERS} mappers and {REDUCERS} reducers"));
    let ran = tokio::select! {
        ran = call_driver(stage, &client, &names, inputs) => ran?,
        never = show_instances(&step, &cloud, &names) => match never {},
    };
    edges.extend(ran.edges);
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

    let counters = cloud.counters(&names.all()).await?;
    let step = output.step(if stage.cluster.is_some() { "deleting the services" } else { "ending the platform" });
    cloud.stop().await?;
    phases.push(Phase::new("stop", step.done("")));
    Ok(Run {
        method: transfer.name(),
        verified: false,
        result: path,
        requests: counters.requests,
        activator_payload_bytes: counters.activator_payload_bytes,
        instances_started: counters.instances_started,
        phases,
        edges,
    })
}

/// Deploys the three services and waits until they are ready.
async fn deploy(
    stage: &Stage<'_>,
    transfer: Transfer,
    cloud: &Cloud<'_>,
    names: &Names,
    store: &Store,
    phases: &mut Vec<Phase>,
) -> Result<(), Failure> {
    let step = stage.output.step("deploying driver, mapper and reducer");
    let mut variables = store.variables().to_vec();
    let program = match &stage.cluster {
        Some((_, image)) => {
            variables.push((settings::TRANSFER.variable, transfer.name().to_owned()));
            Program::Image(image)
        }
        None => Program::Here(&stage.mapreduce, stage.language),
    };
    for (name, manifest) in services::manifests(names, &program, &variables)? {
        cloud.apply(&name, &manifest).await?;
    }
    for name in names.all() {
        cloud.ready(name).await?;
    }
    let ready = cloud.instances(&names.all()).await?;
    let place = if stage.cluster.is_some() { format!(", {}", cloud.place()) } else { String::new() };
    phases.push(Phase::new("deploy", step.done(&format!("{} instances ready, {} starting{place}", ready.ready, ready.starting))));
    Ok(())
}

/// Puts the documents of each mapper: a pod can't read the files of this machine.
async fn send_documents(
    stage: &Stage<'_>,
    client: &Client,
    phases: &mut Vec<Phase>,
) -> Result<(Vec<Reference>, Vec<Edge>), Failure> {
    let step = stage.output.step("putting the text, a part for each mapper");
    let (mut inputs, mut edges) = (Vec::new(), Vec::new());
    for part in 0..MAPPERS {
        let file = stage.scratch.join(format!("bundle-{part}"));
        let mut command = Command::new(&stage.mapreduce);
        command.arg("bundle").arg("--list").arg(&stage.list).args(["--part", &part.to_string(), "--output"]).arg(&file);
        programs::run(&mut command).await?;
        let payload = read_payload(file).await?;
        let bytes = payload.len() as u64;
        let options = PutOptions { retrievals: NonZeroU32::MIN, ..PutOptions::default() };
        let reference = client.put(payload, options).await?;
        let method = reference.method().to_owned();
        edges.push(Edge { from: "client".to_owned(), to: format!("mapper-{part}"), method, bytes });
        inputs.push(reference);
    }
    phases.push(Phase::new("put", step.done("")));
    Ok((inputs, edges))
}

/// Keeps a person who watches up to date, until dropped.
async fn show_instances(step: &Step, cloud: &Cloud<'_>, names: &Names) -> Infallible {
    let mut interval = tokio::time::interval(SHOW_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if !step.is_watched() {
            return std::future::pending().await;
        }
        if let Ok(instances) = cloud.instances(&names.all()).await {
            step.update(&format!("instances: {} starting, {} ready", instances.starting, instances.ready));
        }
    }
}

async fn call_driver(stage: &Stage<'_>, client: &Client, names: &Names, inputs: Vec<Reference>) -> Result<Ran, Failure> {
    let request = json!({
        "schema": 1,
        "documents": stage.list,
        "inputs": inputs,
        "mappers": MAPPERS,
        "reducers": REDUCERS,
        "mapper": names.mapper,
        "reducer": names.reducer,
    });
    let call = Call::new(&names.driver).header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = client.call(call.payload(request.to_string())).await?;
    if !response.status.is_success() {
        let text = String::from_utf8_lossy(&response.payload);
        let message = format!("the driver answered {}: {}", response.status, text.trim_end());
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
