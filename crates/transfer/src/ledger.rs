//! Carries out what `zipline_core::object` decides: the one table of everything this node holds and receives.
//!
//! Every command takes the lock for the length of one decision, carries out its effects (who is admitted, refused, cut),
//! and hands the payloads of ended objects to the reclaimer. One task sleeps until the table's next timer. Dropping a
//! guard is a command like any other, from whatever thread.
//!
//! Where the budget is shared with other proxies, what is wanted is published before the others' sums are read, so that
//! two at the limit never both get in. While somebody waits here for room that others hold, a thread sleeps on the
//! shared page.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use zipline_core::object::{
    Admission, Census, Counts, CutReason, Effect, End, HoldingLimits, Holdings, LeaseId, Now, ObjectId, ReceiveId, Refusal,
    SpillLimits,
};
use zipline_core::time::Monotonic;
use zipline_sys::SharedBudget;

use crate::clock::Clock;
use crate::reclaim::Reclaimer;
use crate::stored::{Progress, Stored, lock};

/// How long the thread that waits for others' room sleeps before it looks whether anybody here still waits.
const SHARED_WAIT_MAX: Duration = Duration::from_millis(250);
/// Durable copies of ended objects that wait to be removed; more are left for a sweep.
const FORGOTTEN_MAX: usize = 100_000;

/// The answer to somebody who waits for room.
type Answer = oneshot::Sender<Result<(), Refusal>>;

/// The table and what belongs to it.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    clock: Clock,
    reclaimer: Reclaimer,
    shared: Option<(SharedBudget, usize)>,
    /// The next timer may have moved nearer.
    rearm: Notify,
    /// Nothing needs this process any more, or something happened at a drain.
    changed: Notify,
    /// Something is to be written to local disk.
    spill: Notify,
    /// A durable copy is to be removed.
    forget: Notify,
}

#[derive(Debug)]
struct Books {
    holdings: Holdings<Arc<Stored>>,
    putting: HashMap<ObjectId, Answer>,
    receiving: HashMap<ReceiveId, Answer>,
    /// Readers over TCP. Dropping the sender also stops its reader: another connection has taken its lease over.
    readers: HashMap<(ObjectId, LeaseId), oneshot::Sender<CutReason>>,
    /// Objects that ended and whose durable copies are to be removed.
    forgotten: VecDeque<ObjectId>,
    receives: u64,
    timer_at: Option<Monotonic>,
    watching: bool,
}

impl Ledger {
    pub(crate) fn new(
        limits: HoldingLimits,
        spill: Option<SpillLimits>,
        clock: Clock,
        shared: Option<(SharedBudget, usize)>,
    ) -> std::io::Result<Arc<Self>> {
        let holdings = Holdings::new(limits);
        Ok(Arc::new(Self {
            books: Mutex::new(Books {
                holdings: match spill {
                    Some(spill) => holdings.with_spill(spill),
                    None => holdings,
                },
                forgotten: VecDeque::new(),
                putting: HashMap::new(),
                receiving: HashMap::new(),
                readers: HashMap::new(),
                receives: 0,
                timer_at: None,
                watching: false,
            }),
            clock,
            reclaimer: Reclaimer::start()?,
            shared,
            rearm: Notify::new(),
            changed: Notify::new(),
            spill: Notify::new(),
            forget: Notify::new(),
        }))
    }

    /// Asks the table something, or tells it something that takes no room.
    pub(crate) fn command<T>(self: &Arc<Self>, run: impl FnOnce(&mut Holdings<Arc<Stored>>, Now) -> T) -> T {
        self.carry_out(0, |books, now| run(&mut books.holdings, now))
    }

    /// Takes room for a new object; waits for it in order of arrival.
    pub(crate) async fn reserve(self: &Arc<Self>, id: ObjectId, bytes: u64) -> Result<Reservation, Refusal> {
        // Made before waiting, so that a put which is given up while it waits gives its place back.
        let reservation = Reservation { ledger: Arc::clone(self), id, used: false };
        self.wait_for_room(bytes, |books, now| books.put_admission(id, |holdings| holdings.reserve(id, bytes, now))).await?;
        Ok(reservation)
    }

