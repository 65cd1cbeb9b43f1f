//! `zipline bench stores`: real servers to try the transfer methods `s3` and `redis` with, by hand or from a test.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use zipline_servers::{Redis, S3, ServerError};

use crate::s3_delay::{S3Delay, Service};

/// Where the servers are.
#[derive(Serialize)]
struct Report {
    schema: u32,
    s3: Option<Store>,
    redis: Option<Store>,
}

#[derive(Serialize)]
struct Store {
    version: String,
    pid: u32,
    variables: BTreeMap<&'static str, String>,
}

/// Starts what is installed, says where it is, and ends it on Ctrl-C or SIGTERM.
///
/// With a delay (its service, factor and seed) a relay stands before S3, and what it added is said at the end.
pub(crate) async fn run(delay: Option<(Service, f64, u64)>, json: bool) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (s3, redis) = tokio::join!(S3::start(), Redis::start());
    let (s3, redis) = (said(s3), said(redis));
    anyhow::ensure!(s3.is_some() || redis.is_some(), "no server could be started");
    let relay = match (&s3, delay) {
        (Some(server), Some((service, factor, seed))) => Some(S3Delay::start(server.address(), service, factor, seed)?),
        _ => None,
    };
    let s3_environment = |server: &S3| match &relay {
        Some(relay) => server.environment_at(relay.address()),
        None => server.environment(),
    };
    let report = Report {
        schema: crate::output::SCHEMA,
        s3: s3.as_ref().map(|server| Store::of(server.version(), server.pid(), s3_environment(server))),
        redis: redis.as_ref().map(|server| Store::of(server.version(), server.pid(), server.environment())),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.text());
    }
    std::io::stdout().flush()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if let Some(relay) = relay {
        eprintln!("{}", serde_json::to_string(&relay.report().await?)?);
    }
    Ok(())
}

/// The server; an error is said.
fn said<T>(outcome: Result<T, ServerError>) -> Option<T> {
    outcome.inspect_err(|error| eprintln!("{error}\nhint: {}", error.hint())).ok()
}

impl Store {
    fn of(version: &str, pid: u32, variables: Vec<(&'static str, String)>) -> Self {
        Self { version: version.to_owned(), pid, variables: variables.into_iter().collect() }
    }
}

impl Report {
    /// Lines for a shell.
    fn text(&self) -> String {
        let of = |(method, store): (&str, &Option<Store>)| {
            let Some(store) = store else { return String::new() };
            let variables = store.variables.iter().map(|(name, value)| format!("export {name}={value}\n"));
            format!("# {}, pid {}; ZIPLINE_TRANSFER={method}\n{}", store.version, store.pid, variables.collect::<String>())
        };
        [("s3", &self.s3), ("redis", &self.redis)].map(of).concat()
    }
}
