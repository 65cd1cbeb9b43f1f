//! The command line against a running platform: what it prints, and what it ends with.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_testkit::{Program, Scratch, Started, binary, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// A platform, and the commands that speak to it.
struct World {
    platform: Started,
    scratch: Scratch,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn document(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{self:?}"))
    }
}

async fn command(scratch: &Scratch, state: &str, arguments: &[&str]) -> Result<Ended> {
    let program = Program::built("zipline")?.args(["--state", state]).args(arguments.iter().copied()).dir(scratch.path());
    let ended = program.run(scratch, LIMIT).await?;
    Ok(Ended { code: ended.code(), stdout: ended.stdout(), stderr: ended.stderr() })
}

impl World {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let state = scratch.join("state").to_string_lossy().into_owned();
        let platform = Program::built("zipline")?.args(["--state", &state, "--json", "up", "--port", "0"]).start(&scratch)?;
        let ready = async || {
            let document: Value = serde_json::from_str(&platform.stdout()).context("up's document")?;
            Ok(document)
        };
        let document = wait::until("the platform to be up", LIMIT, ready, |_| true).await?;
        let pid = document["pid"].as_u64();
        ensure!(pid == Some(platform.pid().into()) && document["schema"] == 1, "{document}");
        let world = Self { platform, scratch };
        ensure!(document["client_api"] == format!("unix:{}/client.sock", world.state()), "{document}");
        Ok(world)
    }

    fn state(&self) -> String {
        self.scratch.join("state").to_string_lossy().into_owned()
    }

    async fn run(&self, arguments: &[&str]) -> Result<Ended> {
        command(&self.scratch, &self.state(), arguments).await
    }

    /// Runs a command that must succeed, and gives its document.
    async fn document(&self, arguments: &[&str]) -> Result<Value> {
        let ended = self.run(&[arguments, &["--json"]].concat()).await?;
        ensure!(ended.code == Some(0), "{arguments:?}: {ended:?}");
        ended.document()
    }

    /// Deploys a service that merges parts: it answers JSON, and 400 to what it does not understand.
    fn manifest(&self) -> Result<String> {
        let program = binary("zipline-mapreduce")?;
        let manifest = format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: merge\nspec:\n  template:\n    spec:\n      \
             containers:\n      - command: [\"{}\"]\n        args: [reducer]\n",
            program.display()
        );
        Ok(self.scratch.write("merge.yaml", manifest)?.to_string_lossy().into_owned())
    }
}