    /// Takes room so that the object of a writer may have `bytes` in all; `more` of them are new.
    pub(crate) async fn grow(self: &Arc<Self>, id: ObjectId, bytes: u64, more: u64) -> Result<(), Refusal> {
        self.wait_for_room(more, |books, now| books.put_admission(id, |holdings| holdings.grow(id, bytes, now))).await
    }

    /// Takes room for a payload that is received; waits for it in order of arrival.
    pub(crate) async fn receive(self: &Arc<Self>, bytes: u64) -> Result<ReceiveRoom, Refusal> {
        let id = self.carry_out(0, |books, _| {
            books.receives += 1;
            ReceiveId(books.receives)
        });
        let room = ReceiveRoom { ledger: Arc::clone(self), id };
        self.wait_for_room(0, |books, now| books.receive_admission(id, |holdings| holdings.receive(id, bytes, now))).await?;
        Ok(room)
    }

    /// Registers a reader over TCP; the receiver tells it when to stop. A reader that had the lease before is stopped.
    pub(crate) fn watch_reader(self: &Arc<Self>, object: ObjectId, lease: LeaseId) -> ReaderWatch {
        let (cut, watched) = oneshot::channel();
        self.carry_out(0, |books, _| books.readers.insert((object, lease), cut));
        ReaderWatch { ledger: Arc::clone(self), reader: (object, lease), watched }
    }

