//! `cargo xtask faults`: real faults on the real binaries, by the harness in `crates/faults`.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, root};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seeds to run [default: 250]
    #[arg(long)]
    runs: Option<u64>,
    /// The first seed [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Faults of each seed [default: 10]
    #[arg(long)]
    faults: Option<u64>,
    /// Seeds at once [default: 6]
    #[arg(long)]
    jobs: Option<u64>,
    /// In place of seeds: worlds that last, for so long (`90s`, `10m`, `1h`), and are at the end as at the beginning
    #[arg(long = "for")]
    lasts: Option<String>,
    /// One JSON document in place of text
    #[arg(long)]
    json: bool,
}

/// Runs them; false when something was lost, leaked or hung.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = root()?;
    let mut build = Command::new(cargo());
    build.current_dir(&root).args(["build", "--quiet", "--locked", "-p", "zipline-queue-proxy", "-p", "zipline-faults"]);
    if !build.status().context("starting cargo")?.success() {
        bail!("the harness does not build");
    }
    let mut command = Command::new(root.join("target/debug/zipline-faults"));
    for (name, value) in
        [("--runs", options.runs), ("--seed", options.seed), ("--faults", options.faults), ("--jobs", options.jobs)]
    {
        if let Some(value) = value {
            command.args([name.to_owned(), value.to_string()]);
        }
    }
    if let Some(lasts) = &options.lasts {
        command.args(["--for", lasts]);
    }
    command.args(options.json.then_some("--json"));
    Ok(command.status().context("starting the harness")?.success())
}
