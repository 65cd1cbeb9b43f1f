//! Values in a Redis server, through the `redis` crate over a pool of connections.
//!
//! A value is the payload, preceded by its content type where it has one: the key says how long the payload is, so the
//! rest is the content type. Where an object grants several retrievals, `zipline:KEY:left` counts them down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use zipline_contract::limits::{STORE_CONNECTIONS_MAX, STORE_REDIS_VALUE_BYTES_MAX};
use zipline_contract::{ErrorCode, STORE_PREFIX_REDIS};

use super::config::{RedisStore, Stores};
use super::counters::{Counters, Operations};
use super::key::{Kind, StoreKey};
use super::{Backend, Read};
use crate::client::{ByteRange, Stat};
use crate::error::Error;
use crate::payload::Payload;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause before an operation is tried again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

pub(crate) struct Redis {
    client: Client,
    options: AsyncConnectionConfig,
    /// One a connection in use.
    permits: Semaphore,
    idle: Mutex<Vec<MultiplexedConnection>>,
    retries: u32,
    place: String,
    counters: Arc<Counters>,
}

/// What kind of operation a request is, for the counters.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Put,
    Get,
    Stat,
    Delete,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Stat => "stat",
            Self::Delete => "delete",
        }
    }

    fn count(self, operations: &mut Operations) {
        match self {
            Self::Put => operations.puts += 1,
            Self::Get | Self::Stat => operations.gets += 1,
            Self::Delete => operations.deletes += 1,
        }
    }
}

impl Redis {
    pub(crate) fn new(store: &RedisStore, stores: &Stores, counters: Arc<Counters>) -> Result<Self, Error> {
        let client = Client::open(store.url.0.as_str()).map_err(|_| Error::Configuration {
            variable: zipline_contract::settings::REDIS_URL.variable,
            value: "…".to_owned(), // A password may stand in it.
            reason: "the Redis client does not understand it",
        })?;
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT.min(stores.timeout)))
            .set_response_timeout(Some(stores.timeout));
        Ok(Self {
            client,
            options,
            permits: Semaphore::new(STORE_CONNECTIONS_MAX),
            idle: Mutex::default(),
            retries: stores.retries,
            place: store.place().to_owned(),
            counters,
        })
    }

    /// Sends commands that may be sent twice, and tries again what may pass by itself.
    async fn ask<T: FromRedisValue>(&self, operation: Operation, commands: &Pipeline) -> Result<T, Error> {
        let mut pause = RETRY_PAUSE.0;
        for tries_left in (0..=self.retries).rev() {
            let error = match self.ask_once(commands).await {
                Ok(answer) => {
                    self.counters.note(Kind::Redis, |operations| operation.count(operations));
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let passes = passes_by_itself(&error);
            if passes {
                self.counters.note(Kind::Redis, |operations| {
                    operations.failed += 1;
                    operations.throttled += u64::from(error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading));
                });
            }
            if !passes || tries_left == 0 {
                return Err(self.failed(operation, &error));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
        Err(self.failed(operation, &RedisError::from((ErrorKind::Client, "it was not tried"))))
    }

    async fn ask_once<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        let closed = |_| RedisError::from((ErrorKind::Client, "the pool is closed"));
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let pooled = self.idle().pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection_with_config(&self.options).await?,
        };
        let answer = commands.query_async(&mut connection).await;
        match &answer {
            // When one connection is broken the server has most likely restarted, and the idle ones are broken too.
            Err(error) if error.is_unrecoverable_error() || error.is_timeout() => self.idle().clear(),
            _ => self.idle().push(connection),
        }
        answer
    }

    fn idle(&self) -> MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, operation: Operation, error: &RedisError) -> Error {
        let (store, place) = (Kind::Redis.name(), self.place.clone());
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal() {
            return Error::StoreUnreachable { store, place, reason: error.to_string() };
        }
        let (reason, passes) = (error.to_string(), passes_by_itself(error));
        Error::StoreRefused { store, place, operation: operation.name(), reason, passes }
    }

    async fn write(&self, key: &StoreKey, bytes: Bytes, content_type: Option<&str>, ttl: Duration) -> Result<(), Error> {
        let head = content_type.unwrap_or_default().as_bytes();
        if head.len() + bytes.len() > STORE_REDIS_VALUE_BYTES_MAX {
            let detail = format!("a value in Redis has at most {STORE_REDIS_VALUE_BYTES_MAX} bytes, this one {}", bytes.len());
            return Err(Error::refused(ErrorCode::PayloadTooLarge, detail));
        }
        let value = if head.is_empty() { bytes } else { Bytes::from([head, &bytes].concat()) };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("SET").arg(name(key)).arg(&value[..]).arg("PX").arg(ttl_ms).ignore();
        if key.retrievals > 1 {
            commands.atomic().cmd("SET").arg(left(key)).arg(key.retrievals).arg("PX").arg(ttl_ms).ignore();
        }
        self.ask(Operation::Put, &commands).await
    }

    async fn read(&self, key: &StoreKey, counted: bool) -> Result<Option<Read>, Error> {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("GET").arg(name(key));
        let (value, left): (Option<Bytes>, i64) = if counted && key.retrievals > 1 {
            commands.atomic().cmd("DECR").arg(left(key));
            // Not tried again: its answer may be lost and its count not.
            let answer = self.ask_once(&commands).await.map_err(|error| self.failed(Operation::Get, &error))?;
            self.counters.note(Kind::Redis, |operations| operations.gets += 1);
            answer
        } else {
            let (value,): (Option<Bytes>,) = self.ask(Operation::Get, &commands).await?;
            (value, 1)
        };
        if counted && key.retrievals > 1 && left < 0 {
            self.delete(key).await?; // One too late, whose count must not stay.
            return Ok(None);
        }
        Ok(value.map(|value| Read { payload: payload(key, value), last: left == 0 }))
    }

    async fn look(&self, key: &StoreKey) -> Result<Option<Stat>, Error> {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("PTTL").arg(name(key)).cmd("GET").arg(left(key));
        let (ttl_ms, left): (i64, Option<u32>) = self.ask(Operation::Stat, &commands).await?;
        let Ok(ttl_ms) = u64::try_from(ttl_ms) else { return Ok(None) }; // -2: no such key.
        let single = (key.retrievals == 1).then_some(1);
        Ok(Some(Stat {
            size_bytes: Some(key.size_bytes),
            retrievals_left: left.or(single),
            expires: SystemTime::now().checked_add(Duration::from_millis(ttl_ms)),
        }))
    }

    async fn count_down(&self, key: &StoreKey) -> Result<(), Error> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("DECR").arg(left(key));
        let (left,): (i64,) = self.ask_once(&commands).await.map_err(|error| self.failed(Operation::Delete, &error))?;
        if left <= 0 { self.delete(key).await } else { Ok(()) }
    }
}

