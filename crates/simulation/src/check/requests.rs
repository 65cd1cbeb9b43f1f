//! Every request ends, by name and in time; nothing runs twice.

use core::time::Duration;
use std::collections::BTreeMap;

use zipline_core::time::Monotonic;

use super::Invariant::{Ends, Once};
use super::{Checked, ensure};

/// Names a request, and each sending of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// Requests that go on, and what ran.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    open: BTreeMap<RequestId, Monotonic>,
    /// How often each sending was executed.
    sent: BTreeMap<RequestId, u32>,
    numbers: u64,
}

impl Requests {
    /// A new name.
    pub(crate) fn number(&mut self) -> RequestId {
        self.numbers += 1;
        RequestId(self.numbers)
    }

    /// Somebody makes a request, to be answered by then.
    pub(crate) fn began(&mut self, deadline: Monotonic) -> Checked<RequestId> {
        let id = self.number();
        self.open.insert(id, deadline);
        Ok(id)
    }

    /// It was answered, or ended by name.
    pub(crate) fn ended(&mut self, id: RequestId, slack: Duration, now: Monotonic) -> Checked {
        let Some(deadline) = self.open.remove(&id) else { return Err((Ends, format!("{id:?} has ended twice"))) };
        ensure(now <= deadline + slack, Ends, || format!("{id:?} was to end at {deadline:?}"))
    }

    /// Whoever made it gave it up, or died.
    pub(crate) fn given_up(&mut self, id: RequestId) {
        self.open.remove(&id);
    }

    /// A caller, client or mesh sends it. Each sending may run once.
    pub(crate) fn sent(&mut self) -> Checked<RequestId> {
        let id = self.number();
        self.sent.insert(id, 0);
        Ok(id)
    }

    /// A function was given it.
    pub(crate) fn executed(&mut self, id: RequestId) -> Checked {
        let times = self.sent.entry(id).or_insert(1);
        *times += 1;
        ensure(*times == 1, Once, || format!("{id:?} was executed again, or never sent"))
    }

    /// At the end nobody waits.
    pub(crate) fn over(&self) -> Checked {
        ensure(self.open.is_empty(), Ends, || format!("{:?} have not ended", self.open))
    }
}
