//! Child processes that cannot outlive this one, and cannot be lost.
//!
//! Every child is forked by one thread, the [`Spawner`]'s, because a parent-death signal follows the *thread* that
//! forked and not the process: a child of a worker thread would die when the runtime retires that worker. Between fork
//! and exec the child arms `SIGKILL` as its parent-death signal, checks that its parent is still the one that forked it
//! (it may have died before the signal was armed) and leads a process group of its own, which is signalled as a whole.
//!
//! A child that has ended stays a zombie until [`Child::reap`]: as long as it is one, neither its pid nor its group's
//! number can be given to somebody else, so that a signal never hits a stranger. `reap` kills what is left of the group
//! first. Processes that left their group are found as [`Orphan`]s once [`set_subreaper`] made them ours.
//!
//! All children of the process must be started here: [`orphans`] takes any other for a lost descendant.
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// Spawns that wait for the thread at once; a further caller waits for its turn.
const SPAWNS_QUEUED_MAX: usize = 16;

/// Pids of the children that are waited for, so that [`orphans`] can tell the others. Held while forking: a child is
/// known before anybody can see it. A static, because children belong to the process and not to a value in it.
static KNOWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// What to start.
#[derive(Debug)]
pub struct Spec {
    /// Program: a path, or a name searched for in this process' `PATH`.
    pub program: OsString,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Its whole environment: nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; `None`: this process'.
    pub directory: Option<PathBuf>,
    /// Descriptors it inherits beyond the first three, each with the variable that will hold its number.
    ///
    /// A descriptor keeps the number it has here. Fixed numbers would have to be forced onto whatever the process
    /// already has there, among others the pipe on which the child reports that exec failed.
    pub descriptors: Vec<(OsString, OwnedFd)>,
    /// Where its standard output goes.
    pub stdout: Output,
    /// Where its standard error goes.
    pub stderr: Output,
}

/// Where a child's standard output or error goes. Standard input is always empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Null,
    /// To the same place as this process'.
    Inherit,
    /// Into a pipe whose other end is in [`Child`].
    Pipe,
}

impl Spec {
    /// A program without arguments, environment or output.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            descriptors: Vec::new(),
            stdout: Output::Null,
            stderr: Output::Null,
        }
    }
}

/// Why a child was not started.
#[derive(Debug)]
pub struct SpawnError {
    /// The program that was to be started.
    pub program: OsString,
    /// What the kernel said.
    pub source: io::Error,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program {:?} could not be started: {}", self.program, self.source)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The thread that forks. Clones share it; it ends with the last clone and the last [`Child`].
#[derive(Clone, Debug)]
pub struct Spawner {
    spawns: SyncSender<Spawn>,
}

#[derive(Debug)]
struct Spawn {
    spec: Spec,
    answer: SyncSender<io::Result<Started>>,
}

#[derive(Debug)]
struct Started {
    process: std::process::Child,
    pidfd: OwnedFd,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (spawns, queue) = sync_channel(SPAWNS_QUEUED_MAX);
        std::thread::Builder::new().name("spawner".into()).spawn(move || serve(&queue))?;
        Ok(Self { spawns })
    }

