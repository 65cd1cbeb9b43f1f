//! Tells when an answer has left this process, so that a read is acknowledged only then.
//!
//! hyper takes the last bytes of a body long before they reach the socket. A client that dies in between has not got
//! them, and its retrieval must not count. hyper calls `poll_flush` of its transport only when everything it had
//! buffered was written, so: a body that ended leaves its [`OnFlushed`] action with the connection, and the next
//! completed flush runs it. If the connection breaks first the action is dropped, and the lease in it is given back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// What happens once everything written so far has left.
pub(crate) type OnFlushed = Box<dyn FnOnce() + Send>;

/// Leaves actions with a connection.
#[derive(Clone, Default)]
pub(crate) struct AfterFlush(Arc<Mutex<Vec<OnFlushed>>>);

impl AfterFlush {
    /// Runs `action` after the connection's next completed flush, or drops it with the connection.
    pub(crate) fn run(&self, action: OnFlushed) {
        self.actions().push(action); // One answer at a time a connection, so one action at most.
    }

    fn take(&self) -> Vec<OnFlushed> {
        std::mem::take(&mut *self.actions())
    }

    fn actions(&self) -> std::sync::MutexGuard<'_, Vec<OnFlushed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport that runs what was left for its flushes.
pub(crate) struct Flushed<T> {
    io: T,
    after: AfterFlush,
}

impl<T> Flushed<T> {
    /// Wraps a transport.
    pub(crate) fn new(io: T) -> Self {
        Self { io, after: AfterFlush::default() }
    }

    /// Where to leave actions.
    pub(crate) fn after(&self) -> AfterFlush {
        self.after.clone()
    }

    /// The transport alone.
    pub(crate) fn into_inner(self) -> T {
        self.io
    }
}

impl<T: Read + Unpin> Read for Flushed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Flushed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        for action in self.after.take() {
            action();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
