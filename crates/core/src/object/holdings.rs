//! Everything a proxy holds for others, and what it receives for its own function: one table, one timer.
//!
//! [`Holdings`] decides; its driver carries out. Commands come in with the time and with ids that the driver drew at
//! random; what they cause beyond their answer is queued as [`Effect`]s, to be taken with [`Holdings::poll_effect`]
//! after every command. [`Holdings::next_timeout`] is the one timer; when it is due, [`Holdings::handle_timeout`].
//!
//! ```text
//! reserve ─► insert ─► written … grow … finish | abort              (the producer's function)
//!                └───► grant ─► progress … ─► acknowledge | release     (each reader)
//!                └───► free                                             (owner, or the end of its call)
//! receive ─► receive_more … ─► received                             (what is pulled for the own function)
//! next_to_spill ─► spilled; next_to_store ─► stored                 (`tiers`: where the bytes lie)
//! ```
//!
//! `P` is the driver's handle on a payload; it comes back in [`Effect::Freed`], and whoever drops it frees the memory.
//! Nothing is scanned: every command is O(log n) in the number of objects, plus the leases that it ends. Memory per
//! object: about 300 bytes beside its payload, and about 100 per lease ever granted while the object lives.
//!
//! Not here: bytes (the driver's `P`), and who may ask (`pull`, `reference`).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ended::EndedObjects;
use super::lease::{Leases, Via};
use super::room::{Room, RoomLimits};
use super::tiers::{Places, TierBooks};
use super::{End, LeaseId, Now, ObjectId, Owner, ReceiveId, Refusal, State};
use crate::pull::Written;
use crate::time::{Monotonic, WallTime};

/// Timers that one call of [`Holdings::handle_timeout`] serves, so that no call takes long.
pub const TIMEOUTS_A_CALL: usize = 256;

/// The bounds of what is held and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldingLimits {
    /// For objects held.
    pub held: RoomLimits,
    /// For payloads being received.
    pub receiving: RoomLimits,
    /// Leases an object grants beyond its retrievals.
    pub attempts_extra: u32,
    /// A lease without progress lapses after it.
    pub lease: Duration,
}

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<P> {
    /// A [`Holdings::reserve`] or [`Holdings::grow`] that waited has its room.
    Admitted(ObjectId),
    /// It has not, and waits no longer.
    Refused(ObjectId, Refusal),
    /// A [`Holdings::receive`] or [`Holdings::receive_more`] that waited has its room.
    ReceiveAdmitted(ReceiveId),
    /// It has not, and waits no longer.
    ReceiveRefused(ReceiveId, Refusal),
    /// A reader over TCP is to be stopped: its next record is flagged aborted, then its connection is closed.
    Cut {
        /// What it reads.
        object: ObjectId,
        /// Its lease.
        lease: LeaseId,
        /// Why.
        why: CutReason,
    },
    /// An object ended. Comes after the cuts of its readers; a writer, if it still had one, is to be stopped.
    Freed {
        /// Which.
        object: ObjectId,
        /// How.
        end: End,
        /// The driver's handle on the payload.
        payload: P,
    },
    /// An object ended that has a durable copy: the copy is to be removed. Comes before the object's [`Effect::Freed`].
    Forget(ObjectId),
}

/// Why a reader is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// The object ended.
    Ended(End),
    /// Another reader of the same slot acknowledged.
    SlotRetrieved,
    /// It made no progress for too long.
    Lapsed,
}

/// What is held at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Bytes charged for objects: held, reserved for a writer, or ended but still mapped by a reader on this machine.
    pub bytes: u64,
    /// Of these, bytes of ended objects that a reader on this machine still maps.
    pub lingering_bytes: u64,
    /// Objects held or reserved for.
    pub objects: usize,
    /// Objects that are being written.
    pub writers: usize,
    /// Leases granted and not ended.
    pub leases: usize,
    /// Puts and writers that wait for room.
    pub waiters: usize,
    /// Bytes charged for payloads being received.
    pub receiving_bytes: u64,
    /// Payloads being received.
    pub receiving: usize,
    /// Receivers that wait for room.
    pub receiving_waiters: usize,
    /// Objects whose bytes lie on local disk.
    pub spilled_objects: usize,
    /// Their bytes, of which [`Census::bytes`] has none.
    pub spilled_bytes: u64,
    /// Objects that have a durable copy.
    pub stored_objects: usize,
    /// Their bytes, wherever else they lie.
    pub stored_bytes: u64,
}

