//! The project's own tools: tests, generated docs, checks on the code.
#![forbid(unsafe_code)]

mod docs;
mod faults;
mod guarantees;
mod image;
mod python;
mod python_constants;
mod sbom;
mod simulate;
mod stage;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// The project's own tools.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Builds everything, then runs every test: Rust, the SDKs, the suite recorded from the stock queue-proxy
    Test(test::Options),
    /// Writes the pages and the SDK constants that are made from the contract's tables
    Docs {
        /// Writes nothing; fails where a file is stale
        #[arg(long)]
        check: bool,
    },
    /// Writes the queue-proxy's image as an archive, without a container engine
    Image(image::Options),
    /// Runs seeded schedules of faults against core's decisions, then every mutant: see `docs/simulation.md`
    Simulate(simulate::Options),
    /// Kills, freezes and cuts the real binaries at every step of the protocol: see `docs/guarantees.md`
    Faults(faults::Options),
    /// Checks the code itself: lengths, leftover markers, arrows between crates, `unsafe` (also a plain test)
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Tool::Test(options) => test::run(&options),
        Tool::Docs { check } => docs::run(check),
        Tool::Image(options) => image::run(&options),
        Tool::Simulate(options) => simulate::run(&options),
        Tool::Faults(options) => faults::run(&options),
        Tool::Tidy => tidy::run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.ancestors().nth(2).context("this crate lies in crates/xtask")?.to_owned())
}

/// Cargo, as it was called; `cargo` where it was not.
fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}
