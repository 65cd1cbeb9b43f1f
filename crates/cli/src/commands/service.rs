//! `zipline service`: Knative Services on the running platform.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zipline_platform::model::{Applied, ApplyAnswer, Change, Finding, InstanceCount, LogLine, RevisionView, ServiceView};

use crate::control::{Body, Control, encode};
use crate::failure::{Exit, Failure, Outcome};
use crate::format;
use crate::output::{Output, SCHEMA, write_out};
use crate::running::Running;

/// Media type of manifests.
const YAML: &str = "application/yaml";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or change services from YAML
    Apply(Apply),
    /// List services
    List(List),
    /// Show a service with its revisions
    Describe(Describe),
    /// Delete services; their instances drain
    Delete(Delete),
    /// Show what a service's instances wrote
    Logs(Logs),
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// File of Knative Service YAML; `-` is standard input; may be repeated
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Do not wait until the services are ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", conflicts_with = "no_wait")]
    wait_seconds: f64,
}

/// Which namespaces.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// Namespace [default: default, or that of --cluster]
    #[arg(short, long)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Scope {
    /// The query that asks for them.
    pub(crate) fn query(&self, running: &Running) -> String {
        if self.all_namespaces { String::new() } else { format!("?namespace={}", encode(running.namespace(&self.namespace))) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    scope: Scope,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// Service
    name: String,
    /// Namespace [default: default, or that of --cluster]
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Services
    #[arg(required = true)]
    names: Vec<String>,
    /// Namespace [default: default, or that of --cluster]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Wait until their last instance is gone
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Service
    name: String,
    /// Namespace [default: default, or that of --cluster]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only this instance
    #[arg(short, long)]
    instance: Option<String>,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Go on with lines as they come
    #[arg(short, long)]
    follow: bool,
}

#[derive(Serialize)]
struct ApplyDocument {
    schema: u32,
    applied: Vec<Applied>,
    warnings: Vec<Finding>,
}

#[derive(Serialize)]
struct DeleteDocument {
    schema: u32,
    deleted: Vec<Value>,
}

#[derive(Serialize)]
struct LogsDocument {
    schema: u32,
    lines: Vec<LogLine>,
}

#[derive(Deserialize)]
struct Services {
    services: Vec<ServiceView>,
}

pub(crate) async fn run(command: Command, running: &Running, output: Output) -> Result<Outcome, Failure> {
    let control = running.control();
    match command {
        Command::Apply(arguments) => apply(&control, &arguments, output).await,
        Command::List(arguments) => list(&control, &arguments.scope.query(running), output).await,
        Command::Describe(arguments) => {
            describe(&control, running.namespace(&arguments.namespace), &arguments.name, output).await
        }
        Command::Delete(arguments) => delete(&control, running.namespace(&arguments.namespace), &arguments, output).await,
        Command::Logs(arguments) => logs(&control, running.namespace(&arguments.namespace), &arguments, output).await,
    }
}

async fn apply(control: &Control, arguments: &Apply, output: Output) -> Result<Outcome, Failure> {
    let mut document = ApplyDocument { schema: SCHEMA, applied: Vec::new(), warnings: Vec::new() };
    for file in &arguments.files {
        let (manifest, folder) = read_manifest(file)?;
        let answer = apply_manifest(control, manifest, &folder).await?;
        for warning in &answer.warnings {
            output.note(&format!("warning: {}: {warning}", file.display()));
        }
        if answer.config_autoscaler {
            output.note("the autoscaler's settings are as the file says");
        }
        document.applied.extend(answer.applied);
        document.warnings.extend(answer.warnings);
    }
    let mut lines = String::new();
    for applied in &document.applied {
        let done = match applied.change {
            Change::Created => "created",
            Change::Configured => "configured",
            Change::Unchanged => "unchanged",
        };
        lines.push_str(&format!("service {} {done}, revision {}", applied.service, applied.revision));
        if !arguments.no_wait {
            let step = output.step(&format!("waiting until {} is ready", applied.service));
            let path = service_path(&applied.service.namespace, &applied.service.name);
            let path = format!("{path}?wait_ready_seconds={}", arguments.wait_seconds);
            let ready: ServiceView = control.ask(Method::GET, &path, Body::None).await?;
            step.done("");
            lines.push_str(&format!(", ready at {}", ready.url));
        }
        lines.push('\n');
    }
    output.result(&document, || lines)
}

/// Applies one manifest; paths in it are relative to `folder`.
pub(crate) async fn apply_manifest(control: &Control, manifest: Bytes, folder: &Path) -> Result<ApplyAnswer, Failure> {
    let path = format!("/v1/apply?base_dir={}", encode(&folder.to_string_lossy()));
    control.ask(Method::POST, &path, Body::Of(YAML, manifest)).await
}

/// The text of a manifest, and the folder it lies in.
pub(crate) fn read_manifest(file: &Path) -> Result<(Bytes, PathBuf), Failure> {
    let named = |error: std::io::Error| Failure::system(format_args!("the file {}", file.display()), &error);
    if file == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().lock().read_to_end(&mut text).map_err(named)?;
        return Ok((text.into(), std::env::current_dir().map_err(named)?));
    }
    let text = std::fs::read(file).map_err(named)?;
    let folder = file.canonicalize().map_err(named)?.parent().map(Path::to_owned);
    Ok((text.into(), folder.unwrap_or_else(|| PathBuf::from("/"))))
}

