//! The stores of one test, and clients of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use zipline_sdk::{Client, Config};
use zipline_servers::{Redis, S3, Server, install};
use zipline_testkit::skip;

/// A running store.
pub(crate) enum Place {
    S3(S3),
    Redis(Redis),
}

/// Starts the store; `None`, and said, where it cannot be installed.
pub(crate) async fn place(method: &str, test: &str) -> Result<Option<Place>> {
    let server = if method == "s3" { Server::S3 } else { Server::Redis };
    let installed = tokio::task::spawn_blocking(move || install(server, &mut |step| eprintln!("{step}"))).await?;
    if let Err(error) = installed {
        skip(&format!("{test} ({method})"), &error.to_string());
        return Ok(None);
    }
    Ok(Some(match server {
        Server::S3 => Place::S3(S3::start().await?),
        Server::Redis => Place::Redis(Redis::start().await?),
    }))
}

impl Place {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Redis(_) => "redis",
        }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::S3(server) => server.address(),
            Self::Redis(server) => server.address(),
        }
    }

    /// The variables of a client that uses it, at that address.
    pub(crate) fn variables(&self, address: std::net::SocketAddr) -> BTreeMap<&'static str, String> {
        let stores = match self {
            Self::S3(server) => server.environment_at(address),
            Self::Redis(server) => vec![("ZIPLINE_REDIS_URL", server.url_at(address))],
        };
        // No queue-proxy is spoken to.
        let own = [("ZIPLINE_API", "unix:/nowhere".to_owned()), ("ZIPLINE_TRANSFER", self.method().to_owned())];
        stores.into_iter().chain(own).collect()
    }

    pub(crate) fn client(&self) -> Result<Client> {
        client(&self.variables(self.address()))
    }

    pub(crate) fn counting_client(&self, folder: &Path) -> Result<Client> {
        let mut variables = self.variables(self.address());
        variables.insert("ZIPLINE_STORE_COUNTERS", folder.display().to_string());
        client(&variables)
    }
}

pub(crate) fn client(variables: &BTreeMap<&'static str, String>) -> Result<Client> {
    let config = Config::from_variables(|name| variables.get(name).cloned());
    Ok(Client::new(config.context("the variables are well formed")?))
}
