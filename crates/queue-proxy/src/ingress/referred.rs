//! A function's answer whose bytes go into the buffer while its head goes back with a reference.
//!
//! The request is over for its client with the head; for everything else (its slot, the statistics, the drain) it is over
//! when the function's last byte is in the buffer. A function that fails before that, or takes longer than its request
//! may, aborts the object, which its reader is told.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use zipline_contract::headers::BODY;
use zipline_transfer::{TransferError, Writer};

use super::exchange::FunctionFault;
use super::timer::Deadlines;
use crate::http1::body::{Decoder, Step};
use crate::instance::Instance;
use crate::upstream::FunctionConn;
use crate::zipline::Taken;

/// What is known of an answer when its head has come.
pub(super) struct Answered<'a> {
    pub(super) method: &'a Method,
    pub(super) status: StatusCode,
    /// Bytes of its body, where its head says so.
    pub(super) length: Option<u64>,
}

/// Why an answer's bytes did not all get into the buffer.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Function(#[from] FunctionFault),
    #[error("the function's answer broke off: {0}")]
    Http2(#[from] hyper::Error),
    #[error(transparent)]
    Buffer(#[from] TransferError),
}

/// Takes an answer into the buffer, for a client that takes references. What the function says of a reference in its own
/// answer stays its own affair, so what would make it ours is taken off first.
pub(super) fn take(
    instance: &Instance,
    is_asked: bool,
    answered: &Answered<'_>,
    headers: &mut HeaderMap,
    whole: Option<Instant>,
) -> Option<Taken> {
    headers.remove(BODY);
    let length = answered.length.filter(|_| is_asked && answered.method != Method::HEAD)?;
    if answered.status.is_informational() || matches!(answered.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return None;
    }
    let left = whole.map(|whole| whole.saturating_duration_since(Instant::now()));
    instance.zipline.take_response(length, left)
}

/// Moves the rest of an HTTP/1 answer into the buffer. The connection comes back if another request can use it.
pub(super) async fn move_http1(
    mut function: FunctionConn,
    mut body: Decoder,
    writer: Writer,
    deadlines: &Deadlines,
) -> Option<FunctionConn> {
    let moving = async {
        let mut writer = writer;
        loop {
            match body.step(&function.inbound).map_err(FunctionFault::Body)? {
                Step::Payload(available) => {
                    let bytes = function.inbound.split_to(available).freeze();
                    body.took(available);
                    writer.write(bytes).await?;
                }
                Step::Framing(bytes) => function.inbound.advance(bytes),
                Step::End(bytes, _) => {
                    function.inbound.advance(bytes);
                    break;
                }
                Step::More => match std::future::poll_fn(|cx| function.poll_fill(cx)).await {
                    Ok(0) => body.closed().map_err(|_| FunctionFault::Closed)?,
                    Ok(_) => {}
                    Err(error) => return Err(FunctionFault::Broken(error).into()),
                },
            }
        }
        writer.finish().await?;
        Ok::<(), Broken>(())
    };
    within(deadlines, moving).await.then_some(function)
}

/// Moves the rest of an HTTP/2 answer into the buffer.
pub(super) async fn move_http2(mut incoming: Incoming, mut writer: Writer, deadlines: &Deadlines) {
    let moving = async {
        while let Some(frame) = incoming.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                let bytes: Bytes = bytes;
                writer.write(bytes).await?;
            }
        }
        writer.finish().await?;
        Ok::<(), Broken>(())
    };
    within(deadlines, moving).await;
}

/// Whether it was done in time.
async fn within(deadlines: &Deadlines, moving: impl Future<Output = Result<(), Broken>>) -> bool {
    /// The limit of a request that has none: Knative's longest.
    const LONGEST: Duration = Duration::from_secs(3600);
    let until = deadlines.whole().unwrap_or_else(|| Instant::now() + LONGEST);
    match timeout_at(until, moving).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(%error, "the function's answer was not taken to its end; its reader is told"),
        Err(_) => tracing::warn!("the function's answer took longer than its request may; its reader is told"),
    }
    false
}
