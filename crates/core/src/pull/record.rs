//! Records: how a body is cut, summed and chained to the answer it belongs to.
//!
//! A record is a 56-byte head and up to 1 MiB of payload. Each head's MAC covers the one before it and, at the start,
//! the answer head's MAC: records can be neither dropped, repeated, reordered nor moved to another answer. Heads can
//! be made without touching the payload, so that the payload goes by `sendfile`.

use zipline_contract::limits::{BLOCK_BYTES, RECORD_HEAD_BYTES};

use super::mac::{MAC_BYTES, Mac, mac_over};
use super::sum::{SUM_BYTES, Sum, SumKind};
use crate::reference::{DomainKey, Secret};

/// Bytes of a record's MAC: the first half of the full one.
pub const RECORD_MAC_BYTES: usize = 16;
const COVERED_BYTES: usize = RECORD_HEAD_BYTES - RECORD_MAC_BYTES;
const FLAG_LAST: u8 = 1 << 0;
const FLAG_ABORTED: u8 = 1 << 1;
const SUM_AT: usize = 8;
const _: () = assert!(SUM_AT + SUM_BYTES == COVERED_BYTES && RECORD_MAC_BYTES < MAC_BYTES);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Bytes, and more will follow.
    Bytes,
    /// The last bytes; may have none.
    Last,
    /// The body ends here, though it is not whole. Has no bytes.
    Aborted,
    /// Nothing has come for a while, and the writer still lives. Has no bytes.
    Heartbeat,
}

/// A record's head, without its MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// What it is.
    pub kind: RecordKind,
    /// Payload bytes that follow; at most 1 MiB.
    pub length: u32,
    /// How they are summed.
    pub sum_kind: SumKind,
    /// Their sum.
    pub sum: Sum,
}

impl RecordHead {
    /// The head of a record of `length` payload bytes with `sum`.
    pub const fn bytes(length: u32, last: bool, sum_kind: SumKind, sum: Sum) -> Self {
        Self { kind: if last { RecordKind::Last } else { RecordKind::Bytes }, length, sum_kind, sum }
    }

    /// A last record without bytes: everything was sent before.
    pub fn end(sum_kind: SumKind) -> Self {
        Self { kind: RecordKind::Last, length: 0, sum_kind, sum: sum_kind.sum(&[]) }
    }

    /// The record that says that the body will not be whole.
    pub fn aborted(sum_kind: SumKind) -> Self {
        Self { kind: RecordKind::Aborted, length: 0, sum_kind, sum: sum_kind.sum(&[]) }
    }

    /// The record that says that the writer still lives.
    pub fn heartbeat(sum_kind: SumKind) -> Self {
        Self { kind: RecordKind::Heartbeat, length: 0, sum_kind, sum: sum_kind.sum(&[]) }
    }

    fn encode(&self) -> [u8; COVERED_BYTES] {
        let mut head = [0; COVERED_BYTES];
        head[..4].copy_from_slice(&self.length.to_be_bytes());
        head[4] = match self.kind {
            RecordKind::Bytes | RecordKind::Heartbeat => 0,
            RecordKind::Last => FLAG_LAST,
            RecordKind::Aborted => FLAG_ABORTED,
        };
        head[5] = self.sum_kind.number();
        head[SUM_AT..].copy_from_slice(self.sum.as_bytes());
        head
    }

    /// Reads what the MAC has covered.
    fn decode(head: &[u8; COVERED_BYTES]) -> Result<Self, RecordError> {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if length as usize > BLOCK_BYTES {
            return Err(RecordError::Field("length"));
        }
        let kind = match (head[4], length) {
            (0, 0) => RecordKind::Heartbeat,
            (0, _) => RecordKind::Bytes,
            (FLAG_LAST, _) => RecordKind::Last,
            (FLAG_ABORTED, 0) => RecordKind::Aborted,
            _ => return Err(RecordError::Field("flags")),
        };
        let sum_kind = SumKind::from_number(head[5]).ok_or(RecordError::Field("sum kind"))?;
        if head[6..SUM_AT] != [0, 0] {
            return Err(RecordError::Field("reserved bytes"));
        }
        let mut sum = [0; SUM_BYTES];
        sum.copy_from_slice(&head[SUM_AT..]);
        Ok(Self { kind, length, sum_kind, sum: Sum::from_bytes(sum) })
    }
}

/// The chain of one body: makes or checks one head after the other.
pub struct RecordChain {
    key: Secret,
    /// The answer's MAC, then the last record's.
    previous: Previous,
}

enum Previous {
    Answer(Mac),
    Record([u8; RECORD_MAC_BYTES]),
}

impl Previous {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Answer(mac) => mac.as_bytes(),
            Self::Record(mac) => mac,
        }
    }
}

impl RecordChain {
    /// The chain that begins at the answer with MAC `answer`.
    pub fn new(key: &DomainKey, answer: Mac) -> Self {
        Self { key: key.pull_answer.clone(), previous: Previous::Answer(answer) }
    }

    /// The next head, as it goes over the wire.
    pub fn seal(&mut self, head: &RecordHead) -> [u8; RECORD_HEAD_BYTES] {
        let covered = head.encode();
        let mac = self.advance(&covered);
        let mut wire = [0; RECORD_HEAD_BYTES];
        wire[..COVERED_BYTES].copy_from_slice(&covered);
        wire[COVERED_BYTES..].copy_from_slice(&mac);
        wire
    }

    /// Checks the next head. After an error the chain is of no further use: the connection is cut.
    pub fn open(&mut self, wire: &[u8; RECORD_HEAD_BYTES]) -> Result<RecordHead, RecordError> {
        let mut covered = [0; COVERED_BYTES];
        covered.copy_from_slice(&wire[..COVERED_BYTES]);
        let mac = self.advance(&covered);
        let holds = bool::from(subtle::ConstantTimeEq::ct_eq(&mac[..], &wire[COVERED_BYTES..]));
        if !holds && !mutant!("record-mac-not-checked") {
            return Err(RecordError::Mac);
        }
        RecordHead::decode(&covered)
    }

    fn advance(&mut self, covered: &[u8; COVERED_BYTES]) -> [u8; RECORD_MAC_BYTES] {
        let full = mac_over(&self.key, [self.previous.as_bytes(), covered.as_slice()]);
        let mut mac = [0; RECORD_MAC_BYTES];
        mac.copy_from_slice(&full.as_bytes()[..RECORD_MAC_BYTES]);
        self.previous = Previous::Record(mac);
        mac
    }
}

impl core::fmt::Debug for RecordChain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RecordChain").finish_non_exhaustive()
    }
}

/// A record's head that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The MAC does not hold: the stream was changed, cut in the middle, or is another's.
    #[error("a record's MAC does not hold")]
    Mac,
    /// Genuine, but not what a record may say.
    #[error("a record is genuine, but its {0} is not one")]
    Field(&'static str),
}
