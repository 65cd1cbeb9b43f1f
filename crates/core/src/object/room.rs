//! Room: a budget of bytes and places, and the queue of those who wait for it.
//!
//! Whoever does not fit waits in order of arrival, up to a number of waiters and a time. Nobody overtakes, so that a
//! large payload is not starved by small ones; the one exception are writers that already hold room and need more:
//! they come first, since only they can finish and make room. Everything is O(log n) in the number of waiters.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::time::Monotonic;

/// The bounds of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Bytes in it.
    pub bytes_max: u64,
    /// Payloads in it.
    pub places_max: usize,
    /// Who waits for it at once.
    pub waiters_max: usize,
    /// How long each waits.
    pub wait_max: Duration,
}

/// What becomes of a wish for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is there.
    Admitted,
    /// It will be told, by an effect.
    Waiting,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// More than the whole room.
    TooLarge,
    /// Full, and no more may wait.
    Full,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Bytes beyond those already held.
    pub(super) bytes: u64,
    /// 1 for a new payload, 0 for more of one that is in.
    pub(super) places: usize,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Growing,
    New,
}

#[derive(Debug)]
struct Waiter<K> {
    key: K,
    wish: Wish,
    until: Monotonic,
}

/// A budget and its queue. `K` names who has room or waits for it.
#[derive(Debug)]
pub(super) struct Room<K> {
    limits: RoomLimits,
    bytes: u64,
    places: usize,
    /// Bytes that others hold of the same budget.
    elsewhere_bytes: u64,
    queue: BTreeMap<(Turn, u64), Waiter<K>>,
    turns: BTreeMap<K, (Turn, u64)>,
    arrivals: u64,
}

impl<K: Ord + Copy> Room<K> {
    pub(super) const fn new(limits: RoomLimits) -> Self {
        Self { limits, bytes: 0, places: 0, elsewhere_bytes: 0, queue: BTreeMap::new(), turns: BTreeMap::new(), arrivals: 0 }
    }

    /// Takes room for `key`, or a place in the queue.
    pub(super) fn enter(&mut self, key: K, wish: Wish, now: Monotonic) -> Result<Admission, NoRoom> {
        let turn = if wish.places == 0 { Turn::Growing } else { Turn::New };
        if wish.bytes > self.limits.bytes_max || wish.places > self.limits.places_max {
            return Err(NoRoom::TooLarge);
        }
        let first_in_line = self.queue.first_key_value().is_none_or(|((ahead, _), _)| *ahead > turn);
        if (first_in_line || mutant!("waiter-overtaken")) && self.fits(wish) {
            self.take(wish);
            return Ok(Admission::Admitted);
        }
        if self.queue.len() >= self.limits.waiters_max || self.limits.wait_max.is_zero() {
            return Err(NoRoom::Full);
        }
        let place = (turn, self.arrivals);
        self.arrivals += 1;
        self.queue.insert(place, Waiter { key, wish, until: now.saturating_add(self.limits.wait_max) });
        self.turns.insert(key, place);
        Ok(Admission::Waiting)
    }

    /// Gives room back. [`Room::next_admitted`] tells who has it now.
    pub(super) fn leave(&mut self, bytes: u64, places: usize) {
        debug_assert!(bytes <= self.bytes && places <= self.places, "only what was taken is given back");
        self.bytes = self.bytes.saturating_sub(bytes);
        self.places = self.places.saturating_sub(places);
    }

    /// Lets the first of the queue in, if it fits.
    pub(super) fn next_admitted(&mut self) -> Option<(K, Wish)> {
        let (place, waiter) = self.queue.first_key_value()?;
        if !self.fits(waiter.wish) {
            return None;
        }
        let place = *place;
        let waiter = self.unqueue(place)?;
        self.take(waiter.wish);
        Some((waiter.key, waiter.wish))
    }

    /// Takes the place in the queue back; false when there was none.
    pub(super) fn withdraw(&mut self, key: K) -> bool {
        self.turns.get(&key).copied().and_then(|place| self.unqueue(place)).is_some()
    }

    /// The next who has waited long enough by `now`.
    pub(super) fn next_timed_out(&mut self, now: Monotonic) -> Option<K> {
        let place = self.heads().find(|(_, waiter)| waiter.until <= now).map(|(place, _)| *place)?;
        self.unqueue(place).map(|waiter| waiter.key)
    }

    /// The next who waits to come in anew, whom a drain sends away.
    pub(super) fn next_sent_away(&mut self) -> Option<K> {
        let place = *self.queue.range((Turn::New, 0)..).next()?.0;
        self.unqueue(place).map(|waiter| waiter.key)
    }

    pub(super) const fn set_elsewhere(&mut self, bytes: u64) {
        self.elsewhere_bytes = bytes;
    }

    pub(super) fn next_timeout(&self) -> Option<Monotonic> {
        self.heads().map(|(_, waiter)| waiter.until).min()
    }

    pub(super) fn is_waiting(&self, key: K) -> bool {
        self.turns.contains_key(&key)
    }

    pub(super) const fn limits(&self) -> RoomLimits {
        self.limits
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn places(&self) -> usize {
        self.places
    }

    pub(super) const fn elsewhere_bytes(&self) -> u64 {
        self.elsewhere_bytes
    }

    pub(super) fn waiters(&self) -> usize {
        self.queue.len()
    }

    fn fits(&self, wish: Wish) -> bool {
        let bytes = self.bytes.saturating_add(self.elsewhere_bytes).saturating_add(wish.bytes);
        let is_placed = self.places + wish.places <= self.limits.places_max || mutant!("places-not-bounded");
        bytes <= self.limits.bytes_max && is_placed
    }

    fn take(&mut self, wish: Wish) {
        self.bytes += wish.bytes; // Cannot wrap: `fits` has bounded the sum.
        self.places += wish.places;
    }

    fn unqueue(&mut self, place: (Turn, u64)) -> Option<Waiter<K>> {
        let waiter = self.queue.remove(&place)?;
        self.turns.remove(&waiter.key);
        Some(waiter)
    }

    /// The first of each turn. All wait equally long, so that within a turn the first also times out first.
    fn heads(&self) -> impl Iterator<Item = (&(Turn, u64), &Waiter<K>)> {
        let growing = self.queue.range(..(Turn::New, 0)).next();
        let new = self.queue.range((Turn::New, 0)..).next();
        growing.into_iter().chain(new)
    }
}
