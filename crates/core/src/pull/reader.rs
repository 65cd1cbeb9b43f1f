//! The consumer's side of a read: from the first question to the last verified byte, over as many connections as it takes.
//!
//! One type for each thing that is awaited; each is consumed by what comes, and gives the next. A driver can therefore
//! neither deliver what was not verified nor take a cut body for a whole one.
//!
//! ```text
//!                    ask                  head                    record                 verify
//!  ┌─► PullReader ────────► AwaitingHead ──────► AwaitingRecord ────────► AwaitingBytes ────────► Verified
//!  │                             │                │  ▲  │  ▲  │               │                     │   │
//!  │ broken, corrupt, aborted    │                │  │  └──┘  │               │                     │   │
//!  └─────────────────────────────┴────────────────┘  │ heart- │ last, empty   │                     │   │
//!  └──────────────────────────────────────────────── │ beat ──┼───────────────┘           delivered │   │ delivered,
//!                                                    │        ▼                                     │   │ was last
//!                                                    └────── Finished ◄──────────────────────────── │ ──┘
//!                                                    └──────────────────────────────────────────────┘
//! ```
//!
//! A new connection goes on behind the last verified record, with the same lease. Bounds: [`ReaderLimits::resumes_max`]
//! resumes; each block is asked for again once when its sum does not hold, [`REASKS_MAX`] blocks in all; and
//! [`ReaderLimits::idle`] without a byte of payload, whatever else happens meanwhile (a heartbeat is no payload). Time
//! in which the payload waits for its own function does not count.
//!
//! Not here: connecting (a connect that fails is final), acknowledging what was read, and the room for it.

use core::time::Duration;
use std::net::SocketAddr;

use zipline_contract::limits::{BLOCK_BYTES, RECORD_HEAD_BYTES};

use super::answer::{AnswerHead, AnswerRange, ObjectSize};
use super::failure::{PullError, verified};
use super::mac::Mac;
use super::nonces::Nonce;
use super::range::{ByteRange, RangeError, Span};
use super::record::{RecordChain, RecordError, RecordHead, RecordKind};
use super::request::{PullMethod, PullRequest};
use super::sum::{Sum, SumKind};
use crate::object::{Epoch, LeaseId, ObjectId};
use crate::reference::{DomainKey, Receiver, Reference};
use crate::time::{Monotonic, WallTime};

/// Blocks of one read that are asked for again because of a wrong sum.
pub const REASKS_MAX: u32 = 16;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is to be read, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The producer's pull port.
    pub producer: SocketAddr,
    /// The instance that must answer.
    pub epoch: Epoch,
    /// Which object.
    pub object: ObjectId,
    /// Which of its bytes, in the object's own offsets.
    pub span: Span,
    /// The object's size, if the reference knows it.
    pub size: Option<u64>,
    /// How it is summed.
    pub sum: SumKind,
    /// The lease of this read; random.
    pub lease: LeaseId,
    /// As whom it is read.
    pub receiver: Option<Receiver>,
    /// The reference's slot.
    pub slot: Option<u32>,
}

impl Wanted {
    /// A read of what `reference` denotes, or of `part` of that, counted from its first byte.
    pub fn of(
        reference: &Reference,
        part: Option<ByteRange>,
        lease: LeaseId,
        receiver: Option<Receiver>,
    ) -> Result<Self, RangeError> {
        if let (Some(part), Some(size)) = (part, reference.visible_size())
            && part.first() >= size
        {
            return Err(RangeError::Unsatisfiable { first: part.first(), size });
        }
        let range = match (part, reference.range) {
            (part, None) => part,
            (None, Some(extent)) => Some(ByteRange::from(extent)),
            (Some(part), Some(extent)) => {
                let outside = RangeError::Unsatisfiable { first: part.first(), size: extent.length().get() };
                Some(part.within(extent).ok_or(outside)?)
            }
        };
        let span = range.map_or(Ok(Span::WHOLE), |range| range.resolve(reference.size))?;
        Ok(Self {
            producer: reference.producer,
            epoch: reference.epoch,
            object: reference.object,
            span,
            size: reference.size,
            sum: reference.sum,
            lease,
            receiver,
            slot: reference.slot,
        })
    }

    /// A request about the object that is not a read of it: its state, an acknowledgement, a release, or its end.
    pub fn request(&self, method: PullMethod, time: WallTime, nonce: Nonce) -> PullRequest {
        PullRequest {
            method,
            object: self.object,
            range: None,
            dialled: self.producer,
            epoch: self.epoch,
            lease: (method != PullMethod::Free).then_some(self.lease),
            receiver: self.receiver.clone(),
            slot: self.slot,
            time,
            nonce,
        }
    }
}

