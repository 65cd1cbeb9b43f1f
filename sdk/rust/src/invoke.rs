//! Calls to other services.
//!
//! The callee gets an ordinary request with an ordinary body. Under `zipline` a payload at or above the proxy's inline
//! threshold is put for the length of the call and travels as a reference; any number of tries up to
//! [`CALL_RETRIEVALS`] may read it, as the retry of an inline request could, and it is freed when the call ends,
//! however it ends. Under `s3` and `redis` it is parked in the store meanwhile, and a small body that holds its key goes in
//! its place; the callee's SDK reads it before its handler sees the request.

use std::num::NonZeroU32;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use zipline_contract::{ErrorCode, STORED_PAYLOAD_MEDIA_TYPE, Transfer, headers};

use crate::client::{Client, Narrow, PutOptions};
use crate::error::Error;
use crate::http::{Body, describe, full};
use crate::message::{Envelope, Response, content_type};
use crate::payload::Payload;
use crate::reference::{Reference, Resolved};
use crate::store::key::{Kind, Stored};

/// Whole reads granted to a payload that belongs to a call.
const CALL_RETRIEVALS: NonZeroU32 = NonZeroU32::new(8).expect("eight is not zero");

/// A request to a service.
#[derive(Clone, Debug)]
pub struct Call {
    service: String,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: CallBody,
}

#[derive(Clone, Debug)]
enum CallBody {
    Payload(Payload),
    Reference(Reference),
}

impl Call {
    /// `POST /` to the service `NAME` or `NAME.NAMESPACE`, without a payload.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            method: Method::POST,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            body: CallBody::Payload(Payload::empty()),
        }
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// With another path and query, beginning with `/`.
    #[must_use]
    pub fn path(mut self, path_and_query: impl Into<String>) -> Self {
        self.path = path_and_query.into();
        self
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// With that payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.body = CallBody::Payload(payload.into());
        self
    }

    /// With the payload that the reference stands for; the callee's answer below 500 is its retrieval.
    #[must_use]
    pub fn reference(mut self, reference: Reference) -> Self {
        self.body = CallBody::Reference(reference);
        self
    }

    fn target(&self) -> Result<String, Error> {
        let name_ok = !self.service.is_empty()
            && self.service.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
        if !name_ok || !self.path.starts_with('/') {
            let detail =
                format!("service `{}`, path `{}`: expected NAME or NAME.NAMESPACE, and a path from `/`", self.service, self.path);
            return Err(Error::refused(ErrorCode::RequestInvalid, detail));
        }
        Ok(format!("/v1/invoke/{}{}", self.service, self.path))
    }
}

impl Client {
    /// Sends the payload to a service by `POST /` and waits for its answer.
    ///
    /// Whatever the callee's function answers is an `Ok`, also 404 or 500.
    ///
    /// # Errors
    /// [`Error::Refused`] when a queue-proxy, ours or the callee's, refused the payload or the call.
    pub async fn invoke(&self, service: &str, payload: impl Into<Payload>) -> Result<Response, Error> {
        self.call(Call::new(service).payload(payload)).await
    }

