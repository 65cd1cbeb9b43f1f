//! The transfer methods `s3` and `redis`: payloads parked in a store, as everybody does without Zipline.
//!
//! A put writes an object under a random [key], a get reads it from whichever process has the key and the same
//! configuration. Neither talks to a queue-proxy. A call puts its payload, sends the key in its place and frees it when
//! it is over. The rest differs by what the stores can do:
//!
//! | | S3 | Redis |
//! | --- | --- | --- |
//! | one retrieval | deleted by its reader, once it was read whole | the same |
//! | several | deleted when its time is over, by the client that put it | counted in the server; the last reader deletes |
//! | expiry | by the client that put it, as long as it lives | by the server |
//!
//! What a client put is its own: [`Client::clean_up`](crate::Client::clean_up), and dropping the last clone, deletes it.
//!
//! A get on one client is not ordered with the deletion that an earlier one on *another* client set off: N bounds an
//! object's life, as under `zipline`, and is no promise of exactly N reads.

pub(crate) mod config;
pub(crate) mod counters;
mod frees;
pub(crate) mod key;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_http;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};
use zipline_contract::{ErrorCode, settings};

use self::config::Stores;
use self::counters::{Counters, StoreCounters};
use self::frees::Frees;
use self::key::{Kind, StoreKey, Stored};
use crate::client::{ByteRange, Receipt, Stat};
use crate::error::Error;
use crate::payload::Payload;

/// What a store can do. Each operation counts itself, and is tried again within the bounds of [`Stores`].
pub(crate) trait Backend: Send + Sync + 'static {
    fn kind(&self) -> Kind;
    /// Where it is, for messages.
    fn place(&self) -> &str;
    /// Whether an object ends by itself after its `ttl`.
    fn expires(&self) -> bool;
    fn put<'a>(
        &'a self,
        key: &'a StoreKey,
        bytes: Bytes,
        content_type: Option<&'a str>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// The whole object; `None` where there is none. `counted`: the read is one of its several retrievals, and the
    /// store that counts them counts it at once.
    fn get<'a>(&'a self, key: &'a StoreKey, counted: bool) -> BoxFuture<'a, Result<Option<Read>, Error>>;
    fn get_range<'a>(&'a self, key: &'a StoreKey, range: ByteRange) -> BoxFuture<'a, Result<Option<Bytes>, Error>>;
    fn stat<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stat>, Error>>;
    /// A read that was not counted at once is over.
    fn retrieved<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>>;
    fn delete<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>>;
}

/// A payload that was read.
pub(crate) struct Read {
    payload: Payload,
    /// It was the last of several retrievals: the object can go.
    last: bool,
}

/// The stores of one client, each connected to when it is first used.
pub(crate) struct StoreSet {
    s3: OnceLock<Store>,
    redis: OnceLock<Store>,
    counters: OnceLock<Arc<Counters>>,
}

/// One store in use.
struct Store {
    backend: Arc<dyn Backend>,
    frees: Frees,
}

impl StoreSet {
    pub(crate) fn new() -> Self {
        Self { s3: OnceLock::new(), redis: OnceLock::new(), counters: OnceLock::new() }
    }

    pub(crate) fn counters(&self) -> StoreCounters {
        self.counters.get().map(|counters| counters.now()).unwrap_or_default()
    }

    /// Puts a payload that readers free after `retrievals` whole reads; 0: whoever put it does.
    pub(crate) async fn put(
        &self,
        config: &Stores,
        kind: Kind,
        payload: Payload,
        retrievals: u32,
        ttl: Option<Duration>,
    ) -> Result<(Stored, Receipt), Error> {
        let (store, counters) = self.store(config, kind)?;
        let (size_bytes, ttl) = (payload.len() as u64, ttl.unwrap_or(config.ttl));
        let key = StoreKey::random(retrievals, size_bytes)?;
        let content_type = payload.content_type().map(str::to_owned);
        // Owned before it is there, so that a put that is dropped half-way is freed as well.
        store.frees.own(&store.backend, counters, &key, Instant::now() + ttl);
        let begun = SystemTime::now();
        let put = store.backend.put(&key, payload.into_bytes(), content_type.as_deref(), ttl);
        in_time(config, &store.backend, put).await?;
        counters.note(kind, |operations| operations.put_bytes += size_bytes);
        let stored = Stored { kind, key, range: None };
        let receipt = Receipt {
            reference: stored.reference(),
            size_bytes: Some(size_bytes),
            expires: begun.checked_add(ttl),
            guaranteed_until: None,
        };
        Ok((stored, receipt))
    }

