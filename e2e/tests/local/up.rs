//! `zipline up` as a process of a test's own, and the stock function it runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::Value;
use zipline_core::kpa::LogRecord;
use zipline_testkit::{Answer, Payload, Program, Scratch, Started, Target, http as client, wait};

/// How long a state may take to come on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const FUNCTION: &str = include_str!("function.py");

/// A running `zipline up`, ended with its children when it is dropped.
pub(crate) struct Up {
    pub(crate) process: Started,
    pub(crate) state: PathBuf,
    pub(crate) scratch: Scratch,
    pub(crate) info: Value,
}

impl Up {
    /// Starts it in a new state directory, with a stable window of 6 s, a grace period of 1 s and a quiet period of 1 s.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with([]).await
    }

    /// The same with more arguments.
    pub(crate) async fn start_with<const N: usize>(arguments: [&str; N]) -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.write("function.py", FUNCTION)?;
        let state = scratch.join("state");
        let mut process = program(&state, 0)?.args(arguments).start(&scratch)?;
        let printed = wait::until(
            "zipline up to print where it is",
            LIMIT,
            async || {
                ensure!(process.try_ended()?.is_none(), "it ended: {}", process.tail());
                Ok(serde_json::from_str::<Value>(&process.stdout())?)
            },
            |_| true,
        );
        let info = printed.await.with_context(|| process.tail())?;
        Ok(Self { process, state, scratch, info })
    }

    /// The socket of the client proxy.
    pub(crate) fn client(&self) -> Result<Target> {
        Ok(Target::Unix(self.info["client_socket"].as_str().context("client_socket")?.into()))
    }

    /// The front door.
    pub(crate) fn ingress(&self) -> Result<Target> {
        let address = self.info["ingress"].as_str().context("ingress")?.trim_start_matches("http://").parse()?;
        Ok(Target::Tcp(address))
    }

    /// Applies the service `default/NAME` of the stock function.
    pub(crate) async fn apply(&self, name: &str, annotations: &[(&str, &str)], concurrency: u32) -> Result<()> {
        let annotations: String = annotations.iter().map(|(key, value)| format!("        {key}: \"{value}\"\n")).collect();
        let yaml = format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  template:\n    metadata:\n      annotations:\n        \
             example.com/test: \"1\"\n{annotations}    spec:\n      containerConcurrency: {concurrency}\n      containers:\n        - command: [python3, -u, function.py]\n"
        );
        let file = self.scratch.write(&format!("{name}.yaml"), yaml)?;
        let mut applied = Program::built("zipline")?
            .args(["--json", "--state"])
            .arg(&self.state)
            .args(["service", "apply", "-f"])
            .arg(file)
            .start(&self.scratch)?;
        let status = applied.ended(LIMIT).await?;
        ensure!(status.success(), "apply ended {status}\n{}", applied.tail());
        let ready = self.control(&format!("/v1/services/default/{name}?wait_ready_seconds=60")).await?;
        ensure!(ready["ready"] == true, "{ready}");
        Ok(())
    }

    /// Asks the control API.
    pub(crate) async fn control(&self, path: &str) -> Result<Value> {
        let control = Target::Unix(self.info["control_socket"].as_str().context("control_socket")?.into());
        let answer = client::send(&control, Request::get(path).body(client::empty())?).await?;
        answer.json().with_context(|| format!("{path} was answered {} {}", answer.status, answer.text()))
    }

    /// The instances of a service.
    pub(crate) async fn instances(&self, service: &str) -> Result<Vec<Value>> {
        let listed = self.control(&format!("/v1/instances?service={service}")).await?;
        Ok(listed["instances"].as_array().context("instances")?.clone())
    }

    /// The decision log of a service: Unix milliseconds and record of each line.
    pub(crate) fn decisions(&self, service: &str) -> Result<Vec<(u64, LogRecord)>> {
        let log = std::fs::read_to_string(self.info["decision_log"].as_str().context("decision_log")?)?;
        let mut records = Vec::new();
        for line in log.lines() {
            let value: Value = serde_json::from_str(line)?;
            if value["service"] == service {
                records.push((value["time_ms"].as_u64().context("time_ms")?, serde_json::from_value(value)?));
            }
        }
        Ok(records)
    }

    /// Puts at the client proxy; the reference.
    pub(crate) async fn put(&self, query: &str, payload: &Payload) -> Result<String> {
        let answer = client::send(&self.client()?, Request::post(format!("/v1/objects?{query}")).body(payload.body())?).await?;
        ensure!(answer.status == StatusCode::CREATED, "{} {}", answer.status, answer.text());
        Ok(answer.header(zipline_contract::headers::REFERENCE).to_owned())
    }

    /// Sends a request to a service through the front door.
    pub(crate) async fn send(&self, service: &str, request: http::request::Builder) -> Result<Answer> {
        let request = request.header("host", format!("{service}.default.localhost")).body(client::full(Bytes::new()))?;
        client::send(&self.ingress()?, request).await
    }

    /// Waits until nothing is held, queued or running any more, and no instance is left.
    pub(crate) async fn at_rest(&self, limit: Duration) -> Result<()> {
        let observe = async || {
            let instances = self.control("/v1/instances").await?["instances"].as_array().map_or(usize::MAX, Vec::len);
            let status = self.control("/v1/status").await?;
            let held =
                [&status["waiting"], &status["budget_bytes_used"], &status["client"]["held_bytes"], &status["client"]["leases"]];
            Ok((instances, held.map(|value| value.as_u64().unwrap_or(u64::MAX))))
        };
        wait::until("no instance and nothing held", limit, observe, |seen| *seen == (0, [0; 4])).await.map(|_| ())
    }
}

/// `zipline up` on that port (0: a free one) with that state directory, not yet started.
pub(crate) fn program(state: &std::path::Path, port: u16) -> Result<Program> {
    Ok(Program::built("zipline")?.args(["--json", "--state"]).arg(state).args(["up", "--port", &port.to_string()]).args([
        "--autoscaler",
        "stable-window=6s",
        "--autoscaler",
        "scale-to-zero-grace-period=1s",
        "--set",
        "ZIPLINE_DRAIN_QUIET_SECONDS=1",
        "--set",
        "ZIPLINE_BUFFER_BYTES=6GiB",
    ]))
}
