//! The requests of one revision on their way through the activator.

use zipline_contract::limits::ACTIVATOR_QUEUE_MAX;

use super::{Load, Policy};
use crate::breaker::{QueueFull, Ticket, TicketQueue};

/// A request's place at an instance, to be given back by [`Throttler::finish`].
///
/// It remembers which appearance of the instance it belongs to: an instance that went and came back under the same name
/// begins empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<P> {
    /// The instance.
    pub pod: P,
    appearance: u64,
}

/// What happens to a request that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<P> {
    /// It goes to this instance at once.
    To(Assignment<P>),
    /// It waits until its ticket is answered by a later call, or [`Throttler::abandon`] gives it up.
    Wait(Ticket),
}

/// The ready instances of one revision, what they have to do, and who waits for them.
///
/// Each instance gets at most the revision's concurrency; without a limit, any number. At most [`ACTIVATOR_QUEUE_MAX`]
/// requests wait, first come first served. `P` names an instance; the policy sees instances in its order.
#[derive(Clone, Debug)]
pub struct Throttler<P> {
    in_flight_max: Option<u32>,
    policy: Policy,
    pods: Vec<Pod<P>>,
    appearances: u64,
    queue: TicketQueue,
}

#[derive(Clone, Debug)]
struct Pod<P> {
    name: P,
    appearance: u64,
    load: Load,
}

impl<P: Clone + Ord> Throttler<P> {
    /// A throttler without instances, for a revision whose instances run `container_concurrency` requests at once; 0: no limit.
    pub fn new(container_concurrency: u32) -> Self {
        Self {
            in_flight_max: (container_concurrency > 0).then_some(container_concurrency),
            policy: Policy::for_concurrency(container_concurrency),
            pods: Vec::new(),
            appearances: 0,
            queue: TicketQueue::default(),
        }
    }

    /// A request arrives. `below(n)` answers a random number below `n`, evenly spread.
    ///
    /// # Errors
    /// [`QueueFull`] when no instance has room and [`ACTIVATOR_QUEUE_MAX`] wait already.
    pub fn arrive(&mut self, mut below: impl FnMut(usize) -> usize) -> Result<Route<P>, QueueFull> {
        // Nobody waits while there is room, so a newcomer who finds room overtakes nobody.
        if let Some(assignment) = self.assign(&mut below) {
            return Ok(Route::To(assignment));
        }
        if self.queue.len() >= ACTIVATOR_QUEUE_MAX {
            return Err(QueueFull);
        }
        Ok(Route::Wait(self.queue.join()))
    }

    /// A request that was assigned has ended. Whoever gets a place through that is answered.
    ///
    /// Must be called exactly once for each assignment. One whose instance has gone frees nothing.
    pub fn finish(
        &mut self,
        assignment: &Assignment<P>,
        mut below: impl FnMut(usize) -> usize,
    ) -> Option<(Ticket, Assignment<P>)> {
        let place = self.pods.iter_mut().find(|pod| pod.appearance == assignment.appearance)?;
        place.load.in_flight = place.load.in_flight.saturating_sub(1);
        let next = self.next_assigned(&mut below);
        if mutant!("throttler-sends-twice")
            && let Some((ticket, _)) = next
        {
            self.queue.again(ticket);
        }
        next
    }