    /// Reads what the reference stands for; counts as a retrieval.
    pub(crate) async fn get(&self, config: &Stores, stored: &Stored, bytes_max: usize) -> Result<Payload, Error> {
        let payload = self.read(config, stored, bytes_max, true).await?;
        let (store, counters) = self.store(config, stored.kind)?;
        if stored.key.retrievals == 1 || stored.range.is_some() {
            store.frees.retrieved(&store.backend, counters, &stored.key);
        }
        Ok(payload)
    }

    /// Reads it without a retrieval; [`retrieved`](Self::retrieved) may follow.
    pub(crate) async fn peek(&self, config: &Stores, stored: &Stored, bytes_max: usize) -> Result<Payload, Error> {
        self.read(config, stored, bytes_max, false).await
    }

    async fn read(&self, config: &Stores, stored: &Stored, bytes_max: usize, counted: bool) -> Result<Payload, Error> {
        let (store, counters) = self.store(config, stored.kind)?;
        if stored.size_bytes() > bytes_max as u64 {
            let detail = format!("a payload is received up to {bytes_max} bytes, this one has {}", stored.size_bytes());
            return Err(Error::refused(ErrorCode::PayloadTooLarge, detail));
        }
        if store.frees.is_going(&stored.key) {
            return Err(gone(stored));
        }
        let read = match stored.range {
            None => in_time(config, &store.backend, store.backend.get(&stored.key, counted)).await?,
            Some(range) => {
                let part = in_time(config, &store.backend, store.backend.get_range(&stored.key, range)).await?;
                part.map(|part| Read { payload: Payload::from(part), last: false })
            }
        };
        let Read { payload, last } = read.ok_or_else(|| gone(stored))?;
        if last {
            store.frees.delete(&store.backend, counters, &stored.key);
        }
        if payload.len() as u64 != stored.size_bytes() {
            let detail = format!("the reference says {} bytes, the store gave {}", stored.size_bytes(), payload.len());
            return Err(Error::refused(ErrorCode::ReferenceInvalid, detail));
        }
        counters.note(stored.kind, |operations| operations.get_bytes += payload.len() as u64);
        Ok(payload)
    }

    /// Reads a part; no retrieval.
    pub(crate) async fn get_range(
        &self,
        config: &Stores,
        stored: &Stored,
        range: ByteRange,
        bytes_max: usize,
    ) -> Result<Payload, Error> {
        let part = stored.part(range).ok_or_else(|| crate::client::range_error(range.first, range.length))?;
        self.read(config, &Stored { range: Some(part), ..stored.clone() }, bytes_max, false).await
    }

    pub(crate) async fn stat(&self, config: &Stores, stored: &Stored) -> Result<Stat, Error> {
        let (store, _) = self.store(config, stored.kind)?;
        if store.frees.is_going(&stored.key) {
            return Err(gone(stored));
        }
        let known = in_time(config, &store.backend, store.backend.stat(&stored.key)).await?;
        let known = known.ok_or_else(|| gone(stored))?;
        Ok(Stat { size_bytes: Some(stored.size_bytes()), ..known })
    }

    /// Deletes the object and waits until it is gone.
    pub(crate) async fn release(&self, config: &Stores, stored: &Stored) -> Result<(), Error> {
        let (store, _) = self.store(config, stored.kind)?;
        in_time(config, &store.backend, store.backend.delete(&stored.key)).await?;
        store.frees.disown(&stored.key);
        Ok(())
    }

