//! What consumers were delivered, byte for byte, and what was made of it.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use zipline_core::object::{Epoch, LeaseId, ObjectId};
use zipline_core::pull::{Nonce, REASKS_MAX, ReaderLimits, Span};
use zipline_core::time::Monotonic;

use super::Invariant::{Authentic, Ends, Retrievals, Whole};
use super::{Checked, ensure};
use crate::content::Chunk;

#[derive(Debug)]
struct Origin {
    content: u64,
    /// Known once the last byte is written.
    size: Option<u64>,
}

/// One read of one object, as its consumer saw it.
#[derive(Debug)]
struct Read {
    object: ObjectId,
    slot: Option<u32>,
    span: Span,
    next: u64,
    is_whole: bool,
    is_accepted: bool,
    asked: u32,
    broke: u32,
    limits: ReaderLimits,
    /// Since when no byte has come; `None` while what came is with the function.
    idle_since: Option<Monotonic>,
}

/// Every object and every read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    objects: BTreeMap<ObjectId, Origin>,
    reads: BTreeMap<LeaseId, Read>,
    nonces: BTreeSet<(Epoch, [u8; 16])>,
}

impl Reads {
    /// An object begins.
    pub(crate) fn put(&mut self, id: ObjectId, content: u64) -> Checked {
        self.objects.insert(id, Origin { content, size: None });
        Ok(())
    }

    /// Its last byte was written.
    pub(crate) fn finished(&mut self, id: ObjectId, size: u64) -> Checked {
        if let Some(origin) = self.objects.get_mut(&id) {
            origin.size = Some(size);
        }
        Ok(())
    }

    pub(crate) fn begun(
        &mut self,
        lease: LeaseId,
        object: ObjectId,
        slot: Option<u32>,
        span: Span,
        limits: ReaderLimits,
        now: Monotonic,
    ) -> Checked {
        let read = Read {
            object,
            slot,
            span,
            next: span.first,
            is_whole: false,
            is_accepted: false,
            asked: 0,
            broke: 0,
            limits,
            idle_since: Some(now),
        };
        self.reads.insert(lease, read);
        Ok(())
    }

    /// The consumer asks, at first or anew.
    pub(crate) fn asked(&mut self, lease: LeaseId, slack: Duration, now: Monotonic) -> Checked {
        let Some(read) = self.reads.get_mut(&lease) else { return Ok(()) };
        read.asked += 1;
        let most = 1 + read.limits.resumes_max + REASKS_MAX;
        ensure(read.asked <= most, Ends, || format!("read {lease} asks for the {}th time of {most}", read.asked))?;
        self.lives(lease, slack, now)
    }

    /// A connection broke, and the read is to go on over another one.
    pub(crate) fn broke(&mut self, lease: LeaseId) -> Checked {
        let Some(read) = self.reads.get_mut(&lease) else { return Ok(()) };
        read.broke += 1;
        let most = read.limits.resumes_max;
        ensure(read.broke <= most, Ends, || format!("read {lease} goes on after {} breaks, {most} are allowed", read.broke))
    }

    /// The read goes on: it may not have been idle for too long.
    pub(crate) fn lives(&self, lease: LeaseId, slack: Duration, now: Monotonic) -> Checked {
        let Some(read) = self.reads.get(&lease) else { return Ok(()) };
        let Some(since) = read.idle_since else { return Ok(()) };
        let until = since + read.limits.idle + slack;
        ensure(now <= until, Ends, || format!("read {lease} has had no byte since {since:?}, and goes on"))
    }

    /// Some bytes of a block came.
    pub(crate) fn came(&mut self, lease: LeaseId, now: Monotonic) -> Checked {
        if let Some(read) = self.reads.get_mut(&lease) {
            read.idle_since = Some(now);
        }
        Ok(())
    }

    /// A verified block is given to whoever reads.
    pub(crate) fn delivered(&mut self, lease: LeaseId, chunk: Chunk) -> Checked {
        let Some(read) = self.reads.get_mut(&lease) else { return Err((Whole, format!("{lease} is no read"))) };
        let content = self.objects.get(&read.object).map(|origin| origin.content);
        ensure(chunk.damage.is_none(), Whole, || format!("read {lease} was delivered a changed byte: {chunk:?}"))?;
        ensure(Some(chunk.content) == content, Whole, || {
            format!("read {lease} was delivered another payload's bytes: {chunk:?}")
        })?;
        ensure(chunk.offset == read.next, Whole, || {
            format!("read {lease} was delivered bytes from {}, {} comes next", chunk.offset, read.next)
        })?;
        read.next += u64::from(chunk.length);
        ensure(read.next <= read.span.limit, Whole, || format!("read {lease} was delivered more than it asked for"))?;
        read.idle_since = None;
        Ok(())
    }

    /// Whoever reads wants more.
    pub(crate) fn taken(&mut self, lease: LeaseId, now: Monotonic) -> Checked {
        self.came(lease, now)
    }

    /// The read is said to be whole.
    pub(crate) fn whole(&mut self, lease: LeaseId) -> Checked {
        let Some(read) = self.reads.get_mut(&lease) else { return Err((Whole, format!("{lease} is no read"))) };
        let size = self.objects.get(&read.object).and_then(|origin| origin.size);
        let end = match size {
            Some(size) => read.span.end(size),
            // A part may be whole before the rest is written.
            None => read.span.limit,
        };
        ensure(read.next == end.max(read.span.first), Whole, || {
            format!("read {lease} is said to be whole at byte {} of {end} (size {size:?})", read.next)
        })?;
        (read.is_whole, read.idle_since) = (true, None);
        Ok(())
    }

    /// The payload was accepted: the function answered below 500, or the whole of a `get` was handed over.
    pub(crate) fn accepted(&mut self, lease: LeaseId) -> Checked {
        if let Some(read) = self.reads.get_mut(&lease) {
            read.is_accepted = true;
        }
        Ok(())
    }

    /// The consumer will say that it has read, and has not.
    pub(crate) fn lies(&mut self, lease: LeaseId) -> Checked {
        if let Some(read) = self.reads.get_mut(&lease) {
            (read.is_whole, read.is_accepted) = (true, true);
        }
        Ok(())
    }

    /// A producer let a reader in.
    pub(crate) fn granted(&self, object: ObjectId, lease: LeaseId, slot: Option<u32>) -> Checked {
        let Some(read) = self.reads.get(&lease) else {
            return Err((Authentic, format!("{lease} was granted and is nobody's read")));
        };
        let own = read.object == object && read.slot == slot;
        ensure(own, Retrievals, || format!("{lease} was granted slot {slot:?} of {object}; its reference has {:?}", read.slot))
    }

    /// A producer counted a retrieval.
    pub(crate) fn counted(&self, object: ObjectId, lease: LeaseId) -> Checked {
        let is_read = self.reads.get(&lease).is_some_and(|read| read.object == object && read.is_whole && read.is_accepted);
        ensure(is_read, Retrievals, || {
            format!("{lease} of {object} was counted as a retrieval; it was {:?}", self.reads.get(&lease))
        })
    }

    /// A producer took a request for genuine.
    pub(crate) fn authenticated(&mut self, epoch: Epoch, nonce: Nonce) -> Checked {
        let is_new = self.nonces.insert((epoch, *nonce.as_bytes()));
        ensure(is_new, Authentic, || format!("the request with nonce {nonce} was answered twice"))
    }
}
