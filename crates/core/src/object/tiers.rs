//! Where the bytes of [`Holdings`]' objects lie beside memory: local disk, the durable tier.
//!
//! The driver asks what to move ([`Holdings::next_to_spill`], [`Holdings::next_to_store`]), moves it, and tells how that
//! went. An object can end at any moment meanwhile; the driver learns it from the answer, and gives up what it has made.
//!
//! ```text
//! spill   in memory ──next_to_spill──► being spilled ──spilled──► on disk        charged to the disk from the first step on,
//!                        ◄──────────── spill_failed, or read meanwhile          to memory until the last
//! store   no copy ──next_to_store, begin_store──► being stored ──stored──► copied    a copy goes with its object's end
//!                        ◄──────────────────────── store_failed                      ([`Effect::Forget`])
//! ```
//!
//! To disk goes what has waited longest and nobody reads, once memory is fuller than the watermark or somebody waits
//! for room. At a drain everything goes to the durable tier that was promised to outlive it and that nobody has
//! retrieved: first what nobody reads, last what would expire first.

use std::collections::BTreeSet;

use super::holdings::{Effect, Holdings, Object};
use super::{ObjectId, State};
use crate::tier::Durability;
use crate::time::Monotonic;

/// How often one object is written to the durable tier in vain before it is left.
pub const STORE_TRIES_MAX: u8 = 3;
/// Objects that one look for something to spill passes over, because they are read or do not fit.
const SPILL_LOOK_MAX: usize = 64;

/// The bounds of what lies on local disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillLimits {
    /// Bytes of objects there.
    pub bytes_max: u64,
    /// Memory in use above which objects go there.
    pub watermark_bytes: u64,
    /// Smaller objects stay in memory.
    pub object_bytes_min: u64,
}

/// Where one object lies, and what was promised.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) durability: Durability,
    pub(super) copy: DurableCopy,
    pub(super) disk: OnDisk,
    /// Arrival, which decides who goes to disk first.
    arrival: u64,
    store_tries: u8,
}

/// The durable tier's part in an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum DurableCopy {
    #[default]
    None,
    Writing,
    Written,
}

/// The disk's part in an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnDisk {
    #[default]
    No,
    Spilling,
    Spilled,
}

/// What [`Holdings`] knows of its tiers.
#[derive(Debug, Default)]
pub(super) struct TierBooks {
    spill: Option<SpillLimits>,
    arrivals: u64,
    /// Complete objects in memory that may go to disk, in the order of their arrival.
    to_spill: BTreeSet<(u64, ObjectId)>,
    /// Complete objects without a copy that are to outlive a drain, by their end.
    to_store: BTreeSet<(Monotonic, ObjectId)>,
    pub(super) stored_objects: usize,
    pub(super) stored_bytes: u64,
    pub(super) spilled_objects: usize,
    pub(super) spilled_bytes: u64,
    /// Bytes that are charged to the disk already, and to memory still.
    spilling_bytes: u64,
}

impl<P> Object<P> {
    fn is_read(&self) -> bool {
        self.leases.active().next().is_some()
    }

    fn known_size(&self) -> u64 {
        self.size.unwrap_or(self.written)
    }
}

impl<P> Holdings<P> {
    /// Puts a disk behind memory.
    #[must_use]
    pub fn with_spill(mut self, limits: SpillLimits) -> Self {
        self.tiers.spill = Some(limits);
        self
    }

    /// Whether memory is so full that something is to go to disk, if there is something that can.
    pub fn wants_to_spill(&self) -> bool {
        let Some(limits) = self.tiers.spill else { return false };
        let remaining = self.held.bytes().saturating_add(self.held.elsewhere_bytes()).saturating_sub(self.tiers.spilling_bytes);
        let is_full = remaining > limits.watermark_bytes || self.held.waiters() > 0;
        is_full && !self.draining && !self.tiers.to_spill.is_empty()
    }

    /// What to write to disk next; it counts as under way from here on.
    pub fn next_to_spill(&mut self) -> Option<ObjectId> {
        let limits = self.tiers.spill.filter(|_| self.wants_to_spill())?;
        let room = limits.bytes_max.saturating_sub(self.tiers.spilled_bytes + self.tiers.spilling_bytes);
        let fits = |object: &Object<P>| !object.is_read() && object.known_size() <= room;
        let mut oldest = self.tiers.to_spill.iter().take(SPILL_LOOK_MAX);
        let (arrival, id) = *oldest.find(|(_, id)| self.objects.get(id).is_some_and(fits))?;
        let object = self.objects.get_mut(&id)?;
        let size = object.known_size();
        object.places.disk = OnDisk::Spilling;
        self.tiers.to_spill.remove(&(arrival, id));
        self.tiers.spilling_bytes += size;
        Some(id)
    }

