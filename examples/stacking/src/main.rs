//! Training a stacking ensemble as a workflow of scaled functions: a broadcast, then a gather.
//!
//! One program, four services (`driver`, `trainer`, `reducer`, `meta-trainer`) and a plain computation to check them against.
//! [`roles`] is the whole workflow.
#![forbid(unsafe_code)]

mod data;
mod learners;
mod linear;
mod roles;

use std::io::Write;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "zipline-stacking", version, about = "Training a stacking ensemble as a workflow of scaled functions")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the driver
    Driver,
    /// Serve as a trainer
    Trainer,
    /// Serve as the reducer
    Reducer,
    /// Serve as the meta-trainer
    MetaTrainer,
    /// Compute the answer in this one process; prints JSON
    Reference {
        #[arg(long, default_value_t = 300)]
        rows: usize,
        #[arg(long, default_value_t = 1024)]
        features: usize,
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Driver => zipline_workflow::serve(roles::drive),
        Command::Trainer => zipline_workflow::serve(roles::train_learner),
        Command::Reducer => zipline_workflow::serve(roles::reduce),
        Command::MetaTrainer => zipline_workflow::serve(roles::train_on_top),
        Command::Reference { rows, features, seed } => {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &roles::reference(data::Shape { rows, features, seed })?)?;
            writeln!(out).context("writing to standard output")
        }
    }
}
