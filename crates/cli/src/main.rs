//! The `zipline` command, shaped after `kn`.
//!
//! Every command prints its result on standard output, as text or, with `--json`, as exactly one document; everything
//! else goes to standard error. `docs/reference/cli.md` lists commands, documents and exit codes.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod connection;
mod control;
mod failure;
mod format;
mod output;
mod programs;
mod running;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::connection::Connection;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::running::Running;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refused) => return not_understood(&refused),
    };
    let output = Output::new(arguments.json);
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(arguments, output)),
        Err(error) => Err(Failure::system("starting the runtime", &error)),
    };
    match outcome {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Ends with what clap says: help and version are results, the rest is a failure, under `--json` as a document too.
fn not_understood(refused: &clap::Error) -> ExitCode {
    if refused.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = refused.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure =
            Failure::new(Exit::Usage, "usage", message).hint("`zipline help` lists the commands, `--help` each one's arguments");
        Output::new(true).failure(&failure);
    } else if let Err(error) = refused.print() {
        return ExitCode::from(Failure::system("printing", &error).exit as u8);
    }
    ExitCode::from(refused.exit_code() as u8)
}

async fn run(arguments: Arguments, output: Output) -> Result<Outcome, Failure> {
    let (state, cluster) = (arguments.state, arguments.cluster);
    match arguments.command {
        Command::Up(up) => commands::up::run(up, state_dir(state)?, output).await,
        Command::Service(service) => {
            let (running, _connection) = running(state, cluster).await?;
            commands::service::run(service, &running, output).await
        }
        Command::Instance(instance) => {
            let (running, _connection) = running(state, cluster).await?;
            commands::instance::run(instance, &running, output).await
        }
        Command::Invoke(invoke) => {
            let (running, _connection) = running(state, cluster).await?;
            commands::invoke::run(invoke, &running, output).await
        }
        Command::Object(object) => {
            let (running, _connection) = running(state, cluster).await?;
            commands::object::run(object, &running, output).await
        }
        Command::Demo(demo) => commands::demo::run(demo, cluster, output).await,
        Command::Bench(bench) => commands::bench::run(bench, output),
        Command::Install(cluster) => commands::cluster::run("install", cluster, output),
        Command::Uninstall(cluster) => commands::cluster::run("uninstall", cluster, output),
        Command::Status(cluster) => commands::cluster::run("status", cluster, output),
        Command::RotateKeys(cluster) => commands::cluster::run("rotate-keys", cluster, output),
        Command::Connect(cluster) => commands::cluster::run("connect", cluster, output),
        Command::Cost(cost) => commands::cost::run(&cost, output),
        Command::Version => commands::version::run(output),
    }
}

/// The platform that a command speaks to: the local one, or a cluster that looks like it for as long as the connection is held.
async fn running(state: Option<PathBuf>, cluster: Option<String>) -> Result<(Running, Option<Connection>), Failure> {
    match cluster {
        Some(namespace) => {
            let connection = Connection::open(&namespace).await?;
            Ok((Running::of_cluster(connection.state(), namespace), Some(connection)))
        }
        None => Ok((Running::new(state_dir(state)?), None)),
    }
}

/// The state directory that was named, or the default one.
fn state_dir(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    named.or_else(zipline_platform::default_state_dir).ok_or_else(|| {
        let message = "there is no state directory: none of XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is set";
        Failure::new(Exit::Configuration, "configuration", message).hint("name one with --state or ZIPLINE_STATE")
    })
}
