//! The test's side of the fault points: who has said hello, who stands where.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zipline_testkit::{Scratch, wait};

/// Commands that wait to be written to one process.
const COMMANDS_MAX: usize = 64;
const HELLO_LIMIT: Duration = Duration::from_secs(20);

/// Every steered process of one world.
#[derive(Debug)]
pub(crate) struct Steering {
    path: PathBuf,
    processes: Arc<Mutex<HashMap<u32, Steered>>>,
    _listening: JoinSet<()>,
}

/// One process that can be steered.
#[derive(Clone, Debug)]
pub(crate) struct Steered {
    commands: mpsc::Sender<String>,
    /// How often it has stopped at a point, and where it stands.
    reached: watch::Receiver<(u64, String)>,
    /// How often its clock was set.
    clocked: watch::Receiver<u64>,
}

impl Steering {
    pub(crate) fn listen(scratch: &Scratch) -> Result<Self> {
        let path = scratch.join("points");
        let listener = UnixListener::bind(&path).context("the socket of the fault points")?;
        let processes = Arc::default();
        let mut listening = JoinSet::new();
        listening.spawn(accept(listener, Arc::clone(&processes)));
        Ok(Self { path, processes, _listening: listening })
    }

    /// The value of the variable that processes are started with.
    pub(crate) fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// The process of that id, once it has said hello.
    pub(crate) async fn process(&self, pid: u32) -> Result<Steered> {
        let found = async || lock(&self.processes).get(&pid).cloned().ok_or_else(|| anyhow!("process {pid} has not said hello"));
        wait::until("a process to say hello at its fault points", HELLO_LIMIT, found, |_| true).await
    }
}

impl Steered {
    pub(crate) async fn say(&self, command: impl Into<String>) {
        // A process that is gone needs no command.
        let _gone = self.commands.send(command.into()).await;
    }

    /// Makes its wall clock wrong by that much, and returns when it is; a process that is gone has no clock.
    pub(crate) async fn set_clock(&self, ms: i64) {
        let mut clocked = self.clocked.clone();
        clocked.mark_unchanged();
        self.say(format!("clock {ms}")).await;
        let _gone_or_frozen = timeout(HELLO_LIMIT, clocked.changed()).await;
    }

    /// Lets it stop when it passes `point` for the `nth` time, and returns what tells that it stands there.
    pub(crate) async fn arm(&self, point: &str, nth: u64) -> watch::Receiver<(u64, String)> {
        let mut reached = self.reached.clone();
        reached.mark_unchanged();
        self.say(format!("arm {point} {nth}")).await;
        reached
    }
}

async fn accept(listener: UnixListener, processes: Arc<Mutex<HashMap<u32, Steered>>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(greet(stream, Arc::clone(&processes)));
            }
        }
    }
}

async fn greet(stream: UnixStream, processes: Arc<Mutex<HashMap<u32, Steered>>>) {
    let (read, write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let Ok(Some(hello)) = lines.next_line().await else { return };
    let Some(pid) = hello.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()) else { return };
    let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
    let (told, reached) = watch::channel((0, String::new()));
    let (set, clocked) = watch::channel(0);
    lock(&processes).insert(pid, Steered { commands, reached, clocked });
    tokio::join!(listen(lines, told, set), write_all(write, waiting));
}

async fn listen(
    mut lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    told: watch::Sender<(u64, String)>,
    set: watch::Sender<u64>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(point) = line.strip_prefix("reached ") {
            told.send_modify(|(times, at)| (*times, *at) = (*times + 1, point.to_owned()));
        } else if line == "clocked" {
            set.send_modify(|times| *times += 1);
        }
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut waiting: mpsc::Receiver<String>) {
    if write.write_all(b"ready\n").await.is_err() {
        return;
    }
    while let Some(command) = waiting.recv().await {
        if write.write_all(format!("{command}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
