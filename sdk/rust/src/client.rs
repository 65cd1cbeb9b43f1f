//! The client: `put`, `get` and what goes with them.
//!
//! A `Client` is a cheap handle; clones share the pools. It holds no key and speaks to its own queue-proxy alone.
//! Bytes take the shortest way that is there: a descriptor over the Unix socket, else HTTP.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Method, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zipline_contract::{Transfer, headers};

use crate::config::Config;
use crate::descriptors::{Channels, PutMessage};
use crate::error::Error;
use crate::http::{Answer, Body, Connections, describe, full};
use crate::memory;
use crate::payload::Payload;
use crate::reference::{Reference, Resolved};
use crate::source::{Sent, Watched};
use crate::store::StoreSet;
use crate::store::counters::StoreCounters;
use crate::store::key::{Kind, Stored};
use crate::timestamp;

/// A handle on the local API of one queue-proxy.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) connections: Connections,
    pub(crate) channels: Channels,
    pub(crate) stores: StoreSet,
    proxy: OnceCell<Proxy>,
}

/// What the queue-proxy says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Proxy {
    /// Version of the local API.
    pub version: u32,
    /// Program.
    #[serde(default)]
    pub name: String,
    /// Its release.
    #[serde(default)]
    pub release: String,
    /// The instance it belongs to.
    #[serde(default)]
    pub instance: String,
    /// Namespace.
    #[serde(default)]
    pub namespace: String,
    /// Service.
    #[serde(default)]
    pub service: String,
    /// What it can do beyond the basics.
    #[serde(default)]
    pub features: Vec<String>,
    /// A payload below it travels inside the request, in bytes.
    #[serde(default)]
    pub inline_threshold_bytes: u64,
    /// An object below it lies on the heap, in bytes.
    #[serde(default)]
    pub heap_threshold_bytes: u64,
    /// Name of the transfer method that it is set to.
    #[serde(default)]
    pub transfer: String,
}

/// How a payload is put.
#[derive(Clone, Copy, Debug)]
pub struct PutOptions {
    /// Whole reads that are granted; the object is freed after the last.
    pub retrievals: NonZeroU32,
    /// When it expires; `None`: as the proxy is set (`ZIPLINE_PUT_TTL_SECONDS`).
    pub ttl: Option<Duration>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self { retrievals: NonZeroU32::MIN, ttl: None }
    }
}

/// What a put gives back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Receipt {
    /// Stands for the payload.
    pub reference: Reference,
    /// Bytes; `None` while they are still being written.
    pub size_bytes: Option<u64>,
    /// When the reference expires; `None`: never (inline).
    pub expires: Option<SystemTime>,
    /// Until when the instance promises to hold it, should it be told to shut down now.
    pub guaranteed_until: Option<SystemTime>,
}

/// What is known of an object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stat {
    /// Bytes; `None` while they are still being written.
    pub size_bytes: Option<u64>,
    /// Whole reads left; `None`: without limit (inline).
    pub retrievals_left: Option<u32>,
    /// When it expires; `None`: never (inline).
    pub expires: Option<SystemTime>,
}

/// A part of a payload, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ByteRange {
    /// Its first byte.
    pub first: u64,
    /// Its length; at least 1.
    pub length: u64,
}

/// How a reference is narrowed. Nothing can be widened.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    /// A sooner expiry.
    pub expires: Option<SystemTime>,
    /// A part of what it reads.
    pub range: Option<ByteRange>,
    /// The only service that may read it, `NAMESPACE/SERVICE`.
    pub receiver: Option<String>,
    /// Its turn of a broadcast object, below the number of retrievals.
    pub slot: Option<u32>,
}

#[derive(Serialize)]
struct NarrowBody<'a> {
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<ByteRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
}

/// The members of a put's answer, and of narrow's.
#[derive(Deserialize)]
pub(crate) struct ReceiptBody {
    pub(crate) reference: String,
    pub(crate) size: Option<u64>,
    pub(crate) expires: Option<String>,
    pub(crate) guaranteed_until: Option<String>,
    write_token: Option<String>,
}

impl ReceiptBody {
    pub(crate) fn into_receipt(self) -> Receipt {
        Receipt {
            reference: Reference::from_token(self.reference),
            size_bytes: self.size,
            expires: self.expires.as_deref().and_then(timestamp::parse),
            guaranteed_until: self.guaranteed_until.as_deref().and_then(timestamp::parse),
        }
    }
}

/// Writes an object that was referred to before its bytes were there. Dropped unwritten, the object is aborted by its expiry.
#[must_use = "readers wait until it is written"]
pub struct ObjectWriter {
    client: Client,
    token: String,
}