/// The bounds of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// How often it goes on over a new connection.
    pub resumes_max: u32,
    /// How long no byte of the payload may come.
    pub idle: Duration,
}

/// What all states know.
#[derive(Debug)]
struct Read {
    wanted: Wanted,
    idle: Duration,
    /// Offset behind the last verified byte.
    next: u64,
    size: Option<u64>,
    resumes_left: u32,
    reasks_left: u32,
    /// The offset that was asked for again.
    reasked: Option<u64>,
    /// The producer has said that the body will not be whole.
    aborted: bool,
    idle_at: Monotonic,
}

impl Read {
    fn progressed(&mut self, now: Monotonic) {
        self.idle_at = now.saturating_add(self.idle);
    }

    fn resume(mut self: Box<Self>) -> Result<PullReader, PullError> {
        let left = if mutant!("resume-without-end") { Some(self.resumes_left) } else { self.resumes_left.checked_sub(1) };
        match left {
            Some(left) => {
                self.resumes_left = left;
                Ok(PullReader(self))
            }
            None if self.aborted => Err(PullError::Aborted),
            None => Err(PullError::Broken { offset: self.next }),
        }
    }

    /// Asks for the block at `next` once more, unless that was done.
    fn ask_again(mut self: Box<Self>, error: PullError) -> Result<PullReader, PullError> {
        if self.reasked == Some(self.next) || self.reasks_left == 0 {
            return Err(error);
        }
        self.reasked = Some(self.next);
        self.reasks_left -= 1;
        Ok(PullReader(self))
    }
}

/// A read that is to be asked for, at first or anew.
#[derive(Debug)]
pub struct PullReader(Box<Read>);

impl PullReader {
    /// A read from the beginning.
    pub fn new(wanted: Wanted, limits: ReaderLimits, now: Monotonic) -> Self {
        Self(Box::new(Read {
            next: wanted.span.first,
            size: wanted.size,
            wanted,
            idle: limits.idle,
            resumes_left: limits.resumes_max,
            reasks_left: REASKS_MAX,
            reasked: None,
            aborted: false,
            idle_at: now.saturating_add(limits.idle),
        }))
    }

    /// The request to send, over a connection that carries no other answer, and its MAC.
    pub fn ask(self, key: &DomainKey, time: WallTime, nonce: Nonce) -> (PullRequest, Mac, AwaitingHead) {
        let Self(read) = self;
        let request = PullRequest { range: range_to_ask(&read), ..read.wanted.request(PullMethod::Get, time, nonce) };
        let mac = request.sign(key);
        (request, mac, AwaitingHead { read, key: key.clone(), request: mac })
    }

    /// Offset of the next byte to be read.
    pub const fn position(&self) -> u64 {
        self.0.next
    }

    /// When the read has been idle for too long; then it ends with [`PullReader::timed_out`].
    pub const fn idle_at(&self) -> Monotonic {
        self.0.idle_at
    }

    /// The error of a read that was idle for too long.
    pub fn timed_out(self) -> PullError {
        PullError::Idle { offset: self.0.next, idle: self.0.idle }
    }
}

/// No range where the whole object is wanted from its first byte. A read that is at its end already, and only lacks
/// the last record, asks for what lies behind: nothing, as the answer will say.
fn range_to_ask(read: &Read) -> Option<ByteRange> {
    let Span { limit, .. } = read.wanted.span;
    if read.next == 0 && limit == u64::MAX {
        return None;
    }
    let last = if limit == u64::MAX { None } else { limit.checked_sub(1) };
    Some(last.and_then(|last| ByteRange::closed(read.next, last)).unwrap_or(ByteRange::starting_at(read.next)))
}

/// A read whose answer is awaited.
#[derive(Debug)]
pub struct AwaitingHead {
    read: Box<Read>,
    key: DomainKey,
    request: Mac,
}

impl AwaitingHead {
    /// The answer's head came. Its MAC is checked before anything of it is believed.
    pub fn head(self, head: &AnswerHead, mac: Option<&Mac>) -> Result<AwaitingRecord, PullError> {
        let Self { mut read, key, request } = self;
        let mac = verified(head, mac, &key, &request, read.wanted.object)?;
        if head.status >= 400 {
            return Err(PullError::refused(head));
        }
        check_head(&mut read, head)?;
        Ok(AwaitingRecord { read, chain: RecordChain::new(&key, mac) })
    }

    /// The connection broke.
    pub fn broken(self) -> Result<PullReader, PullError> {
        self.read.resume()
    }

