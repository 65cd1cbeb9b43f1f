//! A server's process, its folder, and waiting until it serves.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;
use zipline_sys::child::{Child, Output, Spawner, Spec};

use crate::error::ServerError;

/// How long a server may take until it serves. Generous: machines that build something are slow.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often a starting server is looked at. It bounds how late readiness is noticed.
const LOOK: Duration = Duration::from_millis(20);
/// How long a killed server's end is waited for.
const END_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Lines of a log that an error carries.
const LOG_TAIL_LINES: usize = 8;

/// A running server: a process, and the folder with all that it writes. Dropping it kills the one and removes the other.
#[derive(Debug)]
pub(crate) struct Process {
    server: &'static str,
    child: Child,
    log: PathBuf,
    /// Files outside the folder that the server leaves behind.
    left_behind: Vec<PathBuf>,
    _folder: TempDir,
}

/// A folder for a server's data, readable by its owner only.
pub(crate) fn folder(server: &'static str) -> Result<TempDir, ServerError> {
    let made = tempfile::Builder::new().prefix("zipline-server-").tempdir();
    made.map_err(ServerError::system(format!("a temporary folder for {server}")))
}

impl Process {
    /// Starts the program with nothing of this process' environment but its `PATH`.
    pub(crate) fn start(
        server: &'static str,
        program: &Path,
        arguments: &[String],
        folder: TempDir,
        log: PathBuf,
        left_behind: Vec<PathBuf>,
    ) -> Result<Self, ServerError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = folder.path().as_os_str().to_owned();
        let spec = Spec {
            args: arguments.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), path), ("HOME".into(), home.clone()), ("TMPDIR".into(), home)],
            directory: Some(folder.path().to_owned()),
            stdout: Output::Null,
            stderr: Output::Null,
            ..Spec::new(program)
        };
        let spawner = Spawner::start().map_err(ServerError::system("a thread that starts servers"))?;
        let child = spawner.spawn(spec).map_err(|error| {
            let what = format!("starting {server} ({})", program.display());
            ServerError::System { what, source: error.source }
        })?;
        Ok(Self { server, child, log, left_behind, _folder: folder })
    }

    /// Looks until the server serves, ends or has had its time.
    pub(crate) async fn ready<E: Display>(&mut self, mut look: impl AsyncFnMut() -> Result<(), E>) -> Result<(), ServerError> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut seen = "nothing".to_owned();
        loop {
            let ended = self.child.reap().map_err(ServerError::system(format!("waiting for {}", self.server)))?;
            if let Some(status) = ended {
                return Err(ServerError::Ended { server: self.server, status: status.to_string(), log: self.log_tail() });
            }
            match tokio::time::timeout_at(deadline, look()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => seen = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(ServerError::NotReady { server: self.server, waited: READY_WITHIN, seen, log: self.log_tail() });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid().unsigned_abs()
    }

    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its end is waited for, so that it cannot write into its folder while that is removed. An error means that it
        // is gone or out of reach, and there is nobody left to tell.
        if self.child.signal_group(Signal::KILL).is_ok() {
            let ended = &mut [PollFd::new(&self.child, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(ended, Some(&END_WITHIN))).ok();
            self.child.reap().ok();
        }
        self.left_behind.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

/// Random letters and digits for a password or a key.
pub(crate) fn secret(bytes: usize) -> Result<String, ServerError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| ServerError::system("randomness")(std::io::Error::other(error)))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
