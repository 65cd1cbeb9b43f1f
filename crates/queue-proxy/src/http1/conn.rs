//! A connection with its two buffers.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Bytes that are read at once at first.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Bytes that are read at once when much comes. With one buffer a side, a streaming request costs at most twice that.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A connection, what was received and not yet used, and what is to be sent and is not payload.
#[derive(Debug)]
pub struct Conn<T> {
    io: T,
    /// Received and not yet used.
    pub inbound: BytesMut,
    /// Heads and framing to be sent before any payload. Bounded by what one exchange puts there: a head and a few lines.
    pub outbound: BytesMut,
    read_bytes: usize,
    is_closed: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Conn<T> {
    /// A connection of which nothing was read yet.
    pub fn new(io: T) -> Self {
        Self::with_received(io, BytesMut::new())
    }

    /// A connection of which something was read already.
    pub fn with_received(io: T, inbound: BytesMut) -> Self {
        Self { io, inbound, outbound: BytesMut::new(), read_bytes: READ_BYTES_MIN, is_closed: false }
    }

    /// Takes the connection apart: the transport, and what was received and not used.
    pub fn into_parts(self) -> (T, BytesMut) {
        (self.io, self.inbound)
    }

    /// The transport.
    pub const fn io(&self) -> &T {
        &self.io
    }

    /// Whether the peer has ended its side.
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Receives more. Ready with how much; 0 is the end, and stays it.
    ///
    /// # Errors
    /// The transport's.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Ok(0));
        }
        self.inbound.reserve(self.read_bytes);
        // `read_buf` holds no state between polls, so a fresh one a poll is the same as one kept.
        let n = ready!(pin!(self.io.read_buf(&mut self.inbound)).poll(cx))?;
        self.is_closed = n == 0;
        if n >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if n < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Poll::Ready(Ok(n))
    }

    /// Receives more.
    ///
    /// # Errors
    /// The transport's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Sends what is outbound, then some of `payload`. Ready with how much of `payload` went out: 0 only when there is none,
    /// and then nothing is outbound any more.
    ///
    /// # Errors
    /// The transport's; also when it takes nothing.
    pub fn poll_send(&mut self, payload: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while !self.outbound.is_empty() {
            let n = if payload.is_empty() {
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbound))?
            } else {
                let parts = [IoSlice::new(&self.outbound), IoSlice::new(payload)];
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &parts))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let framing = n.min(self.outbound.len());
            self.outbound.advance(framing);
            if n > framing {
                return Poll::Ready(Ok(n - framing));
            }
        }
        if payload.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match ready!(Pin::new(&mut self.io).poll_write(cx, payload))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Sends all that is outbound.
    ///
    /// # Errors
    /// The transport's.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(&[], cx))?;
        Pin::new(&mut self.io).poll_flush(cx) // TLS may hold records that the kernel did not take.
    }

    /// Sends all that is outbound.
    ///
    /// # Errors
    /// The transport's.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends our side of the connection; the peer's may go on.
    ///
    /// # Errors
    /// The transport's.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Gives back memory that a large message left behind, between two messages.
    pub fn shrink(&mut self) {
        if self.inbound.is_empty() && self.inbound.capacity() > READ_BYTES_MAX {
            self.inbound = BytesMut::new();
        }
        if self.outbound.is_empty() && self.outbound.capacity() > READ_BYTES_MAX {
            self.outbound = BytesMut::new();
        }
    }
}
