//! `bench soak`: the fault harness (`zipline-faults`, beside this program) for a long time, on worlds that last.
//!
//! Processes are killed, frozen and cut off at named points of their code, which only debug builds have; so this is a program of debug
//! builds, and release builds say how to come by it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

const HARNESS: &str = "zipline-faults";

/// Becomes the harness; returns only when it can't be started.
pub(crate) fn run(lasts: &str, seed: u64, json: bool) -> Result<()> {
    let program = std::env::current_exe().context("the bench cannot find its own program")?.with_file_name(HARNESS);
    if cfg!(not(debug_assertions)) || !program.exists() {
        bail!(
            "a soak stops processes at points that only debug builds have; in the source folder run \
             `cargo build -p zipline-faults -p zipline-queue-proxy -p zipline-bench -p zipline-cli && target/debug/zipline bench soak --for {lasts}`"
        );
    }
    let mut harness = Command::new(&program);
    harness.args(["--for", lasts, "--seed", &seed.to_string()]).args(json.then_some("--json"));
    Err(harness.exec()).with_context(|| format!("starting {}", program.display()))
}