fn name(key: &StoreKey) -> String {
    format!("{STORE_PREFIX_REDIS}{}", key.as_str())
}

fn left(key: &StoreKey) -> String {
    format!("{STORE_PREFIX_REDIS}{}:left", key.as_str())
}

/// Splits a value into content type and payload.
fn payload(key: &StoreKey, mut value: Bytes) -> Payload {
    let head = usize::try_from(key.size_bytes).ok().and_then(|size| value.len().checked_sub(size)).unwrap_or(0);
    let head = value.split_to(head);
    let content_type = std::str::from_utf8(&head).ok().filter(|text| !text.is_empty());
    Payload::from(value).with_optional_content_type(content_type)
}

/// Whether the same commands can succeed later: the server was not reached, or is not ready.
fn passes_by_itself(error: &RedisError) -> bool {
    let busy =
        [ServerErrorKind::BusyLoading, ServerErrorKind::TryAgain, ServerErrorKind::ClusterDown, ServerErrorKind::MasterDown];
    match error.kind() {
        ErrorKind::Server(kind) => busy.contains(&kind),
        _ => error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout(),
    }
}

impl Backend for Redis {
    fn kind(&self) -> Kind {
        Kind::Redis
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn expires(&self) -> bool {
        true
    }

    fn put<'a>(
        &'a self,
        key: &'a StoreKey,
        bytes: Bytes,
        content_type: Option<&'a str>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.write(key, bytes, content_type, ttl))
    }

    fn get<'a>(&'a self, key: &'a StoreKey, counted: bool) -> BoxFuture<'a, Result<Option<Read>, Error>> {
        Box::pin(self.read(key, counted))
    }

    fn get_range<'a>(&'a self, key: &'a StoreKey, range: ByteRange) -> BoxFuture<'a, Result<Option<Bytes>, Error>> {
        Box::pin(async move {
            // Counted from the end, where the payload ends whatever stands before it.
            let from_end = |at: u64| at as i64 - key.size_bytes as i64;
            let mut commands = Pipeline::with_capacity(2);
            commands.cmd("EXISTS").arg(name(key)).cmd("GETRANGE").arg(name(key));
            commands.arg(from_end(range.first)).arg(from_end(range.first + range.length - 1));
            let (there, part): (bool, Bytes) = self.ask(Operation::Get, &commands).await?;
            Ok(there.then_some(part))
        })
    }

    fn stat<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        Box::pin(self.look(key))
    }

    fn retrieved<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            match key.retrievals {
                0 => Ok(()),
                1 => self.delete(key).await,
                _ => self.count_down(key).await,
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut commands = Pipeline::with_capacity(1);
            commands.cmd("UNLINK").arg(name(key)); // As DEL, with the memory given back by another thread.
            if key.retrievals > 1 {
                commands.arg(left(key));
            }
            commands.ignore();
            self.ask(Operation::Delete, &commands).await
        })
    }
}
