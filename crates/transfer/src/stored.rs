//! The bytes of one object, where they lie, and their sums.
//!
//! An object below the heap threshold lies on the heap once it is complete. A larger one lies in a memfd from its first
//! byte and can be read block by block while it is written; it is sealed when its writer is done. It may go to local disk
//! later. What may be read, and by whom, is the ledger's to say: here are only bytes.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::object::{End, ObjectId};
use zipline_core::pull::{HeaderText, Sum, SumKind, Written};
use zipline_core::trace::TraceContext;
use zipline_sys::{Memfd, SealedMemfd};

use crate::config::OFF_LOOP_BYTES;
use crate::span::{TIER_DISK, TIER_MEMORY};
use crate::spill::SpillFile;

/// Bytes that are summed at a time: they stay in the processor's cache from the copy to the sum.
const SUM_STEP_BYTES: usize = 64 * 1024;

/// Where an object's bytes lie.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Nowhere yet: a small object's writer still has them.
    Unwritten,
    /// On the heap; complete.
    Heap(Bytes),
    /// In a memfd that grows.
    Growing(Arc<Memfd>),
    /// In a memfd; complete.
    Sealed(Arc<SealedMemfd>),
    /// On local disk; complete.
    Spilled(Arc<SpillFile>),
}

/// How far an object's writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// That much may be read.
    Writing {
        /// Bytes, a multiple of the block.
        bytes: u64,
    },
    /// Everything may be read.
    Complete {
        /// Bytes in all.
        size: u64,
    },
    /// Nothing may be read any more.
    Ended(End),
}

impl Progress {
    /// What a record plan is asked with; `None` once the object has ended.
    pub(crate) const fn written(self) -> Result<Written, End> {
        match self {
            Self::Writing { bytes } => Ok(Written { bytes, complete: false }),
            Self::Complete { size } => Ok(Written { bytes: size, complete: true }),
            Self::Ended(end) => Err(end),
        }
    }
}

/// One object's bytes.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: ObjectId,
    pub(crate) content_type: Option<HeaderText>,
    pub(crate) sum_kind: SumKind,
    body: Mutex<Body>,
    /// By block; the last one may be shorter than a block.
    sums: Mutex<Vec<Option<Sum>>>,
    /// Only one sum of an object is computed at a time: readers that go along together share each.
    summing: tokio::sync::Mutex<()>,
    progress: watch::Sender<Progress>,
    /// Where its put stands in a trace, if anywhere.
    put: OnceLock<TraceContext>,
}

impl Stored {
    pub(crate) fn new(id: ObjectId, content_type: Option<HeaderText>, sum_kind: SumKind, body: Body) -> Self {
        Self {
            id,
            content_type,
            sum_kind,
            body: Mutex::new(body),
            sums: Mutex::default(),
            summing: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(Progress::Writing { bytes: 0 }),
            put: OnceLock::new(),
        }
    }

    /// Keeps where its put stands in a trace; the first time counts.
    pub(crate) fn put_in(&self, trace: TraceContext) {
        self.put.get_or_init(|| trace);
    }

    /// Where its put stands in a trace.
    pub(crate) fn put_trace(&self) -> Option<TraceContext> {
        self.put.get().copied()
    }

    pub(crate) fn body(&self) -> Body {
        lock(&self.body).clone()
    }

    pub(crate) fn set_body(&self, body: Body) {
        *lock(&self.body) = body;
    }

    /// Where the bytes lie, as a trace says it.
    pub(crate) fn tier(&self) -> &'static str {
        match &*lock(&self.body) {
            Body::Spilled(_) => TIER_DISK,
            Body::Unwritten | Body::Heap(_) | Body::Growing(_) | Body::Sealed(_) => TIER_MEMORY,
        }
    }

    /// Puts the same bytes elsewhere; where they were comes back.
    pub(crate) fn swap_body(&self, body: Body) -> Body {
        std::mem::replace(&mut *lock(&self.body), body)
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells readers. An end is final; whatever a writer says after it is not heard.
    pub(crate) fn set_progress(&self, progress: Progress) {
        self.progress.send_if_modified(|current| {
            let told = !matches!(current, Progress::Ended(_)) && *current != progress;
            if told {
                *current = progress;
            }
            told
        });
    }

    /// Keeps the sum of a block that is known because its bytes passed by.
    pub(crate) fn keep_sum(&self, block: usize, sum: Sum) {
        let mut sums = lock(&self.sums);
        if sums.len() <= block {
            sums.resize(block + 1, None);
        }
        if let Some(place) = sums.get_mut(block) {
            *place = Some(sum);
        }
    }

    fn kept_sum(&self, block: usize) -> Option<Sum> {
        lock(&self.sums).get(block).copied().flatten()
    }

    /// The sum of the record `bytes` of the object, computed off the event loop where it is large and kept where other
    /// readers will ask for the same. `size` is the object's, once it is complete.
    pub(crate) async fn sum(self: &Arc<Self>, bytes: Range<u64>, size: Option<u64>) -> io::Result<Sum> {
        let block = block_of(&bytes, size);
        if let Some(sum) = block.and_then(|block| self.kept_sum(block)) {
            return Ok(sum);
        }
        let _one = self.summing.lock().await;
        if let Some(sum) = block.and_then(|block| self.kept_sum(block)) {
            return Ok(sum);
        }
        let stored = Arc::clone(self);
        let length = bytes.end - bytes.start;
        let sum = off_loop(length, move || stored.compute_sum(bytes)).await?;
        if let Some(block) = block {
            self.keep_sum(block, sum);
        }
        Ok(sum)
    }

    /// Whether [`Stored::sum`] has the sum, or computes it without leaving the event loop.
    pub(crate) fn sums_at_once(&self, bytes: &Range<u64>, size: Option<u64>) -> bool {
        bytes.end - bytes.start < OFF_LOOP_BYTES as u64
            || block_of(bytes, size).is_some_and(|block| self.kept_sum(block).is_some())
    }

    /// Computes and keeps a sum that will be asked for next. An error is left for whoever asks.
    pub(crate) async fn prepare_sum(self: &Arc<Self>, bytes: Range<u64>, size: u64) {
        if block_of(&bytes, Some(size)).is_some() {
            self.sum(bytes, Some(size)).await.map(|_| ()).unwrap_or_default();
        }
    }

    fn compute_sum(&self, bytes: Range<u64>) -> io::Result<Sum> {
        thread_local! {
            static STEP: RefCell<Vec<u8>> = RefCell::new(vec![0; SUM_STEP_BYTES]);
        }
        let body = self.body();
        if let Body::Heap(whole) = &body {
            return Ok(self.sum_kind.sum(slice(whole, &bytes)?));
        }
        STEP.with_borrow_mut(|step| {
            let mut running = self.sum_kind.start();
            let mut at = bytes.start;
            while at < bytes.end {
                let length = usize::try_from(bytes.end - at).unwrap_or(usize::MAX).min(SUM_STEP_BYTES);
                let part = step.get_mut(..length).unwrap_or_default();
                read_file(&body, part, at)?;
                running.update(part);
                at += length as u64;
            }
            Ok(running.finish())
        })
    }

    /// Reads bytes that are there.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.body() {
            Body::Heap(whole) => {
                buffer.copy_from_slice(slice(&whole, &(offset..offset.saturating_add(buffer.len() as u64)))?);
                Ok(())
            }
            body => read_file(&body, buffer, offset),
        }
    }
}

