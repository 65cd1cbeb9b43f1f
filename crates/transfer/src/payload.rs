//! A payload that has landed: all of it, verified, in this machine's memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use zipline_sys::{Memfd, SealedMemfd};

use crate::ledger::ReceiveRoom;
use crate::stored::off_loop;

/// A whole payload. Dropping it gives the room back that was taken for it here.
#[derive(Debug)]
pub struct Payload {
    bytes: PayloadBytes,
    _room: Option<ReceiveRoom>,
}

/// Where a payload's bytes lie.
#[derive(Clone, Debug)]
pub enum PayloadBytes {
    /// On the heap.
    Heap(Bytes),
    /// In a sealed memfd, which may be passed on.
    Memfd(Arc<SealedMemfd>),
}

impl Payload {
    pub(crate) fn new(bytes: PayloadBytes, room: Option<ReceiveRoom>) -> Self {
        Self { bytes, _room: room }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match &self.bytes {
            PayloadBytes::Heap(bytes) => bytes.len() as u64,
            PayloadBytes::Memfd(memfd) => memfd.size(),
        }
    }

    /// Where its bytes lie.
    pub fn bytes(&self) -> &PayloadBytes {
        &self.bytes
    }

    /// The sealed memfd it lies in, if it does.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.bytes {
            PayloadBytes::Heap(_) => None,
            PayloadBytes::Memfd(memfd) => Some(memfd.as_fd()),
        }
    }
}

/// A payload on its way into memory: on the heap below the threshold, else in a memfd.
#[derive(Debug)]
pub(crate) enum Landing {
    Heap(BytesMut),
    Memfd { memfd: Arc<Memfd>, written: u64 },
}

impl Landing {
    /// A place for that many bytes, or for an unknown number.
    pub(crate) fn new(bytes: Option<u64>, heap_threshold_bytes: u64) -> io::Result<Self> {
        if bytes.is_none_or(|bytes| bytes < heap_threshold_bytes) {
            return Ok(Self::Heap(BytesMut::new()));
        }
        Ok(Self::Memfd { memfd: Arc::new(Memfd::create("zipline-payload")?), written: 0 })
    }

    /// Appends; off the event loop where that takes long. What is not cancelled is lost: drop it with the future.
    pub(crate) async fn append(&mut self, bytes: Bytes, heap_threshold_bytes: u64) -> io::Result<()> {
        if let Self::Heap(heap) = self {
            if (heap.len() + bytes.len()) as u64 <= heap_threshold_bytes {
                heap.extend_from_slice(&bytes);
                return Ok(());
            }
            let before = std::mem::take(heap).freeze();
            let memfd = Arc::new(Memfd::create("zipline-payload")?);
            memfd.write_all_at(&before, 0)?;
            *self = Self::Memfd { memfd, written: before.len() as u64 };
        }
        let Self::Memfd { memfd, written } = self else { return Ok(()) };
        let (memfd, offset, length) = (Arc::clone(memfd), *written, bytes.len() as u64);
        *written += length;
        off_loop(length, move || memfd.write_all_at(&bytes, offset)).await
    }

    /// Appends the last of it: a memfd is written and sealed in one go.
    pub(crate) async fn finish_with(mut self, bytes: Bytes, heap_threshold_bytes: u64) -> io::Result<PayloadBytes> {
        let Self::Memfd { memfd, written } = self else {
            self.append(bytes, heap_threshold_bytes).await?;
            return self.finish().await;
        };
        let size = written.saturating_add(bytes.len() as u64);
        let work = move || {
            memfd.write_all_at(&bytes, written)?;
            memfd.seal_shared()
        };
        Ok(PayloadBytes::Memfd(Arc::new(off_loop(size, work).await?))) // Sealing looks at every page of `size`.
    }

    /// All of it is there.
    pub(crate) async fn finish(self) -> io::Result<PayloadBytes> {
        match self {
            Self::Heap(heap) => Ok(PayloadBytes::Heap(heap.freeze())),
            Self::Memfd { memfd, written } => {
                let sealed = off_loop(written, move || memfd.seal_shared()).await?; // Sealing looks at every page.
                Ok(PayloadBytes::Memfd(Arc::new(sealed)))
            }
        }
    }
}
