//! `zipline install` and its like: hands over to the separate program that speaks with clusters, so that this one stays light.

use std::ffi::OsString;

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::programs;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Cluster {
    /// Arguments of the command; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes `zipline-kubernetes COMMAND`; comes back only when that is not possible.
pub(crate) fn run(command: &str, cluster: Cluster, output: Output) -> Result<Outcome, Failure> {
    let arguments = std::iter::once(OsString::from(command)).chain(cluster.arguments);
    programs::become_program("zipline-kubernetes", arguments, output)
}
