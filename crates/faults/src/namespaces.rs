//! Namespaces of the harness's own: its network, so that packets can be lost without hurting anybody, and its processes, so
//! that with its end, whatever the cause, everything that it started ends.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Says to the harness that it has them.
const VARIABLE: &str = "ZIPLINE_FAULTS_NAMESPACE";
const UNSHARE: [&str; 7] = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--"];

/// Whether this process is in namespaces of its own.
pub(crate) fn are_ours() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Starts this program again in namespaces of its own, if that is possible here; comes back only where it is not.
pub(crate) fn enter() -> Result<()> {
    if are_ours() || !are_possible() {
        return Ok(());
    }
    let program = std::env::current_exe().context("the harness's own path")?;
    let error = Command::new("unshare")
        .args(UNSHARE)
        .args(["sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .exec();
    Err(error).context("starting unshare")
}

/// Whether they can be made here, and packets lost in them: root is the usual way.
fn are_possible() -> bool {
    let mut tried = Command::new("unshare");
    tried.args(UNSHARE).args(["sh", "-c", "ip link set lo up && nft list tables"]);
    tried.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
