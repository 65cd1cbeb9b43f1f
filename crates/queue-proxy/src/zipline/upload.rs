//! A request's body that is discarded, within bounds, when nobody wants the rest of it.
//!
//! An answer that comes early (a refusal, a full buffer) meets a client that is still sending. Closing the connection at
//! once would take many clients' chance to read the answer: their write fails first. So what they still send is read
//! and thrown away for a moment; it goes no further than this process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use crate::zipline::tasks::Tasks;

/// A rest is discarded for so long.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// At most so many bytes of a rest are discarded.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The body of a request of the own function.
#[derive(Debug)]
pub(crate) struct Upload {
    /// `None` only while it is being dropped.
    incoming: Option<Incoming>,
    discards: Arc<Tasks>,
}

impl Upload {
    /// A body whose rest is discarded by a task of `discards`: one for each connection at most.
    pub(crate) fn new(incoming: Incoming, discards: Arc<Tasks>) -> Self {
        Self { incoming: Some(incoming), discards }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(rest) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) {
            self.discards.spawn(discard(rest));
        }
    }
}

/// Dropping what is left after that closes the connection.
async fn discard(mut rest: Incoming) {
    let mut bytes = 0;
    let read = async {
        while let Some(Ok(frame)) = rest.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    if timeout(DISCARD_TIME, read).await.is_err() {
        tracing::debug!(limit = ?DISCARD_TIME, "a client goes on sending after its answer; its connection is closed");
    }
}
