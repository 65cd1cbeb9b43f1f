//! The books of one proxy, kept from what it was asked, what it answered, and what it told others.
//!
//! A model of the promises, not of the code: plain sums and searches. Every answer is compared with what the books say,
//! and after every command the table's own census with the books' sums.

mod effects;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use zipline_contract::limits::{LEASE_RESUMES_MAX, REMEMBERED_MS};
use zipline_core::object::{
    Acknowledged, Admission, Census, End, HoldingLimits, LeaseId, LeaseRequest, NewObject, NotCounted, Now, ObjectId, Owner,
    ReadError, ReceiveId, Refusal, Via, WriteError,
};
use zipline_core::time::{Monotonic, WallTime};

use super::Invariant::{Budgets, Freed, Refusals, Retrievals};
use super::room::{Queue, Wish};
use super::{Checked, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    Active { lapses: Monotonic },
    Lapsed,
    Released,
    Counted,
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    state: LeaseState,
    slot: Option<u32>,
    via: Via,
    resumes: u16,
}

impl Lease {
    fn is_active(&self) -> bool {
        matches!(self.state, LeaseState::Active { .. })
    }
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    size: Option<u64>,
    written: u64,
    charged: u64,
    is_writing: bool,
    attempts: u32,
    counted: u32,
    slots: BTreeSet<u32>,
    leases: BTreeMap<LeaseId, Lease>,
    deadline: Monotonic,
    expires: WallTime,
    guaranteed_until: Monotonic,
}

impl Held {
    fn left(&self) -> u32 {
        match self.owner {
            Owner::Call => 1,
            Owner::CallUntilRetrieved => 1_u32.saturating_sub(self.counted),
            Owner::Put { retrievals } => retrievals.get().saturating_sub(self.counted),
        }
    }

    fn granted(&self) -> u32 {
        match self.owner {
            Owner::Call | Owner::CallUntilRetrieved => 1,
            Owner::Put { retrievals } => retrievals.get(),
        }
    }
}

#[derive(Debug)]
struct Over {
    end: End,
    at: Monotonic,
    counted: BTreeSet<LeaseId>,
}

/// The books of one proxy.
#[derive(Debug)]
pub(crate) struct Books {
    limits: HoldingLimits,
    slack: Duration,
    elsewhere: u64,
    is_draining: bool,
    reserved: BTreeMap<ObjectId, u64>,
    held_queue: Queue<ObjectId>,
    held: BTreeMap<ObjectId, Held>,
    lingering: BTreeMap<ObjectId, (u64, BTreeSet<LeaseId>)>,
    over: BTreeMap<ObjectId, Over>,
    received: BTreeMap<ReceiveId, u64>,
    receive_queue: Queue<ReceiveId>,
    deadlines: BTreeSet<(Monotonic, ObjectId)>,
    lapses: BTreeSet<(Monotonic, ObjectId, LeaseId)>,
    /// Ends that have to be told before the command is over.
    due: Vec<(ObjectId, End)>,
    sums: Census,
}

/// How a reader was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    New,
    Again,
    Resumed,
}

impl Books {
    /// Books of a proxy whose timers may be late by `slack`.
    pub(crate) fn new(limits: HoldingLimits, slack: Duration) -> Self {
        Self {
            limits,
            slack,
            elsewhere: 0,
            is_draining: false,
            reserved: BTreeMap::new(),
            held_queue: Queue::new(limits.held),
            held: BTreeMap::new(),
            lingering: BTreeMap::new(),
            over: BTreeMap::new(),
            received: BTreeMap::new(),
            receive_queue: Queue::new(limits.receiving),
            deadlines: BTreeSet::new(),
            lapses: BTreeSet::new(),
            due: Vec::new(),
            sums: Census::EMPTY,
        }
    }

    /// How late the proxy's timers may be from now on.
    pub(crate) fn set_slack(&mut self, slack: Duration) -> Checked {
        self.slack = slack;
        Ok(())
    }

