//! The programs of a cluster: each with a log of its own, all missed when one ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{logs_tail, paths};
use crate::binaries::Binaries;

/// One end is enough to end everything; more are only counted.
const ENDS_QUEUED_MAX: usize = 16;

/// Programs that are meant to run as long as the cluster.
pub(crate) struct Processes {
    search_path: String,
    programs: BTreeMap<String, PathBuf>,
    binaries: Binaries,
    state: PathBuf,
    running: JoinSet<()>,
    ends: mpsc::Sender<End>,
}

/// A program's name, and how it ended.
type End = (String, std::io::Result<ExitStatus>);

/// Hears of programs that ended.
pub(crate) struct Ends {
    state: PathBuf,
    ends: mpsc::Receiver<End>,
}

impl Ends {
    /// Waits until one has ended, and says which.
    pub(crate) async fn next(&mut self) -> String {
        match self.ends.recv().await {
            Some((name, Ok(status))) => format!("{name} ended: {status}\n{}", logs_tail(&self.state)),
            Some((name, Err(error))) => format!("{name} cannot be waited for: {error}"),
            None => "no program runs".into(),
        }
    }
}

impl Processes {
    pub(crate) fn new(binaries: &Binaries, state: &Path) -> (Self, Ends) {
        let (ends, heard) = mpsc::channel(ENDS_QUEUED_MAX);
        let processes = Self {
            search_path: binaries.search_path(),
            programs: BTreeMap::new(),
            binaries: binaries.clone(),
            state: state.into(),
            running: JoinSet::new(),
            ends,
        };
        (processes, Ends { state: state.into(), ends: heard })
    }

    /// Starts `program` under `name`, in the network namespace of a node where one is named.
    pub(crate) fn start<A: Into<OsString>>(
        &mut self,
        name: &str,
        network: Option<&Path>,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<()> {
        if !self.programs.contains_key(program) {
            self.programs.insert(program.into(), self.binaries.path(program)?);
        }
        let path = &self.programs[program];
        let mut command = match network {
            // Only the network changes, so nsenter becomes the program and does not fork.
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("--").arg(path);
                command
            }
            None => Command::new(path),
        };
        let log = paths::logs(&self.state).join(format!("{name}.log"));
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        command.args(arguments.into_iter().map(Into::into)).env("PATH", &self.search_path).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let (name, ends) = (name.to_owned(), self.ends.clone());
        self.running.spawn(async move {
            let status = child.wait().await;
            // Nobody listens any more when everything is being ended.
            let _ = ends.send((name, status)).await;
        });
        Ok(())
    }
}
