//! Redis and S3 in the same run: a payload put and got by the SDK's own methods, against servers of this machine without any
//! delay added. What is compared is what an application does: filling, putting, getting, reading every byte once.

use std::time::Instant;

use anyhow::Result;
use zipline_contract::settings;
use zipline_sdk::{Client, Config, Payload, PutOptions};
use zipline_servers::{Redis, S3};

use crate::method::Missing;
use crate::raw::{self, CHUNK_BYTES};

/// The servers that could be started, and clients of each.
pub(super) struct Stores {
    redis: Option<Store<Redis>>,
    s3: Option<Store<S3>>,
    chunk: Vec<u8>,
    /// What there is no server for, and why.
    pub(super) missing: Vec<Missing>,
}

/// A server that ends with this value, a client that puts and one that gets: two functions share no connection.
struct Store<S> {
    producer: Client,
    consumer: Client,
    pid: u32,
    _server: S,
}

impl<S> Store<S> {
    fn new(server: S, method: &str, pid: u32, environment: &[(&'static str, String)]) -> Result<Self> {
        let variable = |name: &str| match name {
            // Nothing listens there: a store's payloads pass no queue-proxy.
            name if name == settings::API.variable => Some("unix:@none".to_owned()),
            name if name == settings::TRANSFER.variable => Some(method.to_owned()),
            name => environment.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.clone()),
        };
        let client = || anyhow::Ok(Client::new(Config::from_variables(variable)?));
        Ok(Self { producer: client()?, consumer: client()?, pid, _server: server })
    }

    /// Seconds until every byte was read; the payload is removed afterwards.
    async fn round_trip(&self, chunk: &[u8], bytes: u64) -> Result<f64> {
        let started = Instant::now();
        let mut filled = Vec::with_capacity(usize::try_from(bytes)?);
        while (filled.len() as u64) < bytes {
            let now = usize::try_from(bytes - filled.len() as u64)?.min(chunk.len());
            filled.extend_from_slice(&chunk[..now]);
        }
        let reference = self.producer.put(Payload::from(filled), PutOptions::default()).await?;
        let payload = self.consumer.get(&reference).await?;
        raw::read_once(&payload);
        let seconds = started.elapsed().as_secs_f64();
        anyhow::ensure!(payload.len() as u64 == bytes, "{} of {bytes} bytes came", payload.len());
        self.producer.release(&reference).await?;
        Ok(seconds)
    }
}

impl Stores {
    /// Starts what is installed; what is not is said on standard error, and noted.
    pub(super) async fn start() -> Result<Self> {
        let (redis, s3) = tokio::join!(Redis::start(), S3::start());
        let mut stores = Self { chunk: raw::random_bytes(CHUNK_BYTES, 7), ..Self::none() };
        match redis {
            Ok(server) => {
                let (pid, environment) = (server.pid(), server.environment());
                let store = Store::new(server, "redis", pid, &environment)?;
                stores.redis = stores.tried(store, "redis").await;
            }
            Err(error) => stores.miss("redis", format!("{error} (hint: {})", error.hint())),
        }
        match s3 {
            Ok(server) => {
                let (pid, environment) = (server.pid(), server.environment());
                let store = Store::new(server, "s3", pid, &environment)?;
                stores.s3 = stores.tried(store, "s3").await;
            }
            Err(error) => stores.miss("s3", format!("{error} (hint: {})", error.hint())),
        }
        Ok(stores)
    }

    fn miss(&mut self, method: &'static str, reason: String) {
        eprintln!("without {method}: {reason}");
        self.missing.push(Missing { method, reason });
    }

    /// The store, if a small payload comes back from it; else that is noted, and the run goes on without it.
    async fn tried<S>(&mut self, store: Store<S>, name: &'static str) -> Option<Store<S>> {
        const TRIED_BYTES: u64 = 1024;
        match store.round_trip(&self.chunk, TRIED_BYTES).await {
            Ok(_) => Some(store),
            Err(error) => {
                self.miss(name, format!("{error:#}"));
                None
            }
        }
    }

    /// No store, for a run that compares with none.
    pub(super) const fn none() -> Self {
        Self { redis: None, s3: None, chunk: Vec::new(), missing: Vec::new() }
    }

    pub(super) const fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    pub(super) const fn has_s3(&self) -> bool {
        self.s3.is_some()
    }

    /// Process ids of the servers.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        let redis = self.redis.as_ref().map(|store| store.pid);
        redis.into_iter().chain(self.s3.as_ref().map(|store| store.pid))
    }

    /// Filling, SET, GET and reading once: seconds.
    pub(super) async fn redis(&self, bytes: u64) -> Result<f64> {
        match &self.redis {
            Some(store) => store.round_trip(&self.chunk, bytes).await,
            None => anyhow::bail!("there is no Redis"),
        }
    }

    /// Filling, PUT, GET and reading once: seconds.
    pub(super) async fn s3(&self, bytes: u64) -> Result<f64> {
        match &self.s3 {
            Some(store) => store.round_trip(&self.chunk, bytes).await,
            None => anyhow::bail!("there is no S3 server"),
        }
    }
}