    fn used(&self) -> (u64, usize) {
        (self.sums.bytes + self.elsewhere, self.sums.objects)
    }

    fn receiving(&self) -> (u64, usize) {
        (self.sums.receiving_bytes, self.sums.receiving)
    }

    pub(crate) fn set_elsewhere(&mut self, bytes: u64) -> Checked {
        self.elsewhere = bytes;
        Ok(())
    }

    pub(crate) fn drain(&mut self) -> Checked {
        self.is_draining = true;
        Ok(())
    }

    pub(crate) fn reserve(&mut self, id: ObjectId, bytes: u64, now: Now, said: Result<Admission, &Refusal>) -> Checked {
        if let Err(Refusal::Draining) = said {
            return ensure(self.is_draining, Refusals, || "said to be draining".into());
        }
        ensure(!self.is_draining, super::Invariant::Drain, || "a draining proxy took a put".into())?;
        let used = self.used();
        self.held_queue.enter(id, Wish { bytes, total: bytes, grows: false, now: now.mono }, used, said)?;
        if said == Ok(Admission::Admitted) {
            self.reserved.insert(id, bytes);
            self.take(bytes, 1);
        }
        Ok(())
    }

    pub(crate) fn cancel(&mut self, id: ObjectId) -> Checked {
        if let Some(bytes) = self.reserved.remove(&id) {
            self.give_back(bytes, 1);
        }
        if !self.held.contains_key(&id) {
            self.held_queue.remove(id);
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, id: ObjectId, new: NewObject, guaranteed_until: Monotonic, now: Now) -> Checked {
        let Some(charged) = self.reserved.remove(&id) else {
            return Err((Budgets, format!("{id} has begun without room")));
        };
        let deadline = now.mono + new.ttl;
        self.deadlines.insert((deadline, id));
        self.sums.writers += 1;
        self.held.insert(
            id,
            Held {
                owner: new.owner,
                size: new.size,
                written: 0,
                charged,
                is_writing: true,
                attempts: 0,
                counted: 0,
                slots: BTreeSet::new(),
                leases: BTreeMap::new(),
                deadline,
                expires: new.expires,
                guaranteed_until,
            },
        );
        Ok(())
    }

    pub(crate) fn grow(&mut self, id: ObjectId, bytes: u64, now: Now, said: Result<Admission, &Refusal>) -> Checked {
        let Some(held) = self.held.get_mut(&id) else {
            return ensure(said.is_err(), Freed, || format!("{id} grows though it has ended"));
        };
        let more = bytes.saturating_sub(held.charged);
        if more == 0 {
            return ensure(said == Ok(Admission::Admitted), Refusals, || format!("{id} has its {bytes} bytes"));
        }
        let used = self.used();
        self.held_queue.enter(id, Wish { bytes: more, total: bytes, grows: true, now: now.mono }, used, said)?;
        if said == Ok(Admission::Admitted) {
            self.grown(id, more);
        }
        Ok(())
    }

    pub(crate) fn written(&mut self, id: ObjectId, bytes: u64, said: Result<(), WriteError>) -> Checked {
        match self.held.get_mut(&id) {
            Some(held) if said.is_ok() => {
                ensure(bytes <= held.charged, Budgets, || format!("{id} has {bytes} bytes in room for {}", held.charged))?;
                held.written = held.written.max(bytes);
                Ok(())
            }
            Some(held) => ensure(bytes > held.charged, Refusals, || format!("{id} may not write {bytes} bytes: {said:?}")),
            None => ensure(said.is_err(), Freed, || format!("{id} is written though it has ended")),
        }
    }

    pub(crate) fn finish(&mut self, id: ObjectId, size: u64, said: Result<(), WriteError>) -> Checked {
        let Some(held) = self.held.get_mut(&id) else {
            return ensure(said.is_err(), Freed, || format!("{id} is finished though it has ended"));
        };
        ensure(said.is_ok(), Refusals, || format!("{id} may not be finished: {said:?}"))?;
        ensure(held.is_writing, Freed, || format!("{id} is finished twice"))?;
        let surplus = held.charged - size;
        (held.is_writing, held.size, held.written, held.charged) = (false, Some(size), size, size);
        self.sums.writers -= 1;
        self.give_back(surplus, 0);
        self.held_queue.remove(id);
        Ok(())
    }

    /// The writer failed.
    pub(crate) fn abort(&mut self, id: ObjectId) -> Checked {
        if self.held.get(&id).is_some_and(|held| held.is_writing) {
            self.due.push((id, End::Aborted));
        }
        Ok(())
    }

    pub(crate) fn free(&mut self, id: ObjectId, said: bool) -> Checked {
        let is_held = self.held.contains_key(&id);
        if is_held {
            self.due.push((id, End::Released));
        }
        ensure(said == is_held, Freed, || format!("{id} was {}freed", if said { "" } else { "not " }))
    }

    /// What a reader must be told. `Ok` may still end the object by the wall clock: then it is due.
    pub(crate) fn grant(
        &mut self,
        id: ObjectId,
        asked: LeaseRequest,
        now: Now,
        said: Result<(), ReadError>,
    ) -> Checked<Option<Grant>> {
        let expected = self.expected_grant(id, asked, now);
        let same = match (&expected, &said) {
            (Ok(_), Ok(())) => true,
            (Err(ReadError::Unknown), Err(ReadError::Ended(_))) => true, // Nobody has to forget in time.
            (Err(expected), Err(said)) => expected == said,
            _ => false,
        };
        let invariant = if said.is_ok() { Retrievals } else { Refusals };
        ensure(same, invariant, || format!("a read of {id} by {asked:?} was answered {said:?}, not {expected:?}"))?;
        let Ok(grant) = expected else { return Ok(None) };
        let lapses = match asked.via {
            Via::Pull => now.mono + self.limits.lease,
            Via::Handover => Monotonic::MAX,
        };
        let Some(held) = self.held.get_mut(&id) else { return Ok(None) };
        if grant == Grant::Resumed {
            if let Some(lease) = held.leases.get_mut(&asked.lease) {
                lease.resumes += 1;
            }
            self.touch(id, asked.lease, now.mono);
            return Ok(Some(grant));
        }
        held.attempts += 1;
        let most = held.granted().saturating_add(self.limits.attempts_extra);
        ensure(held.attempts <= most, Retrievals, || format!("{id} was begun {} times of {most}", held.attempts))?;
        let state = LeaseState::Active { lapses };
        held.leases.insert(asked.lease, Lease { state, slot: asked.slot, via: asked.via, resumes: 0 });
        self.lapses.insert((lapses, id, asked.lease));
        self.sums.leases += 1;
        Ok(Some(grant))
    }

    fn expected_grant(&mut self, id: ObjectId, asked: LeaseRequest, now: Now) -> Result<Grant, ReadError> {
        self.expire_by_wall(id, now);
        if let Some((_, end)) = self.due.iter().find(|(due, _)| *due == id) {
            return Err(ReadError::Ended(*end));
        }
        let Some(held) = self.held.get(&id) else { return Err(self.end_of(id, now.mono)) };
        let slots = held.granted();
        if let Some(slot) = asked.slot {
            if slot >= slots {
                return Err(ReadError::NoSuchSlot { slot, slots });
            }
            if held.slots.contains(&slot) {
                return Err(ReadError::SlotRetrieved { slot });
            }
        }
        let mut grant = Grant::New;
        if let Some(lease) = held.leases.get(&asked.lease) {
            if lease.slot != asked.slot {
                return Err(ReadError::OtherSlot);
            }
            match lease.state {
                LeaseState::Active { .. } if lease.via == asked.via && lease.resumes < LEASE_RESUMES_MAX => {
                    return Ok(Grant::Resumed);
                }
                LeaseState::Active { .. } => return Err(ReadError::Resumes),
                LeaseState::Counted => return Err(ReadError::Acknowledged),
                LeaseState::Lapsed | LeaseState::Released | LeaseState::Cut => grant = Grant::Again,
            }
        }
        let attempts = slots.saturating_add(self.limits.attempts_extra);
        if held.attempts >= attempts { Err(ReadError::Attempts { attempts }) } else { Ok(grant) }
    }

    /// Somebody asked for the object's state.
    pub(crate) fn status(&mut self, id: ObjectId, lease: Option<LeaseId>, now: Now, said: Result<(), ReadError>) -> Checked {
        self.expire_by_wall(id, now);
        let is_held = self.held.contains_key(&id) && !self.due.iter().any(|(due, _)| *due == id);
        ensure(said.is_ok() == is_held, Refusals, || format!("the state of {id} is {said:?}"))?;
        if let (true, Some(lease)) = (is_held, lease) {
            self.touch(id, lease, now.mono);
        }
        Ok(())
    }

    /// Bytes went to a reader.
    pub(crate) fn progress(&mut self, id: ObjectId, lease: LeaseId, now: Now, said: bool) -> Checked {
        let is_active = self.held.get(&id).and_then(|held| held.leases.get(&lease)).is_some_and(Lease::is_active);
        self.touch(id, lease, now.mono);
        ensure(said == is_active, Retrievals, || {
            format!("lease {lease} of {id} is said to be {}", if said { "active" } else { "over" })
        })
    }

    /// What an acknowledgement must be answered; true when it counts.
    pub(crate) fn acknowledge(
        &mut self,
        id: ObjectId,
        lease: LeaseId,
        now: Now,
        said: Result<Acknowledged, NotCounted>,
    ) -> Checked<Acknowledge> {
        self.expire_by_wall(id, now);
        let is_due = self.due.iter().any(|(due, _)| *due == id);
        let state = self.held.get(&id).filter(|_| !is_due).map(|held| held.leases.get(&lease).copied());
        let expected = match state {
            None => {
                // Of one that ends by this very question its leases tell.
                let of_held = self.held.get(&id).and_then(|held| held.leases.get(&lease));
                let counted_until_now = of_held.is_some_and(|lease| lease.state == LeaseState::Counted);
                let remembered = counted_until_now || self.over.get(&id).is_some_and(|over| over.counted.contains(&lease));
                let recent =
                    self.over.get(&id).is_some_and(|over| now.mono.since(over.at) < Duration::from_millis(REMEMBERED_MS));
                match said {
                    // Forgetting is allowed, but not early.
                    Ok(Acknowledged::Before) if remembered => return Ok(Acknowledge::RepeatedAfterEnd),
                    Err(_) if !remembered || !recent => return Ok(Acknowledge::NotCounted),
                    _ => "counted before or not counted, as it was",
                }
            }
            Some(Some(Lease { state: LeaseState::Counted, .. })) => match said {
                Ok(Acknowledged::Before) => return Ok(Acknowledge::Repeated),
                _ => "counted before",
            },
            Some(Some(found)) if matches!(found.state, LeaseState::Active { .. } | LeaseState::Lapsed) => {
                let slot_used = self.held.get(&id).zip(found.slot).is_some_and(|(held, slot)| held.slots.contains(&slot));
                match said {
                    Ok(Acknowledged::Counted) if !slot_used => return self.count(id, lease, found),
                    Err(_) if slot_used => return Ok(Acknowledge::NotCounted),
                    _ => "counted, unless its slot was retrieved",
                }
            }
            Some(_) => match said {
                Err(_) => return Ok(Acknowledge::NotCounted),
                Ok(_) => "not counted",
            },
        };
        Err((Retrievals, format!("the acknowledgement of {id} by {lease} was answered {said:?}; it is to be {expected}")))
    }

    fn count(&mut self, id: ObjectId, lease: LeaseId, found: Lease) -> Checked<Acknowledge> {
        self.end_lease(id, lease, LeaseState::Counted);
        let Some(held) = self.held.get_mut(&id) else { return Ok(Acknowledge::NotCounted) };
        if let Some(entry) = held.leases.get_mut(&lease) {
            entry.state = LeaseState::Counted;
        }
        held.counted += 1;
        if let Some(slot) = found.slot {
            held.slots.insert(slot);
        }
        // A reader by descriptor has the bytes, and is not cut; pulls of the slot are, by an effect.
        if held.left() == 0 {
            self.due.push((id, End::Retrieved));
        }
        Ok(Acknowledge::Counted { after_lapse: found.state == LeaseState::Lapsed })
    }

    pub(crate) fn release(&mut self, id: ObjectId, lease: LeaseId) -> Checked<bool> {
        if self.held.contains_key(&id) {
            return Ok(self.end_lease(id, lease, LeaseState::Released));
        }
        if let Some((bytes, leases)) = self.lingering.get_mut(&id) {
            leases.remove(&lease);
            if leases.is_empty() {
                let bytes = *bytes;
                self.lingering.remove(&id);
                self.sums.lingering_bytes -= bytes;
                self.give_back(bytes, 0);
            }
        }
        Ok(false)
    }

    pub(crate) fn receive(&mut self, id: ReceiveId, bytes: u64, now: Now, said: Result<Admission, &Refusal>) -> Checked {
        let used = self.receiving();
        self.receive_queue.enter(id, Wish { bytes, total: bytes, grows: false, now: now.mono }, used, said)?;
        if said == Ok(Admission::Admitted) {
            self.receiving_more(id, bytes);
        }
        Ok(())
    }

    pub(crate) fn receive_more(&mut self, id: ReceiveId, bytes: u64, now: Now, said: Result<Admission, &Refusal>) -> Checked {
        let more = bytes.saturating_sub(self.received.get(&id).copied().unwrap_or(0));
        if more == 0 {
            return Ok(());
        }
        let used = self.receiving();
        self.receive_queue.enter(id, Wish { bytes: more, total: bytes, grows: true, now: now.mono }, used, said)?;
        if said == Ok(Admission::Admitted) {
            self.receiving_more(id, more);
        }
        Ok(())
    }

    pub(crate) fn received(&mut self, id: ReceiveId) -> Checked {
        self.receive_queue.remove(id);
        if let Some(bytes) = self.received.remove(&id) {
            self.sums.receiving_bytes -= bytes;
            self.sums.receiving -= 1;
        }
        Ok(())
    }

    /// After a command and all its effects: everything adds up, nothing is late.
    pub(crate) fn settled(&mut self, census: Census, now: Now) -> Checked {
        let due = self.due.first().copied();
        ensure(due.is_none(), Freed, || format!("{due:?} is over and was not freed"))?;
        self.sums.waiters = self.held_queue.waiting.len();
        self.sums.receiving_waiters = self.receive_queue.waiting.len();
        ensure(census == self.sums, Budgets, || format!("the table counts {census:?}, the books {:?}", self.sums))?;
        let (held, receiving) = (self.limits.held, self.limits.receiving);
        let within = census.bytes <= held.bytes_max && census.receiving_bytes <= receiving.bytes_max;
        let few = census.objects <= held.places_max && census.receiving <= receiving.places_max;
        ensure(within && few, Budgets, || format!("{census:?} is beyond {held:?} or {receiving:?}"))?;
        self.held_queue.settled(self.used(), now.mono, self.slack)?;
        self.receive_queue.settled(self.receiving(), now.mono, self.slack)?;
        if let Some((deadline, id)) = self.deadlines.first() {
            ensure(now.mono <= *deadline + self.slack, Freed, || format!("{id} is held past its expiry at {deadline:?}"))?;
        }
        if let Some((lapses, id, lease)) = self.lapses.first() {
            let is_late = now.mono > lapses.saturating_add(self.slack);
            ensure(!is_late, Retrievals, || format!("lease {lease} of {id} should have lapsed at {lapses:?}"))?;
        }
        Ok(())
    }

    /// A record of these bytes goes to a reader.
    pub(crate) fn sends(&self, id: ObjectId, lease: LeaseId, end: u64) -> Checked {
        let Some(held) = self.held.get(&id) else { return Err((Freed, format!("{id} has ended and is still sent to {lease}"))) };
        ensure(end <= held.written, super::Invariant::Whole, || {
            format!("{end} bytes of {id} are sent, {} are there", held.written)
        })?;
        // One that was given back is closed by its reader, a little later.
        let reads = |lease: &Lease| lease.is_active() || lease.state == LeaseState::Released;
        let is_reading = held.leases.get(&lease).is_some_and(reads);
        ensure(is_reading, Retrievals, || format!("{id} is sent to {lease}, whose lease is over"))
    }

    /// Objects that have not ended, and until when each was promised.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (ObjectId, Monotonic)> {
        self.held.iter().map(|(id, held)| (*id, held.guaranteed_until))
    }

