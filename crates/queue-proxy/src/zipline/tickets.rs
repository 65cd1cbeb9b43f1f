//! Registered functions, and the one-time tickets by which they fetch a request's payload as a descriptor.
//!
//! While at least one descriptor channel has said `serve`, a request with a reference reaches the function with an empty
//! body and a ticket. The ticket is good once and as long as its request: the request's end takes it out of the table.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zipline_contract::ErrorCode;
use zipline_transfer::Incoming;

use crate::zipline::problem::Problem;
use crate::zipline::reading::Settlement;

/// Random bytes of a ticket.
const TICKET_BYTES: usize = 16;

/// What a ticket stands for.
pub(crate) struct Awaiting {
    /// The pull, authenticated, of which nothing was read.
    pub(crate) incoming: Incoming,
    /// Where it goes back to.
    pub(crate) settlement: Settlement,
}

/// The tickets of the requests in progress, at most one each.
#[derive(Default)]
pub(crate) struct Tickets {
    serving: AtomicUsize,
    open: Mutex<HashMap<String, Awaiting>>,
}

/// A registration; dropped, it ends.
pub(crate) struct Serving(Arc<Tickets>);

/// A ticket that was issued. Dropped with its request, it is no longer good.
pub(crate) struct Issued {
    tickets: Arc<Tickets>,
    ticket: String,
}

impl Tickets {
    /// Registers a serving function.
    pub(crate) fn serve(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::AcqRel);
        Serving(self.clone())
    }

    /// Whether a function is registered.
    pub(crate) fn is_served(&self) -> bool {
        self.serving.load(Ordering::Acquire) > 0
    }

    /// Issues a ticket for a payload.
    ///
    /// # Errors
    /// `buffer-full` when the system has no randomness to make one from.
    pub(crate) fn issue(self: &Arc<Self>, awaiting: Awaiting) -> Result<Issued, Problem> {
        let mut random = [0_u8; TICKET_BYTES];
        getrandom::fill(&mut random)
            .map_err(|error| Problem::new(ErrorCode::BufferFull, format!("no ticket can be made: {error}")))?;
        let ticket: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.open().insert(ticket.clone(), awaiting);
        Ok(Issued { tickets: self.clone(), ticket })
    }

    /// Takes what a ticket stands for, once.
    ///
    /// # Errors
    /// `request-invalid` when it was redeemed before, its request is over, or it never was one.
    pub(crate) fn redeem(&self, ticket: &str) -> Result<Awaiting, Problem> {
        self.open()
            .remove(ticket)
            .ok_or_else(|| Problem::invalid("the ticket was redeemed before, its request is over, or it is none of this proxy's"))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Awaiting>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issued {
    /// The text for `Zipline-Ticket`.
    pub(crate) fn text(&self) -> &str {
        &self.ticket
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        drop(self.tickets.open().remove(&self.ticket));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::AcqRel);
    }
}
