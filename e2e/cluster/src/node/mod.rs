//! What runs inside a cluster's namespaces.
//!
//! [`init`] is the first process: it starts the node's own process, takes in orphans, and ends with it. [`run`] prepares the
//! namespaces ([`ground`]), makes keys and certificates ([`pki`]), starts the control plane and the nodes in the order in which they
//! need each other, applies Knative, serves the [`glue`](crate::glue), says `ready`, and ends when one of its processes does.
//!
//! Every program writes to a file of its own under `log`.

pub mod cgroup;
mod control_plane;
mod ground;
mod kubelet;
pub mod paths;
mod pki;
mod processes;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use rustix::process::{WaitOptions, wait};
use tokio::task::JoinSet;

use crate::binaries::Binaries;
use crate::glue::{dns, ingress, policy};
use crate::{Api, knative, up};

use kubelet::Node;
use processes::Processes;

/// Lines of each log that an error carries.
const LOG_TAIL_LINES: usize = 12;
/// The API server is there within 5 s on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(240);

/// Where the node finds its programs and keeps its files.
#[derive(clap::Args, Debug)]
pub struct Options {
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    binaries: PathBuf,
    #[arg(long)]
    nodes: u8,
}

/// The namespace's first process. Its end ends everything in it.
pub fn init(options: &Options) -> Result<()> {
    let own = std::env::current_exe().context("this program's own path")?;
    let mut command = Command::new(own);
    command.arg("node").arg("--state").arg(&options.state).arg("--binaries").arg(&options.binaries);
    let node = command.arg("--nodes").arg(options.nodes.to_string()).spawn().context("starting the node")?;
    loop {
        // Whoever loses its parent becomes ours, and stays a zombie unless it is waited for.
        let Some((ended, status)) = wait(WaitOptions::empty()).context("waiting for children")? else { continue };
        if ended.as_raw_nonzero().get().cast_unsigned() == node.id() {
            std::process::exit(status.exit_status().unwrap_or(1));
        }
    }
}

/// Starts everything and keeps it.
pub async fn run(options: Options) -> Result<()> {
    let binaries = Binaries::find(&options.binaries)?;
    let state = options.state.clone();
    std::fs::create_dir_all(paths::logs(&state))?;
    ground::mounts(&state)?;
    let nodes: Vec<Node> = (1..=options.nodes).map(|number| Node::new(number, &state)).collect();
    ground::network(&nodes)?;
    let keys = pki::make(&state, &nodes)?;

    let (mut processes, mut ends) = Processes::new(&binaries, &state);
    control_plane::start_store(&mut processes, &state)?;
    for node in &nodes {
        cgroup::make(&node.cgroup)?;
        node.start_containerd(&mut processes, &binaries)?;
    }
    control_plane::start_server(&mut processes, &state, &keys)?;
    let api = control_plane::proxy(&mut processes, &state)?;
    let mut glue = JoinSet::new();
    tokio::select! {
        result = bring_up(&binaries, &state, &nodes, &api, &mut processes, &mut glue) => result?,
        ended = ends.next() => bail!("{ended}"),
        () = tokio::time::sleep(START_LIMIT) => bail!("not everything was ready after {START_LIMIT:?}"),
    }
    println!("{}", up::READY);
    tokio::select! {
        ended = ends.next() => bail!("{ended}"),
        Some(ended) = glue.join_next() => match ended? { Ok(()) => bail!("the glue ended"), Err(error) => Err(error) },
    }
}

/// From a starting API server to a Knative that is ready.
async fn bring_up(
    binaries: &Binaries,
    state: &Path,
    nodes: &[Node],
    api: &Api,
    processes: &mut Processes,
    glue: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let images = knative::images(binaries, state)?;
    let imported = try_join_all(nodes.iter().map(|node| node.import(binaries, &images)));
    let controlled = async {
        control_plane::ready(api).await?;
        control_plane::start_controllers(processes, state)?;
        for node in nodes {
            node.start_kubelet(processes)?;
        }
        let address = nodes[0].address;
        glue.spawn(dns::serve(api.clone(), address));
        glue.spawn(ingress::serve(api.clone(), address));
        let networks = nodes.iter().map(Node::network).collect();
        glue.spawn(policy::serve(api.clone(), policy::Networks { nft: binaries.path("nft")?, networks }));
        Ok(())
    };
    tokio::try_join!(imported, controlled)?;
    for node in nodes {
        let path = format!("/api/v1/nodes/{}", node.name);
        api.until("the node to be ready", START_LIMIT, &path, is_ready).await?;
    }
    knative::install(binaries, state, api, nodes[0].address).await
}

/// Whether an object's `Ready` condition is true.
pub fn is_ready(object: &serde_json::Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The last lines of every log, for an error message.
pub fn logs_tail(state: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(paths::logs(state)).into_iter().flatten().flatten() {
        let content = std::fs::read(entry.path()).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        text.push_str(&format!("--- {}\n{tail}\n", entry.file_name().display()));
    }
    text
}
