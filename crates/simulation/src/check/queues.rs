//! Breaker and activator: bounds, order of arrival, nobody forgotten.

use std::collections::VecDeque;

use zipline_core::breaker::{Breaker, Ticket};

use super::Invariant::{Budgets, Order};
use super::{Checked, ensure};

/// Who waits in front of a breaker or an activator.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: VecDeque<Ticket>,
}

impl Line {
    pub(crate) fn joins(&mut self, ticket: Ticket) -> Checked {
        ensure(!self.waiting.contains(&ticket), Order, || format!("{ticket:?} was given out twice"))?;
        self.waiting.push_back(ticket);
        Ok(())
    }

    pub(crate) fn let_in(&mut self, ticket: Ticket) -> Checked {
        let first = self.waiting.pop_front();
        ensure(first == Some(ticket), Order, || format!("{ticket:?} was let in, {first:?} was first"))
    }

    /// Gave up; `said` whether it had still waited.
    pub(crate) fn leaves(&mut self, ticket: Ticket, said: bool) -> Checked {
        let place = self.waiting.iter().position(|waiting| *waiting == ticket);
        if let Some(place) = place {
            self.waiting.remove(place);
        }
        ensure(said == place.is_some(), Order, || format!("{ticket:?} was {}waiting", if said { "" } else { "not " }))
    }

    /// What a breaker says of itself after a step.
    pub(crate) fn breaker(&self, breaker: &Breaker, places: usize, depth: usize) -> Checked {
        let (running, waiting) = (breaker.running(), breaker.waiting());
        ensure(running <= places, Budgets, || format!("{running} run in a breaker of {places}"))?;
        ensure(waiting <= depth, Budgets, || format!("{waiting} wait in a breaker for {depth}"))?;
        ensure(waiting == self.waiting.len(), Order, || {
            format!("{waiting} wait in a breaker that {} joined", self.waiting.len())
        })?;
        ensure(waiting == 0 || running >= places, Order, || format!("{waiting} wait though {running} of {places} run"))
    }

    /// What an activator says of itself after a step: each pod's requests, its limit, and who waits.
    pub(crate) fn activator(&self, in_flight: impl Iterator<Item = u32>, limit: u32, waiting: usize) -> Checked {
        let mut has_room = false;
        for pod in in_flight {
            ensure(limit == 0 || pod <= limit, Budgets, || format!("{pod} requests at a pod that runs {limit}"))?;
            has_room |= limit == 0 || pod < limit;
        }
        ensure(waiting == self.waiting.len(), Order, || format!("{waiting} wait, {} joined", self.waiting.len()))?;
        ensure(waiting == 0 || !has_room, Order, || format!("{waiting} wait though a pod has room"))
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}
