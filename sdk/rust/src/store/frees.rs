//! Freeing what lies in a store, off the path of whoever waits for an answer.
//!
//! An object is freed by the client that read it last, by the client that put it for a call when the call ends, or, where
//! the store itself has no expiry, by the client that put it once its time is over. Keys are noted here
//! without waiting, also from `drop`, and one task a store works them off, a few at a time. When the last clone of a client
//! is dropped the task frees what the client still owns and ends; it needs its runtime to live that long, so a program
//! that is about to exit calls [`Client::clean_up`](crate::Client::clean_up).
//!
//! Bounded by [`STORE_FREES_PENDING_MAX`]; what does not fit is left to its expiry and counted.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use zipline_contract::limits::STORE_FREES_PENDING_MAX;

use super::Backend;
use super::counters::Counters;
use super::key::StoreKey;

/// Frees under way at once.
const PARALLEL_MAX: usize = 8;

/// What is to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Free {
    /// One retrieval is over.
    Retrieved(StoreKey),
    /// It goes, whatever is left of it.
    Delete(StoreKey),
}

impl Free {
    fn key(&self) -> &StoreKey {
        match self {
            Self::Retrieved(key) | Self::Delete(key) => key,
        }
    }
}

/// The keys of one store that are to be freed. Dropping it frees what is owned.
pub(crate) struct Frees {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts changes: whoever waits for something to be done or to be over looks again at each.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    due: VecDeque<Free>,
    /// Keys whose object is as good as gone: deleted, or its one retrieval over.
    going: HashSet<StoreKey>,
    /// What this client put and nobody else frees, by when its time is over.
    owned: BTreeSet<(Instant, StoreKey)>,
    /// The same by key.
    owned_until: HashMap<StoreKey, Instant>,
    under_way: usize,
    working: bool,
    closed: bool,
}

impl Frees {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(0) }) }
    }

    /// This client owns that object, until then.
    pub(crate) fn own(&self, backend: &Arc<dyn Backend>, counters: &Arc<Counters>, key: &StoreKey, until: Instant) {
        let mut state = self.shared.state();
        if state.owned.len() >= STORE_FREES_PENDING_MAX
            && let Some((_, first)) = state.owned.pop_first()
        {
            state.owned_until.remove(&first);
            counters.note(backend.kind(), |operations| operations.left_behind += u64::from(!backend.expires()));
        }
        state.owned.insert((until, key.clone()));
        state.owned_until.insert(key.clone(), until);
        self.work(state, backend, counters);
    }

    /// A read of that object is over and was accepted.
    pub(crate) fn retrieved(&self, backend: &Arc<dyn Backend>, counters: &Arc<Counters>, key: &StoreKey) {
        self.note(backend, counters, Free::Retrieved(key.clone()), key.retrievals == 1);
    }

    /// That object is not needed any more.
    pub(crate) fn delete(&self, backend: &Arc<dyn Backend>, counters: &Arc<Counters>, key: &StoreKey) {
        self.note(backend, counters, Free::Delete(key.clone()), true);
    }

    /// That object is gone.
    pub(crate) fn disown(&self, key: &StoreKey) {
        self.shared.state().disown(key);
    }

    /// Whether the object is as good as gone, as far as this client knows.
    pub(crate) fn is_going(&self, key: &StoreKey) -> bool {
        self.shared.state().going.contains(key)
    }

    fn note(&self, backend: &Arc<dyn Backend>, counters: &Arc<Counters>, free: Free, goes: bool) {
        let mut state = self.shared.state();
        if state.due.len() >= STORE_FREES_PENDING_MAX {
            drop(state);
            return counters.note(backend.kind(), |operations| operations.left_behind += 1);
        }
        if goes {
            state.going.insert(free.key().clone());
            state.disown(free.key());
        }
        state.due.push_back(free);
        self.work(state, backend, counters);
    }

    /// Waits until nothing is left to be freed; `owned`: makes all that is owned due before.
    pub(crate) async fn all_done(&self, backend: &Arc<dyn Backend>, counters: &Arc<Counters>, owned: bool) {
        let mut changed = self.shared.changed.subscribe();
        {
            let mut state = self.shared.state();
            if owned {
                state.all_owned_due();
            }
            self.work(state, backend, counters);
        }
        // The sender lives in `self`, so the wait cannot fail.
        changed.wait_for(|_| self.shared.state().is_idle()).await.ok();
    }

    /// Tells the task that there is something new; starts it where none is at work.
    fn work(&self, mut state: MutexGuard<'_, State>, backend: &Arc<dyn Backend>, counters: &Arc<Counters>) {
        let something = !state.due.is_empty() || !state.owned.is_empty();
        if something
            && !state.working
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            state.working = true;
            let (shared, backend, counters) = (Arc::clone(&self.shared), Arc::clone(backend), Arc::clone(counters));
            // Owned by nobody: it ends by itself when there is nothing left to free.
            runtime.spawn(work_off(Working { shared, over: false }, backend, counters));
        }
        drop(state);
        self.shared.changed.send_modify(|changes| *changes += 1);
    }
}

