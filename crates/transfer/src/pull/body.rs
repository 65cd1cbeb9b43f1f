//! The producer's side of a body: records, by `sendfile` from a sealed memfd.
//!
//! The sum of the next block is prepared while this one is sent. A reader is stopped where it stands when its object
//! ends, its lease lapses, or another connection takes its lease over: between two records it is told by an aborted
//! record, within one its connection is closed, since waiting for it to read on would be waiting for whoever does not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::object::{LeaseId, ObjectId};
use zipline_core::pull::{Planned, RecordChain, RecordHead, RecordPlan, Span, Written};
use zipline_sys::sendfile::{SENDFILE_BYTES_MAX, send_more, sendfile};

use super::stream::{PullStream, write_all};
use crate::config::HEARTBEAT;
use crate::ledger::ReaderWatch;
use crate::node::Inner;
use crate::span::WorkSpan;
use crate::stored::{Body, Progress, Stored, off_loop, slice};

/// One body on its way.
pub(crate) struct Sender<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) stream: &'a mut PullStream,
    pub(crate) stored: Arc<Stored>,
    pub(crate) lease: LeaseId,
    pub(crate) chain: RecordChain,
    /// The answer's head, and then each record's: leaves with the payload behind it, so that it wakes the reader once. It goes
    /// ahead only where the payload is not at hand.
    pub(crate) unsent: Vec<u8>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// With its last record: the connection can carry another answer.
    Whole,
    /// With an aborted record, or cut: the connection is closed.
    Stopped,
}

/// What a sender does next.
enum Next {
    Record { bytes: std::ops::Range<u64>, last: bool, size: Option<u64> },
    Ended,
}