    /// As [`invoke`](Self::invoke), with method, path, headers or a reference of the caller's choice.
    ///
    /// # Errors
    /// As [`invoke`](Self::invoke).
    pub async fn call(&self, call: Call) -> Result<Response, Error> {
        let target = call.target()?;
        let Sending { body, reference, stored, held } = self.sending(&call).await?;
        let mut request = http::Request::builder().method(&call.method).uri(target);
        if let Some(reference) = reference {
            request = request.header(headers::REFERENCE, reference.as_str());
        }
        let body = match &stored {
            Some(stored) => full(envelope(stored, &call)?),
            None => body,
        };
        let mut request = request.body(body).map_err(|error| Error::protocol("invoke", describe(&error)))?;
        request.headers_mut().extend(call.headers.clone());
        if stored.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(STORED_PAYLOAD_MEDIA_TYPE));
        } else if let CallBody::Payload(payload) = &call.body
            && let Some(value) = payload.content_type().and_then(|text| HeaderValue::from_str(text).ok())
        {
            request.headers_mut().entry(CONTENT_TYPE).or_insert(value);
        }
        let outcome = self.inner.connections.ask("invoke", request).await;
        if let Some(Held::Object(hold)) = held {
            hold.end().await; // An object in a store is freed by dropping it.
        }
        let answer = outcome?;
        match answer.refusal() {
            Some(error) => Err(error),
            None => {
                let payload = Payload::from(answer.body).with_optional_content_type(content_type(&answer.headers));
                Ok(Response { status: answer.status, headers: answer.headers, payload })
            }
        }
    }

    /// What the call sends, and what is held for its length.
    async fn sending(&self, call: &Call) -> Result<Sending, Error> {
        let nothing = Sending { body: full(""), reference: None, stored: None, held: None };
        let payload = match &call.body {
            CallBody::Payload(payload) => payload,
            CallBody::Reference(reference) => {
                return Ok(match reference.resolve()? {
                    Resolved::Inline(bytes) => Sending { body: full(bytes), ..nothing },
                    Resolved::Sealed(_) => Sending { reference: Some(reference.clone()), ..nothing },
                    Resolved::Stored(_) => Sending { stored: Some(reference.clone()), ..nothing },
                });
            }
        };
        let stores = &self.config().stores;
        if let Some(kind) = Kind::of(self.config().transfer)
            && !payload.is_empty()
            && payload.len() as u64 >= stores.inline_bytes
        {
            let ttl = Some(self.config().limits.answer_timeout);
            let (stored, receipt) = self.inner.stores.put(stores, kind, payload.clone(), 0, ttl).await?;
            let held = Some(Held::Stored { _hold: StoredHold { client: self.clone(), stored } });
            return Ok(Sending { stored: Some(receipt.reference), held, ..nothing });
        }
        Ok(match self.hold_for_call(payload, &call.service).await? {
            Some(hold) => Sending { reference: Some(hold.narrowed.clone()), held: Some(Held::Object(hold)), ..nothing },
            None => Sending { body: full(payload.clone().into_bytes()), ..nothing },
        })
    }

    /// Puts the payload for the length of a call, if it is large enough to gain by it and descriptors can pass.
    /// A proxy that gets the body over HTTP instead makes the same choice itself.
    async fn hold_for_call(&self, payload: &Payload, service: &str) -> Result<Option<Hold>, Error> {
        let large = |threshold| payload.len() as u64 >= threshold && !payload.is_empty();
        if self.config().transfer != Transfer::Zipline
            || !self.config().api.passes_descriptors()
            || !large(self.proxy().await?.inline_threshold_bytes)
        {
            return Ok(None);
        }
        let options = PutOptions { retrievals: CALL_RETRIEVALS, ttl: Some(self.config().limits.answer_timeout) };
        let Some(receipt) = self.put_descriptor(payload, options).await? else { return Ok(None) };
        let mut hold = Hold { client: self.clone(), reference: Some(receipt.reference.clone()), narrowed: receipt.reference };
        let receiver = match service.split_once('.') {
            Some((name, namespace)) => format!("{namespace}/{name}"),
            None => format!("{}/{service}", self.proxy().await?.namespace),
        };
        let narrow = Narrow { receiver: Some(receiver), ..Narrow::default() };
        hold.narrowed = self.narrow(&hold.narrowed, &narrow).await?;
        Ok(Some(hold))
    }
}

/// How a call's payload travels.
struct Sending {
    body: Body,
    /// The queue-proxies resolve it.
    reference: Option<Reference>,
    /// The callee's SDK resolves it: it goes in the body's place.
    stored: Option<Reference>,
    held: Option<Held>,
}

/// What is held for the length of a call.
enum Held {
    Object(Hold),
    Stored { _hold: StoredHold },
}

/// An object in a store that belongs to a call; dropped, it is freed behind.
struct StoredHold {
    client: Client,
    stored: Stored,
}

impl Drop for StoredHold {
    fn drop(&mut self) {
        self.client.inner.stores.delete(&self.client.inner.config.stores, &self.stored);
    }
}

/// The body that stands for a payload in a store.
fn envelope(reference: &Reference, call: &Call) -> Result<Vec<u8>, Error> {
    let given = content_type(&call.headers);
    let of_payload = match &call.body {
        CallBody::Payload(payload) => payload.content_type(),
        CallBody::Reference(_) => None,
    };
    let envelope = Envelope { reference: reference.clone(), content_type: given.or(of_payload).map(str::to_owned) };
    serde_json::to_vec(&envelope).map_err(|error| Error::protocol("invoke", error))
}

/// A payload that belongs to a call; freed when the call ends.
struct Hold {
    client: Client,
    reference: Option<Reference>,
    narrowed: Reference,
}

impl Hold {
    async fn end(mut self) {
        if let Some(reference) = self.reference.take() {
            // Should it fail, the object's expiry frees it; the call's outcome is what the caller wants to know.
            self.client.release(&reference).await.ok();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let (Some(reference), Ok(runtime)) = (self.reference.take(), tokio::runtime::Handle::try_current()) else { return };
        let client = self.client.clone();
        // The call was dropped, so nobody is left to own this task; it ends within `answer_timeout`.
        runtime.spawn(async move { client.release(&reference).await });
    }
}
