//! The readers' side of [`Holdings`]: leases, progress, acknowledgements.

use zipline_contract::ErrorCode;

use super::ended::EndedObjects;
use super::holdings::{CutReason, Effect, Holdings, Object};
use super::lease::{Acknowledgement, Denied, Granted, LeaseRequest, Via};
use super::{End, LeaseId, Now, ObjectId, Owner, State};
use crate::pull::Written;
use crate::time::WallTime;

/// An object as its readers see it.
#[derive(Debug)]
pub struct View<'a, P> {
    /// The driver's handle.
    pub payload: &'a P,
    /// Its size, once it is known.
    pub size: Option<u64>,
    /// How much of it is there.
    pub written: Written,
    /// Whom it belongs to.
    pub owner: Owner,
    /// Retrievals it still grants.
    pub retrievals_left: u32,
    /// When it expires.
    pub expires: WallTime,
}

impl<'a, P> View<'a, P> {
    fn of(object: &'a Object<P>) -> Self {
        Self {
            payload: &object.payload,
            size: object.size,
            written: object.written(),
            owner: object.owner,
            retrievals_left: object.retrievals_left(),
            expires: object.expires,
        }
    }
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It is a retrieval.
    Counted,
    /// It was counted before.
    Before,
}

impl<P> Holdings<P> {
    /// Lets a reader read: a new attempt, or the same read that goes on with the lease it has.
    pub fn grant(&mut self, id: ObjectId, request: LeaseRequest, now: Now) -> Result<View<'_, P>, ReadError> {
        self.expire_by_wall(id, now);
        let (attempts_extra, lease_time) = (self.limits.attempts_extra, self.limits.lease);
        let Some(object) = self.objects.get_mut(&id) else { return Err(over(&self.ended, id)) };
        let retrievals = object.owner.retrievals().get();
        if let Some(slot) = request.slot
            && slot >= retrievals
        {
            return Err(ReadError::NoSuchSlot { slot, slots: retrievals });
        }
        let attempts_max = retrievals.saturating_add(attempts_extra);
        match object.leases.grant(request, attempts_max, now.mono, lease_time) {
            Ok(Granted::Resumed) => {}
            Ok(Granted::New { lapse_at }) => {
                if request.via == Via::Pull {
                    self.lapses.insert((lapse_at, id, request.lease));
                }
                self.leases += 1;
                self.counts.attempts += 1;
                if mutant!("retrieval-counted-early") {
                    object.acknowledged += 1;
                }
            }
            Err(denied) => return Err(ReadError::from_denied(denied, request, attempts_max)),
        }
        Ok(View::of(object))
    }

    /// The object's state. With a lease, its reader shows that it lives.
    pub fn status(&mut self, id: ObjectId, lease: Option<LeaseId>, now: Now) -> Result<View<'_, P>, ReadError> {
        self.expire_by_wall(id, now);
        let lease_time = self.limits.lease;
        let Some(object) = self.objects.get_mut(&id) else { return Err(over(&self.ended, id)) };
        if let Some(lease) = lease {
            object.leases.touch(lease, now.mono, lease_time);
        }
        Ok(View::of(object))
    }

    /// Bytes were sent to a reader. False when its lease is over, and it is to be stopped.
    pub fn progress(&mut self, id: ObjectId, lease: LeaseId, now: Now) -> bool {
        let lease_time = self.limits.lease;
        self.objects.get_mut(&id).is_some_and(|object| object.leases.touch(lease, now.mono, lease_time))
    }

    /// A reader has every byte, verified and accepted: its lease becomes a retrieval, once. The last one ends the object.
    pub fn acknowledge(&mut self, id: ObjectId, lease: LeaseId, now: Now) -> Result<Acknowledged, NotCounted> {
        self.expire_by_wall(id, now);
        let Some(object) = self.objects.get_mut(&id) else {
            if self.ended.was_acknowledged(id, lease) && !mutant!("acknowledgement-forgotten") {
                return Ok(Acknowledged::Before);
            }
            return Err(NotCounted { end: self.ended.end(id) });
        };
        let (slot, timer_at) = match object.leases.acknowledge(lease) {
            Acknowledgement::Repeated => return Ok(Acknowledged::Before),
            Acknowledgement::NoSuchLease => return Err(NotCounted { end: None }),
            Acknowledgement::Counted { slot, timer_at } => (slot, timer_at),
        };
        object.acknowledged = object.acknowledged.saturating_add(1);
        let last = object.retrievals_left() == 0;
        self.counts.acknowledgements += 1;
        if let Some(timer_at) = timer_at {
            self.leases -= 1;
            self.lapses.remove(&(timer_at, id, lease));
        }
        if last {
            self.end(id, State::retrieved, now.mono);
        } else if let Some(slot) = slot {
            self.cut_slot(id, slot);
        }
        Ok(Acknowledged::Counted)
    }

    /// A reader gives its lease back, or its hand-over connection closed. Repeating it, or naming a lease that is over,
    /// does nothing.
    pub fn release(&mut self, id: ObjectId, lease: LeaseId) {
        if let Some(object) = self.objects.get_mut(&id) {
            if mutant!("lease-not-returned") {
                return;
            }
            if let Some(timer_at) = object.leases.release(lease) {
                if mutant!("release-counts") {
                    object.acknowledged += 1;
                }
                self.lapses.remove(&(timer_at, id, lease));
                self.leases -= 1;
                self.counts.leases_released += 1;
            }
        } else if let Some(lingering) = self.lingering.get_mut(&id)
            && lingering.leases.remove(&lease)
            && lingering.leases.is_empty()
        {
            let bytes = lingering.bytes;
            self.lingering.remove(&id);
            self.lingering_bytes -= bytes;
            self.held.leave(bytes, 0);
            self.admit_waiting();
        }
    }

    fn cut_slot(&mut self, id: ObjectId, slot: u32) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        while let Some((lease, timer_at)) = object.leases.cut_one_of(slot) {
            self.leases -= 1;
            self.counts.leases_cut += 1;
            self.lapses.remove(&(timer_at, id, lease));
            self.effects.push_back(Effect::Cut { object: id, lease, why: CutReason::SlotRetrieved });
        }
    }

    /// The wall clock may have jumped past an expiry that the timer still waits for.
    fn expire_by_wall(&mut self, id: ObjectId, now: Now) {
        if self.objects.get(&id).is_some_and(|object| object.expires <= now.wall) && !mutant!("wall-expiry-ignored") {
            self.end(id, State::expired, now.mono);
        }
    }
}

