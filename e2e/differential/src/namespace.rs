//! Running this program again in a network and a mount namespace of its own.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::compare::Answers;
use crate::proxy::Side;
use crate::{cases, compare};

/// Raises loopback, and gives Knative's fixed place for certificates a folder of this run's.
const PREPARE: &str = r#"ip link set lo up && mount -t tmpfs none /var/lib && mkdir -p /var/lib/knative/certs && exec "$0" "$@""#;

/// The answers of a side: in namespaces of their own, or, for ours and where none can be had, right here.
pub(crate) fn answers(side: &Side, filter: Option<&str>) -> Result<Answers> {
    if !can_separate() {
        if side.is_stock {
            bail!("Knative's queue-proxy binds fixed ports and needs a network namespace of its own (root is the usual way)");
        }
        return cases::answers(side, filter);
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", PREPARE]).arg(std::env::current_exe()?);
    command.args(["answers", "--program"]).arg(&side.program);
    command.args(side.is_stock.then_some("--stock"));
    command.args(filter.map(|filter| ["--filter", filter]).into_iter().flatten());
    let output = command.stderr(Stdio::inherit()).output().context("starting unshare")?;
    if !output.status.success() {
        bail!("the cases did not run against {}", side.program.display());
    }
    compare::parse(&output.stdout)
}

fn can_separate() -> bool {
    let tried = Command::new("unshare").args(["--net", "--mount", "sh", "-c", PREPARE, "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
