//! Objects in an S3 bucket, through `object_store`'s client.
//!
//! Up to [`STORE_PART_BYTES`] an object is one PUT and one GET; a larger one goes up as a multipart upload and comes down
//! as ranged GETs, both with [`STORE_PARTS_PARALLEL`] parts under way. Requests are signed without their payload's sum, as
//! the AWS SDKs do over TLS: summing would cost more than sending on a fast network.

use std::error::Error as StdError;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
};
use zipline_contract::limits::{STORE_PART_BYTES, STORE_PARTS_PARALLEL};
use zipline_contract::{STORE_CONTENT_TYPE_NONE, STORE_PREFIX_S3};
use zipline_store::Schemes;

use super::config::{S3Store, Stores};
use super::counters::Counters;
use super::key::{Kind, StoreKey};
use super::s3_http::{Refused, Transport};
use super::{Backend, Read};
use crate::client::{ByteRange, Stat};
use crate::error::Error;
use crate::payload::Payload;

/// First and longest pause before a refused request is sent again; each is drawn at random between.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

pub(crate) struct S3 {
    client: Arc<AmazonS3>,
    place: String,
}

/// Plain only where nothing needs TLS: the bucket's endpoint does not, and no role is asked for.
fn schemes(store: &S3Store) -> Schemes {
    let has_keys = store.credentials.iter().any(|(variable, _)| *variable == "AWS_ACCESS_KEY_ID");
    match &store.endpoint {
        Some(endpoint) if has_keys && endpoint.starts_with("http://") => Schemes::Plain,
        _ => Schemes::Both,
    }
}

impl S3 {
    pub(crate) fn new(store: &S3Store, stores: &Stores, counters: Arc<Counters>) -> Result<Self, Error> {
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: RETRY_PAUSE.0, max_backoff: RETRY_PAUSE.1, base: 2.0 },
            max_retries: stores.retries as usize,
            retry_timeout: stores.timeout,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&store.bucket)
            .with_region(&store.region)
            .with_allow_http(true)
            .with_unsigned_payload(true)
            .with_disable_bulk_delete(true) // One object is deleted at a time, and every service knows DELETE.
            .with_retry(retry)
            .with_http_connector(Transport::new(schemes(store), counters)?);
        if let Some(endpoint) = &store.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        for (variable, value) in &store.credentials {
            if let Ok(key) = AmazonS3ConfigKey::from_str(&variable.to_ascii_lowercase()) {
                builder = builder.with_config(key, &value.0);
            }
        }
        let place = store.place();
        match builder.build() {
            Ok(client) => Ok(Self { client: Arc::new(client), place }),
            Err(error) => Err(failed(&place, "configure", error)),
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(object_store::Error) -> Error {
        move |error| failed(&self.place, operation, error)
    }

    async fn upload(&self, key: &StoreKey, bytes: Bytes, content_type: Option<&str>) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        let content_type = content_type.unwrap_or(STORE_CONTENT_TYPE_NONE);
        attributes.insert(Attribute::ContentType, content_type.to_owned().into());
        if bytes.len() <= STORE_PART_BYTES {
            let options = PutOptions { attributes, ..PutOptions::default() };
            let put = self.client.put_opts(&path(key), PutPayload::from_bytes(bytes), options).await;
            return put.map(drop).map_err(self.failed("put"));
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.client.put_multipart_opts(&path(key), options).await.map_err(self.failed("put"))?;
        let mut upload = Upload(Some(upload));
        upload.parts(bytes).await.map_err(self.failed("put"))
    }

    async fn download(&self, key: &StoreKey, range: Range<u64>) -> Result<Option<Payload>, Error> {
        let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        if size <= STORE_PART_BYTES {
            let part = (range != (0..key.size_bytes)).then_some(range);
            let Some(read) = self.part(key, part).await? else { return Ok(None) };
            let mut bytes = BytesMut::with_capacity(size);
            let content_type = fill(read, |chunk| bytes.extend_from_slice(chunk)).await.map_err(self.failed("get"))?;
            return Ok(Some(Payload::from(bytes.freeze()).with_optional_content_type(content_type.as_deref())));
        }
        let mut rest = BytesMut::zeroed(size);
        let mut parts = Vec::new();
        let mut first = range.start;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(STORE_PART_BYTES));
            parts.push((first, part));
            first += STORE_PART_BYTES as u64;
        }
        let filled = stream::iter(parts.into_iter().map(|(first, part)| self.fill_part(key, first, part)));
        let mut filled: Vec<_> = filled.buffered(STORE_PARTS_PARALLEL).try_collect().await?;
        if filled.iter().any(Option::is_none) {
            return Ok(None);
        }
        let content_type = filled.first_mut().and_then(Option::take);
        let Some((mut whole, content_type)) = content_type else { return Ok(None) };
        for (part, _) in filled.into_iter().flatten() {
            whole.unsplit(part); // They lie side by side: nothing is copied.
        }
        Ok(Some(Payload::from(whole.freeze()).with_optional_content_type(content_type.as_deref())))
    }

    /// Reads a part into its place.
    async fn fill_part(
        &self,
        key: &StoreKey,
        first: u64,
        mut part: BytesMut,
    ) -> Result<Option<(BytesMut, Option<String>)>, Error> {
        let range = first..first + part.len() as u64;
        let Some(read) = self.part(key, Some(range)).await? else { return Ok(None) };
        let mut at = 0;
        let mut too_much = false;
        let content_type = fill(read, |chunk| match part.get_mut(at..at + chunk.len()) {
            Some(place) => {
                place.copy_from_slice(chunk);
                at += chunk.len();
            }
            None => too_much = true,
        });
        let content_type = content_type.await.map_err(self.failed("get"))?;
        if too_much || at != part.len() {
            let reason = format!("a part of {} bytes has another length there", part.len());
            return Err(Error::StoreRefused {
                store: Kind::S3.name(),
                place: self.place.clone(),
                operation: "get",
                reason,
                passes: false,
            });
        }
        Ok(Some((part, content_type)))
    }

    async fn part(&self, key: &StoreKey, range: Option<Range<u64>>) -> Result<Option<object_store::GetResult>, Error> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.client.get_opts(&path(key), options).await {
            Ok(read) => Ok(Some(read)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&self.place, "get", error)),
        }
    }
}

