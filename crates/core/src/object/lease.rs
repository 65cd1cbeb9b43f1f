//! The leases of one object: who reads it, and who has read it.
//!
//! A consumer chooses the lease's id and repeats it whenever it asks again, so that a resumed read is no new attempt
//! and a repeated acknowledgement is counted once. An id is remembered as long as the object lives; there are at most
//! as many as attempts.
//!
//! ```text
//!            grant (an attempt)          acknowledge
//!   (none) ───────────────────► Active ────────────────► Acknowledged
//!                               │ ▲  ▲ │  ▲
//!                        resume └─┘  │ │  │ grant again (another attempt)
//!                                    │ │  └───────────────┬─────────────┐
//!                                    │ │ no progress      │             │
//!                                    │ ├──────────────► Lapsed ──► Acknowledged (the read was whole after all)
//!                                    │ │ given back       │
//!                                    │ └──────────────► Released
//! ```
//!
//! A slot is one branch's own retrieval: its first acknowledgement ends every other read of the slot ([`LeaseState::Cut`]).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use zipline_contract::limits::LEASE_RESUMES_MAX;

use super::LeaseId;
use crate::time::Monotonic;

/// How the bytes reach the reader, which decides what keeps the lease alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over TCP: the lease lapses without progress.
    Pull,
    /// By descriptor: the hand-over connection is the lease. It does not lapse, and the object's memory stays in use
    /// (and charged) until [`Holdings::release`](super::Holdings::release), also after the object's end.
    Handover,
}

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The consumer's own id for this read.
    pub lease: LeaseId,
    /// The slot of its reference.
    pub slot: Option<u32>,
    /// How it reads.
    pub via: Via,
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    Active { lapse_at: Monotonic, timer_at: Monotonic },
    Lapsed,
    Released,
    Acknowledged,
    Cut,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) state: LeaseState,
    pub(super) slot: Option<u32>,
    pub(super) via: Via,
    resumes: u16,
}

/// What a grant was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// A new attempt; its timer is to be set.
    New { lapse_at: Monotonic },
    /// The same read goes on.
    Resumed,
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Attempts,
    Resumes,
    SlotRetrieved,
    OtherSlot,
    AlreadyAcknowledged,
}

/// What an acknowledgement was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledgement {
    /// It counts. `timer_at`: the lease was active and its timer is to be removed.
    Counted { slot: Option<u32>, timer_at: Option<Monotonic> },
    /// It was counted before.
    Repeated,
    /// There is no such read to acknowledge.
    NoSuchLease,
}

/// The leases of one object.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    /// Active pulls that have a slot. A hand-over is not cut: its reader has the bytes, and keeps the lease until it lets go.
    by_slot: BTreeSet<(u32, LeaseId)>,
    /// Slots that were retrieved.
    slots_retrieved: BTreeSet<u32>,
    attempts_used: u32,
}

impl Leases {
    /// Grants a lease, or continues one.
    pub(super) fn grant(
        &mut self,
        request: LeaseRequest,
        attempts_max: u32,
        now: Monotonic,
        lease_time: Duration,
    ) -> Result<Granted, Denied> {
        if request.slot.is_some_and(|slot| self.slots_retrieved.contains(&slot)) {
            return Err(Denied::SlotRetrieved);
        }
        let lapse_at = match request.via {
            Via::Pull => now.saturating_add(lease_time),
            Via::Handover => Monotonic::MAX,
        };
        if let Some(lease) = self.by_id.get_mut(&request.lease) {
            if lease.slot != request.slot {
                return Err(Denied::OtherSlot);
            }
            match &mut lease.state {
                LeaseState::Active { lapse_at: at, .. } if lease.via == request.via => {
                    if lease.resumes >= LEASE_RESUMES_MAX {
                        return Err(Denied::Resumes);
                    }
                    lease.resumes += 1;
                    *at = lapse_at;
                    return Ok(Granted::Resumed);
                }
                // A read changes from one way to the other only between two leases.
                LeaseState::Active { .. } => return Err(Denied::Resumes),
                LeaseState::Acknowledged => return Err(Denied::AlreadyAcknowledged),
                LeaseState::Lapsed | LeaseState::Released | LeaseState::Cut => {}
            }
        }
        if self.attempts_used >= attempts_max {
            return Err(Denied::Attempts);
        }
        if !(mutant!("attempts-not-counted") && self.by_id.contains_key(&request.lease)) {
            self.attempts_used += 1;
        }
        let state = LeaseState::Active { lapse_at, timer_at: lapse_at };
        self.by_id.insert(request.lease, Lease { state, slot: request.slot, via: request.via, resumes: 0 });
        if let (Some(slot), Via::Pull) = (request.slot, request.via) {
            self.by_slot.insert((slot, request.lease));
        }
        Ok(Granted::New { lapse_at })
    }