async fn list(control: &Control, query: &str, output: Output) -> Result<Outcome, Failure> {
    let path = format!("/v1/services{query}");
    if output.json {
        return raw(control, &path, output).await;
    }
    let answer: Services = control.ask(Method::GET, &path, Body::None).await?;
    let rows: Vec<_> = answer
        .services
        .iter()
        .map(|service| {
            vec![
                service.service.namespace.clone(),
                service.service.name.clone(),
                service.url.clone(),
                service.latest_revision.clone(),
                instances(&service.instances),
                readiness(service),
            ]
        })
        .collect();
    write_out(format::table(&["NAMESPACE", "NAME", "URL", "LATEST", "INSTANCES", "READY"], &rows).as_bytes())?;
    Ok(Outcome::Yes)
}

async fn describe(control: &Control, namespace: &str, name: &str, output: Output) -> Result<Outcome, Failure> {
    let path = service_path(namespace, name);
    if output.json {
        return raw(control, &path, output).await;
    }
    let service: ServiceView = control.ask(Method::GET, &path, Body::None).await?;
    let mut text = format!(
        "Name:       {}\nURL:        {}\nReady:      {}\nRoute:      {}\nInstances:  {}\nRequests:   {} through the activator, {} straight\n",
        service.service,
        service.url,
        readiness(&service),
        service.routed_revision.as_deref().unwrap_or("none yet"),
        instances(&service.instances),
        format::count(service.activator.requests()),
        format::count(service.direct.requests()),
    );
    for (title, pairs) in [("Labels", &service.labels), ("Annotations", &service.annotations)] {
        for (index, (key, value)) in pairs.iter().enumerate() {
            let head = if index == 0 { format!("{title}:") } else { String::new() };
            text.push_str(&format!("{head:<12}{key}={value}\n"));
        }
    }
    let rows: Vec<_> = service.revisions.iter().map(revision_row).collect();
    text.push('\n');
    text.push_str(&format::table(&["REVISION", ">CONCURRENCY", "INSTANCES", ">WANT", "LOAD (STABLE, PANIC)", "STATE"], &rows));
    write_out(text.as_bytes())?;
    Ok(Outcome::Yes)
}

fn revision_row(revision: &RevisionView) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let (want, load, panicking) = match &revision.scale {
        Some(scale) => (
            scale.want.map_or_else(|| "-".to_owned(), |want| want.to_string()),
            format!("{}, {}", number(scale.stable), number(scale.panic)),
            scale.panicking,
        ),
        None => ("-".to_owned(), "-".to_owned(), false),
    };
    let state = match (revision.reachable, revision.was_ready, panicking) {
        (false, _, _) => "no route",
        (true, false, _) => "starting",
        (true, true, true) => "panic",
        (true, true, false) => "serving",
    };
    let concurrency = match revision.container_concurrency {
        0 => "no limit".to_owned(),
        limit => limit.to_string(),
    };
    vec![revision.name.clone(), concurrency, instances(&revision.instances), want, load, state.to_owned()]
}

async fn delete(control: &Control, namespace: &str, arguments: &Delete, output: Output) -> Result<Outcome, Failure> {
    let mut document = DeleteDocument { schema: SCHEMA, deleted: Vec::new() };
    for name in &arguments.names {
        let wait = if arguments.wait { "?wait" } else { "" };
        let path = format!("{}{wait}", service_path(namespace, name));
        document.deleted.push(control.ask(Method::DELETE, &path, Body::None).await?);
    }
    output.result(&document, || {
        let line = |name: &String| format!("service {namespace}/{name} deleted\n");
        arguments.names.iter().map(line).collect()
    })
}

async fn logs(control: &Control, namespace: &str, arguments: &Logs, output: Output) -> Result<Outcome, Failure> {
    if output.json && arguments.follow {
        return Err(Failure::new(Exit::Usage, "usage", "`service logs --follow` has no end, and so no document")
            .hint("leave out --json, or --follow"));
    }
    let mut query = vec![];
    query.extend(arguments.instance.as_ref().map(|instance| format!("instance={}", encode(instance))));
    query.extend(arguments.tail.map(|tail| format!("tail={tail}")));
    query.extend(arguments.follow.then(|| "follow".to_owned()));
    let path = format!("{}/logs?{}", service_path(namespace, &arguments.name), query.join("&"));
    let mut stream = control.stream(&path).await?;
    let mut pending = Vec::new();
    let mut lines = Vec::new();
    while let Some(bytes) = stream.next().await? {
        pending.extend_from_slice(&bytes);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: LogLine = serde_json::from_slice(&pending[..end])
                .map_err(|error| Failure::new(Exit::NotRunning, "protocol", format!("a log line is not understood: {error}")))?;
            pending.drain(..=end);
            if output.json {
                lines.push(line);
            } else {
                write_out(format!("{} {}\n", line.instance, line.text).as_bytes())?;
            }
        }
    }
    if output.json { output.result(&LogsDocument { schema: SCHEMA, lines }, String::new) } else { Ok(Outcome::Yes) }
}

/// Prints the control API's answer as the command's document.
pub(crate) async fn raw(control: &Control, path: &str, output: Output) -> Result<Outcome, Failure> {
    let mut document: serde_json::Map<String, Value> = control.ask(Method::GET, path, Body::None).await?;
    document.insert("schema".to_owned(), SCHEMA.into());
    output.result(&document, String::new)
}

fn service_path(namespace: &str, name: &str) -> String {
    format!("/v1/services/{}/{}", encode(namespace), encode(name))
}

fn readiness(service: &ServiceView) -> String {
    match (service.deleting, service.ready, &service.reason) {
        (true, _, _) => "being deleted".to_owned(),
        (false, true, _) => "yes".to_owned(),
        (false, false, reason) => format!("no: {}", reason.as_deref().unwrap_or("not yet")),
    }
}

/// Instances by what they do; what there is none of is left out.
fn instances(count: &InstanceCount) -> String {
    let parts = [(count.ready, "ready"), (count.starting, "starting"), (count.stopping, "stopping")];
    let parts: Vec<_> = parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}
