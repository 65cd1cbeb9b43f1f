//! The process's side of the steering, in debug builds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::{KEPT_VARIABLE, SOCKET_VARIABLE};

/// How long the start waits for the test to arm what it wants.
const READY_LIMIT: Duration = Duration::from_secs(10);

static STEERING: OnceLock<Steering> = OnceLock::new();
static WALL_SHIFT_MS: AtomicI64 = AtomicI64::new(0);
static KEPT: OnceLock<Option<Duration>> = OnceLock::new();

#[derive(Debug)]
struct Steering {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How often each point is passed until somebody stands there.
    armed: HashMap<String, u32>,
    /// How often everybody was let go.
    gone: u64,
    ready: bool,
    /// To the test; none once it has gone away.
    test: Option<UnixStream>,
}

/// Says hello to the test that started this process, if one did, and waits until it has armed what it wants. Called once,
/// by `main`, before anything is served.
pub fn enlist(name: &str) {
    let Some(path) = std::env::var_os(SOCKET_VARIABLE) else { return };
    match join(&path, name) {
        Ok(reader) => {
            // Lives as long as the process: it ends with the connection.
            let thread = std::thread::Builder::new().name("fault-points".into()).spawn(move || listen(reader));
            if thread.is_ok() {
                wait_until_ready();
            }
        }
        Err(error) => eprintln!("fault points: {} cannot be joined: {error}", path.display()),
    }
}

fn join(path: &std::ffi::OsStr, name: &str) -> std::io::Result<BufReader<UnixStream>> {
    let mut test = UnixStream::connect(path)?;
    test.write_all(format!("hello {} {name}\n", std::process::id()).as_bytes())?;
    let reader = BufReader::new(test.try_clone()?);
    let state = State { armed: HashMap::new(), gone: 0, ready: false, test: Some(test) };
    STEERING.get_or_init(|| Steering { state: Mutex::new(state), changed: Condvar::new() });
    Ok(reader)
}

fn listen(reader: BufReader<UnixStream>) {
    let Some(steering) = STEERING.get() else { return };
    for line in reader.lines().map_while(Result::ok) {
        steering.obey(&line);
    }
    let mut state = steering.lock();
    state.test = None;
    state.armed.clear();
    steering.changed.notify_all();
}

fn wait_until_ready() {
    let Some(steering) = STEERING.get() else { return };
    let waiting = |state: &mut State| !state.ready && state.test.is_some();
    let state = steering.changed.wait_timeout_while(steering.lock(), READY_LIMIT, waiting);
    drop(state.unwrap_or_else(PoisonError::into_inner));
}

/// Stands here until it is let go, if this point was armed for this passing. See [`fault_point!`](crate::fault_point).
pub fn reached(point: &str) {
    let Some(steering) = STEERING.get() else { return };
    let mut state = steering.lock();
    let Some(left) = state.armed.get_mut(point) else { return };
    *left = left.saturating_sub(1);
    if *left > 0 {
        return;
    }
    state.armed.remove(point);
    let gone = state.gone;
    if let Some(test) = &mut state.test
        && test.write_all(format!("reached {point}\n").as_bytes()).is_err()
    {
        return;
    }
    let standing = |state: &mut State| state.gone == gone && state.test.is_some();
    drop(steering.changed.wait_while(state, standing).unwrap_or_else(PoisonError::into_inner));
}

/// By how much the wall clock is wrong, in milliseconds.
pub fn wall_shift_ms() -> i64 {
    WALL_SHIFT_MS.load(Ordering::Relaxed)
}

/// How long unused connections are kept: what the code says, or less where a test does not want to wait.
pub fn kept_for(normal: Duration) -> Duration {
    let shortened = KEPT.get_or_init(|| Some(Duration::from_millis(std::env::var(KEPT_VARIABLE).ok()?.parse().ok()?)));
    shortened.map_or(normal, |kept| kept.min(normal))
}

/// Variables that a process hands to the processes it starts, so that they can be steered too.
pub fn passed_on() -> impl Iterator<Item = (String, String)> {
    [SOCKET_VARIABLE, KEPT_VARIABLE].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}

impl Steering {
    fn obey(&self, line: &str) {
        let mut words = line.split_whitespace();
        let mut state = self.lock();
        match (words.next(), words.next(), words.next()) {
            (Some("ready"), ..) => state.ready = true,
            (Some("arm"), Some(point), Some(nth)) => {
                state.armed.insert(point.to_owned(), nth.parse().unwrap_or(1).max(1));
            }
            (Some("disarm"), ..) => state.armed.clear(),
            (Some("go"), ..) => state.gone += 1,
            (Some("clock"), Some(shift), _) => {
                WALL_SHIFT_MS.store(shift.parse().unwrap_or(0), Ordering::Relaxed);
                if let Some(test) = &mut state.test {
                    // A test that is gone needs no answer; the end of the connection is seen where it is read.
                    test.write_all(b"clocked\n").ok();
                }
            }
            _ => eprintln!("fault points: {line:?} is not understood"),
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
