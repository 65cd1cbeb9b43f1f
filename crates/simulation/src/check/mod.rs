//! The checkers: what must be true, kept apart from whatever makes it true.
//!
//! The driver tells what it saw (`granted`, `delivered`, `executed` …); the checkers keep books of their own from that
//! and ask nothing of the code under test. Each finds the first violation of its invariants and says it in one line.
//!
//! | file | what it watches |
//! | --- | --- |
//! | `books` | what one proxy holds: room, objects, leases, retrievals, ends, budgets, who waits |
//! | `reads` | what consumers were delivered: byte for byte, and whether it was whole before it counted |
//! | `requests` | every request: it ends, by name, in time; nothing runs twice |
//! | `queues` | breaker and activator: bounds, order, nobody forgotten |
//! | `lives` | drains, holds, scale-in |

pub(crate) mod books;
pub(crate) mod lives;
pub(crate) mod queues;
pub(crate) mod reads;
pub(crate) mod requests;
mod room;

use core::fmt;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use zipline_core::time::Monotonic;

use crate::exec::ProcessId;
use books::Books;
use reads::Reads;
use requests::Requests;

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A delivered payload is byte-identical; a truncated or corrupt one is never delivered as whole.
    Whole,
    /// Never more than N retrievals or more leases than attempts; only a whole, accepted read counts; slots are one's own.
    Retrievals,
    /// A refusal is true: what is refused could not have been given.
    Refusals,
    /// Every request ends, in an answer or a named error, within its deadline.
    Ends,
    /// Every object is freed at its last retrieval, release or expiry; at the end nothing is left.
    Freed,
    /// Budgets of bytes, counts, connections and waiters are never exceeded, and are given back.
    Budgets,
    /// Who waits is served in order of arrival, and as soon as there is room.
    Order,
    /// A planned end loses no unread object whose consumer can still ask for it; what has expired pins nothing.
    Drain,
    /// Nothing is executed twice.
    Once,
    /// Nothing that was changed, replayed or made for somebody else is believed.
    Authentic,
    /// The code under test panicked.
    Panic,
    /// The schedule does not come to an end.
    Settles,
}

impl Invariant {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Retrievals => "retrievals",
            Self::Refusals => "refusals",
            Self::Ends => "ends",
            Self::Freed => "freed",
            Self::Budgets => "budgets",
            Self::Order => "order",
            Self::Drain => "drain",
            Self::Once => "once",
            Self::Authentic => "authentic",
            Self::Panic => "panic",
            Self::Settles => "settles",
        }
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
    /// When, in nanoseconds of the schedule.
    pub at_nanos: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (at {}.{:06} s)",
            self.invariant.name(),
            self.detail,
            self.at_nanos / 1_000_000_000,
            self.at_nanos / 1_000 % 1_000_000
        )
    }
}

/// What a checker found.
pub(crate) type Finding = (Invariant, String);
/// A checker's answer to what it is told.
pub(crate) type Checked<T = ()> = Result<T, Finding>;

/// Finds that `invariant` does not hold unless `holds`.
pub(crate) fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err((invariant, detail())) }
}

/// All checkers of one schedule.
#[derive(Default)]
pub(crate) struct Check {
    violation: RefCell<Option<Violation>>,
    now: Cell<Monotonic>,
    books: RefCell<BTreeMap<ProcessId, Books>>,
    pub(crate) reads: RefCell<Reads>,
    pub(crate) requests: RefCell<Requests>,
}

impl Check {
    /// The time at which the next findings are made.
    pub(crate) fn set_now(&self, now: Monotonic) {
        self.now.set(now);
    }

    /// The first violation.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.borrow().clone()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.violation.borrow().is_some()
    }

    /// Takes a checker's answer.
    pub(crate) fn take<T>(&self, checked: Checked<T>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err((invariant, detail)) => {
                self.fails(invariant, detail);
                None
            }
        }
    }

    pub(crate) fn fails(&self, invariant: Invariant, detail: String) {
        let violation = Violation { invariant, detail, at_nanos: self.now.get().as_nanos() };
        self.violation.borrow_mut().get_or_insert(violation);
    }

    /// A proxy has begun.
    pub(crate) fn opened(&self, process: ProcessId, books: Books) {
        self.books.borrow_mut().insert(process, books);
    }

    /// A proxy is no more; so are its books.
    pub(crate) fn closed(&self, process: ProcessId) -> Option<Books> {
        self.books.borrow_mut().remove(&process)
    }

    /// Tells the books of a proxy something.
    pub(crate) fn books<T>(&self, process: ProcessId, tell: impl FnOnce(&mut Books) -> Checked<T>) -> Option<T> {
        let checked = self.books.borrow_mut().get_mut(&process).map(tell)?;
        self.take(checked)
    }

    /// Tells the readers' checker something.
    pub(crate) fn read<T>(&self, tell: impl FnOnce(&mut Reads) -> Checked<T>) -> Option<T> {
        let checked = tell(&mut self.reads.borrow_mut());
        self.take(checked)
    }

    /// Tells the requests' checker something.
    pub(crate) fn request<T>(&self, tell: impl FnOnce(&mut Requests) -> Checked<T>) -> Option<T> {
        let checked = tell(&mut self.requests.borrow_mut());
        self.take(checked)
    }
}
