//! The S3 server of a run: one that is started for it, or one that the command line names.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use clap::Args;
use zipline_contract::settings;
use zipline_servers::S3;

use crate::network::Network;

/// Variables of the keys that a named server asks for.
const KEY_VARIABLES: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
/// Goes with temporary keys.
const TOKEN_VARIABLE: &str = "AWS_SESSION_TOKEN";

/// Another S3 server than one that is started here.
#[derive(Args)]
pub(crate) struct S3Arguments {
    /// Use this S3 server instead of starting one: http://HOST:PORT or https://HOST; its keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// The bucket to use there
    #[arg(long, value_name = "NAME", default_value = "zipline", requires = "s3_endpoint")]
    s3_bucket: String,
    /// The region that requests are signed for
    #[arg(long, value_name = "NAME", default_value = "us-east-1", requires = "s3_endpoint")]
    s3_region: String,
}

/// A server that is there already.
#[derive(Clone)]
pub(crate) struct S3Place {
    endpoint: String,
    bucket: String,
    region: String,
    keys: Vec<(&'static str, String)>,
}

/// A running server.
pub(crate) enum S3Server {
    /// Ends with this value.
    Started(S3),
    Named(S3Place),
}

impl S3Arguments {
    /// The named server, if there is one.
    ///
    /// # Errors
    /// An endpoint that is no URL of a server or out of reach, and keys that are not set.
    pub(crate) fn place(self, network: Network) -> Result<Option<S3Place>> {
        let Some(endpoint) = self.s3_endpoint else { return Ok(None) };
        if network == Network::Shaped {
            bail!("--s3-endpoint {endpoint} is out of reach from the namespace of --network shaped; use one of the two");
        }
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', '@', '?'])) {
            bail!("--s3-endpoint {endpoint}: expected http://HOST[:PORT] or https://HOST[:PORT]");
        }
        let mut keys = Vec::new();
        for variable in KEY_VARIABLES {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
            keys.push((variable, value.with_context(|| format!("--s3-endpoint needs {variable}, which is not set"))?));
        }
        keys.extend(std::env::var(TOKEN_VARIABLE).ok().map(|token| (TOKEN_VARIABLE, token)));
        Ok(Some(S3Place { endpoint, bucket: self.s3_bucket, region: self.s3_region, keys }))
    }
}

impl S3Server {
    /// Its name and version, or where it is.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Started(server) => server.version().to_owned(),
            Self::Named(place) => format!("the S3 server at {}", place.endpoint),
        }
    }

    /// Where a relay reaches it.
    ///
    /// # Errors
    /// A named server that is not `http://IP:PORT`.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Started(server) => Ok(server.address()),
            Self::Named(place) => {
                let address = place.endpoint.strip_prefix("http://").and_then(|address| address.parse().ok());
                address
                    .with_context(|| format!("delays are added only to a server at http://IP:PORT; {} is none", place.endpoint))
            }
        }
    }

    /// The variables that lead an SDK to it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Started(server) => server.environment(),
            Self::Named(place) => place.environment(place.endpoint.clone()),
        }
    }

    /// The variables that lead an SDK to it through a relay at that address.
    pub(crate) fn environment_at(&self, relay: SocketAddr) -> Vec<(&'static str, String)> {
        match self {
            Self::Started(server) => server.environment_at(relay),
            Self::Named(place) => place.environment(format!("http://{relay}")),
        }
    }
}

impl S3Place {
    fn environment(&self, endpoint: String) -> Vec<(&'static str, String)> {
        let place = [
            (settings::S3_ENDPOINT.variable, endpoint),
            (settings::S3_BUCKET.variable, self.bucket.clone()),
            (settings::S3_REGION.variable, self.region.clone()),
        ];
        place.into_iter().chain(self.keys.iter().cloned()).collect()
    }
}