    /// Notes that the reader lives; false when the lease is not active.
    pub(super) fn touch(&mut self, id: LeaseId, now: Monotonic, lease_time: Duration) -> bool {
        match self.by_id.get_mut(&id) {
            Some(Lease { state: LeaseState::Active { lapse_at, .. }, via, .. }) => {
                if *via == Via::Pull {
                    *lapse_at = now.saturating_add(lease_time);
                }
                true
            }
            _ => false,
        }
    }

    /// The lease's timer fired: when to look again, or `None` when it has lapsed (or was not active).
    pub(super) fn timer_fired(&mut self, id: LeaseId, now: Monotonic) -> Option<Monotonic> {
        if let Some(Lease { state: LeaseState::Active { lapse_at, timer_at }, .. }) = self.by_id.get_mut(&id)
            && (*lapse_at > now || mutant!("lease-never-lapses"))
        {
            if mutant!("lease-never-lapses") {
                *lapse_at = now + Duration::from_secs(3_600);
            }
            *timer_at = *lapse_at;
            return Some(*lapse_at);
        }
        self.end(id, LeaseState::Lapsed);
        None
    }

    /// Counts the lease as a retrieval, once.
    pub(super) fn acknowledge(&mut self, id: LeaseId) -> Acknowledgement {
        let Some(lease) = self.by_id.get(&id).copied() else { return Acknowledgement::NoSuchLease };
        match lease.state {
            LeaseState::Acknowledged => return Acknowledgement::Repeated,
            LeaseState::Released if mutant!("acknowledged-after-release") => {
                return Acknowledgement::Counted { slot: None, timer_at: None };
            }
            LeaseState::Released | LeaseState::Cut => return Acknowledgement::NoSuchLease,
            LeaseState::Active { .. } | LeaseState::Lapsed => {}
        }
        if !mutant!("slot-of-another") && lease.slot.is_some_and(|slot| !self.slots_retrieved.insert(slot)) {
            return Acknowledgement::NoSuchLease; // Another read of the slot was faster, while this one had lapsed.
        }
        let timer_at = self.end(id, LeaseState::Acknowledged);
        Acknowledgement::Counted { slot: lease.slot, timer_at }
    }

    /// Gives the lease back: when its timer was due, or `None` when it was not active.
    pub(super) fn release(&mut self, id: LeaseId) -> Option<Monotonic> {
        self.end(id, LeaseState::Released)
    }

    /// Cuts one active pull of `slot`, if there is one: which, and when its timer was due.
    pub(super) fn cut_one_of(&mut self, slot: u32) -> Option<(LeaseId, Monotonic)> {
        let first = (slot, LeaseId::from_bytes([0; LeaseId::BYTES]));
        let (_, id) = *self.by_slot.range(first..).next().filter(|(of, _)| *of == slot)?;
        self.end(id, LeaseState::Cut).map(|timer_at| (id, timer_at))
    }

    /// Every active lease, with the time its timer is set to.
    pub(super) fn active(&self) -> impl Iterator<Item = (LeaseId, Monotonic, Via)> {
        self.by_id.iter().filter_map(|(id, lease)| match lease.state {
            LeaseState::Active { timer_at, .. } => Some((*id, timer_at, lease.via)),
            _ => None,
        })
    }

    /// Every lease that was counted.
    pub(super) fn acknowledged(&self) -> impl Iterator<Item = LeaseId> {
        self.by_id.iter().filter(|(_, lease)| lease.state == LeaseState::Acknowledged).map(|(id, _)| *id)
    }

    /// Takes an active lease (or a lapsed one that is acknowledged) to `state`; the time its timer was set to.
    fn end(&mut self, id: LeaseId, state: LeaseState) -> Option<Monotonic> {
        let lease = self.by_id.get_mut(&id)?;
        let before = core::mem::replace(&mut lease.state, state);
        match before {
            LeaseState::Active { timer_at, .. } => {
                if let Some(slot) = lease.slot {
                    self.by_slot.remove(&(slot, id));
                }
                Some(timer_at)
            }
            LeaseState::Lapsed if state == LeaseState::Acknowledged => None,
            // Whatever has ended stays what it was.
            _ => {
                lease.state = before;
                None
            }
        }
    }
}
