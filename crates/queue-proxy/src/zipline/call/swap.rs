//! A call's body swapped for a reference, while it is still arriving.
//!
//! The head travels at once with a reference to an object whose bytes the function is still sending; the callee's proxy
//! pulls them as they come. The object belongs to the call: it is freed when the answer's head arrives, or the call
//! fails, times out or is given up. An answer that comes before the upload is through ends the upload if it is a
//! refusal; otherwise both go on, as they would inline, and the object stays until the answer's body ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio::time::timeout_at;
use zipline_contract::{ErrorCode, Transfer, headers};
use zipline_core::object::Owner;
use zipline_core::pull::HeaderText;
use zipline_core::reference::{Narrowing, Receiver};
use zipline_transfer::{CallObject, Node, PutOptions, TIER_MEMORY, WorkSpan, Writer};

use super::answer::{self, Beside, Deadline};
use super::{Calls, Origin, Retain, timed_out};
use crate::zipline::body::{self, Body};
use crate::zipline::problem::Problem;
use crate::zipline::service::Service;
use crate::zipline::upload::Upload;

/// What is known of a body before it is swapped.
pub(super) struct Swap<'a> {
    pub(super) service: &'a Service,
    pub(super) length: u64,
    pub(super) retain: Retain,
    pub(super) origin: Origin,
    /// The callee was told that its answer may come by reference.
    pub(super) asked: bool,
    pub(super) span: &'a mut WorkSpan,
}

/// A body on its way into an object.
type Uploading = BoxFuture<'static, Result<(), Problem>>;

impl Calls {
    /// Sends a body by reference, or inside the request where that is better than to fail.
    pub(super) async fn swap(&self, mut head: Parts, body: Upload, swap: Swap<'_>) -> Result<Response<Body>, Problem> {
        let deadline = Deadline::after(self.settings.timeout);
        let (writer, object) = match self.object(&head, &swap).await {
            Ok(opened) => opened,
            Err(problem) if swap.origin == Origin::Invoke && problem.code != ErrorCode::Draining => return Err(problem),
            // Who knows nothing of Zipline is told nothing of it; and that this instance ends is nobody's mistake: requests
            // that it still serves make calls, which must not fail by it.
            Err(problem) => {
                tracing::info!(error = problem.code.name(), detail = %problem.detail, "a body could not be buffered and goes inline");
                let request = Request::from_parts(head, body::passed_on(body));
                swap.span.method(Transfer::Inline.name());
                return self.inline(request, (swap.origin, swap.asked), None, &Default::default()).await;
            }
        };
        swap.span.waited();
        swap.span.method(Transfer::Zipline.name());
        swap.span.tier(TIER_MEMORY);
        self.counters.swap_out();
        head.headers.insert(HeaderName::from_static(headers::REFERENCE), token_header(writer.reference()?.as_str())?);
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        head.headers.remove(EXPECT); // The local proxy says `100 Continue` itself, when it begins to read.
        zipline_fault_point::fault_point!("call.sent");
        let is_closing = Arc::new(AtomicBool::new(false));
        let mut upload: Uploading = Box::pin(upload(body, writer, swap.length, Arc::clone(&is_closing)));
        let mut sent = Box::pin(timeout_at(deadline.at(), self.upstream.send(Request::from_parts(head, body::empty()))));
        let (answered, unfinished) = tokio::select! {
            biased; // Of an answer to all of the body the upload knows first.
            uploaded = &mut upload => {
                uploaded?;
                (sent.await, None)
            }
            answered = &mut sent => (answered, Some(upload)),
        };
        let unfinished = closed(unfinished, &is_closing).await;
        zipline_fault_point::fault_point!("call.answered");
        let response = super::switch(answered.unwrap_or_else(|_| Err(timed_out(deadline)))?, None, &Default::default());
        let goes_on = response.status().is_success() && (unfinished.is_some() || object.is_being_read());
        let beside = goes_on.then(|| Beside { work: beside(unfinished, object), is_closing });
        let response = self.received(response, swap.asked, Some(deadline)).await?;
        Ok(response.map(|body| answer::until(body, deadline, beside)))
    }

    async fn object(&self, head: &Parts, swap: &Swap<'_>) -> Result<(Writer, CallObject), Problem> {
        let content_type =
            head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(HeaderText::content_type);
        let owner = match swap.retain {
            Retain::Call => Owner::Call,
            Retain::Retrieval => Owner::CallUntilRetrieved,
        };
        let options = PutOptions {
            owner,
            ttl: Some(self.settings.timeout.min(self.node.config().ttl_max)),
            content_type,
            receiver: Some(receiver(swap.service)?),
            size: Some(swap.length),
            trace: swap.span.context(),
            ..PutOptions::default()
        };
        let writer = self.node.put(options).await?;
        let object = writer.call_object();
        Ok((writer, object))
    }
}

/// Waits for an upload of which only the seal is missing; any other goes on.
async fn closed(upload: Option<Uploading>, is_closing: &AtomicBool) -> Option<Uploading> {
    match upload {
        Some(upload) if is_closing.load(Ordering::Relaxed) => {
            finished(upload).await;
            None
        }
        other => other,
    }
}

/// The end of an upload that its callee did not wait for.
async fn finished(upload: Uploading) {
    if let Err(problem) = upload.await {
        tracing::debug!(error = problem.code.name(), detail = %problem.detail, "an upload broke off after its answer began");
    }
}

/// Goes on with the upload, then keeps the object until it is dropped with the answer's body.
fn beside(unfinished: Option<Uploading>, object: CallObject) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let _object = object;
        if let Some(upload) = unfinished {
            finished(upload).await;
        }
        std::future::pending().await
    })
}

/// Writes a body into an object. Dropped, or with a body that breaks off, it aborts the object.
///
/// Whoever reads along has every byte before the object is sealed, and may answer before: `is_closing` is set meanwhile, so that a
/// payload that was whole is not aborted by the end of its call.
async fn upload(mut body: Upload, mut writer: Writer, length: u64, is_closing: Arc<AtomicBool>) -> Result<(), Problem> {
    while let Some(frame) = body.frame().await {
        let cut = |error: hyper::Error| {
            Problem::new(ErrorCode::PayloadAborted, format!("the body of {length} bytes broke off: {error}"))
        };
        if let Ok(bytes) = frame.map_err(cut)?.into_data() {
            write(&mut writer, bytes).await?;
        }
    }
    is_closing.store(true, Ordering::Relaxed);
    let finished = writer.finish().await;
    is_closing.store(false, Ordering::Relaxed);
    finished?;
    Ok(())
}

async fn write(writer: &mut Writer, bytes: Bytes) -> Result<(), Problem> {
    Ok(writer.write(bytes).await?)
}

/// A reference that only this service may resolve.
pub(super) fn narrowed(node: &Node, reference: &str, service: &Service) -> Result<HeaderValue, Problem> {
    let narrowing = Narrowing { receiver: Some(receiver(service)?), ..Narrowing::default() };
    token_header(node.narrow(reference, narrowing)?.as_str())
}

fn receiver(service: &Service) -> Result<Receiver, Problem> {
    service.receiver().parse().map_err(|error| Problem::invalid(format!("{service}: {error}")))
}

fn token_header(token: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(token).map_err(|error| Problem::invalid(format!("the reference: {error}")))
}
