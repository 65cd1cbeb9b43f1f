//! A cluster on this machine, by hand: `zipline-cluster up` and everything it starts inside.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use zipline_e2e_cluster::{node, up};

/// A real Kubernetes with stock Knative on this machine, in namespaces of its own.
#[derive(Parser)]
#[command(name = "zipline-cluster", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings a cluster up, says where its kubeconfig is, and keeps it until SIGINT or SIGTERM
    Up(up::Options),
    /// Runs in the node's namespaces: the first process, which takes in orphans
    #[command(hide = true)]
    Init(node::Options),
    /// Runs in the node's namespaces: starts everything
    #[command(hide = true)]
    Node(node::Options),
    /// Removes what a cluster left that was killed before it could clean up
    Clean {
        /// Its folder
        #[arg(long)]
        state: PathBuf,
    },
}

fn main() -> Result<()> {
    let command = Arguments::parse().command;
    if let Command::Init(options) = command {
        return node::init(&options);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Up(options) => up::run(options).await,
            Command::Init(_) => Ok(()),
            Command::Node(options) => node::run(options).await,
            Command::Clean { state } => up::clean(&state).await,
        }
    })
}
