//! What Zipline's side of this proxy counts itself; the data plane has counters of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use zipline_contract::ErrorCode;

/// Numbers that only rise.
#[derive(Debug)]
pub(crate) struct Counters {
    errors: [AtomicU64; ErrorCode::ALL.len()],
    swapped_out: AtomicU64,
    swapped_in: AtomicU64,
    handed_over: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { errors: std::array::from_fn(|_| zero()), swapped_out: zero(), swapped_in: zero(), handed_over: zero() }
    }
}

impl Counters {
    /// An error was answered.
    pub(crate) fn error(&self, code: ErrorCode) {
        if let Some(at) = ErrorCode::ALL.iter().position(|known| *known == code) {
            self.errors[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call's body became a reference.
    pub(crate) fn swap_out(&self) {
        self.swapped_out.fetch_add(1, Ordering::Relaxed);
    }

    /// A reference became a request's body.
    pub(crate) fn swap_in(&self) {
        self.swapped_in.fetch_add(1, Ordering::Relaxed);
    }

    /// A payload passed between this proxy and its function as a descriptor.
    pub(crate) fn hand_over(&self) {
        self.handed_over.fetch_add(1, Ordering::Relaxed);
    }

    /// Every error that was answered at least once, and how often.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        let counts = self.errors.iter().map(|count| count.load(Ordering::Relaxed));
        ErrorCode::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Bodies swapped for a reference: on the way out, and on the way in.
    pub(crate) fn swaps(&self) -> (u64, u64) {
        (self.swapped_out.load(Ordering::Relaxed), self.swapped_in.load(Ordering::Relaxed))
    }

    /// Payloads that passed between this proxy and its function as a descriptor.
    pub(crate) fn handed_over(&self) -> u64 {
        self.handed_over.load(Ordering::Relaxed)
    }
}