impl Census {
    /// Nothing at all.
    pub const EMPTY: Self = Self {
        bytes: 0,
        lingering_bytes: 0,
        objects: 0,
        writers: 0,
        leases: 0,
        waiters: 0,
        receiving_bytes: 0,
        receiving: 0,
        receiving_waiters: 0,
        spilled_objects: 0,
        spilled_bytes: 0,
        stored_objects: 0,
        stored_bytes: 0,
    };

    /// Objects and bytes that end with this process: those without a durable copy.
    pub const fn unstored(&self) -> (usize, u64) {
        let bytes = self.bytes.saturating_add(self.spilled_bytes);
        (self.objects.saturating_sub(self.stored_objects), bytes.saturating_sub(self.stored_bytes))
    }
}

/// What has happened since the start; numbers only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects that began to be written.
    pub writing: u64,
    /// Objects that became complete.
    pub available: u64,
    /// Objects that ended by their last retrieval.
    pub retrieved: u64,
    /// Objects that were freed.
    pub released: u64,
    /// Objects that expired.
    pub expired: u64,
    /// Objects whose writer failed.
    pub aborted: u64,
    /// Leases granted.
    pub attempts: u64,
    /// Retrievals counted.
    pub acknowledgements: u64,
    /// Leases given back.
    pub leases_released: u64,
    /// Leases that lapsed.
    pub leases_lapsed: u64,
    /// Leases that were cut.
    pub leases_cut: u64,
}

/// One object that is held.
#[derive(Debug)]
pub(super) struct Object<P> {
    pub(super) state: State,
    pub(super) owner: Owner,
    pub(super) acknowledged: u32,
    /// Declared at the put, or known since the end.
    pub(super) size: Option<u64>,
    pub(super) written: u64,
    /// Bytes of the budget that it holds.
    pub(super) charged: u64,
    pub(super) expires: WallTime,
    /// The same end on the clock that does not jump.
    pub(super) deadline: Monotonic,
    pub(super) leases: Leases,
    pub(super) places: Places,
    pub(super) payload: P,
}

impl<P> Object<P> {
    pub(super) fn retrievals_left(&self) -> u32 {
        self.owner.retrievals_left(self.acknowledged)
    }

    pub(super) fn written(&self) -> Written {
        Written { bytes: self.written, complete: self.state == State::Available }
    }
}

/// Memory of an ended object that readers on this machine still map.
#[derive(Debug)]
pub(super) struct Lingering {
    pub(super) bytes: u64,
    pub(super) leases: BTreeSet<LeaseId>,
}

/// Everything a proxy holds.
#[derive(Debug)]
pub struct Holdings<P> {
    pub(super) limits: HoldingLimits,
    pub(super) objects: BTreeMap<ObjectId, Object<P>>,
    /// Room that was admitted and has no object yet, with its bytes.
    pub(super) reserved: BTreeMap<ObjectId, u64>,
    pub(super) held: Room<ObjectId>,
    pub(super) lingering: BTreeMap<ObjectId, Lingering>,
    pub(super) ended: EndedObjects,
    pub(super) received: BTreeMap<ReceiveId, u64>,
    pub(super) receiving: Room<ReceiveId>,
    pub(super) expiries: BTreeSet<(Monotonic, ObjectId)>,
    /// When to look whether a lease has lapsed. Progress does not move the entry: the timer does, when it fires.
    pub(super) lapses: BTreeSet<(Monotonic, ObjectId, LeaseId)>,
    pub(super) effects: VecDeque<Effect<P>>,
    pub(super) counts: Counts,
    pub(super) writers: usize,
    pub(super) leases: usize,
    pub(super) lingering_bytes: u64,
    pub(super) draining: bool,
    pub(super) tiers: TierBooks,
}