    pub(crate) fn census(&self) -> Census {
        lock(&self.books).holdings.census()
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.books).holdings.counts()
    }

    /// Returns once nothing needs this process: every object has ended or has a durable copy that nobody reads here, and
    /// the copies of ended objects are being removed.
    pub(crate) async fn unneeded(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let books = lock(&self.books);
                if books.holdings.is_unneeded() && books.forgotten.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// What to write to the durable tier next. Not by a command, which would wake those who ask again after each.
    pub(crate) fn next_to_store(&self) -> Option<ObjectId> {
        lock(&self.books).holdings.next_to_store()
    }

    /// What to write to local disk next, with its size and bytes; as [`Ledger::next_to_store`].
    pub(crate) fn next_to_spill(&self) -> Option<(ObjectId, u64, Arc<Stored>)> {
        let now = self.clock.now();
        let holdings = &mut lock(&self.books).holdings;
        let id = holdings.next_to_spill()?;
        let view = holdings.status(id, None, now).ok()?;
        Some((id, view.written.bytes, Arc::clone(view.payload)))
    }

    /// Something may have happened that a drain waits for.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Something may be to be written to local disk.
    pub(crate) async fn spill(&self) {
        self.spill.notified().await;
    }

    /// A durable copy may be to be removed.
    pub(crate) fn forgotten(&self) -> Notified<'_> {
        self.forget.notified()
    }

    /// The next object whose durable copy is to be removed; `taken` runs before anybody can see that it has left the row.
    pub(crate) fn next_forgotten<T>(&self, taken: impl FnOnce() -> T) -> Option<(ObjectId, T)> {
        let mut books = lock(&self.books);
        let next = books.forgotten.pop_front().map(|id| (id, taken()));
        if books.forgotten.is_empty() {
            drop(books);
            self.changed.notify_waiters();
        }
        next
    }

    /// Serves the table's timers; runs as long as the node.
    pub(crate) async fn run_timers(self: Arc<Self>) {
        loop {
            let at = lock(&self.books).timer_at;
            let due = async {
                match at {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.rearm.notified() => {}
                () = due => self.command(|holdings, now| holdings.handle_timeout(now)),
            }
        }
    }

    /// Runs one decision that wants `more` bytes of the budget, and carries out its effects.
    fn carry_out<T>(self: &Arc<Self>, more: u64, run: impl FnOnce(&mut Books, Now) -> T) -> T {
        let now = self.clock.now();
        let mut freed = Vec::new();
        let (result, wake) = {
            let mut books = lock(&self.books);
            if let Some((shared, slot)) = &self.shared
                && (more > 0 || books.holdings.census().waiters > 0)
            {
                shared.hold(*slot, books.holdings.census().bytes.saturating_add(more));
                books.holdings.set_held_elsewhere(shared.elsewhere(*slot));
            }
            let result = run(&mut books, now);
            books.take_effects(&mut freed);
            let census = books.holdings.census();
            if let Some((shared, slot)) = &self.shared {
                shared.hold(*slot, census.bytes);
                if census.waiters > 0 && !books.watching {
                    books.watching = self.watch_shared();
                }
            }
            let timer_at = books.holdings.next_timeout();
            if timer_at.is_some_and(|at| books.timer_at.is_none_or(|before| at < before)) {
                self.rearm.notify_one();
            }
            books.timer_at = timer_at;
            let wake = Wake {
                changed: books.holdings.is_draining() || books.holdings.is_unneeded(),
                spill: books.holdings.wants_to_spill(),
                forget: !books.forgotten.is_empty(),
            };
            (result, wake)
        };
        for (payload, end) in freed {
            payload.set_progress(Progress::Ended(end));
            self.reclaimer.take(payload);
        }
        if wake.changed {
            self.changed.notify_waiters();
        }
        if wake.spill {
            self.spill.notify_one();
        }
        if wake.forget {
            self.forget.notify_waiters();
        }
        result
    }

    async fn wait_for_room(
        self: &Arc<Self>,
        more: u64,
        enter: impl FnOnce(&mut Books, Now) -> Result<Option<oneshot::Receiver<Result<(), Refusal>>>, Refusal>,
    ) -> Result<(), Refusal> {
        match self.carry_out(more, enter)? {
            None => Ok(()),
            // The sender goes away only with the table itself.
            Some(answer) => answer.await.unwrap_or(Err(Refusal::Draining)),
        }
    }

    /// Starts the thread that sleeps until others give room back; false when the system has no thread left.
    fn watch_shared(self: &Arc<Self>) -> bool {
        let ledger = Arc::downgrade(self);
        // The thread ends by itself, at the latest `SHARED_WAIT_MAX` after nobody waits any more.
        std::thread::Builder::new().name("budget-watch".into()).spawn(move || follow_shared(&ledger)).is_ok()
    }
}

fn follow_shared(ledger: &Weak<Ledger>) {
    while let Some(ledger) = ledger.upgrade() {
        let Some((shared, _)) = &ledger.shared else { return };
        let generation = shared.generation();
        // Looks at what the others hold, and lets in whoever fits now.
        let waiting = ledger.carry_out(0, |books, _| {
            books.watching = books.holdings.census().waiters > 0;
            books.watching
        });
        if !waiting {
            return;
        }
        shared.wait(generation, SHARED_WAIT_MAX);
    }
}

/// Who is to be woken after a command.
struct Wake {
    changed: bool,
    spill: bool,
    forget: bool,
}

impl Books {
    /// Enters for room; who has to wait is told by the receiver.
    fn put_admission(
        &mut self,
        id: ObjectId,
        enter: impl FnOnce(&mut Holdings<Arc<Stored>>) -> Result<Admission, Refusal>,
    ) -> Result<Option<oneshot::Receiver<Result<(), Refusal>>>, Refusal> {
        Ok(match enter(&mut self.holdings)? {
            Admission::Admitted => None,
            Admission::Waiting => {
                let (answer, answered) = oneshot::channel();
                self.putting.insert(id, answer);
                Some(answered)
            }
        })
    }

