//! The producer's side of a body: which bytes make the next record.
//!
//! Records end at multiples of 1 MiB of the object's offsets, so that the sum of a whole block serves every reader. Of
//! an object that is still being written only whole blocks are sent, and the rest once its end is known.

use zipline_contract::limits::BLOCK_BYTES;

use super::range::Span;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// How much of an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written so far.
    pub bytes: u64,
    /// Whether that is all.
    pub complete: bool,
}

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// A record of these bytes; `length` is 0 only in a last record.
    Record {
        /// Offset of its first byte in the object.
        offset: u64,
        /// Its payload bytes, at most 1 MiB.
        length: u32,
        /// Whether the body ends with it.
        last: bool,
        /// Whether it is one whole block, whose sum may be kept and reused.
        whole_block: bool,
    },
    /// Nothing may be sent before that many bytes are written, or the object is complete.
    Wait {
        /// How many.
        until_bytes: u64,
    },
    /// The last record was taken.
    Done,
}

/// Cuts one answer's bytes into records.
#[derive(Clone, Debug)]
pub struct RecordPlan {
    next: u64,
    limit: u64,
    done: bool,
}

impl RecordPlan {
    /// A plan for the bytes of `span`.
    pub const fn new(span: Span) -> Self {
        Self { next: span.first, limit: span.limit, done: false }
    }

    /// The next record of an object of which `written` is there. Each record is returned once.
    pub fn next(&mut self, written: Written) -> Planned {
        if self.done {
            return Planned::Done;
        }
        let is_end = written.complete || (mutant!("last-record-early") && written.bytes > self.next);
        let end = if is_end { self.limit.min(written.bytes) } else { self.limit };
        let cut = end.min((self.next / BLOCK).saturating_add(1).saturating_mul(BLOCK));
        // Of an object that grows, `cut` may lie ahead of what is there: then the block is not whole yet. A limit at
        // or before what is there ends the body early, whatever is still to come.
        if !written.complete && cut > written.bytes {
            return Planned::Wait { until_bytes: cut };
        }
        let offset = self.next.min(cut);
        let length = cut - offset;
        let last = cut == end;
        self.next = cut;
        self.done = last;
        let length = u32::try_from(length).expect("a record ends at the next multiple of 1 MiB");
        Planned::Record { offset, length, last, whole_block: length as usize == BLOCK_BYTES }
    }

    /// Offset of the next byte to be sent.
    pub const fn position(&self) -> u64 {
        self.next
    }
}
