//! A room as it is promised: bytes and places, and who waits for them, in order of arrival.

use core::time::Duration;
use std::collections::VecDeque;

use zipline_core::object::{Admission, Refusal, RoomLimits};
use zipline_core::time::Monotonic;

use super::Invariant::{Budgets, Order, Refusals};
use super::{Checked, ensure};

#[derive(Debug)]
pub(super) struct Waiter<K> {
    pub(super) key: K,
    pub(super) bytes: u64,
    pub(super) grows: bool,
    pub(super) since: Monotonic,
}

/// A room and who waits for it.
#[derive(Debug)]
pub(super) struct Queue<K> {
    pub(super) limits: RoomLimits,
    pub(super) waiting: VecDeque<Waiter<K>>,
}

impl<K: Copy + PartialEq + core::fmt::Debug> Queue<K> {
    pub(super) const fn new(limits: RoomLimits) -> Self {
        Self { limits, waiting: VecDeque::new() }
    }

    /// Whoever is to be let in first: those who grow, then by arrival.
    pub(super) fn first(&self) -> Option<&Waiter<K>> {
        self.waiting.iter().find(|waiter| waiter.grows).or_else(|| self.waiting.front())
    }

    pub(super) fn remove(&mut self, key: K) -> Option<Waiter<K>> {
        let at = self.waiting.iter().position(|waiter| waiter.key == key)?;
        self.waiting.remove(at)
    }

    pub(super) fn fits(&self, used: (u64, usize), more: (u64, usize)) -> bool {
        used.0.saturating_add(more.0) <= self.limits.bytes_max && used.1 + more.1 <= self.limits.places_max
    }

    /// What a wish for room must be answered.
    pub(super) fn enter(&mut self, key: K, wish: Wish, used: (u64, usize), said: Result<Admission, &Refusal>) -> Checked {
        let Wish { bytes, total, grows, now } = wish;
        let places = usize::from(!grows);
        let fits = self.fits(used, (bytes, places));
        let ahead = self.waiting.iter().any(|waiter| waiter.grows || !grows);
        let queue_full = self.waiting.len() >= self.limits.waiters_max || self.limits.wait_max.is_zero();
        match said {
            Ok(Admission::Admitted) => {
                ensure(fits, Budgets, || format!("{bytes} bytes were let into {used:?} of {:?}", self.limits))?;
                ensure(!ahead, Order, || format!("{key:?} overtook who waited before"))
            }
            Ok(Admission::Waiting) => {
                ensure(!queue_full, Budgets, || format!("{} wait, {:?} may", self.waiting.len() + 1, self.limits))?;
                ensure(!fits || ahead, Order, || format!("{key:?} waits though there is room: {used:?} of {:?}", self.limits))?;
                self.waiting.push_back(Waiter { key, bytes, grows, since: now });
                Ok(())
            }
            Err(Refusal::TooLarge { .. }) => {
                let too_large = total > self.limits.bytes_max || places > self.limits.places_max;
                ensure(too_large, Refusals, || format!("{total} bytes are said to be too large for {:?}", self.limits))
            }
            Err(Refusal::Full { .. }) => {
                ensure(queue_full && (!fits || ahead), Refusals, || format!("said to be full at {used:?} of {:?}", self.limits))
            }
            Err(_) => Ok(()),
        }
    }

    /// Nobody who fits waits, and nobody too long.
    pub(super) fn settled(&self, used: (u64, usize), now: Monotonic, slack: Duration) -> Checked {
        if let Some(first) = self.first() {
            let more = (first.bytes, usize::from(!first.grows));
            ensure(!self.fits(used, more), Order, || format!("{:?} waits for {more:?} beside {used:?}", first.key))?;
        }
        match self.waiting.front() {
            Some(oldest) => {
                let until = oldest.since + self.limits.wait_max + slack;
                ensure(now <= until, Order, || format!("{:?} has waited since {:?}", oldest.key, oldest.since))
            }
            None => Ok(()),
        }
    }
}

pub(super) struct Wish {
    pub(super) bytes: u64,
    pub(super) total: u64,
    pub(super) grows: bool,
    pub(super) now: Monotonic,
}
