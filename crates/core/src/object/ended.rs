//! The memory of objects that ended: what late readers and repeated acknowledgements are told.
//!
//! An end is remembered for [`REMEMBERED_MS`], together with the leases that were counted. At most
//! [`ENDED_OBJECTS_MAX`] objects and [`ENDED_LEASES_MAX`] leases are kept; beyond that the oldest are forgotten early,
//! and a reader that comes that late is told `reference-exhausted`, whatever the end was.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use zipline_contract::limits::{ENDED_LEASES_MAX, ENDED_OBJECTS_MAX, REMEMBERED_MS};

use super::{End, LeaseId, ObjectId};
use crate::time::Monotonic;

#[derive(Debug)]
struct EndedObject {
    end: End,
    /// Sorted.
    acknowledged: Box<[LeaseId]>,
}

#[derive(Debug, Default)]
pub(super) struct EndedObjects {
    by_id: BTreeMap<ObjectId, EndedObject>,
    /// In the order in which they are forgotten.
    order: VecDeque<(Monotonic, ObjectId)>,
    leases: usize,
}

impl EndedObjects {
    pub(super) fn remember(&mut self, id: ObjectId, end: End, acknowledged: impl Iterator<Item = LeaseId>, now: Monotonic) {
        // `acknowledged` comes in the order of ids.
        let acknowledged: Box<[LeaseId]> = acknowledged.take(ENDED_LEASES_MAX).collect();
        self.leases += acknowledged.len();
        self.by_id.insert(id, EndedObject { end, acknowledged });
        self.order.push_back((now.saturating_add(Duration::from_millis(REMEMBERED_MS)), id));
        while self.by_id.len() > ENDED_OBJECTS_MAX || self.leases > ENDED_LEASES_MAX {
            self.forget_oldest();
        }
    }

    pub(super) fn end(&self, id: ObjectId) -> Option<End> {
        self.by_id.get(&id).map(|ended| ended.end)
    }

    pub(super) fn was_acknowledged(&self, id: ObjectId, lease: LeaseId) -> bool {
        self.by_id.get(&id).is_some_and(|ended| ended.acknowledged.binary_search(&lease).is_ok())
    }

    pub(super) fn next_timeout(&self) -> Option<Monotonic> {
        self.order.front().map(|(at, _)| *at)
    }

    /// Forgets the oldest if its time has come; false when there is none such.
    pub(super) fn forget_due(&mut self, now: Monotonic) -> bool {
        let due = self.next_timeout().is_some_and(|at| at <= now);
        if due {
            self.forget_oldest();
        }
        due
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn forget_oldest(&mut self) {
        if let Some(ended) = self.order.pop_front().and_then(|(_, id)| self.by_id.remove(&id)) {
            self.leases -= ended.acknowledged.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(n: u64) -> ObjectId {
        ObjectId::from_bytes(u128::from(n).to_be_bytes())
    }

    fn leases(count: usize) -> impl Iterator<Item = LeaseId> {
        (0..count as u128).map(|n| LeaseId::from_bytes(n.to_be_bytes()))
    }

    #[test]
    fn the_oldest_are_forgotten_early_where_there_are_too_many() {
        let (mut ended, now) = (EndedObjects::default(), Monotonic::ZERO);
        for n in 0..=ENDED_OBJECTS_MAX as u64 {
            ended.remember(object(n), End::Released, leases(0), now);
        }
        assert_eq!((ended.len(), ended.end(object(0)), ended.end(object(1))), (ENDED_OBJECTS_MAX, None, Some(End::Released)));

        let mut ended = EndedObjects::default();
        ended.remember(object(1), End::Retrieved, leases(ENDED_LEASES_MAX + 5), now);
        assert_eq!(ended.end(object(1)), Some(End::Retrieved), "one object alone is remembered, if not all of its leases");
        ended.remember(object(2), End::Retrieved, leases(3), now);
        assert_eq!((ended.end(object(1)), ended.end(object(2))), (None, Some(End::Retrieved)));
    }

    #[test]
    fn what_was_forgotten_makes_room() {
        let mut ended = EndedObjects::default();
        for n in 0..3 {
            let now = Monotonic::from_secs(100 * n);
            while ended.forget_due(now) {}
            ended.remember(object(n), End::Retrieved, leases(ENDED_LEASES_MAX / 2), now);
            ended.remember(object(n + 10), End::Retrieved, leases(ENDED_LEASES_MAX / 2), now);
            assert_eq!(ended.len(), 2, "both are remembered in round {n}");
        }
    }
}