impl Sender<'_> {
    /// Sends the bytes of `span`, until the last or until the reader is to stop.
    pub(crate) async fn send(mut self, span: Span, watch: &mut ReaderWatch, work: &mut WorkSpan) -> io::Result<Sent> {
        let mut plan = RecordPlan::new(span);
        let mut progress = self.stored.progress();
        let mut scratch = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                _ = watch.cut() => Next::Ended,
                next = self.next(&mut plan, &mut progress) => next?,
            };
            let Next::Record { bytes, last, size } = next else {
                // Where the socket is full, the closed connection has to say it.
                self.unsent.extend_from_slice(&self.chain.seal(&RecordHead::aborted(self.stored.sum_kind)));
                self.stream.say_last(&self.unsent);
                return Ok(Sent::Stopped);
            };
            let length = bytes.end - bytes.start;
            zipline_fault_point::fault_point!("serve.record");
            let whole = tokio::select! {
                biased;
                _ = watch.cut() => false,
                sent = self.record(bytes, last, size, &plan, &mut scratch) => sent.map(|()| true)?,
            };
            if !whole {
                return Ok(Sent::Stopped);
            }
            work.passed(length);
            if last {
                zipline_fault_point::fault_point!("serve.whole");
                return Ok(Sent::Whole);
            }
            tokio::task::yield_now().await; // A socket that is never full would keep the loop from everybody else.
        }
    }

    /// The next record, once it may be sent; heartbeats while it may not.
    async fn next(&mut self, plan: &mut RecordPlan, progress: &mut watch::Receiver<Progress>) -> io::Result<Next> {
        loop {
            let Ok(written) = progress.borrow_and_update().written() else { return Ok(Next::Ended) };
            match plan.next(written) {
                Planned::Record { offset, length, last, .. } => {
                    let size = written.complete.then_some(written.bytes);
                    return Ok(Next::Record { bytes: offset..offset + u64::from(length), last, size });
                }
                Planned::Wait { .. } => {
                    self.go_ahead().await?;
                    let beat = HEARTBEAT.min(self.inner.config.lease / 3);
                    if let Ok(changed) = tokio::time::timeout(beat, progress.changed()).await {
                        changed.map_err(io::Error::other)?;
                        continue;
                    }
                    let heartbeat = self.chain.seal(&RecordHead::heartbeat(self.stored.sum_kind));
                    write_all(self.stream, &heartbeat, &[], |_| ()).await?;
                    self.progressed();
                }
                Planned::Done => return Ok(Next::Ended), // `send` has returned after the last record.
            }
        }
    }

    async fn record(
        &mut self,
        bytes: std::ops::Range<u64>,
        last: bool,
        size: Option<u64>,
        plan: &RecordPlan,
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        let length = bytes.end - bytes.start;
        if !self.stored.sums_at_once(&bytes, size) {
            self.go_ahead().await?;
        }
        let sum = self.stored.sum(bytes.clone(), size).await?;
        let short = u32::try_from(length).map_err(io::Error::other)?;
        self.unsent.extend_from_slice(&self.chain.seal(&RecordHead::bytes(short, last, self.stored.sum_kind, sum)));
        let head = std::mem::take(&mut self.unsent);
        let stored = Arc::clone(&self.stored);
        let ahead = prepare(&stored, plan.clone(), size);
        let sending = self.payload(&head, bytes, scratch);
        let (sent, ()) = tokio::join!(sending, ahead);
        sent
    }

    async fn payload(&mut self, head: &[u8], bytes: std::ops::Range<u64>, scratch: &mut Vec<u8>) -> io::Result<()> {
        let mut pace = Pace::new(self.inner.config.lease);
        let (inner, object, lease) = (self.inner, self.stored.id, self.lease);
        let mut sent = |count: usize| {
            inner.counters.bytes_sent.fetch_add(count as u64, Ordering::Relaxed);
            if pace.is_due() {
                progressed(inner, object, lease);
            }
        };
        match (self.stored.body(), &mut *self.stream) {
            (Body::Sealed(_), PullStream::Plain(_)) if bytes.is_empty() => write_all(self.stream, head, &[], |_| ()).await?,
            (Body::Sealed(memfd), PullStream::Plain(stream)) => {
                write_more(stream, head).await?;
                send_file(stream, memfd.as_fd(), bytes, &mut sent).await?;
            }
            (Body::Heap(whole), stream) => write_all(stream, head, slice(&whole, &bytes)?, &mut sent).await?,
            // From disk, or towards TLS, by way of the cipher. While it grows, not by sendfile: pages in a socket's buffer would keep the memfd from being sealed when it is done.
            (Body::Growing(_) | Body::Unwritten | Body::Spilled(_) | Body::Sealed(_), stream) => {
                let (stored, mut buffer) = (Arc::clone(&self.stored), std::mem::take(scratch));
                buffer.resize(usize::try_from(bytes.end - bytes.start).map_err(io::Error::other)?.min(BLOCK_BYTES), 0);
                *scratch = off_loop(buffer.len() as u64, move || {
                    stored.read_at(&mut buffer, bytes.start)?;
                    Ok(buffer)
                })
                .await?;
                write_all(stream, head, scratch, &mut sent).await?;
            }
        }
        self.progressed();
        Ok(())
    }

    /// Sends the heads that wait for their payload.
    async fn go_ahead(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        write_all(self.stream, &unsent, &[], |_| ()).await
    }

    fn progressed(&self) {
        progressed(self.inner, self.stored.id, self.lease);
    }
}

fn progressed(inner: &Inner, object: ObjectId, lease: LeaseId) {
    // A lease that is over is told by the ledger's cut.
    inner.ledger.command(|holdings, now| holdings.progress(object, lease, now));
}

/// Computes and keeps the sum of the record after this one, so that it is there when it is its turn.
async fn prepare(stored: &Arc<Stored>, mut plan: RecordPlan, size: Option<u64>) {
    let Some(size) = size else { return }; // A writer keeps its blocks' sums itself.
    if let Planned::Record { offset, length, .. } = plan.next(Written { bytes: size, complete: true }) {
        stored.prepare_sum(offset..offset + u64::from(length), size).await;
    }
}

/// Says when a lease's progress is to be noted: not at every call, which would take the ledger's lock each time.
struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    fn new(lease: Duration) -> Self {
        let every = lease / 8;
        Self { every, next: Instant::now() + every }
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }
}

async fn write_more(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || send_more(stream, bytes)).await?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

async fn send_file(
    stream: &TcpStream,
    file: BorrowedFd<'_>,
    mut bytes: std::ops::Range<u64>,
    mut progress: impl FnMut(usize),
) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX).min(SENDFILE_BYTES_MAX);
        let sent = stream.async_io(Interest::WRITABLE, || sendfile(stream, file, bytes.start, left)).await?;
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into()); // Cannot be: the file is sealed with its size.
        }
        bytes.start += sent as u64;
        progress(sent);
    }
    Ok(())
}