    /// When the read has been idle for too long; then it ends with [`AwaitingHead::timed_out`].
    pub const fn idle_at(&self) -> Monotonic {
        self.read.idle_at
    }

    /// The error of a read that was idle for too long.
    pub fn timed_out(self) -> PullError {
        PullReader(self.read).timed_out()
    }
}

/// Whether a genuine answer is one to what was asked.
fn check_head(read: &mut Read, head: &AnswerHead) -> Result<(), PullError> {
    let contradicts = |what| Err(PullError::Contradicts(what));
    if head.epoch != read.wanted.epoch {
        return contradicts("epoch");
    }
    if head.sum != Some(read.wanted.sum) {
        return contradicts("sum kind");
    }
    let Some(size) = head.size else { return contradicts("size") };
    match (read.size, size) {
        (Some(before), ObjectSize::Known(now)) if before == now => {}
        (None, ObjectSize::Known(now)) if now >= read.next => read.size = Some(now),
        (None, ObjectSize::Unknown) => {}
        _ => return contradicts("size"),
    }
    let answered = match range_to_ask(read) {
        None => head.status == 200 && head.range.is_none(),
        Some(_) => {
            let left = Span { first: read.next, ..read.wanted.span };
            head.status == 206 && head.range == Some(AnswerRange::of(left, size))
        }
    };
    if answered { Ok(()) } else { contradicts("range") }
}

/// A read whose next record is awaited.
#[derive(Debug)]
pub struct AwaitingRecord {
    read: Box<Read>,
    chain: RecordChain,
}

/// What a record's head was.
#[derive(Debug)]
pub enum RecordStep {
    /// Payload follows.
    Bytes(AwaitingBytes),
    /// The writer lives; nothing else has come.
    Heartbeat(AwaitingRecord),
    /// The body is whole.
    Finished(Finished),
    /// The connection is of no use any more; ask over a new one.
    Again(PullReader),
    /// It is over.
    Failed(PullError),
}

impl AwaitingRecord {
    /// A record's head came.
    pub fn record(self, wire: &[u8; RECORD_HEAD_BYTES]) -> RecordStep {
        let Self { mut read, mut chain } = self;
        let head = match chain.open(wire) {
            Ok(head) => head,
            Err(RecordError::Mac) => {
                let offset = read.next;
                return step(read.ask_again(PullError::RecordForged { offset }));
            }
            Err(RecordError::Field(_)) => return RecordStep::Failed(PullError::Contradicts("record")),
        };
        if let Err(error) = check_record(&read, &head) {
            return RecordStep::Failed(error);
        }
        match head.kind {
            RecordKind::Heartbeat => {
                if mutant!("heartbeat-is-progress") {
                    read.idle_at = read.idle_at.saturating_add(read.idle);
                }
                RecordStep::Heartbeat(Self { read, chain })
            }
            RecordKind::Aborted => {
                // The next answer says why.
                read.aborted = true;
                step(read.resume())
            }
            RecordKind::Last if head.length == 0 => RecordStep::Finished(Finished::of(&read)),
            RecordKind::Bytes | RecordKind::Last => RecordStep::Bytes(AwaitingBytes { read, chain, head }),
        }
    }

    /// The connection broke, or ended without a last record.
    pub fn broken(self) -> Result<PullReader, PullError> {
        self.read.resume()
    }

    /// When the read has been idle for too long; then it ends with [`AwaitingRecord::timed_out`].
    pub const fn idle_at(&self) -> Monotonic {
        self.read.idle_at
    }

    /// The error of a read that was idle for too long.
    pub fn timed_out(self) -> PullError {
        PullReader(self.read).timed_out()
    }

    /// The whole object's size, once it is known.
    pub const fn size(&self) -> Option<u64> {
        self.read.size
    }

    /// Bytes of the whole read, verified ones included, once that is known: a request's `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        self.read.size.map(|size| self.read.wanted.span.end(size).saturating_sub(self.read.wanted.span.first))
    }
}

fn step(again: Result<PullReader, PullError>) -> RecordStep {
    again.map_or_else(RecordStep::Failed, RecordStep::Again)
}

