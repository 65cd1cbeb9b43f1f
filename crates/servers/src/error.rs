//! Why there is no server.

use std::io;
use std::time::Duration;

/// A server that could not be found, installed or started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its program is nowhere.
    #[error("{server} is not installed: there is no `{program}` {places}")]
    NotInstalled {
        /// The server.
        server: &'static str,
        /// Its program.
        program: &'static str,
        /// Where it was looked for.
        places: String,
    },
    /// It is installed from a package that needs rights this process lacks.
    #[error("installing {server} needs root: the Debian package `{package}`")]
    NeedsRoot {
        /// The server.
        server: &'static str,
        /// The package.
        package: &'static str,
    },
    /// A package client failed.
    #[error("installing {server}: `{command}` {reason}")]
    Install {
        /// The server.
        server: &'static str,
        /// What was run.
        command: String,
        /// How it ended, with the last of what it said.
        reason: String,
    },
    /// There is no folder to install into.
    #[error("there is no state directory: neither XDG_STATE_HOME nor HOME is set")]
    NoStateDirectory,
    /// It ended instead of serving.
    #[error("{server} ended while starting: {status}; its log ends with: {log}")]
    Ended {
        /// The server.
        server: &'static str,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// It did not serve in time.
    #[error("{server} does not serve after {waited:?}: {seen}; its log ends with: {log}")]
    NotReady {
        /// The server.
        server: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// What was seen instead.
        seen: String,
        /// The end of its log.
        log: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ServerError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotInstalled { .. } => "run `zipline bench setup`; it says what it installs",
            Self::NeedsRoot { .. } => "run `zipline bench setup` as root, or install the package yourself",
            Self::Install { .. } => "see that the package registries can be reached, and run `zipline bench setup` again",
            Self::NoStateDirectory => "set HOME or XDG_STATE_HOME",
            Self::Ended { .. } | Self::NotReady { .. } | Self::System { .. } => {
                "see the system's memory, disk and open files, and try again"
            }
        }
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