impl<P> Holdings<P> {
    /// An empty table.
    pub fn new(limits: HoldingLimits) -> Self {
        Self {
            limits,
            objects: BTreeMap::new(),
            reserved: BTreeMap::new(),
            held: Room::new(limits.held),
            lingering: BTreeMap::new(),
            ended: EndedObjects::default(),
            received: BTreeMap::new(),
            receiving: Room::new(limits.receiving),
            expiries: BTreeSet::new(),
            lapses: BTreeSet::new(),
            effects: VecDeque::new(),
            counts: Counts::default(),
            writers: 0,
            leases: 0,
            lingering_bytes: 0,
            draining: false,
            tiers: TierBooks::default(),
        }
    }

    /// The next thing to do. To be called until `None` after every command.
    pub fn poll_effect(&mut self) -> Option<Effect<P>> {
        self.effects.pop_front()
    }

    /// When [`Holdings::handle_timeout`] is to be called; `None`: not before the next command.
    pub fn next_timeout(&self) -> Option<Monotonic> {
        [
            self.expiries.first().map(|(at, _)| *at),
            self.lapses.first().map(|(at, _, _)| *at),
            self.ended.next_timeout(),
            self.held.next_timeout(),
            self.receiving.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends whatever is due, at most [`TIMEOUTS_A_CALL`] of it; then [`Holdings::next_timeout`] is still in the past.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..TIMEOUTS_A_CALL {
            if !self.handle_one_timeout(now.mono) {
                return;
            }
        }
    }

    /// Sends all who wait with a new put away, and admits none any more. What is held stays until it ends.
    pub fn drain(&mut self) {
        self.draining = true;
        while let Some(id) = self.held.next_sent_away() {
            self.effects.push_back(Effect::Refused(id, Refusal::Draining));
        }
        self.admit_waiting();
    }

    /// Whether new puts are sent away.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Tells how many bytes others hold of the same budget (proxies of one local platform share it).
    pub fn set_held_elsewhere(&mut self, bytes: u64) {
        self.held.set_elsewhere(bytes);
        self.admit_waiting();
    }

    /// The bounds in force.
    pub const fn limits(&self) -> HoldingLimits {
        self.limits
    }

    /// What is held now.
    pub fn census(&self) -> Census {
        Census {
            bytes: self.held.bytes(),
            lingering_bytes: self.lingering_bytes,
            objects: self.held.places(),
            writers: self.writers,
            leases: self.leases,
            waiters: self.held.waiters(),
            receiving_bytes: self.receiving.bytes(),
            receiving: self.receiving.places(),
            receiving_waiters: self.receiving.waiters(),
            spilled_objects: self.tiers.spilled_objects,
            spilled_bytes: self.tiers.spilled_bytes,
            stored_objects: self.tiers.stored_objects,
            stored_bytes: self.tiers.stored_bytes,
        }
    }

    /// What has happened since the start.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The payload of an object that is held.
    pub fn payload(&self, id: ObjectId) -> Option<&P> {
        self.objects.get(&id).map(|object| &object.payload)
    }

    /// Whether somebody has a lease on the object now.
    pub fn is_being_read(&self, id: ObjectId) -> bool {
        self.objects.get(&id).is_some_and(|object| object.leases.active().next().is_some())
    }

    /// Objects that ended and are still remembered.
    pub fn remembered(&self) -> usize {
        self.ended.len()
    }

    fn handle_one_timeout(&mut self, now: Monotonic) -> bool {
        if let Some(due) = self.expiries.first().copied()
            && due.0 <= if mutant!("held-past-expiry") { now - Duration::from_secs(20) } else { now }
        {
            self.expiries.remove(&due); // Before anything else, so that no entry can be due for ever.
            self.end(due.1, State::expired, now);
        } else if let Some(due) = self.lapses.first().copied()
            && due.0 <= now
        {
            self.look_at_lease(due, now);
        } else if let Some(id) = self.held.next_timed_out(now) {
            let refusal = self.full(now);
            self.effects.push_back(Effect::Refused(id, refusal));
            self.admit_waiting();
        } else if let Some(id) = self.receiving.next_timed_out(now) {
            let refusal = self.receiving_full();
            self.effects.push_back(Effect::ReceiveRefused(id, refusal));
            self.admit_receiving();
        } else {
            return self.ended.forget_due(now);
        }
        true
    }

    fn look_at_lease(&mut self, due: (Monotonic, ObjectId, LeaseId), now: Monotonic) {
        self.lapses.remove(&due);
        let (_, object, lease) = due;
        let Some(held) = self.objects.get_mut(&object) else { return };
        if let Some(again) = held.leases.timer_fired(lease, now) {
            self.lapses.insert((again, object, lease));
            return;
        }
        self.leases -= 1;
        self.counts.leases_lapsed += 1;
        self.effects.push_back(Effect::Cut { object, lease, why: CutReason::Lapsed });
    }

    /// Takes an object over its end, if `transition` leads there: readers are cut, the payload and its room go back,
    /// and the end is remembered. False when the object is not held or has no such transition.
    pub(super) fn end(&mut self, id: ObjectId, transition: fn(State) -> Option<State>, now: Monotonic) -> bool {
        let Some(State::Ended(end)) = self.objects.get(&id).and_then(|object| transition(object.state)) else { return false };
        let Some(object) = self.objects.remove(&id) else { return false };
        self.expiries.remove(&(object.deadline, id));
        if object.state == State::Writing {
            self.writers -= 1;
        }
        self.count(end);
        let mut mapped = BTreeSet::new();
        for (lease, timer_at, via) in object.leases.active() {
            self.lapses.remove(&(timer_at, id, lease));
            self.leases -= 1;
            self.counts.leases_cut += 1;
            match via {
                Via::Pull if mutant!("readers-not-cut") => {}
                Via::Pull => self.effects.push_back(Effect::Cut { object: id, lease, why: CutReason::Ended(end) }),
                Via::Handover => {
                    mapped.insert(lease);
                }
            }
        }
        self.ended.remember(id, end, object.leases.acknowledged(), now);
        self.leave_tiers(id, &object);
        self.effects.push_back(Effect::Freed { object: id, end, payload: object.payload });
        if self.held.withdraw(id) {
            self.effects.push_back(Effect::Refused(id, Refusal::Ended(end)));
        }
        if mapped.is_empty() || mutant!("lingering-not-charged") {
            self.held.leave(object.charged, 1);
        } else {
            self.held.leave(0, 1);
            self.lingering_bytes += object.charged;
            self.lingering.insert(id, Lingering { bytes: object.charged, leases: mapped });
        }
        if !mutant!("waiter-forgotten") {
            self.admit_waiting();
        }
        true
    }

    /// Lets in whoever now fits.
    pub(super) fn admit_waiting(&mut self) {
        while let Some((id, wish)) = self.held.next_admitted() {
            match self.objects.get_mut(&id) {
                Some(object) => object.charged += wish.bytes,
                None => {
                    self.reserved.insert(id, wish.bytes);
                }
            }
            self.effects.push_back(Effect::Admitted(id));
        }
    }

    /// The refusal of a full buffer, with its numbers.
    pub(super) fn full(&self, now: Monotonic) -> Refusal {
        Refusal::Full {
            bytes: self.held.bytes().saturating_add(self.held.elsewhere_bytes()),
            bytes_max: self.held.limits().bytes_max,
            objects: self.held.places(),
            objects_max: self.held.limits().places_max,
            waiters: self.held.waiters(),
            next_expiry: self.expiries.first().map(|(at, _)| now.until(*at)),
        }
    }

    fn count(&mut self, end: End) {
        match end {
            End::Retrieved => self.counts.retrieved += 1,
            End::Released => self.counts.released += 1,
            End::Expired => self.counts.expired += 1,
            End::Aborted => self.counts.aborted += 1,
        }
    }
}
