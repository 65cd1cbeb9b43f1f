//! What a proxy tells others, against its books: who is let in, sent away or cut, and which objects end.

use std::collections::BTreeSet;

use zipline_core::object::{CutReason, Effect, End, LeaseId, Now, ObjectId, Refusal, Via};

use super::super::Invariant::{Budgets, Freed, Order, Refusals, Retrievals};
use super::super::{Checked, ensure};
use super::{Books, Lease, LeaseState, Over};

impl Books {
    /// What a proxy told others.
    pub(crate) fn effect<P>(&mut self, effect: &Effect<P>, now: Now) -> Checked {
        match effect {
            Effect::Admitted(id) => self.admitted(*id),
            Effect::Refused(id, refusal) => self.refused(*id, refusal, now),
            Effect::ReceiveAdmitted(id) => {
                let first = self.receive_queue.first().map(|waiter| waiter.key);
                ensure(first == Some(*id), Order, || format!("{id:?} was let in before {first:?}"))?;
                let Some(waiter) = self.receive_queue.remove(*id) else { return Ok(()) };
                let fits = self.receive_queue.fits(self.receiving(), (waiter.bytes, usize::from(!waiter.grows)));
                ensure(fits, Budgets, || format!("{id:?} was let into {:?}", self.receiving()))?;
                self.receiving_more(*id, waiter.bytes);
                Ok(())
            }
            Effect::ReceiveRefused(id, _) => {
                let waited = self.receive_queue.remove(*id).map(|waiter| now.mono.since(waiter.since));
                let enough = waited.is_some_and(|waited| waited >= self.limits.receiving.wait_max);
                ensure(enough, Refusals, || format!("{id:?} was sent away after {waited:?}"))
            }
            Effect::Cut { object, lease, why } => self.cut(*object, *lease, *why, now),
            Effect::Freed { object, end, .. } => self.freed(*object, *end, now),
            Effect::Forget(id) => ensure(false, Order, || format!("{id} has no durable copy")),
        }
    }

    fn admitted(&mut self, id: ObjectId) -> Checked {
        let first = self.held_queue.first().map(|waiter| waiter.key);
        ensure(first == Some(id), Order, || format!("{id} was let in before {first:?}"))?;
        let Some(waiter) = self.held_queue.remove(id) else { return Ok(()) };
        let fits = self.held_queue.fits(self.used(), (waiter.bytes, usize::from(!waiter.grows)));
        ensure(fits, Budgets, || format!("{id} was let into {:?} of {:?}", self.used(), self.limits.held))?;
        if waiter.grows {
            self.grown(id, waiter.bytes);
        } else {
            self.reserved.insert(id, waiter.bytes);
            self.take(waiter.bytes, 1);
        }
        Ok(())
    }

    fn refused(&mut self, id: ObjectId, refusal: &Refusal, now: Now) -> Checked {
        let Some(waiter) = self.held_queue.remove(id) else {
            return Err((Order, format!("{id} was refused and has not waited")));
        };
        let is_true = match refusal {
            Refusal::Draining => self.is_draining && !waiter.grows,
            Refusal::Full { .. } => now.mono.since(waiter.since) >= self.limits.held.wait_max,
            Refusal::Ended(_) => waiter.grows && !self.held.contains_key(&id),
            Refusal::TooLarge { .. } | Refusal::IdTaken => false,
        };
        ensure(is_true, Refusals, || format!("{id}, waiting since {:?}, was sent away: {refusal}", waiter.since))
    }

    fn cut(&mut self, id: ObjectId, lease: LeaseId, why: CutReason, now: Now) -> Checked {
        let found = self.held.get(&id).and_then(|held| held.leases.get(&lease)).copied();
        let Some(Lease { state: LeaseState::Active { lapses }, slot, via: Via::Pull, .. }) = found else {
            return Err((Retrievals, format!("{lease} of {id} was cut, and is {found:?}")));
        };
        let retrieved = || self.held.get(&id).is_some_and(|held| slot.is_some_and(|slot| held.slots.contains(&slot)));
        let (is_true, state) = match why {
            CutReason::Lapsed => (lapses <= now.mono, LeaseState::Lapsed),
            CutReason::SlotRetrieved => (retrieved(), LeaseState::Cut),
            CutReason::Ended(_) => (true, LeaseState::Cut),
        };
        self.end_lease(id, lease, state);
        ensure(is_true, Retrievals, || format!("{lease} of {id} was cut for {why:?}; it lapses at {lapses:?}"))
    }

    fn freed(&mut self, id: ObjectId, end: End, now: Now) -> Checked {
        let Some(held) = self.held.remove(&id) else { return Err((Freed, format!("{id} was freed and is not held"))) };
        let was_due = self.due.iter().position(|(due, _)| *due == id).map(|at| self.due.remove(at));
        let is_true = match (was_due, end) {
            (Some((_, due)), end) => due == end,
            (None, End::Expired) => held.deadline <= now.mono || held.expires <= now.wall,
            (None, _) => false,
        };
        ensure(is_true, Freed, || format!("{id} ended as {end:?}; due was {was_due:?}, its deadline {:?}", held.deadline))?;
        self.deadlines.remove(&(held.deadline, id));
        self.sums.writers -= usize::from(held.is_writing);
        let active = held.leases.iter().filter(|(_, lease)| lease.is_active());
        let (told, mapped): (Vec<_>, Vec<_>) = active.partition(|(_, lease)| lease.via == Via::Pull);
        ensure(told.is_empty(), Freed, || format!("{id} ended and its readers {told:?} were not cut"))?;
        let mapped: BTreeSet<LeaseId> = mapped.into_iter().map(|(id, _)| *id).collect();
        self.sums.leases -= mapped.len();
        self.sums.objects -= 1;
        if mapped.is_empty() {
            self.sums.bytes -= held.charged;
        } else {
            self.sums.lingering_bytes += held.charged;
            self.lingering.insert(id, (held.charged, mapped));
        }
        let counted = held.leases.iter().filter(|(_, lease)| lease.state == LeaseState::Counted).map(|(id, _)| *id).collect();
        self.over.insert(id, Over { end, at: now.mono, counted });
        Ok(())
    }
}
