//! Child processes of a bench, and what the kernel says they cost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A child that ends with this value, whatever happens before.
pub(crate) struct Process {
    child: Child,
    pub(crate) name: &'static str,
}

impl Process {
    /// Starts this program again in one of its inner roles, and reads the address it prints.
    pub(crate) fn role(name: &'static str, arguments: &[String]) -> Result<(Self, SocketAddr)> {
        let program = std::env::current_exe().context("the bench cannot find its own program")?;
        let mut child = Command::new(program)
            .arg("raw")
            .arg(name)
            .args(arguments)
            .process_group(0) // Ctrl-C is for the bench, which ends its processes when it has written what was measured.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the {name} could not be started"))?;
        let out = child.stdout.take().context("the child's output is piped")?;
        let mut process = Self { child, name };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .with_context(|| format!("the {name} printed no address: {line:?} ({:?})", process.child.try_wait()))?;
        Ok((process, address))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended by itself: {status}", self.name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Ends this process when its standard input does, and so with whoever started it, however that ended.
pub(crate) fn end_with_input() -> Result<()> {
    // Nobody joins the thread: when it has something to say, the process ends.
    std::thread::Builder::new().name("starter".into()).spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        std::process::exit(0);
    })?;
    Ok(())
}

/// Seconds of processor time a process's threads have run, from the scheduler's own count.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanos: u64 = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    nanos as f64 / 1e9
}

/// Seconds of processor time that this process has used, its threads and those that have ended together.
pub(crate) fn own_cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Anonymous memory of a process, and pages of shared memory it has mapped, in bytes: now and, of both together, at most ever.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) anonymous: u64,
    pub(crate) shared: u64,
    pub(crate) resident: u64,
}

/// Memory of a process; zeros once it is gone.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let bytes = |key: &str| kib(key).unwrap_or(0) * 1024;
    Memory { anonymous: bytes("RssAnon:"), shared: bytes("RssShmem:"), resident: bytes("VmRSS:") }
}