/// What a reader of an object that is not held is told.
fn over(ended: &EndedObjects, id: ObjectId) -> ReadError {
    ended.end(id).map_or(ReadError::Unknown, ReadError::Ended)
}

/// Why an object cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It ended.
    #[error("the object was {}", .0.name())]
    Ended(End),
    /// It is not held: it ended more than a minute ago.
    #[error("the object is not held here; it ended more than a minute ago, if there was one")]
    Unknown,
    /// It was begun too often.
    #[error("{attempts} reads were begun, and no more may be")]
    Attempts {
        /// How many may be begun.
        attempts: u32,
    },
    /// One read was continued too often, or in another way than it was begun.
    #[error("this read was continued too often, or otherwise than it was begun")]
    Resumes,
    /// The slot's one retrieval was used.
    #[error("the retrieval of slot {slot} was used")]
    SlotRetrieved {
        /// The slot.
        slot: u32,
    },
    /// The lease has been acknowledged, and is over.
    #[error("this read was acknowledged, and is over")]
    Acknowledged,
    /// The lease was granted for another slot.
    #[error("this read was begun for another slot")]
    OtherSlot,
    /// There are fewer slots.
    #[error("slot {slot} is asked for; the object has {slots}, counted from 0")]
    NoSuchSlot {
        /// The slot asked for.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
}

impl ReadError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Ended(end) => end.code(),
            Self::Unknown | Self::SlotRetrieved { .. } | Self::Acknowledged => ErrorCode::ReferenceExhausted,
            Self::Attempts { .. } | Self::Resumes => ErrorCode::AttemptsExhausted,
            Self::OtherSlot | Self::NoSuchSlot { .. } => ErrorCode::ReferenceInvalid,
        }
    }

    fn from_denied(denied: Denied, request: LeaseRequest, attempts: u32) -> Self {
        match denied {
            Denied::Attempts => Self::Attempts { attempts },
            Denied::Resumes => Self::Resumes,
            Denied::SlotRetrieved => Self::SlotRetrieved { slot: request.slot.unwrap_or_default() },
            Denied::OtherSlot => Self::OtherSlot,
            Denied::AlreadyAcknowledged => Self::Acknowledged,
        }
    }
}

/// An acknowledgement that is no retrieval: its lease was never granted, given back, or cut, or the object ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this acknowledgement does not count: {}", NotCounted::reason(*.end))]
pub struct NotCounted {
    /// How the object ended, if it did and that is still known.
    pub end: Option<End>,
}

impl NotCounted {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::ReferenceExhausted
    }

    const fn reason(end: Option<End>) -> &'static str {
        match end {
            Some(End::Retrieved) => "others have used every retrieval",
            Some(End::Released) => "the object was freed",
            Some(End::Expired) => "the object has expired",
            Some(End::Aborted) => "the object's writer failed",
            None => "there is no such read",
        }
    }
}