    /// A request no longer waits: its client went away or its time is up.
    ///
    /// Answers `false` if it was assigned already: then [`Throttler::finish`] must follow.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        self.queue.leave(ticket)
    }

    /// Names the instances that are ready now. Those that stay keep what they have in flight; requests at those that went
    /// run on, but count no longer. Whoever gets a place through that is answered.
    pub fn set_pods(
        &mut self,
        ready: impl IntoIterator<Item = P>,
        mut below: impl FnMut(usize) -> usize,
    ) -> Vec<(Ticket, Assignment<P>)> {
        let mut names: Vec<P> = ready.into_iter().collect();
        names.sort();
        names.dedup();
        let mut known = core::mem::take(&mut self.pods);
        for name in names {
            let kept = known.iter().position(|pod| pod.name == name).map(|i| known.swap_remove(i));
            let pod = kept.unwrap_or_else(|| {
                self.appearances += 1;
                let load = Load { in_flight: 0, in_flight_max: self.in_flight_max };
                Pod { name, appearance: self.appearances, load }
            });
            self.pods.push(pod);
        }
        if mutant!("throttler-keeps-the-gone") {
            self.pods.append(&mut known);
        }
        core::iter::from_fn(|| self.next_assigned(&mut below)).collect()
    }

    /// How many requests the ready instances may run at once; nothing: any number.
    pub fn capacity(&self) -> Option<usize> {
        let each = self.in_flight_max? as usize;
        Some(each.saturating_mul(self.pods.len()))
    }

    /// How many requests run at ready instances.
    pub fn in_flight(&self) -> usize {
        self.pods.iter().map(|pod| pod.load.in_flight as usize).sum()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The ready instances in order, with what they have to do.
    pub fn pods(&self) -> impl Iterator<Item = (&P, Load)> {
        self.pods.iter().map(|pod| (&pod.name, pod.load))
    }

    fn assign(&mut self, below: &mut dyn FnMut(usize) -> usize) -> Option<Assignment<P>> {
        let loads: Vec<Load> = self.pods.iter().map(|pod| pod.load).collect();
        let pod = &mut self.pods[self.policy.choose(&loads, below)?];
        pod.load.in_flight = pod.load.in_flight.saturating_add(1);
        Some(Assignment { pod: pod.name.clone(), appearance: pod.appearance })
    }

    fn next_assigned(&mut self, below: &mut dyn FnMut(usize) -> usize) -> Option<(Ticket, Assignment<P>)> {
        if self.queue.len() == 0 {
            return None;
        }
        let assignment = self.assign(below)?;
        let ticket = self.queue.next()?;
        Some((ticket, assignment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(throttler: &mut Throttler<&'static str>) -> Ticket {
        match throttler.arrive(|_| 0) {
            Ok(Route::Wait(ticket)) => ticket,
            other => panic!("expected to wait, got {other:?}"),
        }
    }

    #[test]
    fn requests_to_a_revision_at_zero_wait_and_go_when_an_instance_is_ready() {
        let mut throttler = Throttler::new(1);
        let tickets = [wait(&mut throttler), wait(&mut throttler), wait(&mut throttler)];
        let assigned = throttler.set_pods(["b", "a"], |_| 0);
        let assigned: Vec<_> = assigned.iter().map(|(ticket, to)| (*ticket, to.pod)).collect();
        assert_eq!(assigned, [(tickets[0], "a"), (tickets[1], "b")]);
        assert_eq!((throttler.capacity(), throttler.in_flight(), throttler.waiting()), (Some(2), 2, 1));
    }

    #[test]
    fn without_a_limit_everybody_goes_as_soon_as_one_instance_is_ready() {
        let mut throttler = Throttler::new(0);
        for _ in 0..50 {
            wait(&mut throttler);
        }
        assert_eq!(throttler.set_pods(["a"], |_| 0).len(), 50);
        assert_eq!((throttler.capacity(), throttler.in_flight(), throttler.waiting()), (None, 50, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_abandoning_makes_room() {
        let mut throttler = Throttler::new(1);
        let first = wait(&mut throttler);
        for _ in 1..ACTIVATOR_QUEUE_MAX {
            wait(&mut throttler);
        }
        assert_eq!(throttler.arrive(|_| 0), Err(QueueFull));
        assert!(throttler.abandon(first));
        assert!(!throttler.abandon(first));
        assert!(throttler.arrive(|_| 0).is_ok());
    }

    #[test]
    fn an_instance_that_went_and_came_back_begins_empty() {
        let mut throttler = Throttler::new(1);
        throttler.set_pods(["a"], |_| 0);
        let Ok(Route::To(old)) = throttler.arrive(|_| 0) else { panic!("there was room") };
        throttler.set_pods([], |_| 0);
        throttler.set_pods(["a"], |_| 0);
        let Ok(Route::To(_)) = throttler.arrive(|_| 0) else { panic!("a new appearance has room") };
        let waiting = wait(&mut throttler);
        assert_eq!(throttler.finish(&old, |_| 0), None, "the old appearance's place is gone");
        assert!(throttler.abandon(waiting));
    }
}