    fn receive_admission(
        &mut self,
        id: ReceiveId,
        enter: impl FnOnce(&mut Holdings<Arc<Stored>>) -> Result<Admission, Refusal>,
    ) -> Result<Option<oneshot::Receiver<Result<(), Refusal>>>, Refusal> {
        Ok(match enter(&mut self.holdings)? {
            Admission::Admitted => None,
            Admission::Waiting => {
                let (answer, answered) = oneshot::channel();
                self.receiving.insert(id, answer);
                Some(answered)
            }
        })
    }

    fn take_effects(&mut self, freed: &mut Vec<(Arc<Stored>, End)>) {
        while let Some(effect) = self.holdings.poll_effect() {
            match effect {
                Effect::Admitted(id) => answer(self.putting.remove(&id), Ok(())),
                Effect::Refused(id, refusal) => answer(self.putting.remove(&id), Err(refusal)),
                Effect::ReceiveAdmitted(id) => answer(self.receiving.remove(&id), Ok(())),
                Effect::ReceiveRefused(id, refusal) => answer(self.receiving.remove(&id), Err(refusal)),
                Effect::Cut { object, lease, why } => {
                    if let Some(cut) = self.readers.remove(&(object, lease)) {
                        // A reader that is gone has stopped already.
                        cut.send(why).unwrap_or_default();
                    }
                }
                Effect::Freed { end, payload, .. } => freed.push((payload, end)),
                Effect::Forget(id) if self.forgotten.len() < FORGOTTEN_MAX => self.forgotten.push_back(id),
                Effect::Forget(id) => {
                    tracing::warn!(object = %id, "too many durable copies wait to be removed; one is left for a sweep")
                }
            }
        }
    }
}

fn answer(waiter: Option<Answer>, result: Result<(), Refusal>) {
    if let Some(waiter) = waiter {
        // A waiter that is gone gives its room back by the guard it has dropped or will drop.
        waiter.send(result).unwrap_or_default();
    }
}

/// Room for an object that is not there yet, or a place in the queue for it. Dropping it gives that back.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    pub(crate) id: ObjectId,
    used: bool,
}

impl Reservation {
    /// The object is there now.
    pub(crate) fn used(mut self) {
        self.used = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.used {
            self.ledger.carry_out(0, |books, _| {
                books.putting.remove(&self.id);
                books.holdings.cancel(self.id);
            });
        }
    }
}

/// Room for a payload that is received and used here. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct ReceiveRoom {
    ledger: Arc<Ledger>,
    id: ReceiveId,
}

impl ReceiveRoom {
    /// Takes more, for a payload of `bytes` in all.
    pub(crate) async fn grow(&self, bytes: u64) -> Result<(), Refusal> {
        let id = self.id;
        self.ledger
            .wait_for_room(0, |books, now| books.receive_admission(id, |holdings| holdings.receive_more(id, bytes, now)))
            .await
    }
}

impl Drop for ReceiveRoom {
    fn drop(&mut self) {
        self.ledger.carry_out(0, |books, _| {
            books.receiving.remove(&self.id);
            books.holdings.received(self.id);
        });
    }
}

/// A reader over TCP as the ledger knows it.
#[derive(Debug)]
pub(crate) struct ReaderWatch {
    ledger: Arc<Ledger>,
    reader: (ObjectId, LeaseId),
    watched: oneshot::Receiver<CutReason>,
}

impl ReaderWatch {
    /// Returns when the reader is to stop; `None` when another connection has taken its lease over. Cancel-safe, but
    /// once it has returned, the reader stops and does not ask again.
    pub(crate) async fn cut(&mut self) -> Option<CutReason> {
        (&mut self.watched).await.ok()
    }
}

impl Drop for ReaderWatch {
    fn drop(&mut self) {
        self.watched.close();
        self.ledger.carry_out(0, |books, _| {
            // Only our own entry: a resumed read has put its own in its place.
            if books.readers.get(&self.reader).is_some_and(oneshot::Sender::is_closed) {
                books.readers.remove(&self.reader);
            }
        });
    }
}
