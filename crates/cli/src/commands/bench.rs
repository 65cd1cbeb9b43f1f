//! `zipline bench`: hands over to the separate program that measures.

use std::ffi::OsString;

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::programs;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Bench {
    /// Arguments of `zipline-bench`; `zipline bench --help` shows its own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes `zipline-bench`; comes back only when that is not possible.
pub(crate) fn run(bench: Bench, output: Output) -> Result<Outcome, Failure> {
    programs::become_program("zipline-bench", bench.arguments, output)
}
