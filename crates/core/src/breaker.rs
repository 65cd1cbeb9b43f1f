//! Who may run now, who waits, and who is refused: the concurrency limit of one instance.
//!
//! A [`Breaker`] lets at most its capacity run at once. Whoever comes on top waits, first come first served, and when the
//! queue is full is refused. It holds no request and wakes nobody: it answers with [`Ticket`]s, and its driver knows whose
//! they are. The capacity may change at any time; lowering it stops nobody who runs.
//!
//! Differs from Knative's breaker in one thing: there, a newcomer may overtake somebody who was just woken. Here nobody
//! is overtaken.

use core::num::NonZeroU32;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use zipline_contract::limits::QUEUE_DEPTH_FACTOR;

/// A place in a queue. Tickets grow in the order of arrival and are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(u64);

/// What happens to a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It runs. [`Breaker::finish`] must follow.
    Run,
    /// It waits until its ticket is answered by a later call, or [`Breaker::abandon`] gives it up.
    Wait(Ticket),
}

/// As many wait as may. The text is the one Knative answers with, status 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pending request queue full")]
pub struct QueueFull;

/// A limit on what runs at once, with a queue.
#[derive(Clone, Debug)]
pub struct Breaker {
    capacity: usize,
    capacity_max: usize,
    /// Bound on those that run and those that wait together.
    admitted_max: usize,
    running: usize,
    queue: TicketQueue,
}

impl Breaker {
    /// The breaker of an instance that runs `container_concurrency` requests at once: ten times as many may wait.
    pub fn for_instance(container_concurrency: NonZeroU32) -> Self {
        let concurrency = container_concurrency.get() as usize;
        Self::new(concurrency, concurrency.saturating_mul(QUEUE_DEPTH_FACTOR as usize))
    }

    /// A breaker that lets `capacity` run, and `queue_depth` more be there at the same time.
    pub fn new(capacity: usize, queue_depth: usize) -> Self {
        Self {
            capacity,
            capacity_max: capacity,
            admitted_max: capacity.saturating_add(queue_depth),
            running: 0,
            queue: TicketQueue::default(),
        }
    }

    /// A request arrives.
    ///
    /// # Errors
    /// [`QueueFull`] when as many run and wait as may together. With a lowered capacity more of them wait.
    pub fn arrive(&mut self) -> Result<Admission, QueueFull> {
        if self.running < self.capacity + usize::from(mutant!("breaker-lets-in-one-more")) {
            // Nobody waits: whoever could run was let in when the place came free.
            self.running += 1;
            return Ok(Admission::Run);
        }
        if self.running.saturating_add(self.queue.len()) >= self.admitted_max {
            return Err(QueueFull);
        }
        Ok(Admission::Wait(self.queue.join()))
    }

    /// A request that ran has ended. The answered ticket's request runs from now on.
    ///
    /// Must be called exactly once for each request that ran; beyond that it has no effect.
    pub fn finish(&mut self) -> Option<Ticket> {
        self.running = self.running.saturating_sub(1);
        if mutant!("breaker-forgets-waiters") {
            return None;
        }
        self.next_to_run()
    }

    /// A request no longer waits: its client went away or its time is up.
    ///
    /// Answers `false` if it was let in already: then it occupies a place, and [`Breaker::finish`] must follow.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        self.queue.leave(ticket)
    }

    /// Changes the capacity, up to the one that the breaker began with. The answered tickets' requests run from now on.
    pub fn set_capacity(&mut self, capacity: usize) -> Vec<Ticket> {
        self.capacity = capacity.min(self.capacity_max);
        core::iter::from_fn(|| self.next_to_run()).collect()
    }

    /// How many may run at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn next_to_run(&mut self) -> Option<Ticket> {
        if self.running >= self.capacity {
            return None;
        }
        let ticket = self.queue.next()?;
        self.running += 1;
        Some(ticket)
    }
}

/// Tickets in order of arrival. Leaving from the middle costs the logarithm of the length: when the client of ten
/// thousand waiting requests dies, they all leave at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct TicketQueue {
    waiting: BTreeSet<Ticket>,
    issued: u64,
}

impl TicketQueue {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn join(&mut self) -> Ticket {
        let ticket = Ticket(self.issued);
        self.issued += 1; // At a billion a second it wraps after 584 years.
        self.waiting.insert(ticket);
        ticket
    }

    pub(crate) fn next(&mut self) -> Option<Ticket> {
        self.waiting.pop_first()
    }

    pub(crate) fn again(&mut self, ticket: Ticket) {
        self.waiting.insert(ticket);
    }

    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_breaker() -> (Breaker, Vec<Ticket>) {
        let mut breaker = Breaker::for_instance(NonZeroU32::MIN);
        let admitted: Vec<_> = (0..11).map(|_| breaker.arrive()).collect();
        let waiting = admitted.into_iter().filter_map(|admission| match admission {
            Ok(Admission::Wait(ticket)) => Some(ticket),
            Ok(Admission::Run) | Err(QueueFull) => None,
        });
        let waiting = waiting.collect();
        (breaker, waiting)
    }

    #[test]
    fn one_runs_ten_wait_and_the_next_is_refused() {
        let (mut breaker, waiting) = full_breaker();
        assert_eq!((breaker.running(), waiting.len(), breaker.arrive()), (1, 10, Err(QueueFull)));
        assert_eq!(QueueFull.to_string(), "pending request queue full");
    }

    #[test]
    fn places_go_to_those_who_wait_in_order_of_arrival() {
        let (mut breaker, waiting) = full_breaker();
        assert!(breaker.abandon(waiting[1]));
        assert_eq!([breaker.finish(), breaker.finish()], [Some(waiting[0]), Some(waiting[2])]);
        assert_eq!(breaker.arrive().map(|admission| matches!(admission, Admission::Wait(_))), Ok(true));
    }

    #[test]
    fn whoever_was_let_in_cannot_abandon_the_queue_and_must_finish() {
        let (mut breaker, waiting) = full_breaker();
        assert_eq!(breaker.finish(), Some(waiting[0]));
        assert!(!breaker.abandon(waiting[0]));
        assert_eq!(breaker.running(), 1);
    }

    #[test]
    fn a_lowered_capacity_stops_nobody_and_a_raised_one_lets_in() {
        let mut breaker = Breaker::new(3, 3);
        for _ in 0..5 {
            assert!(breaker.arrive().is_ok());
        }
        assert!(breaker.set_capacity(1).is_empty());
        assert_eq!((breaker.running(), breaker.finish(), breaker.finish()), (3, None, None));
        assert_eq!(breaker.set_capacity(9).len(), 2);
        assert_eq!((breaker.capacity(), breaker.running(), breaker.waiting()), (3, 3, 0));
    }
}
