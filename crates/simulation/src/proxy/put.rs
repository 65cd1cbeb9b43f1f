//! Writes an object, as a function's body or a put would: room, bytes, end.

use core::num::NonZeroU32;
use core::time::Duration;
use std::rc::Rc;

use zipline_contract::limits::BLOCK_BYTES;
use zipline_contract::{ErrorCode, PULL_VERSION};
use zipline_core::object::{NewObject, ObjectId, Owner};
use zipline_core::pull::SumKind;
use zipline_core::reference::{Receiver, Reference, Token};
use zipline_core::tier::Durability;
use zipline_core::time::WallTime;

use super::Proxy;
use super::ledger::{Progress, Stored};
use crate::faults::FaultKind;
use crate::plan::Size;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Room that a writer of unknown size takes at a time, at first and at most.
const GROW_BYTES: (u64, u64) = (256 * 1024, 8 * 1024 * 1024);

/// What is put, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct PutOptions {
    pub(crate) owner: Owner,
    pub(crate) ttl: Duration,
    pub(crate) size: Size,
    pub(crate) receiver: Option<Receiver>,
    /// Number of the payload.
    pub(crate) content: u64,
}

/// An owner with that many retrievals.
pub(crate) const fn owned(retrievals: NonZeroU32) -> Owner {
    Owner::Put { retrievals }
}

/// Writes one object. Dropped before its end, it aborts the object.
pub(crate) struct Writer {
    proxy: Rc<Proxy>,
    pub(crate) id: ObjectId,
    stored: Rc<Stored>,
    size: Size,
    owner: Owner,
    receiver: Option<Receiver>,
    pub(crate) expires: WallTime,
    room: u64,
    written: u64,
    done: bool,
}

impl Proxy {
    /// Takes room for a payload and begins its object.
    pub(crate) async fn put(self: &Rc<Self>, options: PutOptions) -> Result<Writer, ErrorCode> {
        let PutOptions { owner, ttl, size, receiver, content } = options;
        let now = self.now();
        if self.ring().sealing(now.wall).is_none() {
            return Err(ErrorCode::ReferenceUnknownKey);
        }
        let id = self.world.object_id();
        let buffer = self.world.settings().limits.held.bytes_max;
        let room = if size.declared { size.bytes } else { GROW_BYTES.0.min(buffer) };
        let expires = now.wall + ttl;
        let guaranteed_until = now.mono + ttl.min(self.drain.borrow().guaranteed_for(now.mono));
        let reservation = self.reserve(id, room).await.map_err(|refusal| refusal.code())?;
        let kind = if content.is_multiple_of(4) { SumKind::Blake3 } else { SumKind::Crc32c };
        let stored = Stored::new(id, content, kind);
        self.world.check.read(|reads| reads.put(id, content));
        let new = NewObject { owner, size: size.declared.then_some(size.bytes), ttl, expires, durability: Durability::None };
        if !self.insert(&stored, new, guaranteed_until) {
            return Err(ErrorCode::BufferFull);
        }
        reservation.used();
        self.note(|| format!("puts {id}: {} bytes for {owner:?}, {ttl:?}", size.bytes));
        Ok(Writer { proxy: Rc::clone(self), id, stored, size, owner, receiver, expires, room, written: 0, done: false })
    }

    /// Puts a payload whole.
    pub(crate) async fn put_whole(self: &Rc<Self>, options: PutOptions) -> Result<(Token, WallTime), ErrorCode> {
        let mut writer = self.put(options).await?;
        writer.fill().await?;
        let expires = writer.expires;
        Ok((writer.finish()?, expires))
    }
}

impl Writer {
    /// The object's reference, before it is complete.
    pub(crate) fn reference(&self) -> Result<Token, ErrorCode> {
        self.seal(self.size.declared.then_some(self.size.bytes))
    }

    /// Writes every byte there is, at the pace of whoever makes them.
    pub(crate) async fn fill(&mut self) -> Result<(), ErrorCode> {
        let world = Rc::clone(&self.proxy.world);
        while self.written < self.size.bytes {
            if world.strikes_at(FaultKind::WriterFail, self.proxy.process) {
                return Err(ErrorCode::PayloadAborted);
            }
            if world.strikes_at(FaultKind::WriterStall, self.proxy.process) {
                world.sleep(world.fault_millis(FaultKind::WriterStall, 100, 60_000)).await;
            }
            let left = self.size.bytes - self.written;
            let step = if left <= 2048 { left } else { world.spread(1024, left.max(1024)).max(left / 5).min(left) };
            let total = self.written + step;
            self.take_room(total).await?;
            self.proxy.wrote(self.id, total).map_err(|error| error.code())?;
            let whole_before = self.written / BLOCK;
            self.written = total;
            if total / BLOCK > whole_before {
                self.stored.set(Progress::Writing(total - total % BLOCK), &self.proxy);
            }
            world.sleep(Duration::from_nanos(step)).await; // A gigabyte a second.
        }
        Ok(())
    }

    /// The last byte was written.
    pub(crate) fn finish(mut self) -> Result<Token, ErrorCode> {
        self.proxy.finish(self.id, self.written).map_err(|error| error.code())?;
        self.done = true;
        self.stored.set(Progress::Complete(self.written), &self.proxy);
        self.seal(Some(self.written))
    }

    async fn take_room(&mut self, total: u64) -> Result<(), ErrorCode> {
        if total <= self.room {
            return Ok(());
        }
        let step = self.room.clamp(GROW_BYTES.0, GROW_BYTES.1);
        let buffer = self.proxy.world.settings().limits.held.bytes_max;
        let wanted = self.room.saturating_add(step).max(total).min(buffer).max(total);
        self.proxy.grow(self.id, wanted).await.map_err(|refusal| refusal.code())?;
        self.room = wanted;
        Ok(())
    }

    fn seal(&self, size: Option<u64>) -> Result<Token, ErrorCode> {
        let reference = Reference {
            pull_version: PULL_VERSION,
            producer: self.proxy.address,
            epoch: self.proxy.epoch,
            object: self.id,
            size,
            sum: self.stored.kind,
            expires: self.expires,
            retrievals: self.owner.retrievals(),
            slot: None,
            receiver: self.receiver.clone(),
            range: None,
            tier: None,
        };
        let nonce = self.proxy.world.random_bytes();
        self.proxy.ring().seal(&reference, self.proxy.now().wall, nonce).map_err(|error| error.code())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            self.proxy.abort(self.id);
        }
    }
}
