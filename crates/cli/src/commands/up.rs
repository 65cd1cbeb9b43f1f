//! `zipline up`: the local platform, in the foreground.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use zipline_contract::{Transfer, settings};
use zipline_platform::model::Info;
use zipline_platform::{Ending, INGRESS_PORT_DEFAULT, Platform, PlatformConfig, PlatformError, StateDirError};

use crate::arguments::transfer_method;
use crate::commands::service;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, SCHEMA};

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Port of the ingress; 0: any free one
    #[arg(short, long, default_value_t = INGRESS_PORT_DEFAULT)]
    port: u16,
    /// Address of the ingress
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    bind: IpAddr,
    /// Transfer method of every service that names none
    #[arg(long, value_parser = transfer_method(), env = settings::TRANSFER.variable)]
    transfer: Option<Transfer>,
    /// Key of config-autoscaler, KEY=VALUE; may be repeated; goes before a ConfigMap's
    #[arg(long = "autoscaler", value_parser = parse_pair, value_name = "KEY=VALUE")]
    autoscaler: Vec<(String, String)>,
    /// Setting of every queue-proxy, ZIPLINE_NAME=VALUE; may be repeated; a service's annotations go before it
    #[arg(long = "set", value_parser = parse_pair, value_name = "ZIPLINE_NAME=VALUE")]
    settings: Vec<(String, String)>,
    /// Let local APIs listen on loopback TCP too, for whoever shows the token in STATE/api.token
    #[arg(long)]
    loopback_api: bool,
    /// Apply these services once it is up
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    info: &'a Info,
    client_api: String,
}

pub(crate) async fn run(up: Up, state: PathBuf, output: Output) -> Result<Outcome, Failure> {
    // From here on an early Ctrl-C waits until the platform is there to be ended.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::system("listening for SIGINT", &error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::system("listening for SIGTERM", &error))?;
    let step = output.step("starting the platform");
    let mut config = PlatformConfig::from_environment(state)?;
    config.ingress = SocketAddr::new(up.bind, up.port);
    config.loopback_api = up.loopback_api;
    config.autoscaler.extend(up.autoscaler);
    config.proxy_settings.extend(up.settings);
    if let Some(transfer) = up.transfer {
        config.proxy_settings.insert(settings::TRANSFER.variable.to_owned(), transfer.name().to_owned());
    }
    let mut platform = Platform::start(config).await?;
    step.done("");
    let info = platform.info().clone();
    for file in &up.files {
        if let Err(failure) = apply(&platform, file, output) {
            platform.shut_down(Ending::Quick).await;
            return Err(failure);
        }
    }
    let client_api = format!("unix:{}", info.client_socket.display());
    let outcome = output.result(&Document { schema: SCHEMA, info: &info, client_api }, || introduction(&info));
    let ending = tokio::select! {
        _ = interrupt.recv() => Ending::Quick,
        _ = terminate.recv() => Ending::Quick,
        ending = platform.shutdown_requested() => ending,
    };
    let step = output.step("ending the platform");
    platform.shut_down(ending).await;
    step.done("");
    outcome
}

fn apply(platform: &Platform, file: &std::path::Path, output: Output) -> Result<(), Failure> {
    let (manifest, folder) = service::read_manifest(file)?;
    let text = String::from_utf8_lossy(&manifest);
    let refused = |error: zipline_platform::ApplyRefused| {
        Failure::new(Exit::Refused, "manifest-invalid", format!("{}: {error}", file.display()))
    };
    let answer = platform.apply(&text, &folder).map_err(refused)?;
    answer.warnings.iter().for_each(|warning| output.note(&format!("warning: {}: {warning}", file.display())));
    answer
        .applied
        .iter()
        .for_each(|applied| output.note(&format!("  service {}, revision {}", applied.service, applied.revision)));
    Ok(())
}

/// Where everything is, for a person.
fn introduction(info: &Info) -> String {
    let port = info.ingress.rsplit(':').next().unwrap_or_default();
    let http = match (&info.client_http, &info.api_token_file) {
        (Some(url), Some(token)) => format!("             {url}, user zipline, password in {}\n", token.display()),
        _ => String::new(),
    };
    format!(
        "Zipline is up (pid {})\n\
         \n\
         Services     http://NAME.NAMESPACE.{}:{port}/\n\
         Client API   unix:{}\n{http}\
         State        {}\n\
         Logs         {}\n\
         \n\
         Deploy with `zipline service apply -f FILE`; Ctrl-C ends it.\n",
        info.pid,
        info.domain,
        info.client_socket.display(),
        info.state_dir.display(),
        info.logs_dir.display(),
    )
}

impl From<PlatformError> for Failure {
    fn from(error: PlatformError) -> Self {
        let (exit, name) = match &error {
            PlatformError::State(StateDirError::InUse { .. }) => (Exit::System, "state-in-use"),
            PlatformError::Ingress(_) => (Exit::System, "ingress-unusable"),
            PlatformError::Autoscaler(_) | PlatformError::Setting { .. } => (Exit::Configuration, "configuration"),
            PlatformError::NoQueueProxy { .. } => (Exit::System, "program-missing"),
            _ => (Exit::System, "platform"),
        };
        let text = error.to_string();
        // The platform's errors carry their way out in brackets at the end.
        match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (hint: ")) {
            Some((message, hint)) => Self::new(exit, name, message).hint(hint),
            None => Self::new(exit, name, text),
        }
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() { Err("expected KEY=VALUE".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}