#[tokio::test]
async fn a_service_is_applied_called_looked_at_and_deleted() -> Result<()> {
    let world = World::start().await?;
    let manifest = world.manifest()?;
    let applied = world.document(&["service", "apply", "-f", &manifest]).await?;
    ensure!(applied["applied"][0]["name"] == "merge" && applied["applied"][0]["change"] == "created", "{applied}");
    let again = world.run(&["service", "apply", "-f", &manifest]).await?;
    ensure!(again.stdout.contains("service default/merge unchanged, revision merge-00001, ready at http://"), "{again:?}");

    let answer = world.document(&["invoke", "merge", "-d", r#"{"schema":1,"parts":[]}"#]).await?;
    ensure!(answer["status"] == 200 && answer["body"].as_str().is_some_and(|body| body.contains("zl1.")), "{answer}");
    let refused = world.run(&["invoke", "merge.default", "-d", "nonsense"]).await?;
    ensure!(
        refused.code == Some(1) && refused.stdout.contains("not understood") && refused.stderr.contains("400"),
        "{refused:?}"
    );

    let services = world.document(&["service", "list"]).await?;
    ensure!(services["services"][0]["name"] == "merge" && services["schema"] == 1, "{services}");
    let described = world.run(&["service", "describe", "merge"]).await?;
    ensure!(described.stdout.contains("merge-00001") && described.stdout.contains("Ready:      yes"), "{described:?}");
    let instances = world.document(&["instance", "list", "merge"]).await?;
    ensure!(instances["instances"][0]["state"] == "ready", "{instances}");
    let logs = world.document(&["service", "logs", "merge"]).await?;
    ensure!(logs["lines"].as_array().is_some_and(|lines| lines.iter().all(|line| line["text"].is_string())), "{logs}");

    let deleted = world.document(&["service", "delete", "merge"]).await?;
    ensure!(deleted["deleted"][0]["name"] == "merge", "{deleted}");
    for arguments in [["service", "describe", "nobody"], ["service", "delete", "nobody"], ["service", "logs", "nobody"]] {
        let unknown = world.run(&[&arguments[..], &["--json"]].concat()).await?;
        let error = &unknown.document()?["error"];
        ensure!(unknown.code == Some(4) && error["name"] == "service-unknown" && error["exit"] == 4, "{unknown:?}");
        ensure!(unknown.stderr.contains("error: ") && unknown.stderr.contains("\nhint: "), "{unknown:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_object_is_put_looked_at_read_and_released() -> Result<()> {
    let world = World::start().await?;
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let file = world.scratch.write("payload", &bytes)?.to_string_lossy().into_owned();
    let put =
        world.document(&["object", "put", &file, "--retrievals", "2", "--ttl", "5m", "--content-type", "image/png"]).await?;
    let reference = put["reference"].as_str().context("a reference")?.to_owned();
    ensure!(put["size"] == bytes.len() && put["expires_in_seconds"].as_f64().is_some_and(|left| left > 200.0), "{put}");

    let stat = world.document(&["object", "stat", &reference]).await?;
    ensure!(stat["size"] == bytes.len() && stat["retrievals_left"] == 2, "{stat}");
    let copy = world.scratch.join("copy").to_string_lossy().into_owned();
    let got = world.document(&["object", "get", &reference, "--output", &copy]).await?;
    ensure!(got["content_type"] == "image/png" && std::fs::read(&copy)? == bytes, "{got}");
    let part = world.document(&["object", "get", &reference, "--range", "10-19", "--output", &copy]).await?;
    ensure!(part["size"] == 10 && std::fs::read(&copy)? == bytes[10..20], "{part}");

    let released = world.run(&["object", "release", &reference]).await?;
    ensure!(released.code == Some(0) && released.stdout == "1 released\n", "{released:?}");
    let gone = world.run(&["object", "get", &reference, "--output", &copy, "--json"]).await?;
    let error = &gone.document()?["error"];
    ensure!(gone.code == Some(5) && error["name"] == "reference-exhausted" && error["retry"] == "never", "{gone:?}");
    ensure!(!gone.stderr.contains(&reference), "a reference is not printed: {gone:?}");

    let text = world.run(&["object", "put", &file]).await?;
    ensure!(text.stdout.starts_with("zl1.") && text.stdout.lines().count() == 1, "{text:?}");
    ensure!(text.stderr.contains("held for 1 retrieval"), "{text:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_platform_on_the_same_state_is_refused_with_the_firsts_pid() -> Result<()> {
    let mut world = World::start().await?;
    let second = world.run(&["up", "--port", "0", "--json"]).await?;
    let error = &second.document()?["error"];
    ensure!(second.code == Some(6) && error["name"] == "state-in-use", "{second:?}");
    let pid = world.platform.pid().to_string();
    ensure!(error["message"].as_str().is_some_and(|message| message.contains(&pid)), "{second:?}");
    ensure!(error["hint"].is_string(), "{second:?}");
    ensure!(world.platform.try_ended()?.is_none(), "the first goes on");
    Ok(())
}

#[tokio::test]
async fn without_a_platform_commands_say_so_and_end_with_3() -> Result<()> {
    let scratch = Scratch::new()?;
    let state = scratch.join("nothing").to_string_lossy().into_owned();
    for arguments in [&["service", "list"][..], &["instance", "list"], &["invoke", "x"], &["object", "stat", "zl1.x"]] {
        let ended = command(&scratch, &state, &[arguments, &["--json"]].concat()).await?;
        let document = ended.document()?;
        let message = document["error"]["message"].as_str().unwrap_or_default();
        ensure!(ended.code == Some(3) && document["error"]["name"] == "not-running", "{arguments:?}: {ended:?}");
        ensure!(message.contains(&state) && ended.stderr.contains("hint: start one with `zipline up`"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_understood_ends_with_2_and_version_needs_no_platform() -> Result<()> {
    let scratch = Scratch::new()?;
    let state = scratch.join("nothing").to_string_lossy().into_owned();
    for arguments in
        [&["service", "aply"][..], &["object", "put", "--ttl", "5d"], &["demo", "--compare", "--transfer", "inline"], &[]]
    {
        let ended = command(&scratch, &state, arguments).await?;
        ensure!(ended.code == Some(2), "{arguments:?}: {ended:?}");
    }
    let unknown = command(&scratch, &state, &["service", "aply", "--json"]).await?;
    let error = &unknown.document()?["error"];
    ensure!(unknown.code == Some(2) && error["name"] == "usage" && error["exit"] == 2, "{unknown:?}");
    ensure!(error["message"].as_str().is_some_and(|message| message.contains("aply")), "{unknown:?}");
    let version = command(&scratch, &state, &["version", "--json"]).await?.document()?;
    ensure!(version["version"].is_string() && version["reference"] == "zl1" && version["pull"] == 1, "{version}");
    Ok(())
}