/// Reads an answer's body to its end; gives the content type.
async fn fill(read: object_store::GetResult, mut take: impl FnMut(&[u8])) -> Result<Option<String>, object_store::Error> {
    let content_type = read.attributes.get(&Attribute::ContentType).map(|value| value.as_ref().to_owned());
    let content_type = content_type.filter(|content_type| content_type != STORE_CONTENT_TYPE_NONE);
    let mut chunks = read.into_stream();
    while let Some(chunk) = chunks.next().await {
        take(&chunk?);
    }
    Ok(content_type)
}

fn path(key: &StoreKey) -> Path {
    Path::from(format!("{STORE_PREFIX_S3}{}", key.as_str()))
}

/// A multipart upload under way. Dropped before its end it is aborted, so that no parts stay behind unseen.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    async fn parts(&mut self, bytes: Bytes) -> Result<(), object_store::Error> {
        let Some(upload) = &mut self.0 else { return Ok(()) };
        let mut rest = bytes;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(STORE_PART_BYTES));
            parts.push(upload.put_part(PutPayload::from_bytes(part)));
        }
        stream::iter(parts).buffer_unordered(STORE_PARTS_PARALLEL).try_collect::<()>().await?;
        upload.complete().await?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Nobody is left to own this task; it ends within the client's bound over a request.
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// Sorts the client's error: did the store refuse, or could it not be asked?
fn failed(place: &str, operation: &'static str, error: object_store::Error) -> Error {
    let (store, place) = (Kind::S3.name(), place.to_owned());
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    let mut sent = None;
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            let passes = refused.status.is_server_error() || refused.status == StatusCode::TOO_MANY_REQUESTS;
            return Error::StoreRefused { store, place, operation, reason: refused.to_string(), passes };
        }
        if error.is::<HttpError>() {
            sent = error.source();
        }
        cause = error.source();
    }
    match sent {
        Some(error) => Error::StoreUnreachable { store, place, reason: crate::http::describe(error) },
        // The client itself: credentials that cannot be had, an answer that is not understood.
        None => {
            let reason = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
            Error::StoreRefused { store, place, operation, reason, passes: false }
        }
    }
}

impl Backend for S3 {
    fn kind(&self) -> Kind {
        Kind::S3
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn expires(&self) -> bool {
        false
    }

    fn put<'a>(
        &'a self,
        key: &'a StoreKey,
        bytes: Bytes,
        content_type: Option<&'a str>,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.upload(key, bytes, content_type))
    }

    fn get<'a>(&'a self, key: &'a StoreKey, _: bool) -> BoxFuture<'a, Result<Option<Read>, Error>> {
        Box::pin(async move {
            let read = self.download(key, 0..key.size_bytes).await?;
            Ok(read.map(|payload| Read { payload, last: false }))
        })
    }

    fn get_range<'a>(&'a self, key: &'a StoreKey, range: ByteRange) -> BoxFuture<'a, Result<Option<Bytes>, Error>> {
        Box::pin(async move {
            let read = self.download(key, range.first..range.first + range.length).await?;
            Ok(read.map(Payload::into_bytes))
        })
    }

    fn stat<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        Box::pin(async move {
            match self.client.head(&path(key)).await {
                Ok(known) => Ok(Some(Stat { size_bytes: Some(known.size), retrievals_left: None, expires: None })),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(failed(&self.place, "stat", error)),
            }
        })
    }

    fn retrieved<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { if key.retrievals == 1 { self.delete(key).await } else { Ok(()) } })
    }

    fn delete<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            match self.client.delete(&path(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(failed(&self.place, "delete", error)),
            }
        })
    }
}
