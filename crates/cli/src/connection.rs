//! The connection to a cluster: `zipline-kubernetes connect` beside this program, which serves the sockets of a platform in a
//! folder of this process. It ends with this process, since its standard input does.

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Failure};
use crate::programs;

/// The line with which it says that both sockets are there.
const READY: &str = "ready";
/// Bytes of its last words that are read.
const WORDS_BYTES_MAX: u64 = 64 * 1024;

/// Held for as long as the cluster is needed.
pub(crate) struct Connection {
    state: PathBuf,
    _child: Child,
    _scratch: TempDir,
}

impl Connection {
    /// Connects to the cluster of `KUBECONFIG`, in one of its namespaces.
    pub(crate) async fn open(namespace: &str) -> Result<Self, Failure> {
        let scratch = tempfile::Builder::new().prefix("zipline-cluster-").tempdir();
        let scratch = scratch.map_err(|error| Failure::system("a temporary folder for the cluster's sockets", &error))?;
        let state = scratch.path().join("state");
        let mut command = Command::new(programs::beside("zipline-kubernetes")?);
        command.args(["connect", "--while-stdin-is-open", "--namespace", namespace, "--state"]).arg(&state);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C is for this program, which still needs the cluster to leave nothing in it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| Failure::system("starting zipline-kubernetes", &error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::new(Exit::System, "protocol", "zipline-kubernetes was started without its pipes"));
        };
        let mut first = String::new();
        let read = BufReader::new(stdout).read_line(&mut first).await;
        if read.is_ok() && first.starts_with(READY) {
            return Ok(Self { state, _child: child, _scratch: scratch });
        }
        let mut words = String::new();
        // Whatever could be read of them is shown.
        let _read = stderr.take(WORDS_BYTES_MAX).read_to_string(&mut words).await;
        Err(refused(&words))
    }

    /// The folder of the sockets.
    pub(crate) fn state(&self) -> PathBuf {
        self.state.clone()
    }
}

/// The failure that the program's last words tell.
fn refused(words: &str) -> Failure {
    let line = words.lines().find_map(|line| line.strip_prefix("error: "));
    let message = line.unwrap_or_else(|| words.trim());
    let (message, mut hint) = match message.split_once("; hint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (message, None),
    };
    hint = hint.or_else(|| words.lines().find_map(|line| line.strip_prefix("hint: ")).map(str::to_owned));
    let failure = Failure::new(Exit::Refused, "cluster-refused", format!("the cluster can't be used: {message}"));
    Failure { hint, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_refuses_is_a_message_and_a_hint() {
        let failure = refused("error: Zipline is not switched on in namespace shop; hint: `kubectl label`\n");
        assert_eq!(failure.message, "the cluster can't be used: Zipline is not switched on in namespace shop");
        assert_eq!(failure.hint.as_deref(), Some("`kubectl label`"));
        let failure = refused("error: no cluster: x\nhint: set KUBECONFIG\n");
        assert_eq!(
            (failure.message.as_str(), failure.hint.as_deref()),
            ("the cluster can't be used: no cluster: x", Some("set KUBECONFIG"))
        );
        assert!(refused("Segmentation fault").message.ends_with("Segmentation fault"));
    }
}