impl Drop for Frees {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.all_owned_due();
        drop(state);
        self.shared.changed.send_modify(|changes| *changes += 1);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.due.is_empty() && self.under_way == 0
    }

    fn disown(&mut self, key: &StoreKey) {
        if let Some(until) = self.owned_until.remove(key) {
            self.owned.remove(&(until, key.clone()));
        }
    }

    fn all_owned_due(&mut self) {
        let owned = std::mem::take(&mut self.owned);
        self.owned_until.clear();
        self.due.extend(owned.into_iter().map(|(_, key)| Free::Delete(key)));
    }

    /// The next to be freed; else when one will be. Where the store `expires` objects, one whose time is over is left to it.
    fn next(&mut self, now: Instant, expires: bool) -> Result<Free, Option<Instant>> {
        while let Some((until, key)) = self.owned.first().cloned()
            && until <= now
        {
            self.disown(&key);
            if !expires {
                self.due.push_back(Free::Delete(key));
            }
        }
        self.due.pop_front().ok_or_else(|| self.owned.first().map(|(until, _)| *until))
    }
}

/// The task at work. Dropped by the runtime before its work was done, it lets another be started.
struct Working {
    shared: Arc<Shared>,
    over: bool,
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.over {
            let mut state = self.shared.state();
            state.working = false;
            state.under_way = 0;
        }
    }
}

async fn work_off(mut working: Working, backend: Arc<dyn Backend>, counters: Arc<Counters>) {
    let shared = Arc::clone(&working.shared);
    let mut changed = shared.changed.subscribe();
    let mut under_way = JoinSet::new();
    loop {
        let wake = {
            let mut state = shared.state();
            let mut wake = None;
            while under_way.len() < PARALLEL_MAX {
                match state.next(Instant::now(), backend.expires()) {
                    Ok(free) => {
                        under_way.spawn(carry_out(Arc::clone(&backend), Arc::clone(&counters), free));
                    }
                    Err(when) => {
                        wake = when;
                        break;
                    }
                }
            }
            state.under_way = under_way.len();
            if under_way.is_empty() && state.owned.is_empty() {
                working.over = true;
                state.working = false; // In the same step: whoever notes a key from here on starts another.
                return;
            }
            wake
        };
        tokio::select! {
            Some(freed) = under_way.join_next() => {
                let mut state = shared.state();
                if let Ok(free) = freed {
                    state.going.remove(free.key());
                }
                state.under_way = under_way.len();
                drop(state);
                shared.changed.send_modify(|changes| *changes += 1);
            }
            // The sender lives in `shared`, so it never closes.
            _ = changed.changed() => {}
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

async fn carry_out(backend: Arc<dyn Backend>, counters: Arc<Counters>, free: Free) -> Free {
    let outcome = match &free {
        Free::Retrieved(key) => backend.retrieved(key).await,
        Free::Delete(key) => backend.delete(key).await,
    };
    if outcome.is_err() {
        counters.note(backend.kind(), |operations| operations.left_behind += 1);
    }
    free
}
