//! One read over TCP: drives the states of `zipline_core::pull::PullReader` with sockets.
//!
//! A block's bytes are summed as they come, while they are in the processor's caches; it is passed on when its sum
//! holds. There is never more than one unverified block.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use zipline_contract::limits::RECORD_HEAD_BYTES;
use zipline_core::pull::{
    AnswerHead, AwaitingBytes, AwaitingRecord, BytesStep, DeliveredStep, PullError, PullReader, RecordStep, Verified, Wanted,
};
use zipline_core::time::Monotonic;
use zipline_core::trace::TraceContext;

use super::exchange::{RemoteLease, exchange};
use super::pool::{Connection, Use};
use super::tls;
use crate::blocks::Block;
use crate::error::TransferError;
use crate::node::Inner;
use crate::random;

/// A read that was granted.
#[derive(Debug)]
pub(crate) struct TcpRead {
    inner: Arc<Inner>,
    wanted: Wanted,
    /// Where it stands in a trace.
    trace: Option<TraceContext>,
    /// `None` once the read is whole, has failed, or was given up in the middle of a block.
    state: Option<State>,
    connection: Option<Connection>,
    began: Monotonic,
    whole: bool,
    /// Bounds how many bytes are on their way at once; given back with the last of them.
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum State {
    Awaiting(AwaitingRecord),
    /// The last block is with whoever reads; the idle time runs again when the next one is asked for.
    Delivering(Verified),
}

impl TcpRead {
    /// Asks for the bytes and awaits the answer's head.
    pub(crate) async fn open(
        inner: &Arc<Inner>,
        wanted: Wanted,
        trace: Option<TraceContext>,
        permit: OwnedSemaphorePermit,
        lease: &mut RemoteLease,
    ) -> Result<(Self, AnswerHead), TransferError> {
        let began = inner.config.clock.monotonic();
        let reader = PullReader::new(wanted.clone(), inner.config.reader_limits(), began);
        let (inner, permit) = (Arc::clone(inner), Some(permit));
        let mut read = Self { inner, wanted, trace, state: None, connection: None, began, whole: false, permit };
        lease.asked();
        let (state, head) = read.ask(reader).await.inspect_err(|error| read.inner.counters.pull_failed(error.code()))?;
        zipline_fault_point::fault_point!("pull.head");
        read.state = Some(State::Awaiting(state));
        Ok((read, head))
    }

    /// The next verified bytes; `None` after the last. Not cancel-safe: a read whose future was dropped is over.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Bytes>, TransferError> {
        let Some(state) = self.state.take() else {
            return if self.whole { Ok(None) } else { Err(TransferError::Incomplete) };
        };
        let state = match state {
            State::Awaiting(state) => state,
            State::Delivering(block) => match block.delivered(self.inner.config.clock.monotonic()) {
                DeliveredStep::Record(state) => state,
                DeliveredStep::Finished(_) => return Err(TransferError::Incomplete), // The last block ended the read.
            },
        };
        let block = self.step(state).await;
        match &block {
            Ok(_) if self.whole => self.finish(),
            Ok(_) => {}
            Err(error) => {
                self.inner.counters.pull_failed(error.code());
                (self.connection, self.permit) = (None, None);
            }
        }
        block
    }

    /// Whether every byte was verified.
    pub(crate) const fn is_whole(&self) -> bool {
        self.whole
    }

    async fn step(&mut self, mut state: AwaitingRecord) -> Result<Option<Bytes>, TransferError> {
        let failed = TransferError::pull(self.wanted.producer);
        loop {
            let wire = match timeout_at(self.inner.config.clock.instant(state.idle_at()), self.record_head()).await {
                Err(_) => return Err(failed(state.timed_out())),
                Ok(Ok(wire)) => wire,
                Ok(Err(_)) => {
                    state = self.again(state.broken()).await?;
                    continue;
                }
            };
            let awaiting = match state.record(&wire) {
                RecordStep::Bytes(awaiting) => awaiting,
                RecordStep::Heartbeat(next) => {
                    state = next;
                    continue;
                }
                RecordStep::Finished(_) => {
                    self.whole = true;
                    return Ok(None);
                }
                RecordStep::Again(reader) => {
                    state = self.again(Ok(reader)).await?;
                    continue;
                }
                RecordStep::Failed(error) => return Err(failed(error)),
            };
            match self.payload(awaiting).await? {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(reader) => state = self.again(Ok(reader)).await?,
            }
        }
    }

