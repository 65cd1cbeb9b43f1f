//! A call's body swapped for a reference, while it is still arriving.
//!
//! The head travels at once with a reference to an object whose bytes the function is still sending; the callee's proxy
//! pulls them as they come. The object belongs to the call: it is freed when the answer's head arrives, or the call
//! fails, times out or is given up. An answer that comes before the upload is through ends the upload if it is a
//! refusal; otherwise both go on, as they would inline, and the object stays until the answer's body ends.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
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
        let unfinished = closed(unfinished, &is_closing, deadline).await;
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

/// Waits, at most as long as the call may take, for an upload of which only the seal is missing; any other goes on.
async fn closed(upload: Option<Uploading>, is_closing: &AtomicBool, deadline: Deadline) -> Option<Uploading> {
    match upload {
        Some(upload) if is_closing.load(Ordering::Relaxed) => {
            if timeout_at(deadline.at(), finished(upload)).await.is_err() {
                tracing::warn!("a payload was not sealed within its call's time");
            }
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
/// Whoever reads along has every byte before the object is sealed, and may answer before: `is_closing` is set from the last write
/// to the seal, so that a payload that was whole is not aborted by the end of its call. That is also why the body's own end is not
/// waited for: with the bytes that its head announced the payload is whole.
async fn upload<B>(mut body: B, mut writer: Writer, length: u64, is_closing: Arc<AtomicBool>) -> Result<(), Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let mut missing = length;
    let mut last = Bytes::new();
    while missing > 0
        && let Some(frame) = body.frame().await
    {
        let cut =
            |error: B::Error| Problem::new(ErrorCode::PayloadAborted, format!("the body of {length} bytes broke off: {error}"));
        if let Ok(bytes) = frame.map_err(cut)?.into_data() {
            missing = missing.saturating_sub(bytes.len() as u64);
            match missing {
                0 => last = bytes,
                _ => write(&mut writer, bytes).await?,
            }
        }
    }
    is_closing.store(true, Ordering::Relaxed);
    let closed = close(writer, last).await;
    is_closing.store(false, Ordering::Relaxed);
    closed
}

/// The last bytes, and the seal.
async fn close(mut writer: Writer, last: Bytes) -> Result<(), Problem> {
    write(&mut writer, last).await?;
    writer.finish().await?;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::time::timeout;
    use zipline_core::pull::PeerPolicy;
    use zipline_core::reference::KeyRing;
    use zipline_testkit::Loopback;
    use zipline_transfer::{FetchOptions, Keys, NodeConfig};

    use super::*;

    const PORT: u16 = 8122;
    /// Far longer than anything here takes.
    const HANG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_payload_is_whole_with_its_last_byte_and_does_not_wait_for_the_end_of_its_body() {
        let loopback = Loopback::claim().expect("an address");
        let ring = format!(
            r#"{{"keys":[{{"id":"00000001","key":"{}","not_before_ms":0,"not_after_ms":9999999999999}}]}}"#,
            "07".repeat(32)
        );
        let peers = PeerPolicy::parse("127.0.0.0/8", None, PORT).expect("a policy");
        let keys = Arc::new(Keys::new(KeyRing::parse(ring.as_bytes()).expect("a ring")));
        let node = Node::start(NodeConfig::new(loopback.port(PORT), peers), keys).await.expect("a node");
        for length in [2_u64, 3 << 20] {
            let options = PutOptions { owner: Owner::Call, size: Some(length), ..PutOptions::default() };
            let writer = node.put(options).await.expect("room");
            let token = writer.reference().expect("a reference");
            let _object = writer.call_object();
            let half = Bytes::from(vec![7; length as usize / 2]);
            let frames = [half.clone(), half].map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
            // A sender that has sent all of it, and does not say so before it has an answer.
            let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
            let is_closing = Arc::new(AtomicBool::new(false));
            let uploaded = timeout(HANG, upload(body, writer, length, Arc::clone(&is_closing))).await;
            uploaded.expect("the upload waits for its body's end").expect("an upload");
            assert!(!is_closing.load(Ordering::Relaxed), "answers would wait for it");
            let incoming = node.fetch(token.as_str(), FetchOptions::default()).await.expect("the payload");
            assert_eq!(incoming.content_length(), Some(length));
        }
    }
}
