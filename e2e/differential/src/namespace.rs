//! Running this program again, many times at once, each in a network and a mount namespace of its own.
//!
//! Most of a case is waiting: for a limit on time, for a report each second. So the cases are dealt out to a number of processes that
//! run side by side.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::compare;
use crate::compare::Answers;
use crate::proxy::Side;

/// Processes that the cases are dealt out to.
const SHARDS: usize = 24;
/// Raises loopback, and gives Knative's fixed place for certificates a folder of this run's.
const PREPARE: &str = r#"ip link set lo up && mount -t tmpfs none /var/lib && mkdir -p /var/lib/knative/certs && exec "$0" "$@""#;

/// The answers of a side: in namespaces of their own, or, for ours and where none can be had, right here.
pub(crate) fn answers(side: &Side, filter: Option<&str>) -> Result<Answers> {
    let is_separate = can_separate();
    if side.is_stock && !is_separate {
        bail!("Knative's queue-proxy binds fixed ports and needs a network namespace of its own (root is the usual way)");
    }
    let shards: Vec<Child> = (0..SHARDS).map(|shard| start(side, filter, shard, is_separate)).collect::<Result<_>>()?;
    // All are waited for before anything is said of one.
    let outputs: Vec<_> = shards.into_iter().map(Child::wait_with_output).collect();
    let mut answers = Answers::new();
    for output in outputs {
        let output = output.context("waiting for a shard")?;
        if !output.status.success() {
            bail!("the cases did not run against {}", side.program.display());
        }
        answers.extend(compare::parse(&output.stdout)?);
    }
    Ok(answers)
}

fn start(side: &Side, filter: Option<&str>, shard: usize, is_separate: bool) -> Result<Child> {
    let own = std::env::current_exe()?;
    let mut command = if is_separate {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", PREPARE]).arg(own);
        command
    } else {
        Command::new(own)
    };
    command.args(["answers", "--shard", &format!("{shard}/{SHARDS}"), "--program"]).arg(&side.program);
    command.args(side.is_stock.then_some("--stock"));
    command.args(filter.map(|filter| ["--filter", filter]).into_iter().flatten());
    command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().context("starting a shard")
}

fn can_separate() -> bool {
    let tried = Command::new("unshare").args(["--net", "--mount", "sh", "-c", PREPARE, "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