    /// Reads and verifies one record's payload; gives the reader back where it is to be asked for again.
    async fn payload(&mut self, mut awaiting: AwaitingBytes) -> Result<Result<Bytes, PullReader>, TransferError> {
        let failed = TransferError::pull(self.wanted.producer);
        let length = awaiting.length();
        let mut sum = awaiting.sum_kind().start();
        let mut block = self.inner.blocks.take();
        let mut filled = 0;
        let clock = self.inner.config.clock;
        while filled < length {
            let idle_at = clock.instant(awaiting.idle_at());
            match timeout_at(idle_at, self.fill(&mut block, filled, length)).await {
                Err(_) => return Err(failed(awaiting.timed_out())),
                Ok(Err(_)) => return Ok(Err(awaiting.broken().map_err(failed)?)),
                Ok(Ok(read)) => {
                    let now = filled + read;
                    sum.update(block.space().get(filled..now.min(length)).unwrap_or_default());
                    filled = now;
                    awaiting.progressed(clock.monotonic());
                }
            }
        }
        if let Some(connection) = &mut self.connection {
            // The head of the next record, or its beginning.
            connection.inbox.extend_from_slice(block.space().get(length..filled).unwrap_or_default());
        }
        self.inner.counters.bytes_received.fetch_add(length as u64, Ordering::Relaxed);
        let verified = match awaiting.verify_sum(length, sum.finish()) {
            BytesStep::Verified(verified) => verified,
            BytesStep::Again(reader) => return Ok(Err(reader)),
            BytesStep::Failed(error) => return Err(failed(error)),
        };
        zipline_fault_point::fault_point!("pull.block");
        self.whole = verified.is_last();
        self.state = (!self.whole).then_some(State::Delivering(verified));
        Ok(Ok(block.freeze(length)))
    }

    /// Reads some of a payload of `length` bytes behind the `filled` that are there, and no more than the next record's
    /// head beyond it.
    async fn fill(&mut self, block: &mut Block, filled: usize, length: usize) -> io::Result<usize> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        // All that is there, in one call: steps of 256 KiB cost a quarter more processor time, of 64 KiB half as much again.
        let space = block.space().get_mut(filled..length + RECORD_HEAD_BYTES).unwrap_or_default();
        if !connection.inbox.is_empty() {
            let buffered = connection.inbox.len().min(space.len()).min(length - filled);
            connection.inbox.copy_to_slice(space.get_mut(..buffered).unwrap_or_default());
            return Ok(buffered);
        }
        match connection.stream.read(space).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    /// The next record's head. Cancel-safe: what has come stays in the connection's inbox.
    async fn record_head(&mut self) -> io::Result<[u8; RECORD_HEAD_BYTES]> {
        let connection = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut space = [0; RECORD_HEAD_BYTES];
        while connection.inbox.len() < RECORD_HEAD_BYTES {
            let missing = RECORD_HEAD_BYTES - connection.inbox.len();
            match connection.stream.read(space.get_mut(..missing).unwrap_or_default()).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => connection.inbox.extend_from_slice(space.get(..read).unwrap_or_default()),
            }
        }
        connection.inbox.copy_to_slice(&mut space);
        Ok(space)
    }

    /// Goes on over a new connection.
    async fn again(&mut self, reader: Result<PullReader, PullError>) -> Result<AwaitingRecord, TransferError> {
        let reader = reader.map_err(TransferError::pull(self.wanted.producer))?;
        zipline_fault_point::fault_point!("pull.again");
        self.inner.counters.resumes.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(peer.addr = %self.wanted.producer, object = %self.wanted.object, at = reader.position(), "a read goes on");
        self.ask(reader).await.map(|(state, _)| state)
    }

    async fn ask(&mut self, mut reader: PullReader) -> Result<(AwaitingRecord, AnswerHead), TransferError> {
        let (peer, clock) = (self.wanted.producer, self.inner.config.clock);
        let failed = TransferError::pull(peer);
        loop {
            self.connection = None; // Before waiting for another: its permit may be the one that is waited for.
            let key = self.inner.keys.signing(clock.wall())?;
            zipline_fault_point::fault_point!("pull.connecting");
            let connecting = self.inner.pool.connect(&self.inner, peer, Use::Read);
            let connection = match timeout_at(clock.instant(reader.idle_at()), connecting).await {
                Ok(connection) => self.connection.insert(connection?),
                Err(_) => return Err(failed(reader.timed_out())),
            };
            let (request, mac, awaiting) = reader.ask(&key, clock.wall(), random::nonce()?);
            zipline_fault_point::fault_point!("pull.asking");
            let answered = exchange(connection, &request, key.id(), &mac, self.trace);
            let (head, signed) = match timeout_at(clock.instant(awaiting.idle_at()), answered).await {
                Err(_) => return Err(failed(awaiting.timed_out())),
                Ok(Ok(answer)) => answer.map_err(&failed)?,
                Ok(Err(source)) if tls::is_disagreement(&source) => return Err(self.inner.no_tls(peer, source)),
                Ok(Err(_)) => {
                    reader = awaiting.broken().map_err(&failed)?;
                    self.inner.counters.resumes.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            return match awaiting.head(&head, signed.as_ref()) {
                Ok(state) => Ok((state, head)),
                Err(error) => {
                    // A genuine refusal leaves the connection as good as it was.
                    if let (PullError::Refused { .. }, Some(connection)) = (&error, self.connection.take()) {
                        self.inner.pool.park(connection);
                    }
                    Err(failed(error))
                }
            };
        }
    }

    fn finish(&mut self) {
        zipline_fault_point::fault_point!("pull.last");
        self.permit = None;
        if let Some(connection) = self.connection.take() {
            self.inner.pool.park(connection);
        }
        self.inner.counters.pulled(self.inner.config.clock.monotonic().since(self.began));
    }
}
