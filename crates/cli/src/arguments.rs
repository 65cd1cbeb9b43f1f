//! The command line. Each command's own arguments stand with the command.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use zipline_contract::Transfer;

use crate::commands::{bench, cluster, cost, demo, instance, invoke, object, service, up};

/// Direct memory-to-memory payload transfer for serverless functions
#[derive(Debug, Parser)]
#[command(name = "zipline", version, about, max_term_width = 120)]
pub(crate) struct Arguments {
    /// State directory of the platform
    #[arg(long, global = true, env = "ZIPLINE_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Use the cluster of KUBECONFIG in place of a local platform: `service`, `instance`, `invoke`, `object`, `demo`; in this
    /// namespace [default: default]
    #[arg(long, global = true, value_name = "NAMESPACE", require_equals = true, num_args = 0..=1, default_missing_value = "default")]
    pub(crate) cluster: Option<String>,
    /// Print exactly one JSON document on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run MapReduce over real text on a platform of its own, and check the answer
    Demo(demo::Demo),
    /// Run the local platform until Ctrl-C
    Up(up::Up),
    /// Deploy services and look at them
    #[command(subcommand)]
    Service(service::Command),
    /// Look at the processes behind the services
    #[command(subcommand)]
    Instance(instance::Command),
    /// Call a service and print its answer
    Invoke(invoke::Invoke),
    /// Put, read and release objects
    #[command(subcommand)]
    Object(object::Command),
    /// Measure; hands over to zipline-bench
    Bench(bench::Bench),
    /// Install into a cluster with Knative, and make it use our queue-proxy; hands over to zipline-kubernetes
    Install(cluster::Cluster),
    /// Give a cluster its own queue-proxy back, and remove everything
    Uninstall(cluster::Cluster),
    /// Tell how a cluster's installation stands
    Status(cluster::Cluster),
    /// Give a cluster's namespace a new key
    RotateKeys(cluster::Cluster),
    /// Serve a cluster's services and objects on the sockets of a platform, for many commands with --state DIR
    Connect(cluster::Cluster),
    /// Price what a workflow did, by every transfer method, from a JSON of its operations or a bench's raw file
    Cost(cost::Cost),
    /// Print versions
    Version,
}

/// Reads the name of a transfer method.
pub(crate) fn transfer_method() -> impl TypedValueParser<Value = Transfer> {
    let named = Transfer::ALL.map(|method| {
        PossibleValue::new(method.name()).help(match method {
            Transfer::Zipline => "Payloads stay in the producer's memory; consumers pull them",
            Transfer::Inline => "Payloads travel inside requests and answers",
            Transfer::S3 => "Payloads are parked in an S3 bucket, which functions find by ZIPLINE_S3_BUCKET",
            Transfer::Redis => "Payloads are parked in a Redis server, which functions find by ZIPLINE_REDIS_URL",
        })
    });
    PossibleValuesParser::new(named).try_map(|name| Transfer::from_name(&name).ok_or("not the name of a transfer method"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
