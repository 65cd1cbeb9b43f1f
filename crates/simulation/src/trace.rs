//! What happened, in order, for whoever has to understand a failure.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use zipline_core::time::Monotonic;

use crate::random::mix;

/// The notes of one schedule. Switched off, nothing is formatted.
pub(crate) struct Trace {
    lines: Option<RefCell<Vec<String>>>,
    hash: Cell<u64>,
}

impl Trace {
    pub(crate) fn new(is_on: bool) -> Self {
        Self { lines: is_on.then(RefCell::default), hash: Cell::new(0) }
    }

    /// Notes what happened at `at` to `who`.
    pub(crate) fn note(&self, at: Monotonic, who: &str, what: impl FnOnce() -> String) {
        let Some(lines) = &self.lines else { return };
        let nanos = at.as_nanos();
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = write!(line, "{:>4}.{:06} {who:<14} {}", nanos / 1_000_000_000, nanos / 1_000 % 1_000_000, what());
        for bytes in line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.hash.set(mix(self.hash.get() ^ u64::from_le_bytes(word)));
        }
        lines.borrow_mut().push(line);
    }

    /// Stands for everything noted so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.take()).unwrap_or_default()
    }
}
