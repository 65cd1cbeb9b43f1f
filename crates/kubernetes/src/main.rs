//! `zipline-kubernetes`: in a cluster the controller, at hand what `zipline install`, `uninstall` and `status` hand over to.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kube::Client;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use zipline_kubernetes::admission::Rules;
use zipline_kubernetes::connect::{self, Connect};
use zipline_kubernetes::controller::{self, Settings};
use zipline_kubernetes::install::{self, Install, Report, RotateKeys, Status, Uninstall};
use zipline_kubernetes::manifests::{Options, files, objects, yaml};
use zipline_kubernetes::rotation::Policy;

/// Zipline on stock Kubernetes and Knative
#[derive(Debug, Parser)]
#[command(name = "zipline", version, max_term_width = 120)]
struct Arguments {
    /// Print exactly one JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install into the cluster of the kubeconfig, and make Knative use our queue-proxy
    Install(Install),
    /// Give Knative its own queue-proxy back, and remove everything
    Uninstall(Uninstall),
    /// Tell what is installed, what is switched on, and which pods have which queue-proxy
    Status(Status),
    /// Give a namespace a new key; it seals five minutes after every proxy could have read it
    RotateKeys(RotateKeys),
    /// Serve a cluster as the local platform serves itself: the folder is then `zipline --state`
    Connect(Connect),
    /// Print the objects that `install` applies
    Manifests(Installation),
    /// Run in the cluster: webhook, certificates, keys
    Controller(Controller),
}

/// What differs between installations.
#[derive(Debug, Args)]
struct Installation {
    #[command(flatten)]
    options: install::OptionArguments,
    /// Write every generated file (manifests, chart, dashboard, alerts; default values) under this folder instead
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// The controller's settings.
#[derive(Debug, Args)]
struct Controller {
    /// An image of our queue-proxy; pods with another sidecar are left alone. May stand several times
    #[arg(long = "queue-proxy-image", required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// A setting of every queue-proxy, `ZIPLINE_NAME=VALUE`; may stand several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = install::setting)]
    settings: Vec<(String, String)>,
    /// Write pod deletion costs by what pods hold
    #[arg(long)]
    pod_deletion_cost: bool,
    /// Seconds that a key seals
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(600..=31_536_000))]
    key_period_seconds: u64,
    /// Seconds that a key is accepted before it seals; longer than a kubelet takes to show a changed Secret
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    key_lead_seconds: u64,
    /// Seconds that a key is accepted after it last sealed; longer than the longest expiry of a payload
    #[arg(long, default_value_t = 7200, value_parser = clap::value_parser!(u64).range(60..=604_800))]
    key_overlap_seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_controller = matches!(arguments.command, Command::Controller(_));
    let asked = std::env::var("ZIPLINE_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let level = if is_controller { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if is_controller { lines.json().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(5)
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let json = arguments.json;
    match arguments.command {
        Command::Controller(controller) => {
            let settings = Settings {
                rules: Rules { images: controller.images, settings: controller.settings },
                policy: Policy {
                    period: Duration::from_secs(controller.key_period_seconds),
                    accept_lead: Duration::from_secs(controller.key_lead_seconds),
                    overlap: Duration::from_secs(controller.key_overlap_seconds),
                },
                deletion_cost: controller.pod_deletion_cost,
            };
            Ok(controller::run(client().await?, settings).await?)
        }
        Command::Connect(connect) => Ok(connect::connect(client().await?, connect).await?),
        Command::Manifests(Installation { write: Some(folder), .. }) => {
            for path in files::write(&folder)? {
                println!("written  {}", folder.join(path).display());
            }
            Ok(())
        }
        Command::Manifests(installation) => {
            let objects = objects(&Options::from(installation.options));
            match json {
                true => println!("{}", serde_json::json!({ "schema": 1, "objects": objects })),
                false => print!("{}", yaml::documents(&objects)),
            }
            Ok(())
        }
        Command::Install(install) => print(install::install(client().await?, install).await?, json),
        Command::Uninstall(uninstall) => print(install::uninstall(client().await?, uninstall).await?, json),
        Command::Status(status) => print(install::status(client().await?, status).await?, json),
        Command::RotateKeys(rotate) => print(install::rotate_keys(client().await?, rotate).await?, json),
    }
}

async fn client() -> Result<Client, Box<dyn std::error::Error>> {
    Client::try_default().await.map_err(|error| {
        format!("no cluster: {error}\nhint: set KUBECONFIG to a cluster's configuration, or see `kubectl cluster-info`").into()
    })
}

fn print(report: impl Report, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.text()),
    }
    Ok(())
}
