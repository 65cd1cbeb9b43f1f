//! The state directory of one `zipline up`: who holds it, and where things lie in it.
//!
//! ```text
//! STATE/                  mode 0700
//!   lock                  held while the platform runs; contains its pid
//!   control.sock          control API of the platform
//!   client.sock           local API of the client proxy
//!   api.token             mode 0600: what local APIs on loopback TCP want to see, where they were asked for
//!   decisions.jsonl       every decision of the autoscaler, with its inputs
//!   h/                    hand-over sockets of the queue-proxies
//!   i/ADDRESS.sock        local API of each instance's queue-proxy
//!   logs/NAMESPACE/SERVICE/INSTANCE.log
//! ```
//!
//! Whatever a killed platform left in it is removed at the next start; logs are kept until then.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Bytes of a Unix socket's path, without the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Bytes left for a socket's name below the state directory; the longest is `h/ADDRESS:PORT.sock` with 28.
const SOCKET_NAME_BYTES_MAX: usize = 40;

/// Why a state directory can't be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// Another platform runs on it.
    #[error("state directory {} is in use by another `zipline up`, pid {pid} (hint: use that one, or give this one another --state)", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it; `unknown` while that one is just starting.
        pid: String,
    },
    /// Sockets in it would have too long a path.
    #[error("state directory {} is too long a path: {} bytes, at most {bytes_max} (a socket's path is limited by the system)", path.display(), path.as_os_str().len())]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// Most bytes of a state directory's path.
        bytes_max: usize,
    },
    /// It belongs to another user.
    #[error("state directory {} belongs to uid {owner}, not to this process's uid {own}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Ours.
        own: u32,
    },
    /// The system refused.
    #[error("state directory {}: {source}", path.display())]
    Io {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    owner: u32,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if needed, takes its lock and clears what an earlier platform left.
    ///
    /// # Errors
    /// When another platform holds it, it is another user's, its path is too long, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        let path = path.canonicalize().map_err(io_error(path))?;
        let bytes_max = SOCKET_PATH_BYTES_MAX - SOCKET_NAME_BYTES_MAX - 1;
        if path.as_os_str().len() > bytes_max {
            return Err(StateDirError::TooLong { path, bytes_max });
        }
        let lock = take_lock(&path)?;
        // The owner of a file we have just been able to lock is ours; the directory's may not be.
        let own = lock.metadata().map_err(io_error(&path))?.uid();
        let owner = fs::metadata(&path).map_err(io_error(&path))?.uid();
        if owner != own {
            return Err(StateDirError::Foreign { path, owner, own });
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(io_error(&path))?;
        let state = Self { path, owner, _lock: lock };
        state.clear().map_err(io_error(&state.path))?;
        for directory in [state.handover_dir(), state.instances_dir(), state.logs_dir()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(io_error(&directory))?;
        }
        Ok(state)
    }

    fn clear(&self) -> io::Result<()> {
        for directory in [self.handover_dir(), self.instances_dir(), self.logs_dir()] {
            absent_is_fine(fs::remove_dir_all(directory))?;
        }
        for file in [self.control_socket(), self.client_socket(), self.api_token_file(), self.decision_log()] {
            absent_is_fine(fs::remove_file(file))?;
        }
        Ok(())
    }

    /// Removes the sockets and the token; logs and decisions stay for whoever wants to read them.
    pub(crate) fn close(&self) {
        for directory in [self.handover_dir(), self.instances_dir()] {
            warn_unless_absent(&directory, fs::remove_dir_all(&directory));
        }
        for file in [self.control_socket(), self.client_socket(), self.api_token_file()] {
            warn_unless_absent(&file, fs::remove_file(&file));
        }
    }

    /// The directory itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user it belongs to, which is this process's.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Socket of the control API.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Socket of the client proxy's local API.
    pub fn client_socket(&self) -> PathBuf {
        self.path.join("client.sock")
    }

    /// The token of the local APIs on loopback TCP.
    pub fn api_token_file(&self) -> PathBuf {
        self.path.join("api.token")
    }

    /// Writes the token for this user alone.
    pub(crate) fn write_api_token(&self, token: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(self.api_token_file())?;
        writeln!(file, "{token}")
    }

    /// The autoscaler's decisions, one JSON document a line.
    pub fn decision_log(&self) -> PathBuf {
        self.path.join("decisions.jsonl")
    }

    /// Directory of the hand-over sockets.
    pub fn handover_dir(&self) -> PathBuf {
        self.path.join("h")
    }

    /// Directory of the logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Socket of an instance's local API. It is called after the address, which is short, and not after the name.
    pub(crate) fn instance_socket(&self, address: Ipv4Addr) -> PathBuf {
        self.instances_dir().join(format!("{address}.sock"))
    }

    fn instances_dir(&self) -> PathBuf {
        self.path.join("i")
    }
}

fn take_lock(path: &Path) -> Result<File, StateDirError> {
    let lock_path = path.join("lock");
    let io_error = |source| StateDirError::Io { path: lock_path.clone(), source };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options.open(&lock_path).map_err(io_error)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io_error)?;
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(StateDirError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(io_error(source)),
    }
    lock.set_len(0).map_err(io_error)?;
    lock.rewind().map_err(io_error)?;
    writeln!(lock, "{}", std::process::id()).map_err(io_error)?;
    Ok(lock)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn warn_unless_absent(path: &Path, result: io::Result<()>) {
    if let Err(error) = absent_is_fine(result) {
        tracing::warn!(path = %path.display(), %error, "left behind");
    }
}

/// Where `zipline up` keeps its state when it is not told: `$XDG_RUNTIME_DIR/zipline`, else
/// `$XDG_STATE_HOME/zipline`, else `$HOME/.local/state/zipline`; `None` where none of them is set.
pub fn default_state_dir() -> Option<PathBuf> {
    state_dir_from(|name| std::env::var_os(name))
}

fn state_dir_from(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_RUNTIME_DIR")
        .or_else(|| directory("XDG_STATE_HOME"))
        .or_else(|| Some(directory("HOME")?.join(".local/state")))
        .map(|base| base.join("zipline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_platform_is_told_the_firsts_pid_until_that_one_is_gone() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("state");
        let first = StateDir::open(&path).expect("free");
        let error = StateDir::open(&path).expect_err("taken");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        StateDir::open(&path).expect("free again");
    }

    #[test]
    fn what_an_earlier_platform_left_is_gone_at_the_next_start() {
        let scratch = tempfile::tempdir().expect("scratch");
        let state = StateDir::open(scratch.path()).expect("free");
        fs::write(state.control_socket(), "").expect("written");
        fs::write(state.handover_dir().join("x"), "").expect("written");
        drop(state);
        let state = StateDir::open(scratch.path()).expect("free");
        assert!(!state.control_socket().exists() && !state.handover_dir().join("x").exists());
        let mode = fs::metadata(state.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_with_the_limit() {
        let scratch = tempfile::tempdir().expect("scratch");
        let error = StateDir::open(&scratch.path().join("s".repeat(80))).expect_err("too long");
        assert!(matches!(error, StateDirError::TooLong { bytes_max: 66, .. }), "{error}");
    }

    #[test]
    fn the_default_follows_the_xdg_variables() {
        let with = |set: &'static [(&str, &str)]| {
            state_dir_from(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "/run/u"), ("HOME", "/h")]), Some("/run/u/zipline".into()));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "relative"), ("XDG_STATE_HOME", "/s")]), Some("/s/zipline".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/state/zipline".into()));
        assert_eq!(with(&[]), None);
    }
}