    /// Starts a child; returns once its exec succeeded or failed (a few milliseconds, blocking).
    ///
    /// # Errors
    /// When the program cannot be run, or processes, descriptors or memory are short.
    pub fn spawn(&self, spec: Spec) -> Result<Child, SpawnError> {
        let program = spec.program.clone();
        let (answer, started) = sync_channel(1);
        let gone = || io::Error::other("the spawner's thread has ended");
        let result = match self.spawns.send(Spawn { spec, answer }) {
            Ok(()) => started.recv().unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        match result {
            Ok(mut started) => Ok(Child {
                stdout: started.process.stdout.take().map(OwnedFd::from),
                stderr: started.process.stderr.take().map(OwnedFd::from),
                pidfd: Arc::new(started.pidfd),
                process: started.process,
                ended: None,
                _spawner: self.clone(),
            }),
            Err(source) => Err(SpawnError { program, source }),
        }
    }
}

fn serve(queue: &Receiver<Spawn>) {
    while let Ok(Spawn { spec, answer }) = queue.recv() {
        // A caller that is gone drops the answer, and with it a child that is then killed and left to `orphans`.
        if let Err(unheard) = answer.send(start(spec))
            && let Ok(mut started) = unheard.0
        {
            known().remove(&pid_of(&started.process));
            if let Err(error) = started.process.kill() {
                debug_assert!(false, "an unreaped child can be signalled: {error}");
            }
        }
    }
}

fn start(spec: Spec) -> io::Result<Started> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    let mut inherited: Vec<RawFd> = Vec::with_capacity(spec.descriptors.len());
    for (variable, descriptor) in &spec.descriptors {
        command.env(variable, descriptor.as_raw_fd().to_string());
        inherited.push(descriptor.as_raw_fd());
    }
    command.stdin(Stdio::null()).stdout(stdio(spec.stdout)).stderr(stdio(spec.stderr)).process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes three kinds of plain
    // system calls through rustix' raw backend and reads a vector and an integer made before the fork; it neither
    // allocates, locks nor panics (errors are built from numbers). The numbers in `inherited` are open for as long as
    // `spec` lives, which is until after `spawn` returned. No safe way exists: std has no parent-death signal.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for &number in &inherited {
                // SAFETY: open in the parent while it forks, see above; borrowed for this one call.
                let descriptor = BorrowedFd::borrow_raw(number);
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let mut known = known();
    let mut process = command.spawn()?;
    match rustix::process::pidfd_open(rustix_pid(pid_of(&process))?, PidfdFlags::empty()) {
        Ok(pidfd) => {
            known.insert(pid_of(&process));
            Ok(Started { process, pidfd })
        }
        Err(error) => {
            process.kill()?;
            process.wait()?;
            Err(error.into())
        }
    }
}

fn stdio(output: Output) -> Stdio {
    match output {
        Output::Null => Stdio::null(),
        Output::Inherit => Stdio::inherit(),
        Output::Pipe => Stdio::piped(),
    }
}

/// A child process and the group it leads. Dropping it kills the group.
///
/// `AsFd`/`AsRawFd` are its pidfd, which is readable once the child has ended: wait for that with `poll` or an event
/// loop, then [`Child::reap`].
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    pidfd: Arc<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    ended: Option<ExitStatus>,
    /// Keeps the forking thread, and with it the child, alive.
    _spawner: Spawner,
}

impl Child {
    /// The read end of its standard output, once, if that is a pipe.
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }

    /// The read end of its standard error, once, if that is a pipe.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// Sends a signal to the child and everything in its group. After [`Child::reap`] there is nobody left: no error.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the child changed its user.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        match rustix::process::kill_process_group(rustix_pid(self.pid())?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the child's exit status if it has ended; `None` while it runs. Never blocks.
    ///
    /// What is left of its group is killed first, while the zombie still pins the group's number.
    ///
    /// # Errors
    /// When the kernel does not know the child, which means that somebody else waited for it.
    pub fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), look))?.is_none() {
            return Ok(None);
        }
        self.signal_group(Signal::KILL)?;
        // Forgotten in the same step: were it known a moment longer, the next process with its pid would count as ours.
        let mut known = known();
        self.ended = self.process.try_wait()?;
        known.remove(&self.pid());
        Ok(self.ended)
    }

    /// Its process id, also that of its group.
    pub fn pid(&self) -> i32 {
        pid_of(&self.process)
    }

    /// A handle on the pidfd for an event loop that wants to own it.
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error here means that the group is gone or out of reach; there is nobody left to tell.
        let killed = self.signal_group(Signal::KILL);
        if killed.is_ok() && !matches!(self.reap(), Ok(Some(_))) {
            // It is dying but not dead. From here on it is an orphan, and whoever reaps those reaps it.
            known().remove(&self.pid());
        }
    }
}