    /// A read by [`peek`](Self::peek) was accepted. What it costs the object is worked off behind.
    pub(crate) fn retrieved(&self, config: &Stores, stored: &Stored) {
        if let Ok((store, counters)) = self.store(config, stored.kind)
            && stored.key.retrievals > 0
        {
            store.frees.retrieved(&store.backend, counters, &stored.key);
        }
    }

    /// The object is not needed any more; it is deleted behind.
    pub(crate) fn delete(&self, config: &Stores, stored: &Stored) {
        if let Ok((store, counters)) = self.store(config, stored.kind) {
            store.frees.delete(&store.backend, counters, &stored.key);
        }
    }

    /// Waits until nothing is left to be freed; `owned`: frees all that this client put as well.
    pub(crate) async fn clean_up(&self, owned: bool) {
        let Some(counters) = self.counters.get() else { return };
        for store in [self.s3.get(), self.redis.get()].into_iter().flatten() {
            store.frees.all_done(&store.backend, counters, owned).await;
        }
    }

    fn store(&self, config: &Stores, kind: Kind) -> Result<(&Store, &Arc<Counters>), Error> {
        let counters = match self.counters.get() {
            Some(counters) => counters,
            None => {
                let made = Arc::new(Counters::new(config.counters.as_deref())?);
                self.counters.get_or_init(|| made)
            }
        };
        let cell = match kind {
            Kind::S3 => &self.s3,
            Kind::Redis => &self.redis,
        };
        let store = match cell.get() {
            Some(store) => store,
            None => {
                let backend = connect(config, kind, counters)?;
                cell.get_or_init(|| Store { backend, frees: Frees::new() })
            }
        };
        Ok((store, counters))
    }
}

/// Whether that store can be used: it is configured, and its client is part of this build.
pub(crate) fn check(config: &Stores, kind: Kind) -> Result<(), Error> {
    let (configured, setting, built) = match kind {
        Kind::S3 => (config.s3.is_some(), settings::S3_BUCKET, cfg!(feature = "s3")),
        Kind::Redis => (config.redis.is_some(), settings::REDIS_URL, cfg!(feature = "redis")),
    };
    if !configured {
        let reason = "not set; the transfer method or the reference asks for this store";
        return Err(Error::Configuration { variable: setting.variable, value: String::new(), reason });
    }
    if !built {
        return Err(Error::MethodNotBuilt { method: kind.name() });
    }
    Ok(())
}

/// A handle on the store; nothing is connected yet.
fn connect(config: &Stores, kind: Kind, counters: &Arc<Counters>) -> Result<Arc<dyn Backend>, Error> {
    check(config, kind)?;
    match kind {
        #[cfg(feature = "s3")]
        Kind::S3 if let Some(store) = &config.s3 => Ok(Arc::new(s3::S3::new(store, config, Arc::clone(counters))?)),
        #[cfg(feature = "redis")]
        Kind::Redis if let Some(store) = &config.redis => Ok(Arc::new(redis::Redis::new(store, config, Arc::clone(counters))?)),
        _ => {
            let _unused = counters;
            Err(Error::MethodNotBuilt { method: kind.name() })
        }
    }
}

/// Ends an operation with an error when its time is over.
async fn in_time<T>(
    config: &Stores,
    backend: &Arc<dyn Backend>,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let over = |_| {
        let reason = format!("no answer within {:?}", config.timeout);
        Err(Error::StoreUnreachable { store: backend.kind().name(), place: backend.place().to_owned(), reason })
    };
    timeout(config.timeout, operation).await.unwrap_or_else(over)
}

fn gone(stored: &Stored) -> Error {
    let detail = format!("the object is not in {} (any more): it was read, released, or its time is over", stored.kind.name());
    Error::refused(ErrorCode::ReferenceExhausted, detail)
}