    /// The object's bytes are on disk: true when they are to be read from there, and memory is to be given back. False:
    /// it ended or is read meanwhile, and what was written is to be given up.
    pub fn spilled(&mut self, id: ObjectId) -> bool {
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.places.disk == OnDisk::Spilling) else {
            return false;
        };
        if object.is_read() {
            self.spill_failed(id);
            return false;
        }
        object.places.disk = OnDisk::Spilled;
        let size = object.known_size();
        self.tiers.spilling_bytes -= size;
        self.tiers.spilled_bytes += size;
        self.tiers.spilled_objects += 1;
        let charged = core::mem::take(&mut object.charged);
        self.held.leave(charged, 0);
        self.admit_waiting();
        true
    }

    /// The object's bytes could not be written to disk: it stays in memory, last in the row.
    pub fn spill_failed(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.places.disk == OnDisk::Spilling) else { return };
        self.tiers.arrivals += 1;
        object.places.arrival = self.tiers.arrivals;
        object.places.disk = OnDisk::No;
        self.tiers.spilling_bytes -= object.known_size();
        self.may_spill(id);
    }

    /// What to write to the durable tier next, at a drain; it counts as under way from here on.
    pub fn next_to_store(&mut self) -> Option<ObjectId> {
        if !self.draining {
            return None;
        }
        let unread = |(_, id): &&(Monotonic, ObjectId)| self.objects.get(id).is_some_and(|object| !object.is_read());
        let (_, id) = *self.tiers.to_store.iter().rev().find(unread).or_else(|| self.tiers.to_store.last())?;
        self.begin_store(id).then_some(id)
    }

    /// Says that the object is being written to the durable tier. False when it is not complete, or has a copy.
    pub fn begin_store(&mut self, id: ObjectId) -> bool {
        let Some(object) = self.objects.get_mut(&id) else { return false };
        if object.state != State::Available || object.places.copy != DurableCopy::None {
            return false;
        }
        object.places.copy = DurableCopy::Writing;
        object.places.store_tries = object.places.store_tries.saturating_add(1);
        self.tiers.to_store.remove(&(object.deadline, id));
        true
    }

    /// The object's copy is written. False when the object ended meanwhile: its copy is to be removed.
    pub fn stored(&mut self, id: ObjectId) -> bool {
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.places.copy == DurableCopy::Writing) else {
            return false;
        };
        object.places.copy = DurableCopy::Written;
        self.tiers.stored_objects += 1;
        self.tiers.stored_bytes += object.known_size();
        true
    }

    /// The object's copy could not be written. It is offered again, [`STORE_TRIES_MAX`] times in all.
    pub fn store_failed(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.places.copy == DurableCopy::Writing) else { return };
        object.places.copy = DurableCopy::None;
        if object.places.store_tries < STORE_TRIES_MAX {
            self.tiers.to_store.insert((object.deadline, id));
        }
    }

    /// Whether nothing that is held needs this process any more: everything has ended, or has a durable copy and is not
    /// read now.
    pub fn is_unneeded(&self) -> bool {
        self.held.places() == self.tiers.stored_objects && self.leases == 0
    }

    /// Notes a new object, which may go to disk and to the durable tier once it is complete.
    pub(super) fn places_of_new(&mut self, durability: Durability) -> Places {
        self.tiers.arrivals += 1;
        Places { durability, arrival: self.tiers.arrivals, ..Places::default() }
    }

    /// The object is complete.
    pub(super) fn may_move(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get(&id)
            && object.places.durability == Durability::Drain
        {
            self.tiers.to_store.insert((object.deadline, id));
        }
        self.may_spill(id);
    }

    /// The object ended: its disk is free again, and its durable copy is to go.
    pub(super) fn leave_tiers(&mut self, id: ObjectId, object: &Object<P>) {
        let size = object.known_size();
        self.tiers.to_spill.remove(&(object.places.arrival, id));
        self.tiers.to_store.remove(&(object.deadline, id));
        match object.places.disk {
            OnDisk::No => {}
            OnDisk::Spilling => self.tiers.spilling_bytes -= size,
            OnDisk::Spilled => {
                self.tiers.spilled_objects -= 1;
                self.tiers.spilled_bytes -= size;
            }
        }
        if object.places.copy == DurableCopy::Written {
            self.tiers.stored_objects -= 1;
            self.tiers.stored_bytes -= size;
            self.effects.push_back(Effect::Forget(id));
        }
    }

    fn may_spill(&mut self, id: ObjectId) {
        if let (Some(limits), Some(object)) = (self.tiers.spill, self.objects.get(&id))
            && object.known_size() >= limits.object_bytes_min.max(1)
        {
            self.tiers.to_spill.insert((object.places.arrival, id));
        }
    }
}
