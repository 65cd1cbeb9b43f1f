//! Processes of the built programs, killed by handle when they are dropped.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Scratch, binary, wait};

/// Lines of a log that an error carries.
const LOG_TAIL_LINES: usize = 40;

/// A program about to be started: in an environment with nothing but `PATH` and what is set here.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
    inherited: Option<File>,
}

impl Program {
    /// The built program of that name.
    pub fn built(name: &str) -> Result<Self> {
        Ok(Self::at(name, &binary(name)?))
    }

    /// Any program.
    pub fn at(name: &str, path: &Path) -> Self {
        // The shell gives descriptor 3 to the program, which std can only do for 0 to 2, and becomes the program itself.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"exec 3<&0 </dev/null; exec "$0" "$@""#]).arg(path);
        Self::prepared(name, command)
    }

    fn prepared(name: &str, mut command: Command) -> Self {
        command.env_clear().process_group(0);
        for kept in ["PATH", "HOME", "LD_LIBRARY_PATH", "CARGO_HOME", "RUSTUP_HOME"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Self { name: name.into(), command, inherited: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, variable: &str, value: impl Into<OsString>) -> Self {
        self.command.env(variable, value.into());
        self
    }

    /// Runs it in a folder.
    pub fn dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Lets it inherit an open file as descriptor 3.
    pub fn descriptor_3(mut self, file: File) -> Self {
        self.inherited = Some(file);
        self
    }

    /// Starts it. Standard output and error go to files in `scratch`.
    pub fn start(mut self, scratch: &Scratch) -> Result<Started> {
        let unique = hex_u32()?;
        let stdout = scratch.join(format!("{}-{unique}.out", self.name));
        let stderr = scratch.join(format!("{}-{unique}.err", self.name));
        let input = self.inherited.take().map_or_else(Stdio::null, Stdio::from);
        self.command.stdin(input).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = self.command.spawn().with_context(|| format!("starting {}", self.name))?;
        Ok(Started { name: self.name, child, exit: None, stdout, stderr })
    }

    /// Runs it to its end and returns it; fails when it does not end within `limit`.
    pub async fn run(self, scratch: &Scratch, limit: Duration) -> Result<Started> {
        let mut started = self.start(scratch)?;
        started.ended(limit).await?;
        Ok(started)
    }
}

fn hex_u32() -> Result<String> {
    Ok(format!("{:08x}", getrandom::u32().context("randomness")?))
}

/// A running process and its group. Dropping it kills the group and waits for the process.
#[derive(Debug)]
pub struct Started {
    name: String,
    child: Child,
    exit: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Started {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Its exit status, if it has ended.
    pub fn try_ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(self.exit)
    }

    /// Waits for its end.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        match wait::until("the program's end", limit, async || self.try_ended(), Option::is_some).await {
            Ok(Some(status)) => Ok(status),
            Ok(None) | Err(_) => bail!("{name} did not end within {limit:?}\n{}", self.tail()),
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.rustix_pid()?, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// Kills the process alone, as a crash would, and reaps it. What it had started is not touched.
    pub fn kill(&mut self) -> Result<()> {
        if self.try_ended()?.is_none() {
            self.child.kill()?;
            self.exit = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// The exit code; 128 and the signal where a signal ended it. None while it runs.
    pub fn code(&self) -> Option<i32> {
        let exit = self.exit?;
        exit.code().or_else(|| exit.signal().map(|signal| 128 + signal))
    }

    /// The last lines of both outputs, for an error message.
    pub fn tail(&self) -> String {
        let tail = |path: &Path| {
            let text = read(path);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
        };
        format!("--- {} stdout\n{}\n--- {} stderr\n{}", self.name, tail(&self.stdout), self.name, tail(&self.stderr))
    }

    fn rustix_pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is positive")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // The group may outlive its leader; where nobody is left, the kernel says so and that is what we want.
        if let Ok(pid) = self.rustix_pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
