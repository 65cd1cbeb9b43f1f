//! The body of a call's answer, and what goes on until it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::zipline::body::{Body, BodyError};

/// When a call must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    pub(crate) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// The moment itself.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// The whole limit in seconds.
    pub(crate) fn limit_seconds(self) -> u64 {
        self.limit.as_secs()
    }
}

/// What goes on beside an answer, until it or the answer ends.
pub(crate) struct Beside {
    pub(crate) work: BoxFuture<'static, ()>,
    /// Set while the work does what must not be given up half done: the answer waits for it.
    pub(crate) is_closing: Arc<AtomicBool>,
}

/// An answer's body that is cut at the call's deadline, beside which something else goes on.
struct AnswerBody {
    body: Body,
    deadline: Deadline,
    alarm: Pin<Box<Sleep>>,
    beside: Option<Beside>,
}

/// The body as it comes, cut at `deadline`. `beside` is driven until it or the body ends, and dropped then.
pub(crate) fn until(body: Body, deadline: Deadline, beside: Option<Beside>) -> Body {
    let alarm = Box::pin(sleep_until(deadline.at()));
    AnswerBody { body, deadline, alarm, beside }.boxed_unsync()
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.beside.as_mut().is_some_and(|beside| beside.work.as_mut().poll(cx).is_ready()) {
            self.beside = None;
        }
        // The frame that is asked for may be the last one, after which nothing is driven any more.
        let is_closing = self.beside.as_ref().is_some_and(|beside| beside.is_closing.load(Ordering::Relaxed));
        if !is_closing && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.alarm.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Deadline(self.deadline.limit_seconds())))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
