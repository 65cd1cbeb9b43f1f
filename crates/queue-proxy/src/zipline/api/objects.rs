//! `/v1/objects`: put, open and write, get, stat, release.

use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Serialize;
use zipline_contract::limits::CONTENT_TYPE_BYTES_MAX;
use zipline_contract::{ErrorCode, headers};
use zipline_core::object::Owner;
use zipline_core::pull::HeaderText;
use zipline_core::pull::{ByteRange, RangeError};
use zipline_core::time::WallTime;
use zipline_transfer::{FetchOptions, Put, PutOptions, Taking, Writer};

use super::flushed::AfterFlush;
use super::opened::Untold;
use super::{Answer, Api, json, no_content, options};
use crate::zipline::body::{self, BodyError};
use crate::zipline::problem::Problem;
use crate::zipline::upload::Upload;
use crate::zipline::{reading, rfc3339, trace};

/// The document of `POST /v1/objects`; a descriptor channel's `put` answers with the same fields.
#[derive(Serialize)]
pub(crate) struct ReceiptDocument {
    reference: String,
    size: Option<u64>,
    expires: String,
    guaranteed_until: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_token: Option<String>,
}

impl From<&Put> for ReceiptDocument {
    fn from(put: &Put) -> Self {
        Self {
            reference: put.token.as_str().to_owned(),
            size: Some(put.size),
            expires: rfc3339::format(put.expires),
            guaranteed_until: rfc3339::format(put.guaranteed_until),
            write_token: None,
        }
    }
}

impl Api {
    pub(super) async fn put(&self, request: Request<Upload>, after: &AfterFlush) -> Answer {
        let query = options::PutQuery::parse(request.uri().query(), self.info.ttl_max())?;
        let size = if query.open { None } else { request.body().size_hint().exact() };
        let put = PutOptions {
            owner: Owner::Put { retrievals: query.retrievals },
            ttl: query.ttl,
            sum: query.sum,
            durability: query.durability,
            size,
            content_type: content_type(request.headers())?,
            trace: trace::of(request.headers(), request.extensions()),
            ..PutOptions::default()
        };
        if query.open {
            return self.open(request, put, after).await;
        }
        let writer = self.node.put(put).await?;
        let put = write_all(writer, request.into_body()).await?;
        let unanswered = self.node.unanswered(&put);
        zipline_fault_point::fault_point!("put.answering");
        let answer = created(&ReceiptDocument::from(&put))?;
        after.run(Box::new(move || unanswered.answered()));
        Ok(answer)
    }

    async fn open(&self, request: Request<Upload>, put: PutOptions, after: &AfterFlush) -> Answer {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::invalid(format!("the request broke off: {error}")))?;
            if frame.data_ref().is_some_and(|bytes| !bytes.is_empty()) {
                return Err(Problem::invalid("an object that is opened gets its bytes by PUT; this request has a body"));
            }
        }
        let writer = self.node.put(put).await?;
        let mut document = ReceiptDocument {
            reference: writer.reference()?.into_string(),
            size: None,
            expires: rfc3339::format(writer.expires()),
            guaranteed_until: rfc3339::format(writer.guaranteed_until()),
            write_token: None,
        };
        let untold = Untold::keep(&self.opened, writer)?;
        document.write_token = Some(untold.token.clone());
        let answer = created(&document)?;
        after.run(Box::new(move || untold.told()));
        Ok(answer)
    }

    pub(super) async fn write(&self, request: Request<Upload>) -> Answer {
        options::no_query(request.uri().query())?;
        let token = request.headers().get(headers::WRITE).and_then(|value| value.to_str().ok());
        let token =
            token.ok_or_else(|| Problem::invalid("PUT /v1/objects needs Zipline-Write: TOKEN, from POST /v1/objects?open"))?;
        let writer = self.opened.take(token)?;
        let put = write_all(writer, request.into_body()).await?;
        let mut response = no_content();
        response.headers_mut().insert(HeaderName::from_static(headers::SIZE), HeaderValue::from(put.size));
        Ok(response)
    }

    pub(super) async fn get(&self, request: &Request<Upload>, after: &AfterFlush) -> Answer {
        let counts = options::get_query(request.uri().query())?;
        let token = reference(request.headers())?;
        let range = self.range(token, request.headers())?;
        let trace = trace::of(request.headers(), request.extensions());
        let incoming = self.node.fetch(token, FetchOptions { range, taking: Taking::Stream, trace }).await?;
        let (length, first, size) = (incoming.content_length(), incoming.first(), incoming.shown_size());
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(text) = incoming.content_type().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(CONTENT_TYPE, text);
        }
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if range.is_some() {
            headers.insert(CONTENT_RANGE, content_range(first, length, size)?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let acknowledges = range.is_none() || counts;
        let (after, acknowledgements) = (after.clone(), self.acknowledgements.clone());
        let delivered = Box::new(move |incoming| {
            if acknowledges {
                after.run(Box::new(move || acknowledgements.spawn(reading::acknowledged(incoming))));
            }
        });
        let body = reading::body(incoming, delivered).map_err(BodyError::Payload).boxed_unsync();
        Ok(response.map(|()| body))
    }

    /// The range that is asked for; an unusable form is as if absent where HTTP says so.
    fn range(&self, token: &str, headers: &HeaderMap) -> Result<Option<ByteRange>, Problem> {
        let Some(value) = headers.get(RANGE) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Problem::invalid("Range is not text"))?;
        let size = self.node.open(token)?.visible_size();
        match ByteRange::parse(text, size) {
            Ok(range) => Ok(Some(range)),
            Err(RangeError::Unit | RangeError::Several) => Ok(None),
            Err(error) => Err(Problem::new(error.code(), format!("Range {text:?}: {error}"))),
        }
    }

    pub(super) async fn head(&self, request: &Request<Upload>) -> Answer {
        options::get_query(request.uri().query())?;
        let stat = self.node.stat(reference(request.headers())?).await?;
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        if let Some(size) = stat.size {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        headers.insert(HeaderName::from_static(headers::RETRIEVALS_LEFT), HeaderValue::from(stat.retrievals_left));
        if let Ok(expires) = HeaderValue::from_str(&rfc3339::format(stat.expires)) {
            headers.insert(HeaderName::from_static(headers::EXPIRES), expires);
        }
        Ok(response)
    }

    pub(super) async fn delete(&self, request: &Request<Upload>) -> Answer {
        options::no_query(request.uri().query())?;
        match self.node.free(reference(request.headers())?).await.map_err(Problem::from) {
            Ok(()) => Ok(no_content()),
            Err(problem) if problem.code == ErrorCode::ReferenceExhausted => Ok(no_content()),
            Err(problem) => Err(problem),
        }
    }
}

