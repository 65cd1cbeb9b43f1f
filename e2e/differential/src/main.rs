//! The same requests to Knative's queue-proxy and to ours, and what came of them, line by line.
//!
//! A case starts a proxy with the variables that Knative's revision controller sets, in front of a function that does what the case
//! says, sends requests, and writes down what the client and the function saw. Answers are normalised (ports, times) and
//! compared as sets of lines. What differs must stand in `differences.json`, each with the row of
//! `docs/reference/knative-differences.md` that gives the reason; what stands there must differ.
//!
//! Knative's proxy binds fixed ports at all addresses, so every run has a network namespace of its own, which needs root. Without
//! root ours is run at an address of its own, and compared with what was recorded of Knative's.
#![forbid(unsafe_code)]

mod cases;
mod compare;
mod http2;
mod namespace;
mod proxy;
mod state;
mod transcript;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use compare::{Recorded, differences, load, recorded_path};
use proxy::Side;

/// Names Knative's queue-proxy.
const STOCK: &str = "ZIPLINE_STOCK_QUEUE_PROXY";

#[derive(Parser)]
#[command(about = "The same requests to Knative's queue-proxy and to ours")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compares ours with Knative's (named by ZIPLINE_STOCK_QUEUE_PROXY), or else with what was recorded of it
    Compare {
        /// Only cases whose name contains this
        filter: Option<String>,
        /// Prints the differences as they would stand in `differences.json`
        #[arg(long)]
        json: bool,
    },
    /// Records the answers of Knative's (named by ZIPLINE_STOCK_QUEUE_PROXY)
    Record {
        /// How to name its version
        #[arg(long)]
        version: String,
        /// How often: where it does not always do the same, each outcome is kept
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Prints the answers of one program as JSON
    Answers {
        /// The program
        #[arg(long)]
        program: PathBuf,
        /// It is Knative's
        #[arg(long)]
        stock: bool,
        /// Only cases whose name contains this
        #[arg(long)]
        filter: Option<String>,
        /// Only every so-many-th of them: `K/N` is the one with number K of each N
        #[arg(long, default_value = "0/1", value_parser = shard)]
        shard: Shard,
    },
}

/// One of N parts of the cases.
#[derive(Clone, Copy)]
struct Shard {
    number: usize,
    of: usize,
}

fn shard(text: &str) -> Result<Shard> {
    let (number, of) = text.split_once('/').context("not K/N")?;
    let (number, of) = (number.parse()?, of.parse()?);
    if number >= of {
        bail!("{number} is not below {of}");
    }
    Ok(Shard { number, of })
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether all is as it should be.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Answers { program, stock, filter, shard } => {
            let side = Side { program, is_stock: stock };
            println!("{}", serde_json::to_string(&cases::answers(&side, filter.as_deref(), shard)?)?);
            Ok(true)
        }
        Command::Record { version, runs } => {
            let program = stock()?.with_context(|| format!("{STOCK} names Knative's queue-proxy"))?;
            let side = Side { program, is_stock: true };
            let mut recorded = Recorded::new(version, namespace::answers(&side, None)?);
            for _ in 1..runs {
                recorded.add(namespace::answers(&side, None)?);
            }
            std::fs::write(recorded_path(), serde_json::to_string_pretty(&recorded)? + "\n")?;
            println!("{} cases recorded; {} do not always give the same", recorded.answers.len(), recorded.also.len());
            Ok(true)
        }
        Command::Compare { filter, json } => {
            let ours = Side { program: zipline_testkit::binary("zipline-queue-proxy")?, is_stock: false };
            let ours = namespace::answers(&ours, filter.as_deref())?;
            let stock = match stock()? {
                Some(program) => {
                    let answers = namespace::answers(&Side { program, is_stock: true }, filter.as_deref())?;
                    Recorded::new("run now".to_owned(), answers)
                }
                None => load()?,
            };
            println!("{} cases, compared with Knative's ({})", ours.len(), stock.version);
            let found = differences(&stock, &ours);
            if json {
                println!("{}", serde_json::to_string_pretty(&compare::as_list(&found))?);
                return Ok(true);
            }
            compare::judge(&found, filter.is_none())
        }
    }
}

fn stock() -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(STOCK).filter(|path| !path.is_empty()) else { return Ok(None) };
    let path = PathBuf::from(path);
    if !path.is_file() {
        bail!("{STOCK}: {} is no program", path.display());
    }
    Ok(Some(path))
}