fn read_file(body: &Body, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match body {
        Body::Growing(memfd) => memfd.read_exact_at(buffer, offset),
        Body::Sealed(memfd) => memfd.read_exact_at(buffer, offset),
        Body::Spilled(file) => file.read_exact_at(buffer, offset),
        Body::Heap(_) | Body::Unwritten => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Bytes of an object on the heap.
pub(crate) fn slice<'a>(whole: &'a Bytes, bytes: &Range<u64>) -> io::Result<&'a [u8]> {
    let range = usize::try_from(bytes.start).unwrap_or(usize::MAX)..usize::try_from(bytes.end).unwrap_or(usize::MAX);
    whole.get(range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Which block the record is, if it is one that every reader gets alike: a whole one, or the object's last.
fn block_of(bytes: &Range<u64>, size: Option<u64>) -> Option<usize> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let begins = bytes.start.is_multiple_of(BLOCK);
    let ends = bytes.end - bytes.start == BLOCK || (Some(bytes.end) == size && bytes.start < bytes.end);
    (begins && ends).then(|| usize::try_from(bytes.start / BLOCK).ok()).flatten()
}

/// Runs work on `bytes` bytes, on another thread where it would keep the event loop for too long.
pub(crate) async fn off_loop<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if bytes < OFF_LOOP_BYTES as u64 {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Values under these locks are whole after every step, whoever panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    #[test]
    fn whole_blocks_and_the_last_one_are_shared_and_parts_are_not() {
        assert_eq!(block_of(&(BLOCK..2 * BLOCK), None), Some(1));
        assert_eq!(block_of(&(2 * BLOCK..2 * BLOCK + 5), Some(2 * BLOCK + 5)), Some(2));
        assert_eq!(block_of(&(2 * BLOCK..2 * BLOCK + 5), Some(2 * BLOCK + 9)), None);
        assert_eq!(block_of(&(1..BLOCK), Some(BLOCK)), None);
        assert_eq!(block_of(&(0..0), Some(0)), None);
    }

    #[tokio::test]
    async fn a_sum_is_the_same_wherever_the_bytes_lie_and_is_kept() {
        let bytes: Vec<u8> = (0..BLOCK_BYTES + 777).map(|i| (i * 31) as u8).collect();
        let memfd = Memfd::create("test").expect("created");
        memfd.write_all_at(&bytes, 0).expect("written");
        let memfd = Arc::new(memfd.seal().expect("sealed"));
        let size = Some(bytes.len() as u64);
        for body in [Body::Sealed(memfd), Body::Heap(bytes.clone().into())] {
            let stored = Arc::new(Stored::new(ObjectId::from_bytes([1; 16]), None, SumKind::Crc32c, body));
            let first = stored.sum(0..BLOCK, size).await.expect("readable");
            assert_eq!(first, SumKind::Crc32c.sum(&bytes[..BLOCK_BYTES]));
            assert_eq!(stored.kept_sum(0), Some(first));
            let last = stored.sum(BLOCK..bytes.len() as u64, size).await.expect("readable");
            assert_eq!((stored.kept_sum(1), last), (Some(last), SumKind::Crc32c.sum(&bytes[BLOCK_BYTES..])));
            assert!(stored.sum(BLOCK..3 * BLOCK, size).await.is_err(), "there are not that many");
        }
    }

    #[test]
    fn an_end_is_final_for_readers() {
        let stored = Stored::new(ObjectId::from_bytes([1; 16]), None, SumKind::Crc32c, Body::Unwritten);
        let progress = stored.progress();
        stored.set_progress(Progress::Ended(End::Aborted));
        stored.set_progress(Progress::Complete { size: 3 });
        assert_eq!(*progress.borrow(), Progress::Ended(End::Aborted));
    }
}
