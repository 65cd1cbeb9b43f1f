//! Planned ends and holds.

use core::time::Duration;

use zipline_core::drain::Ending;
use zipline_core::stats::{HOLD_LOAD, Stat};
use zipline_core::time::Monotonic;

use super::Invariant::Drain;
use super::books::Books;
use super::{Checked, ensure};

/// A planned end, as it was seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedEnd {
    pub(crate) told_at: Monotonic,
    pub(crate) ended_at: Monotonic,
    pub(crate) grace: Duration,
    /// How late the process's timers may be.
    pub(crate) slack: Duration,
    /// Requests that were running.
    pub(crate) requests: u64,
    pub(crate) ending: Ending,
}

/// Nothing was lost that could still be asked for, and what was is counted.
pub(crate) fn ended(end: PlannedEnd, books: &Books) -> Checked {
    let PlannedEnd { told_at, ended_at, grace, slack, requests, ending } = end;
    let grace_is_over = ended_at >= told_at + grace;
    ensure(ended_at <= told_at + grace + slack, Drain, || {
        format!("told at {told_at:?}, grace {grace:?}, ended at {ended_at:?}")
    })?;
    let (left, bytes) = books.left();
    ensure(left == 0 || grace_is_over, Drain, || format!("{left} unread objects are left before the grace limit"))?;
    ensure(requests == 0 || grace_is_over, Drain, || format!("{requests} requests were cut before the grace limit"))?;
    for (id, guaranteed_until) in books.unread() {
        ensure(guaranteed_until <= ended_at, Drain, || format!("{id} was guaranteed until {guaranteed_until:?}"))?;
    }
    // What ends between the decision and its carrying out was counted all the same; nothing may be left uncounted.
    let counted = ending.held.objects >= left && ending.held.bytes >= bytes && ending.requests >= requests;
    ensure(counted, Drain, || format!("{left} objects, {bytes} bytes and {requests} requests are left; reported was {ending:?}"))
}

/// What an instance that holds `unread` objects tells the autoscaler, beside what it measured.
pub(crate) fn reported(measured: &Stat, told: &Stat, unread: usize) -> Checked {
    let expected = |measured: f64| if unread > 0 && measured < HOLD_LOAD { HOLD_LOAD } else { measured };
    let same = told.average_concurrent_requests == expected(measured.average_concurrent_requests)
        && told.request_count == expected(measured.request_count)
        && told.average_proxied_concurrent_requests == measured.average_proxied_concurrent_requests
        && told.proxied_request_count == measured.proxied_request_count;
    ensure(same, Drain, || format!("an instance with {unread} unread objects measured {measured:?} and told {told:?}"))
}
