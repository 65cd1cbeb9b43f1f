//! Where the local API is, which method moves bytes, and how much the client may use at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zipline_contract::{Transfer, settings};

use crate::error::Error;
use crate::store;
use crate::store::config::Stores;
use crate::store::key::Kind;

/// The method of that name.
///
/// # Errors
/// [`Error::Configuration`] for any other name.
fn transfer_of(name: &str) -> Result<Transfer, Error> {
    Transfer::from_name(name).ok_or_else(|| Error::Configuration {
        variable: settings::TRANSFER.variable,
        value: name.to_owned(),
        reason: "not a transfer method; known are `zipline`, `inline`, `s3` and `redis`",
    })
}

/// Where a queue-proxy's local API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket in the file system.
    Unix(PathBuf),
    /// An abstract Unix socket, without its leading zero byte.
    Abstract(String),
    /// Loopback TCP, as `HOST:PORT`.
    Tcp(String),
}

impl Endpoint {
    /// Reads `unix:/PATH`, `unix:@NAME` or `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`Error::Configuration`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |reason| Error::Configuration { variable: settings::API.variable, value: text.to_owned(), reason };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix('@') {
                Some("") => Err(bad("the abstract socket has no name")),
                Some(name) if cfg!(target_os = "linux") => Ok(Self::Abstract(name.to_owned())),
                Some(_) => Err(bad("abstract sockets exist on Linux only")),
                None if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
                None => Err(bad("a Unix socket is `unix:/PATH` or `unix:@NAME`")),
            };
        }
        let Some(authority) = text.strip_prefix("http://") else {
            return Err(bad("expected `unix:/PATH`, `unix:@NAME` or `http://HOST:PORT`"));
        };
        let authority = authority.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
            return Err(bad("expected `http://HOST:PORT` and nothing after it"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:80") }))
    }

    /// Whether descriptors can pass over it.
    pub(crate) fn passes_descriptors(&self) -> bool {
        cfg!(target_os = "linux") && !matches!(self, Self::Tcp(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// What a client may use at once, and for how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// HTTP connections to the local API; further requests wait in order.
    pub connections_max: usize,
    /// Descriptor channels to the local API; further hand-overs wait in order.
    pub channels_max: usize,
    /// Bytes of an answer that is received onto the heap; a larger one is `payload-too-large`. Worst case in memory:
    /// this times `connections_max`. Payloads that come as descriptors are not bounded by it: the proxy's budget is.
    pub heap_bytes_max: usize,
    /// Connecting to the local API.
    pub connect_timeout: Duration,
    /// One request to the local API, to the end of its answer. Longer than the proxy's own limit over a call, so that
    /// its error arrives.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            channels_max: 16,
            heap_bytes_max: 1 << 30,
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(330),
        }
    }
}

/// All a client needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the local API is.
    pub api: Endpoint,
    /// How payloads move.
    pub transfer: Transfer,
    /// The stores that payloads may be parked in.
    pub stores: Stores,
    /// What the client may use at once.
    pub limits: Limits,
}

impl Config {
    /// The configuration for that local API, with the defaults of everything else.
    pub fn new(api: Endpoint) -> Self {
        Self { api, transfer: Transfer::default(), stores: Stores::default(), limits: Limits::default() }
    }

    /// Reads `ZIPLINE_API`, `ZIPLINE_TRANSFER` and, for the stores, what [`Stores::from_variables`] reads, through `variable`.
    ///
    /// # Errors
    /// [`Error::Configuration`] when `ZIPLINE_API` or the chosen method's store is missing, or one is not understood;
    /// [`Error::MethodNotBuilt`] when the method's store client is not part of this build.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let api = variable(settings::API.variable).filter(|text| !text.is_empty()).ok_or(Error::Configuration {
            variable: settings::API.variable,
            value: String::new(),
            reason: "not set; a queue-proxy's function has it, elsewhere name the local API of `zipline up`",
        })?;
        let transfer = match variable(settings::TRANSFER.variable).filter(|text| !text.is_empty()) {
            Some(name) => transfer_of(&name)?,
            None => Transfer::default(),
        };
        let stores = Stores::from_variables(&variable)?;
        if let Some(kind) = Kind::of(transfer) {
            store::check(&stores, kind)?;
        }
        Ok(Self { transfer, stores, ..Self::new(Endpoint::parse(&api)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for text in ["unix:/run/zipline/api.sock", "unix:@zipline", "http://127.0.0.1:8123", "http://[::1]:8123"] {
            assert_eq!(Endpoint::parse(text).expect("well formed").to_string(), text);
        }
        assert_eq!(Endpoint::parse("http://localhost/").expect("well formed"), Endpoint::Tcp("localhost:80".to_owned()));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_name() {
        for text in ["", "unix:", "unix:@", "unix:relative", "ftp://127.0.0.1/", "http://", "http://a@b:1", "http://a:1/v1"] {
            let error = Endpoint::parse(text).expect_err(text);
            assert_eq!(error.name(), "configuration", "{text}");
        }
    }

    #[test]
    fn the_method_is_configuration_and_a_store_must_be_named() {
        let with = |transfer: &'static str| {
            Config::from_variables(move |name| match name {
                "ZIPLINE_API" => Some("unix:@x".to_owned()),
                "ZIPLINE_TRANSFER" => Some(transfer.to_owned()),
                _ => None,
            })
        };
        assert_eq!(with("inline").expect("built").transfer, Transfer::Inline);
        assert_eq!(with("").expect("default").transfer, Transfer::Zipline);
        assert_eq!(with("redis").expect_err("no server is named").name(), "configuration");
        assert_eq!(with("s3").expect_err("no bucket is named").name(), "configuration");
        assert_eq!(with("pigeon").expect_err("unknown").name(), "configuration");
    }
}
