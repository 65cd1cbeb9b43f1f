//! A read of bytes that are on this machine already: this node's own object, or one that was handed over.
//!
//! They need no sums: the kernel, and the seals of a descriptor, keep them as they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use zipline_core::pull::{Planned, PullError, RecordPlan, Span};

use crate::blocks::Blocks;
use crate::error::TransferError;
use crate::payload::{Landing, PayloadBytes};
use crate::stored::{Body, Progress, Stored, off_loop, slice};

/// The bytes of `span`, block by block or at once.
#[derive(Debug)]
pub(crate) struct HeldRead {
    stored: Arc<Stored>,
    span: Span,
    plan: RecordPlan,
    progress: watch::Receiver<Progress>,
    blocks: Arc<Blocks>,
    idle: Duration,
    whole: bool,
}

impl HeldRead {
    pub(crate) fn new(stored: Arc<Stored>, span: Span, blocks: Arc<Blocks>, idle: Duration) -> Self {
        let progress = stored.progress();
        Self { stored, span, plan: RecordPlan::new(span), progress, blocks, idle, whole: false }
    }

    /// Where the bytes lie, as a trace says it.
    pub(crate) fn tier(&self) -> &'static str {
        self.stored.tier()
    }

    pub(crate) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Bytes>, TransferError> {
        loop {
            let written = self.progress.borrow_and_update().written().map_err(TransferError::Ended)?;
            let before = self.plan.clone();
            match self.plan.next(written) {
                Planned::Done => return Ok(None),
                Planned::Wait { .. } => {
                    self.plan = before;
                    self.changed().await?;
                }
                Planned::Record { offset, length, last, .. } => {
                    let bytes = self.read(offset, length as usize).await?;
                    self.whole = last;
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, where it lies; copied only where less than the whole object may be seen.
    pub(crate) async fn receive(&mut self, heap_threshold_bytes: u64) -> Result<PayloadBytes, TransferError> {
        let size = loop {
            let written = self.progress.borrow_and_update().written().map_err(TransferError::Ended)?;
            if written.complete {
                break written.bytes;
            }
            self.changed().await?;
        };
        let end = self.span.end(size);
        let body = self.stored.body();
        let received = match body {
            Body::Heap(whole) => PayloadBytes::Heap(whole.slice_ref(slice(&whole, &(self.span.first.min(end)..end))?)),
            Body::Sealed(memfd) if self.span.first == 0 && end == size => PayloadBytes::Memfd(memfd),
            _ => {
                let mut landing = Landing::new(Some(end.saturating_sub(self.span.first)), heap_threshold_bytes)?;
                while let Some(block) = self.next_block().await? {
                    landing.append(block, heap_threshold_bytes).await?;
                }
                landing.finish().await?
            }
        };
        self.whole = true;
        Ok(received)
    }

    /// Whether [`HeldRead::receive`] copies, which takes room.
    pub(crate) fn copies(&self, size: Option<u64>) -> bool {
        let all = self.span.first == 0 && size.is_none_or(|size| self.span.end(size) == size);
        match self.stored.body() {
            Body::Heap(_) => false,
            Body::Spilled(_) => true,
            Body::Sealed(_) | Body::Growing(_) | Body::Unwritten => !all,
        }
    }

    async fn changed(&mut self) -> Result<(), TransferError> {
        match timeout(self.idle, self.progress.changed()).await {
            // The sender lives in `stored`, which is ours.
            Ok(changed) => changed.map_err(|_| TransferError::Incomplete),
            Err(_) => Err(TransferError::Idle(PullError::Idle { offset: self.plan.position(), idle: self.idle })),
        }
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, TransferError> {
        if let Body::Heap(whole) = self.stored.body() {
            let bytes = offset..offset + length as u64;
            return Ok(whole.slice_ref(slice(&whole, &bytes)?));
        }
        let (stored, mut block) = (Arc::clone(&self.stored), self.blocks.take());
        let read = move || {
            stored.read_at(block.space().get_mut(..length).unwrap_or_default(), offset)?;
            Ok(block.freeze(length))
        };
        Ok(off_loop(length as u64, read).await?)
    }
}