/// Writes a body into an object. Whatever keeps it from its end aborts the object, since the writer is dropped.
async fn write_all(mut writer: Writer, mut body: Upload) -> Result<Put, Problem> {
    while let Some(frame) = body.frame().await {
        let cut = |error| Problem::new(ErrorCode::PayloadAborted, format!("the body broke off: {error}"));
        if let Ok(bytes) = frame.map_err(cut)?.into_data() {
            writer.write(bytes).await?;
        }
    }
    Ok(writer.finish().await?)
}

fn created(document: &ReceiptDocument) -> Answer {
    let mut response = json(StatusCode::CREATED, document)?;
    let token = HeaderValue::from_str(&document.reference).map_err(|error| Problem::invalid(error.to_string()))?;
    response.headers_mut().insert(HeaderName::from_static(headers::REFERENCE), token);
    Ok(response)
}

/// The one reference of a request to the local API.
pub(super) fn reference(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut references = headers.get_all(headers::REFERENCE).iter();
    match (references.next(), references.next()) {
        (Some(one), None) => one
            .to_str()
            .map(str::trim)
            .map_err(|_| Problem::new(ErrorCode::ReferenceInvalid, "the reference is not a text of visible characters")),
        (None, _) => Err(Problem::invalid("the request needs the header Zipline-Reference")),
        (Some(_), Some(_)) => Err(Problem::new(ErrorCode::ReferenceAmbiguous, "the request has more than one Zipline-Reference")),
    }
}

/// A content type to be kept with an object.
fn content_type(headers: &HeaderMap) -> Result<Option<HeaderText>, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    checked_content_type(value.to_str().unwrap_or_default()).map(Some)
}

/// Checks a content type's form and length.
pub(crate) fn checked_content_type(text: &str) -> Result<HeaderText, Problem> {
    HeaderText::new(text, CONTENT_TYPE_BYTES_MAX)
        .ok_or_else(|| Problem::invalid(format!("Content-Type is not visible ASCII of 1 to {CONTENT_TYPE_BYTES_MAX} bytes")))
}

fn content_range(first: u64, length: Option<u64>, size: Option<u64>) -> Result<HeaderValue, Problem> {
    let star = || "*".to_owned();
    let size = size.map_or_else(star, |size| size.to_string());
    let text = match length {
        Some(length) if length > 0 => format!("bytes {first}-{}/{size}", first + length - 1),
        _ => format!("bytes */{size}"),
    };
    HeaderValue::from_str(&text).map_err(|error| Problem::invalid(error.to_string()))
}

/// The wall clock.
pub(crate) fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallTime::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