/// A descendant that nobody here waits for: it left its group and its parent died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its process id.
    pub pid: i32,
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// It has ended and only waits to be reaped.
    pub ended: bool,
}

impl Orphan {
    /// Kills it, and reaps it if it has ended by now.
    ///
    /// # Errors
    /// When the kernel refuses the signal. One that is gone already is no error.
    pub fn end(&self) -> io::Result<()> {
        let pid = rustix_pid(self.pid)?;
        // Whether it is still our own child decides whether the pid means the same process as when it was listed.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(pid), look) {
            Ok(None) => rustix::process::kill_process(pid, Signal::KILL)?,
            Ok(Some(_)) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(_) | Err(rustix::io::Errno::CHILD) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes this process the one to which descendants fall whose parents died. Children do not inherit it.
///
/// # Errors
/// When the kernel is older than 3.4.
pub fn set_subreaper() -> io::Result<()> {
    // The kernel takes any number other than zero for "yes"; the pid itself does not matter.
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Children of this process that no [`Child`] stands for. Reads `/proc` once; call it after a child ended and at the end.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn orphans() -> io::Result<Vec<Orphan>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let known = known();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that ended in between has no file any more.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some((name, state, parent)) = parse_stat(&stat)
            && parent == own
            && !known.contains(&pid)
        {
            found.push(Orphan { pid, name: name.to_owned(), ended: state == 'Z' });
        }
    }
    Ok(found)
}

/// Name, state and parent from `PID (NAME) STATE PPID …`, where the name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(&str, char, i32)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let mut rest = stat.get(close + 1..)?.split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((stat.get(open + 1..close)?, state, rest.next()?.parse().ok()?))
}

fn known() -> MutexGuard<'static, BTreeSet<i32>> {
    // A set of numbers is whole after every step, whoever panicked.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pid_of(process: &std::process::Child) -> i32 {
    // Linux pids are positive and below 2^22.
    process.id().cast_signed()
}

