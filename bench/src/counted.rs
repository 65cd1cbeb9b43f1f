//! A separate, untimed pass that counts what a path costs in system calls, and how many bytes they copy.
//!
//! `perf` counts the kernel's own `raw_syscalls:sys_enter` without stopping anybody, so its count is that of an undisturbed run.
//! `strace` stops at every call, which changes how much each moves, but it alone shows how many bytes each call copied; where
//! there is no `perf` it counts the calls as well. With neither, nothing is counted, and the report says so.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Calls that copy bytes between a process and the kernel, by the bytes they answer. `sendfile` and `splice` are not among them:
/// from a memfd to a socket, and from a socket to a pipe, they lend pages.
const COPYING: &str = "read,readv,pread64,preadv,recvfrom,recvmsg,write,writev,pwrite64,pwritev,sendto,sendmsg";

/// What there is to count with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruments {
    perf: bool,
    strace: bool,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) system_calls: Option<u64>,
    pub(crate) bytes_copied: Option<u64>,
}

impl Instruments {
    /// Tries each once, on a program that does nothing.
    pub(crate) fn found() -> Self {
        let works = |program: &str, arguments: &[&str]| {
            let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
            quiet.is_ok_and(|status| status.success())
        };
        Self {
            perf: works("perf", &["stat", "-e", "raw_syscalls:sys_enter", "true"]),
            strace: works("strace", &["-f", "-o", "/dev/null", "true"]),
        }
    }

    /// What the report says of them.
    pub(crate) const fn described(self) -> &'static str {
        match (self.perf, self.strace) {
            (true, true) => "system calls by perf (raw_syscalls:sys_enter), copied bytes by strace, each in a pass of its own",
            (true, false) => {
                "system calls by perf (raw_syscalls:sys_enter) in a pass of its own; copied bytes not counted: no strace"
            }
            (false, true) => "system calls and copied bytes by strace in a pass of its own; perf may not count here",
            (false, false) => "not counted: neither perf nor strace works here",
        }
    }

    /// Which passes over a path are needed.
    pub(crate) fn passes(self) -> impl Iterator<Item = Pass> {
        [self.perf.then_some(Pass::Perf), self.strace.then_some(Pass::Strace)].into_iter().flatten()
    }
}

/// One instrument's pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Perf,
    Strace,
}

impl Pass {
    /// Begins to count what these processes do.
    pub(crate) fn begin(self, processes: &[u32]) -> Result<Counting> {
        match self {
            Self::Perf => Ok(Counting::Perf(PerfStat::begin(processes)?)),
            Self::Strace => Ok(Counting::Strace(Strace::begin(processes)?)),
        }
    }
}

/// An instrument at work. Dropping it ends it.
pub(crate) enum Counting {
    Perf(PerfStat),
    Strace(Strace),
}

impl Counting {
    /// Stops, and adds what was counted. Calls counted by `perf` stand.
    pub(crate) fn end(self, counted: &mut Counted) -> Result<()> {
        match self {
            Self::Perf(perf) => counted.system_calls = Some(perf.end()?),
            Self::Strace(strace) => {
                let (calls, bytes) = strace.end()?;
                counted.system_calls.get_or_insert(calls);
                counted.bytes_copied = Some(bytes);
            }
        }
        Ok(())
    }
}

/// A child that is killed with its handle.
struct Instrument(Child);

