//! The store of a demo under `s3` or `redis`: the one that the environment names, else a server of the demo's own.

use zipline_contract::{Transfer, settings};
use zipline_sdk::Stores;
use zipline_servers::{Redis, S3, ServerError};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Variables by which SDKs find the store.
type Variables = Vec<(&'static str, String)>;

/// Credentials that are handed on to functions with a store that the environment names.
const CREDENTIALS: [&str; 4] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"];

/// A store that payloads are parked in. Dropping it ends a server of the demo's own.
pub(super) struct Store {
    variables: Variables,
    _server: Option<Server>,
}

/// Held to keep the server running.
enum Server {
    S3 { _server: S3 },
    Redis { _server: Redis },
}

impl Store {
    /// The store of a method; none of methods without.
    pub(super) async fn of(method: Transfer, output: Output) -> Result<Self, Failure> {
        let place = match method {
            Transfer::Zipline | Transfer::Inline => return Ok(Self { variables: Vec::new(), _server: None }),
            Transfer::S3 => settings::S3_BUCKET,
            Transfer::Redis => settings::REDIS_URL,
        };
        if set(place.variable).is_some() {
            let names = settings::OF_STORES.iter().map(|setting| setting.variable).chain(CREDENTIALS);
            let variables = names.filter_map(|name| Some((name, set(name)?))).collect();
            return Ok(Self { variables, _server: None });
        }
        if method == Transfer::S3 {
            let step = output.step("starting an S3 server");
            let server = S3::start().await.map_err(not_started)?;
            step.done(server.version());
            return Ok(Self { variables: server.environment(), _server: Some(Server::S3 { _server: server }) });
        }
        let step = output.step("starting a Redis");
        let server = Redis::start().await.map_err(not_started)?;
        step.done(server.version());
        Ok(Self { variables: server.environment(), _server: Some(Server::Redis { _server: server }) })
    }

    /// Variables of every function.
    pub(super) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// The same for an SDK of this process.
    pub(super) fn stores(&self) -> Result<Stores, Failure> {
        let variable = |name: &str| self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        Ok(Stores::from_variables(variable)?)
    }
}

/// Whether a method's store can be used: the environment names one, or its server is installed.
pub(super) fn at_hand(method: Transfer, server: zipline_servers::Server) -> Result<(), ServerError> {
    let named = if method == Transfer::S3 { settings::S3_BUCKET } else { settings::REDIS_URL };
    if set(named.variable).is_some() { Ok(()) } else { zipline_servers::find(server).map(drop) }
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

fn not_started(error: ServerError) -> Failure {
    let name = if matches!(error, ServerError::NotInstalled { .. }) { "server-missing" } else { "server-failed" };
    Failure::new(Exit::System, name, error.to_string()).hint(error.hint())
}
