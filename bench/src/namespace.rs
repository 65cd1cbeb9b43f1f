//! Network namespaces: a place of its own for a program that binds fixed ports on all addresses.
//!
//! A child keeps a namespace alive and ends with this handle. Whatever a thread makes after it has moved there (sockets, children)
//! stays there; so work that needs the namespace is done on a thread of its own, and its sockets are used from anywhere.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with nothing but loopback; or, without the right to make one, the one we are in.
pub(crate) struct Namespace(Option<Own>);

struct Own {
    holder: Holder,
    file: File,
}

/// The child that keeps a namespace alive, killed with its handle.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Namespace {
    /// The one this process is in.
    pub(crate) const fn current() -> Self {
        Self(None)
    }

    /// A new one.
    ///
    /// # Errors
    /// Without root, `unshare` or `ip`.
    pub(crate) fn new() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("`unshare` could not be started")?;
        let said = child.stdout.take().context("the holder's output is piped")?;
        let holder = Holder(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "up", "a network namespace of one's own needs root, `unshare` and `ip`");
        let file = File::open(format!("/proc/{}/ns/net", holder.0.id()))?;
        Ok(Self(Some(Own { holder, file })))
    }

    /// Moves this thread into it, and with it everything that it starts from now on: the namespace lives as long as any of them.
    pub(crate) fn enter(self) -> Result<()> {
        let Some(own) = self.0 else { return Ok(()) };
        move_into_link_name_space(own.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("the network namespace of process {}", own.holder.0.id()))
    }

    /// Does something in it.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(own) = &self.0 else { return work() };
        let moved = || {
            move_into_link_name_space(own.file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("the network namespace of process {}", own.holder.0.id()))?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(moved).join())
            .unwrap_or_else(|_| Err(anyhow::anyhow!("work in a network namespace ended by a panic")))
    }
}
