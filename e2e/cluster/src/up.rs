//! A cluster from its start to its end, seen from outside of its namespaces.
//!
//! [`run`] makes the namespaces, waits for the line with which the node says that everything is ready, and keeps it until a signal
//! comes or, with `--while-stdin-is-open`, until standard input ends: a test that dies, however, closes it. Killing the namespace's
//! first process ends every process and mount in it; cgroups, which belong to the machine, are removed afterwards.
//!
//! The node's network cannot be reached from outside, but the socket of its `kubectl proxy` can: [`relay`] serves it on loopback, so that
//! every client of Kubernetes works with the kubeconfig whose path is printed. Whoever can connect to that port is administrator of
//! the cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use zipline_testkit::wait;

use crate::binaries::{BINARIES, Binaries};
use crate::node::{self, cgroup};

/// The line with which a node says that everything is ready.
pub const READY: &str = "ready";
/// A start takes 20 s on an idle machine with two cores; this allows for one that compiles meanwhile.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long the kernel may take to let go of the last processes.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Connections that are relayed at once; further ones wait in the kernel's queue.
const RELAYED_MAX: usize = 256;

/// How a cluster is brought up.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Folder with the programs of Kubernetes and Knative
    #[arg(long, env = BINARIES)]
    binaries: PathBuf,
    /// Folder for everything it writes, made new [default: a temporary one]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
    /// Ends when standard input does
    #[arg(long)]
    while_stdin_is_open: bool,
}

/// Brings a cluster up and keeps it.
pub async fn run(options: Options) -> Result<()> {
    // Found here already: the error is more use before anything was started.
    Binaries::find(&options.binaries)?;
    let state =
        options.state.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("zipline-cluster-{}", std::process::id())));
    if state.starts_with("/var") || state.starts_with("/run") {
        bail!(
            "{}: the node covers /var/lib, /var/log and /run with folders of its own; choose a state folder elsewhere",
            state.display()
        );
    }
    std::fs::create_dir(&state).with_context(|| format!("the state folder {}", state.display()))?;
    let kept = keep(&options, &state).await;
    let cleaned = clean(&state).await;
    kept.and(cleaned)
}

async fn keep(options: &Options, state: &Path) -> Result<()> {
    let mut ended = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let [terminated, interrupted] = &mut ended;
    let mut node = start(options, state)?;
    let result = tokio::select! {
        result = serve(&mut node, state) => result,
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        () = stdin_ended(), if options.while_stdin_is_open => Ok(()),
    };
    // Killing `unshare` kills the namespace's first process, and with it everything inside.
    node.kill().await?;
    result
}

fn start(options: &Options, state: &Path) -> Result<Child> {
    let own = std::env::current_exe().context("this program's own path")?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"]);
    command.arg(own).arg("init").arg("--state").arg(state).arg("--binaries").arg(&options.binaries);
    command.arg("--nodes").arg(options.nodes.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
    command.spawn().context("starting unshare")
}

/// Waits for the node's line, says where everything is, then waits for its end.
async fn serve(node: &mut Child, state: &Path) -> Result<()> {
    let stdout = node.stdout.take().context("the node's standard output is a pipe")?;
    let mut lines = BufReader::new(stdout).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            if line == READY {
                return Ok(());
            }
            println!("{line}");
        }
        bail!("the node ended before it was ready\n{}", node::logs_tail(state))
    };
    match tokio::time::timeout(START_LIMIT, ready).await {
        Ok(result) => result?,
        Err(_) => bail!("the cluster was not ready after {START_LIMIT:?}\n{}", node::logs_tail(state)),
    }
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    write_kubeconfig(state, door.local_addr()?)?;
    println!("kubeconfig: {}", node::paths::kubeconfig_outside(state).display());
    println!("{READY} {}", state.display());
    let said = async {
        while let Some(line) = lines.next_line().await? {
            println!("{line}");
        }
        anyhow::Ok(node.wait().await?)
    };
    tokio::select! {
        status = said => bail!("the node ended by itself: {}\n{}", status?, node::logs_tail(state)),
        result = relay(door, node::paths::socket(state)) => result,
    }
}

/// A kubeconfig for programs outside of the node's network.
fn write_kubeconfig(state: &Path, door: SocketAddr) -> Result<()> {
    let content = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "zipline-e2e", "cluster": { "server": format!("http://{door}") } }],
        "users": [{ "name": "whoever-connects", "user": {} }],
        "contexts": [{ "name": "zipline-e2e", "context": { "cluster": "zipline-e2e", "user": "whoever-connects" } }],
        "current-context": "zipline-e2e",
    });
    let path = node::paths::kubeconfig_outside(state);
    std::fs::write(&path, format!("{content:#}")).with_context(|| path.display().to_string())
}

/// Carries connections from a port to a Unix socket.
async fn relay(door: TcpListener, socket: PathBuf) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = door.accept(), if connections.len() < RELAYED_MAX => {
                let (mut outside, _) = accepted?;
                let socket = socket.clone();
                connections.spawn(async move {
                    // Either side may end it; the other sees the end.
                    if let Ok(mut inside) = UnixStream::connect(socket).await {
                        let _ = copy_bidirectional(&mut outside, &mut inside).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits for the end of standard input. Its thread ends with the process: nothing wakes a read that nobody answers.
async fn stdin_ended() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

/// Removes what the machine would keep: cgroups and the state folder.
pub async fn clean(state: &Path) -> Result<()> {
    let name = cgroup::of_state(state);
    wait::until("the cluster's cgroups to be empty", END_LIMIT, async || cgroup::remove(&name), |left| left.is_empty()).await?;
    match std::env::var_os("ZIPLINE_E2E_KEEP_STATE") {
        Some(_) => println!("kept: {}", state.display()),
        None => std::fs::remove_dir_all(state).with_context(|| state.display().to_string())?,
    }
    Ok(())
}