    /// What a planned end would leave: objects (and room for such) and their bytes.
    pub(crate) fn left(&self) -> (u64, u64) {
        (self.sums.objects as u64, self.sums.bytes - self.sums.lingering_bytes)
    }

    fn expire_by_wall(&mut self, id: ObjectId, now: Now) {
        let is_due = self.held.get(&id).is_some_and(|held| held.expires <= now.wall);
        if is_due && !self.due.iter().any(|(due, _)| *due == id) {
            self.due.push((id, End::Expired));
        }
    }

    fn end_of(&self, id: ObjectId, now: Monotonic) -> ReadError {
        let remembered = Duration::from_millis(REMEMBERED_MS);
        match self.over.get(&id) {
            Some(over) if now.since(over.at) < remembered => ReadError::Ended(over.end),
            _ => ReadError::Unknown,
        }
    }

    fn touch(&mut self, id: ObjectId, lease: LeaseId, now: Monotonic) {
        if let Some(entry) = self.held.get_mut(&id).and_then(|held| held.leases.get_mut(&lease))
            && entry.via == Via::Pull
            && let LeaseState::Active { lapses } = &mut entry.state
        {
            self.lapses.remove(&(*lapses, id, lease));
            *lapses = now + self.limits.lease;
            self.lapses.insert((*lapses, id, lease));
        }
    }

    fn end_lease(&mut self, id: ObjectId, lease: LeaseId, state: LeaseState) -> bool {
        if let Some(entry) = self.held.get_mut(&id).and_then(|held| held.leases.get_mut(&lease))
            && let LeaseState::Active { lapses } = entry.state
        {
            self.lapses.remove(&(lapses, id, lease));
            entry.state = state;
            self.sums.leases -= 1;
            return true;
        }
        false
    }

    fn take(&mut self, bytes: u64, places: usize) {
        self.sums.bytes += bytes;
        self.sums.objects += places;
    }

    fn give_back(&mut self, bytes: u64, places: usize) {
        self.sums.bytes -= bytes;
        self.sums.objects -= places;
    }

    fn grown(&mut self, id: ObjectId, more: u64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.charged += more;
            self.sums.bytes += more;
        }
    }

    fn receiving_more(&mut self, id: ReceiveId, more: u64) {
        let before = self.received.insert(id, self.received.get(&id).copied().unwrap_or(0) + more);
        self.sums.receiving += usize::from(before.is_none());
        self.sums.receiving_bytes += more;
    }
}

/// What an acknowledgement was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    Counted { after_lapse: bool },
    Repeated,
    RepeatedAfterEnd,
    NotCounted,
}
