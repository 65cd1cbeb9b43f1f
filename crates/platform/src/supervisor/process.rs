//! One child process, awaited without blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zipline_sys::Signal;
use zipline_sys::child::{Child, SpawnError, Spawner, Spec};

/// A child with its process group. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pidfd: AsyncFd<Arc<OwnedFd>>,
}

impl Process {
    /// Starts it. The fork happens on the spawner's thread, the waiting for it on a blocking one.
    pub(super) async fn start(spawner: &Spawner, spec: Spec) -> Result<Self, SpawnError> {
        let program = spec.program.clone();
        let failed = |source| SpawnError { program: program.clone(), source };
        let spawner = spawner.clone();
        let child =
            tokio::task::spawn_blocking(move || spawner.spawn(spec)).await.map_err(io::Error::other).map_err(failed)??;
        #[expect(deprecated, reason = "its successor is unsafe; an Arc<OwnedFd> keeps what that one asks to be kept")]
        let pidfd = AsyncFd::with_interest(child.pidfd(), Interest::READABLE).map_err(failed)?;
        Ok(Self { child, pidfd })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid()
    }

    pub(super) fn outputs(&mut self) -> impl Iterator<Item = (OutputOf, OwnedFd)> + use<> {
        let stdout = self.child.take_stdout().map(|fd| (OutputOf::Stdout, fd));
        stdout.into_iter().chain(self.child.take_stderr().map(|fd| (OutputOf::Stderr, fd)))
    }

    /// Waits until it has ended, and reaps it. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            if let Some(status) = self.child.reap()? {
                return Ok(status);
            }
            ready.clear_ready();
        }
    }

    /// Signals the whole group.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal_group(signal) {
            tracing::warn!(pid = self.pid(), ?signal, %error, "a process could not be signalled");
        }
    }

    /// Asks it by `signal` to end, and kills what is left after `grace`. Says how it ended and whether it had to be killed.
    pub(super) async fn stop(&mut self, signal: Signal, grace: Duration) -> (io::Result<ExitStatus>, bool) {
        self.signal(signal);
        match tokio::time::timeout(grace, self.ended()).await {
            Ok(status) => (status, false),
            Err(_) => {
                self.signal(Signal::KILL);
                (self.ended().await, true)
            }
        }
    }
}

/// Which output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputOf {
    Stdout,
    Stderr,
}