impl Instrument {
    /// Asks it to stop as Ctrl-C would, and waits until it has.
    fn interrupt(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("the instrument's process id")?;
        kill_process(pid, Signal::INT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Instrument {
    fn drop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `perf stat` that starts disabled and is switched on and off over a pipe, so that exactly the path is counted.
pub(crate) struct PerfStat {
    child: Instrument,
    control: ChildStdin,
    acknowledged: BufReader<ChildStdout>,
    result: tempfile::NamedTempFile,
}

impl PerfStat {
    fn begin(processes: &[u32]) -> Result<Self> {
        let result = tempfile::NamedTempFile::new()?;
        let mut child = Command::new("perf")
            .args(["stat", "-x", ",", "-D", "-1", "--control", "fd:0,1", "-e", "raw_syscalls:sys_enter", "-o"])
            .arg(result.path())
            .args(["-p", &list(processes)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("perf could not be started")?;
        let control = child.stdin.take().context("perf's input is piped")?;
        let acknowledged = BufReader::new(child.stdout.take().context("perf's output is piped")?);
        let mut perf = Self { child: Instrument(child), control, acknowledged, result };
        perf.say("enable\n")?;
        Ok(perf)
    }

    fn say(&mut self, command: &str) -> Result<()> {
        self.control.write_all(command.as_bytes())?;
        let mut answer = Vec::new();
        self.acknowledged.read_until(b'\n', &mut answer)?;
        // It ends each answer with a zero byte behind the line.
        anyhow::ensure!(
            answer.trim_ascii().ends_with(b"ack"),
            "perf did not take {command:?}: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }

    fn end(mut self) -> Result<u64> {
        self.say("disable\n")?;
        self.child.interrupt()?;
        let text = std::fs::read_to_string(self.result.path())?;
        let line = text.lines().find(|line| line.contains("sys_enter")).context("perf counted nothing")?;
        line.split(',').next().unwrap_or_default().parse().with_context(|| format!("perf's count {line:?}"))
    }
}

/// `strace` over processes that already run.
pub(crate) struct Strace {
    child: Instrument,
    log: tempfile::NamedTempFile,
    /// Reads its messages to the end, so that it never waits for us.
    messages: std::thread::JoinHandle<()>,
}

impl Strace {
    fn begin(processes: &[u32]) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-e", "signal=none", "-o"]).arg(log.path());
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut messages = BufReader::new(child.stderr.take().context("strace's messages are piped")?);
        let child = Instrument(child);
        let mut waited_for: BTreeSet<u32> = processes.iter().copied().collect();
        let mut line = String::new();
        while !waited_for.is_empty() {
            line.clear();
            anyhow::ensure!(messages.read_line(&mut line)? > 0, "strace attached to no more than some of {processes:?}");
            // `strace: Process 12 attached`, or `… attached with 3 threads`.
            let attached = line.split_whitespace().nth(2).filter(|_| line.contains("attached"));
            if let Some(process) = attached.and_then(|word| word.parse().ok()) {
                waited_for.remove(&process);
            }
        }
        let messages = std::thread::spawn(move || {
            // Ends with strace; what it says of leaving is of no interest.
            messages.read_to_end(&mut Vec::new()).ok();
        });
        Ok(Self { child, log, messages })
    }

    /// Calls begun, and bytes that the copying ones answered.
    fn end(mut self) -> Result<(u64, u64)> {
        self.child.interrupt()?;
        self.messages.join().ok();
        let text = std::fs::read(self.log.path())?;
        Ok(count(&String::from_utf8_lossy(&text)))
    }
}

fn count(log: &str) -> (u64, u64) {
    let copying: BTreeSet<&str> = COPYING.split(',').collect();
    let (mut calls, mut bytes) = (0, 0);
    for line in log.lines() {
        // `PID name(…) = N`, `PID name(… <unfinished ...>`, `PID <... name resumed>…) = N`.
        let Some((_, call)) = line.trim_start().split_once(' ') else { continue };
        let call = call.trim_start();
        let resumed = call.strip_prefix("<... ");
        let name = match resumed {
            Some(rest) => rest.split_whitespace().next(),
            None => call.split_once('(').map(|(name, _)| name),
        };
        let Some(name) = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) else {
            continue;
        };
        calls += u64::from(resumed.is_none());
        let answered = call.rsplit_once(" = ").and_then(|(_, answer)| answer.split_whitespace().next()?.parse::<u64>().ok());
        if copying.contains(name) {
            bytes += answered.unwrap_or(0);
        }
    }
    (calls, bytes)
}

fn list(processes: &[u32]) -> String {
    let texts: Vec<String> = processes.iter().map(u32::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_and_only_what_copying_ones_answered_is_copied() {
        let log = "\
12 read(3, \"\"..., 65536) = 65536
12 sendfile(4, 5, [0] => [1048576], 1048576) = 1048576
13 recvfrom(7,  <unfinished ...>
12 epoll_wait(6, [], 16, 0) = 0
13 <... recvfrom resumed>\"\"..., 100, 0, NULL, NULL) = 100
13 write(8, \"\"..., 10) = -1 EAGAIN (Resource temporarily unavailable)
13 +++ exited with 0 +++
";
        assert_eq!(count(log), (5, 65_636));
    }
}