/// Whether a genuine record is one that may come here.
fn check_record(read: &Read, head: &RecordHead) -> Result<(), PullError> {
    if head.sum_kind != read.wanted.sum {
        return Err(PullError::Contradicts("record's sum kind"));
    }
    if head.length == 0 && head.sum != head.sum_kind.sum(&[]) {
        return Err(PullError::Contradicts("empty record's sum"));
    }
    let length = u64::from(head.length);
    let (limit, block_end) = (read.wanted.span.limit, (read.next / BLOCK).saturating_add(1).saturating_mul(BLOCK));
    let end = read.size.map_or(limit, |size| read.wanted.span.end(size));
    let Some(after) = read.next.checked_add(length).filter(|after| *after <= block_end && *after <= end) else {
        return Err(PullError::Contradicts("record's length"));
    };
    let early = read.size.is_some() && after < end;
    let whole = after == limit || (length > 0 && after == block_end);
    match head.kind {
        RecordKind::Last if early => Err(PullError::Contradicts("last record, which comes too early")),
        // A record ends at the end of a block or at the end of the body, where it is the last.
        RecordKind::Bytes if after == limit || !whole => Err(PullError::Contradicts("record, which ends nowhere")),
        _ => Ok(()),
    }
}

/// A read of which one record's payload is awaited.
#[derive(Debug)]
pub struct AwaitingBytes {
    read: Box<Read>,
    chain: RecordChain,
    head: RecordHead,
}

/// What a record's payload was.
#[derive(Debug)]
pub enum BytesStep {
    /// It may be delivered.
    Verified(Verified),
    /// Its sum does not hold: forget it, and ask over a new connection.
    Again(PullReader),
    /// It is over; forget the payload.
    Failed(PullError),
}

impl AwaitingBytes {
    /// Payload bytes to be read before [`AwaitingBytes::verify`]; at least 1, at most 1 MiB.
    pub const fn length(&self) -> usize {
        self.head.length as usize // At most BLOCK_BYTES.
    }

    /// Where they lie in the object.
    pub const fn offset(&self) -> u64 {
        self.read.next
    }

    /// How they are summed.
    pub const fn sum_kind(&self) -> SumKind {
        self.head.sum_kind
    }

    /// Some of them came.
    pub fn progressed(&mut self, now: Monotonic) {
        self.read.progressed(now);
    }

    /// All of them came.
    pub fn verify(self, payload: &[u8]) -> BytesStep {
        let length = payload.len();
        let sum = self.head.sum_kind.sum(payload);
        self.verify_sum(length, sum)
    }

    /// As [`AwaitingBytes::verify`], for a driver that has summed `length` bytes where they landed.
    pub fn verify_sum(self, length: usize, sum: Sum) -> BytesStep {
        let Self { mut read, chain, head } = self;
        let offset = read.next;
        if length != head.length as usize || (sum != head.sum && !mutant!("sum-not-checked")) {
            return match read.ask_again(PullError::Corrupt { offset }) {
                Ok(reader) => BytesStep::Again(reader),
                Err(error) => BytesStep::Failed(error),
            };
        }
        read.next += u64::from(head.length); // Checked with the record's head.
        BytesStep::Verified(Verified { read, chain, offset, length, last: head.kind == RecordKind::Last })
    }

    /// The connection broke: what came of the payload is to be forgotten.
    pub fn broken(self) -> Result<PullReader, PullError> {
        let mut read = self.read;
        if mutant!("resume-from-wrong-byte") {
            read.next += u64::from(self.head.length);
        }
        read.resume()
    }

    /// When the read has been idle for too long; then it ends with [`AwaitingBytes::timed_out`].
    pub const fn idle_at(&self) -> Monotonic {
        self.read.idle_at
    }

    /// The error of a read that was idle for too long.
    pub fn timed_out(self) -> PullError {
        PullReader(self.read).timed_out()
    }
}

/// A record's payload whose sum holds: to be delivered before the next is read.
#[derive(Debug)]
pub struct Verified {
    read: Box<Read>,
    chain: RecordChain,
    offset: u64,
    length: usize,
    last: bool,
}

/// What follows a delivered payload.
#[derive(Debug)]
pub enum DeliveredStep {
    /// More.
    Record(AwaitingRecord),
    /// The body is whole.
    Finished(Finished),
}

impl Verified {
    /// Where it lies in the object.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether it is the last.
    pub const fn is_last(&self) -> bool {
        self.last
    }

    /// It was delivered; from `now` on the next bytes are waited for.
    pub fn delivered(self, now: Monotonic) -> DeliveredStep {
        let Self { mut read, chain, last, .. } = self;
        if last {
            return DeliveredStep::Finished(Finished::of(&read));
        }
        read.progressed(now);
        DeliveredStep::Record(AwaitingRecord { read, chain })
    }
}

/// A read that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Offset of the first byte.
    pub first: u64,
    /// Bytes that were verified and delivered.
    pub bytes: u64,
}

impl Finished {
    const fn of(read: &Read) -> Self {
        Self { first: read.wanted.span.first, bytes: read.next - read.wanted.span.first }
    }
}
