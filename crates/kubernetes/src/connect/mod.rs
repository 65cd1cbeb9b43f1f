//! `zipline connect`: a cluster that looks like the local platform to the `zipline` command.
//!
//! A folder of this user's alone gets the two sockets that a running platform has: `control.sock` speaks the control API of
//! `docs/reference/control-api.md` and does with a cluster's Knative what the local platform does itself; `client.sock` is the
//! local API of a client proxy, a queue-proxy without a function that runs in the namespace and is reached by port forwarding, so by
//! the rights of whoever runs this. What is put there stays there when this ends; `zipline uninstall` removes the client proxy.
//!
//! Descriptors cannot pass over a forwarded socket: payloads go over HTTP.

mod control;
mod forward;
mod proxy;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kube::Client;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::install::InstallError;

pub(crate) use proxy::remove_everywhere;

/// The line that says that both sockets are there.
const READY: &str = "ready";

/// Arguments of `zipline connect`.
#[derive(Clone, Debug, Args)]
pub struct Connect {
    /// Namespace whose trust domain the client proxy joins, and that manifests without one go to
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Folder for the sockets, made new and removed at the end
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// End when standard input does
    #[arg(long, hide = true)]
    while_stdin_is_open: bool,
    /// How long to wait for the client proxy, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait_seconds: u64,
}

/// Why a connection ended or was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The cluster refused, or is not set up.
    #[error(transparent)]
    Cluster(#[from] InstallError),
    /// The sockets can't be made.
    #[error("{what} {}: {error}; hint: name a folder that does not exist yet with --state", path.display())]
    Folder {
        /// What can't be made.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Signals can't be listened for.
    #[error("listening for signals: {0}")]
    Signals(io::Error),
}

/// Serves both sockets until a signal or, where asked for, the end of standard input.
///
/// # Errors
/// When the cluster refuses, has no Zipline, or the sockets can't be made.
pub async fn connect(client: Client, arguments: Connect) -> Result<(), ConnectError> {
    let limit = Duration::from_secs(arguments.wait_seconds);
    let mut interrupted = signal(SignalKind::interrupt()).map_err(ConnectError::Signals)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(ConnectError::Signals)?;
    let folder = Folder::create(&arguments.state)?;
    let (control, api) = (folder.listen("control.sock")?, folder.listen("client.sock")?);
    let ensured = proxy::ensure(&client, &arguments.namespace, limit);
    tokio::select! {
        ensured = ensured => ensured?,
        _ = interrupted.recv() => return Ok(()),
        _ = terminated.recv() => return Ok(()),
        () = stdin_ended(), if arguments.while_stdin_is_open => return Ok(()),
    }
    println!("{READY} {}", arguments.state.display());
    tokio::select! {
        () = control::serve(control, client.clone(), arguments.namespace.clone()) => {}
        () = forward::serve(api, client, arguments.namespace) => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = stdin_ended(), if arguments.while_stdin_is_open => {}
    }
    Ok(())
}

/// The folder of the sockets, which only its maker may enter; removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create(path: &Path) -> Result<Self, ConnectError> {
        let made = DirBuilder::new().mode(0o700).create(path);
        made.map_err(|error| ConnectError::Folder { what: "the folder", path: path.to_owned(), error })?;
        Ok(Self(path.to_owned()))
    }

    fn listen(&self, name: &str) -> Result<UnixListener, ConnectError> {
        let path = self.0.join(name);
        UnixListener::bind(&path).map_err(|error| ConnectError::Folder { what: "the socket", path, error })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the folder of the sockets is left");
        }
    }
}

/// Waits for the end of standard input. Its thread ends with the process: nothing wakes a read that nobody answers.
async fn stdin_ended() {
    let (ended, end) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        // An error is an end too.
        let _copied = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(ended);
    });
    let _ended = end.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_sockets_of_a_cluster_lie_in_a_new_folder_that_only_its_maker_may_enter() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("state");
        let folder = Folder::create(&path).expect("made");
        let _socket = folder.listen("client.sock").expect("bound");
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let refused = Folder::create(&path).map(|_| ()).expect_err("somebody else's, for all that is known").to_string();
        assert!(refused.contains("does not exist yet"), "{refused}");
        drop(folder);
        assert!(!path.exists());
    }
}