fn rustix_pid(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::{BufRead, BufReader, Read};

    fn shell(script: &str) -> Spec {
        let mut spec = Spec::new("/bin/sh");
        spec.args = vec!["-c".into(), script.into()];
        spec.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        spec
    }

    /// Waits for a pidfd, at most 20 s.
    fn ended(fd: impl AsFd) -> bool {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 }))).is_ok_and(|n| n == 1)
    }

    fn read_all(fd: Option<OwnedFd>) -> String {
        let mut text = String::new();
        std::fs::File::from(fd.expect("a pipe")).read_to_string(&mut text).expect("readable");
        text
    }

    fn open(pid: i32) -> Option<OwnedFd> {
        rustix::process::pidfd_open(rustix_pid(pid).ok()?, PidfdFlags::empty()).ok()
    }

    #[test]
    fn a_child_gets_its_arguments_environment_and_descriptors_and_nothing_else() {
        let (read, write) = std::io::pipe().expect("pipe");
        let mut spec = shell(r#"eval "echo through >&$SECRET_FD"; env | sort; pwd"#);
        spec.env.push(("GREETING".into(), "hello".into()));
        spec.descriptors.push(("SECRET_FD".into(), write.into()));
        spec.directory = Some("/".into());
        spec.stdout = Output::Pipe;
        let mut child = Spawner::start().expect("thread").spawn(spec).expect("started");
        let output = read_all(child.take_stdout());
        assert!(output.contains("GREETING=hello\n") && output.contains("SECRET_FD=") && output.ends_with("/\n"), "{output}");
        assert!(!output.contains("CARGO"), "the environment was inherited: {output}");
        assert_eq!(read_all(Some(read.into())), "through\n", "and the parent's copy was closed");
        assert!(ended(&child));
        assert!(child.reap().expect("waitable").is_some_and(|status| status.success()));
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error_that_names_it() {
        let error = Spawner::start().expect("thread").spawn(Spec::new("/no/such/program")).expect_err("nothing to run");
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_signal_reaches_the_whole_group_and_reaping_kills_what_is_left_of_it() {
        let mut spec = shell("sleep 1000 & echo $!; exit 3");
        spec.stdout = Output::Pipe;
        let mut child = Spawner::start().expect("thread").spawn(spec).expect("started");
        let mut line = String::new();
        BufReader::new(std::fs::File::from(child.take_stdout().expect("pipe"))).read_line(&mut line).expect("a pid");
        let left = open(line.trim().parse().expect("a number")).expect("it still runs");
        assert!(ended(&child));
        let status = child.reap().expect("waitable").expect("ended");
        assert_eq!(status.code(), Some(3));
        assert!(ended(&left), "the background process outlived its group");
        assert!(child.signal_group(Signal::KILL).is_ok(), "a reaped child has nobody left to signal");
    }

    #[test]
    fn dropping_a_child_kills_its_group() {
        let child = Spawner::start().expect("thread").spawn(shell("sleep 1000 & sleep 1000")).expect("started");
        let pidfd = child.pidfd();
        assert!(child.pid() > 1);
        drop(child);
        assert!(ended(&*pidfd));
    }

    #[test]
    fn children_die_with_a_parent_that_is_killed() {
        // The parent is this test binary again, running only this test with the variable set.
        if std::env::var_os("ZIPLINE_TEST_PARENT").is_some() {
            let child = Spawner::start().expect("thread").spawn(shell("exec sleep 1000")).expect("started");
            println!("\npid {}", child.pid());
            loop {
                std::thread::park();
            }
        }
        let mut spec = Spec::new(std::env::current_exe().expect("own path"));
        spec.args = ["--exact", "child::tests::children_die_with_a_parent_that_is_killed", "--nocapture"].map(Into::into).into();
        spec.env = vec![("ZIPLINE_TEST_PARENT".into(), "1".into())];
        spec.stdout = Output::Pipe;
        let mut parent = Spawner::start().expect("thread").spawn(spec).expect("started");
        let output = BufReader::new(std::fs::File::from(parent.take_stdout().expect("pipe")));
        let pid = output.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("pid ")?.parse().ok()).expect("a pid");
        let child = open(pid).expect("it runs");
        rustix::process::kill_process(rustix_pid(parent.pid()).expect("a pid"), Signal::KILL).expect("killed");
        assert!(ended(&parent) && ended(&child));
    }

    #[test]
    fn a_descendant_that_left_its_group_is_found_and_ended_as_an_orphan() {
        set_subreaper().expect("supported");
        let script = "mkfifo told && { setsid sh -c 'echo $$ > told; exec sleep 1000' & cat told; }";
        let directory = tempfile::tempdir().expect("scratch");
        let mut spec = shell(script);
        spec.directory = Some(directory.path().into());
        spec.stdout = Output::Pipe;
        let mut child = Spawner::start().expect("thread").spawn(spec).expect("started");
        let mut line = String::new();
        BufReader::new(std::fs::File::from(child.take_stdout().expect("pipe"))).read_line(&mut line).expect("a pid");
        let pid: i32 = line.trim().parse().expect("a number");
        assert!(ended(&child));
        assert!(child.reap().expect("waitable").is_some());
        let lost = orphans().expect("readable").into_iter().find(|orphan| orphan.pid == pid).expect("found");
        assert!(!lost.ended);
        let pidfd = open(lost.pid).expect("it runs");
        lost.end().expect("killed");
        assert!(ended(&pidfd));
        lost.end().expect("reaped, or gone already");
        assert!(!orphans().expect("readable").iter().any(|orphan| orphan.pid == lost.pid));
    }

    #[test]
    fn a_process_name_with_spaces_and_parentheses_is_read() {
        assert_eq!(parse_stat("12 (a) b (c) Z 34 5"), Some(("a) b (c", 'Z', 34)));
        assert_eq!(parse_stat("garbage"), None);
    }
}