impl Client {
    /// The client that the environment describes: `ZIPLINE_API` and `ZIPLINE_TRANSFER`.
    ///
    /// # Errors
    /// [`Error::Configuration`] and [`Error::MethodNotBuilt`], as [`Config::from_variables`].
    pub fn from_env() -> Result<Self, Error> {
        Config::from_variables(|name| std::env::var(name).ok()).map(Self::new)
    }

    /// A client with that configuration. Nothing is connected before it is needed.
    pub fn new(config: Config) -> Self {
        let connections = Connections::new(config.api.clone(), config.limits);
        let channels = Channels::new(config.api.clone(), config.limits);
        Self { inner: Arc::new(Inner { config, connections, channels, stores: StoreSet::new(), proxy: OnceCell::new() }) }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What the queue-proxy says about itself; asked for once.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Protocol`].
    pub async fn proxy(&self) -> Result<&Proxy, Error> {
        self.inner
            .proxy
            .get_or_try_init(|| async {
                let answer = self.ask("GET /v1", Request::get("/v1"), full("")).await?;
                let proxy: Proxy = parse("GET /v1", &answer)?;
                match proxy.version {
                    1 => Ok(proxy),
                    other => Err(Error::protocol("GET /v1", format_args!("version {other} of the local API; this SDK speaks 1"))),
                }
            })
            .await
    }

    /// Puts a payload; returns once it can be referred to.
    ///
    /// # Errors
    /// [`Error::Refused`] with `buffer-full`, `payload-too-large`, `draining` or `request-invalid`; [`Error::Unreachable`].
    pub async fn put(&self, payload: impl Into<Payload>, options: PutOptions) -> Result<Reference, Error> {
        self.put_with_receipt(payload, options).await.map(|receipt| receipt.reference)
    }

    /// As [`put`](Self::put), with size and expiry.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_with_receipt(&self, payload: impl Into<Payload>, options: PutOptions) -> Result<Receipt, Error> {
        let payload = payload.into();
        if self.config().transfer == Transfer::Inline {
            return Ok(inline_receipt(&payload));
        }
        if let Some(kind) = Kind::of(self.config().transfer) {
            let put = self.inner.stores.put(&self.config().stores, kind, payload, options.retrievals.get(), options.ttl);
            return put.await.map(|(_, receipt)| receipt);
        }
        if let Some(receipt) = self.put_descriptor(&payload, options).await? {
            return Ok(receipt);
        }
        let request = put_request(&format!("{}", PutQuery(options)), payload.content_type());
        let answer = self.ask("POST /v1/objects", request, full(payload.into_bytes())).await?;
        parse::<ReceiptBody>("POST /v1/objects", &answer).map(ReceiptBody::into_receipt)
    }

    /// Hands the payload's memory over, if that is the shorter way.
    pub(crate) async fn put_descriptor(&self, payload: &Payload, options: PutOptions) -> Result<Option<Receipt>, Error> {
        if !self.descriptors().await? {
            return Ok(None);
        }
        let copied;
        let sealed = match payload.memory() {
            Some(memory) => memory,
            None if payload.len() as u64 >= self.proxy().await?.heap_threshold_bytes && !payload.is_empty() => {
                copied = memory::copy(payload)?;
                &copied
            }
            None => return Ok(None),
        };
        let message = PutMessage {
            retrievals: options.retrievals.get(),
            ttl_ms: options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            content_type: payload.content_type(),
        };
        self.inner.channels.put(&message, sealed).await.map(|body| Some(body.into_receipt()))
    }

    /// Puts a payload whose length is not known before its end.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`Error::Source`] when the stream fails: the object is then aborted.
    pub async fn put_stream<S>(&self, stream: S, options: PutOptions, content_type: Option<&str>) -> Result<Receipt, Error>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        if self.config().transfer != Transfer::Zipline {
            let mut payload = crate::source::collect(stream, self.config().limits.heap_bytes_max).await?;
            payload = payload.with_optional_content_type(content_type);
            return self.put_with_receipt(payload, options).await;
        }
        let (body, sent) = streamed(stream);
        let request = put_request(&format!("{}", PutQuery(options)), content_type);
        let answer = sent.or_source_error(self.ask("POST /v1/objects", request, body).await)?;
        parse::<ReceiptBody>("POST /v1/objects", &answer).map(ReceiptBody::into_receipt)
    }

    /// A reference at once, to an object that is written afterwards and can be pulled meanwhile.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`Error::MethodNotBuilt`] under every method but `zipline`: elsewhere the bytes must be there.
    pub async fn open(&self, options: PutOptions, content_type: Option<&str>) -> Result<(Receipt, ObjectWriter), Error> {
        match self.config().transfer {
            Transfer::Zipline => {}
            Transfer::Inline => return Err(Error::MethodNotBuilt { method: "inline (open)" }),
            Transfer::S3 => return Err(Error::MethodNotBuilt { method: "s3 (open)" }),
            Transfer::Redis => return Err(Error::MethodNotBuilt { method: "redis (open)" }),
        }
        let request = put_request(&format!("open&{}", PutQuery(options)), content_type);
        let answer = self.ask("POST /v1/objects?open", request, full("")).await?;
        let mut body: ReceiptBody = parse("POST /v1/objects?open", &answer)?;
        let token = body.write_token.take().ok_or_else(|| Error::protocol("POST /v1/objects?open", "no write_token"))?;
        Ok((body.into_receipt(), ObjectWriter { client: self.clone(), token }))
    }

    /// Reads a payload, wherever it is now. Counts as a retrieval.
    ///
    /// # Errors
    /// [`Error::Refused`] with the code that says why: expired, exhausted, producer gone, unreachable, corrupt …
    pub async fn get(&self, reference: &Reference) -> Result<Payload, Error> {
        match reference.resolve()? {
            Resolved::Inline(bytes) => Ok(Payload::from(bytes)),
            Resolved::Stored(stored) => {
                self.inner.stores.get(&self.config().stores, &stored, self.config().limits.heap_bytes_max).await
            }
            Resolved::Sealed(token) if self.descriptors().await? => self.inner.channels.get(token).await,
            Resolved::Sealed(token) => self.get_http(token, None).await,
        }
    }

    /// Reads a part of a payload onto the heap. Does not count as a retrieval.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `range-unsatisfiable` for a range outside the payload.
    pub async fn get_range(&self, reference: &Reference, range: ByteRange) -> Result<Payload, Error> {
        match reference.resolve()? {
            Resolved::Inline(bytes) => inline_range(&bytes, range).map(Payload::from),
            Resolved::Stored(stored) => {
                let Config { stores, limits, .. } = self.config();
                self.inner.stores.get_range(stores, &stored, range, limits.heap_bytes_max).await
            }
            Resolved::Sealed(token) => self.get_http(token, Some(range)).await,
        }
    }

    async fn get_http(&self, token: &str, range: Option<ByteRange>) -> Result<Payload, Error> {
        let mut request = Request::get("/v1/objects").header(headers::REFERENCE, token);
        if let Some(ByteRange { first, length }) = range {
            let last =
                length.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or_else(|| range_error(first, length))?;
            request = request.header(header::RANGE, format!("bytes={first}-{last}"));
        }
        let answer = self.ask("GET /v1/objects", request, full("")).await?;
        if let Some(range) = range.filter(|range| range.length != answer.body.len() as u64) {
            return Err(range_error(range.first, range.length));
        }
        let content_type = answer.text(header::CONTENT_TYPE.as_str()).map(str::to_owned);
        Ok(Payload::from(answer.body).with_optional_content_type(content_type.as_deref()))
    }

    /// What is known of an object, without reading it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn stat(&self, reference: &Reference) -> Result<Stat, Error> {
        let token = match reference.resolve()? {
            Resolved::Inline(bytes) => {
                return Ok(Stat { size_bytes: Some(bytes.len() as u64), retrievals_left: None, expires: None });
            }
            Resolved::Stored(stored) => return self.inner.stores.stat(&self.config().stores, &stored).await,
            Resolved::Sealed(token) => token,
        };
        let request = Request::head("/v1/objects").header(headers::REFERENCE, token);
        let answer = self.ask("HEAD /v1/objects", request, full("")).await?;
        Ok(Stat {
            size_bytes: answer.text(header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok()),
            retrievals_left: answer.text(headers::RETRIEVALS_LEFT).and_then(|text| text.parse().ok()),
            expires: answer.text(headers::EXPIRES).and_then(timestamp::parse),
        })
    }

    /// Frees an object for everybody. Twice is the same as once.
    ///
    /// # Errors
    /// [`Error::Refused`] when the reference is not one or its producer cannot be reached.
    pub async fn release(&self, reference: &Reference) -> Result<(), Error> {
        let token = match reference.resolve()? {
            Resolved::Inline(_) => return Ok(()),
            Resolved::Stored(stored) => return self.inner.stores.release(&self.config().stores, &stored).await,
            Resolved::Sealed(token) => token,
        };
        let request = Request::delete("/v1/objects").header(headers::REFERENCE, token);
        self.ask("DELETE /v1/objects", request, full("")).await.map(drop)
    }

    /// A narrower reference to the same object. No network is needed and nothing can be widened.
    ///
    /// An inline reference, and one to a store, narrows to its range; receiver, slot and expiry have no meaning there.
    ///
    /// # Errors
    /// [`Error::Refused`] with `request-invalid`, or why the reference is none.
    pub async fn narrow(&self, reference: &Reference, narrow: &Narrow) -> Result<Reference, Error> {
        let token = match (reference.resolve()?, narrow.range) {
            (Resolved::Inline(_) | Resolved::Stored(_), None) => return Ok(reference.clone()),
            (Resolved::Stored(stored), Some(range)) => {
                let part = stored.part(range).ok_or_else(|| range_error(range.first, range.length))?;
                return Ok(Stored { range: Some(part), ..stored }.reference());
            }
            (Resolved::Inline(bytes), Some(range)) => return inline_range(&bytes, range).map(|part| Reference::inline(&part)),
            (Resolved::Sealed(token), _) => token,
        };
        let body = NarrowBody {
            reference: token,
            expires: narrow.expires.map(timestamp::format),
            range: narrow.range,
            receiver: narrow.receiver.as_deref(),
            slot: narrow.slot,
        };
        let body = serde_json::to_vec(&body).map_err(|error| Error::protocol("POST /v1/references/narrow", error))?;
        let request = Request::post("/v1/references/narrow").header(header::CONTENT_TYPE, "application/json");
        let answer = self.ask("POST /v1/references/narrow", request, full(body)).await?;
        parse::<ReceiptBody>("POST /v1/references/narrow", &answer).map(|body| Reference::from_token(body.reference))
    }

    /// What this client has asked of its stores so far. Under `zipline` and `inline` that is nothing.
    pub fn store_counters(&self) -> StoreCounters {
        self.inner.stores.counters()
    }

    /// Deletes what this client put into stores and is still there, and waits until that is done.
    ///
    /// The end of a session: references that others still hold come to nothing, as under `zipline` when a producer ends.
    /// Dropping the last clone of a client sets the same off without waiting for it. Does nothing under `zipline` and
    /// `inline`.
    pub async fn clean_up(&self) {
        self.inner.stores.clean_up(true).await;
    }

    /// Whether descriptors can pass to and from the queue-proxy.
    pub(crate) async fn descriptors(&self) -> Result<bool, Error> {
        if !self.config().api.passes_descriptors() {
            return Ok(false);
        }
        Ok(self.proxy().await?.features.iter().any(|feature| feature == "descriptors"))
    }

    async fn ask(&self, what: &'static str, request: http::request::Builder, body: Body) -> Result<Answer, Error> {
        let request = request.body(body).map_err(|error| Error::protocol(what, describe(&error)))?;
        self.inner.connections.ask(what, request).await?.accepted(what)
    }
}

impl ObjectWriter {
    /// Writes the whole object, from first byte to last.
    ///
    /// # Errors
    /// [`Error::Source`] when the stream fails: the object is then aborted; [`Error::Refused`].
    pub async fn write<S>(self, stream: S) -> Result<(), Error>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let (body, sent) = streamed(stream);
        let request = Request::builder().method(Method::PUT).uri("/v1/objects").header(headers::WRITE, self.token);
        sent.or_source_error(self.client.ask("PUT /v1/objects", request, body).await).map(drop)
    }
}

/// The query of a put.
struct PutQuery(PutOptions);

impl std::fmt::Display for PutQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "retrievals={}", self.0.retrievals)?;
        self.0.ttl.map_or(Ok(()), |ttl| write!(f, "&ttl={}ms", ttl.as_millis()))
    }
}

fn put_request(query: &str, content_type: Option<&str>) -> http::request::Builder {
    let request = Request::post(format!("/v1/objects?{query}"));
    match content_type {
        Some(content_type) => request.header(header::CONTENT_TYPE, content_type),
        None => request,
    }
}

/// A body that is fed from a stream, and the note of how far it came.
fn streamed<S>(stream: S) -> (Body, Sent)
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    let sent = Sent::default();
    let frames = Watched::new(stream, sent.clone()).map(|item| item.map(Frame::data));
    (StreamBody::new(frames).boxed_unsync(), sent)
}

fn inline_receipt(bytes: &[u8]) -> Receipt {
    Receipt { reference: Reference::inline(bytes), size_bytes: Some(bytes.len() as u64), expires: None, guaranteed_until: None }
}

fn inline_range(bytes: &Bytes, range: ByteRange) -> Result<Bytes, Error> {
    let end = range.first.checked_add(range.length).filter(|end| range.length > 0 && *end <= bytes.len() as u64);
    let end = end.ok_or_else(|| range_error(range.first, range.length))?;
    Ok(bytes.slice(range.first as usize..end as usize))
}

pub(crate) fn range_error(first: u64, length: u64) -> Error {
    let detail = format!("the range of {length} bytes from byte {first} is not within the payload");
    Error::refused(zipline_contract::ErrorCode::RangeUnsatisfiable, detail)
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, answer: &'a Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|error| Error::protocol(what, error))
}
