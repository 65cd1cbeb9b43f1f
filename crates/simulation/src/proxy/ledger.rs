//! Drives what a proxy holds: carries out effects, keeps the one timer, and tells the books everything.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use zipline_core::drain::Held;
use zipline_core::object::{
    Acknowledged, Admission, Census, CutReason, Effect, End as ObjectEnd, HoldingLimits, Holdings, LeaseId, LeaseRequest,
    NewObject, NotCounted, Now, ObjectId, ReadError, ReceiveId, Refusal, Via, View, WriteError,
};
use zipline_core::pull::{SumKind, Written};
use zipline_core::time::Monotonic;

use super::Proxy;
use crate::check::Checked;
use crate::check::Invariant;
use crate::check::books::{Acknowledge, Books, Grant};
use crate::coverage::Transition as T;
use crate::wait::{Bell, Receiver, Sender, once};

/// Calls of a timer at one instant, before it is said to stand still.
const TIMER_CALLS_MAX: u32 = 64;

/// An object's payload: what is there of it.
pub(crate) struct Stored {
    pub(crate) id: ObjectId,
    pub(crate) content: u64,
    pub(crate) kind: SumKind,
    progress: Cell<Progress>,
    bell: Bell,
}

/// How far a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Whole blocks that may be read.
    Writing(u64),
    Complete(u64),
    Ended,
}

impl Stored {
    pub(crate) fn new(id: ObjectId, content: u64, kind: SumKind) -> Rc<Self> {
        Rc::new(Self { id, content, kind, progress: Cell::new(Progress::Writing(0)), bell: Bell::default() })
    }

    /// What may be read; `None` once the object has ended.
    pub(crate) fn written(&self) -> Option<Written> {
        match self.progress.get() {
            Progress::Writing(bytes) => Some(Written { bytes, complete: false }),
            Progress::Complete(bytes) => Some(Written { bytes, complete: true }),
            Progress::Ended => None,
        }
    }

    pub(crate) fn set(&self, progress: Progress, proxy: &Proxy) {
        self.progress.set(progress);
        self.bell.ring(&proxy.world.exec);
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}

type Answer = Sender<Result<(), Refusal>>;

/// The table and who waits for it.
pub(crate) struct Table {
    holdings: Holdings<Rc<Stored>>,
    putting: BTreeMap<ObjectId, Answer>,
    receiving: BTreeMap<ReceiveId, Answer>,
    readers: BTreeMap<(ObjectId, LeaseId), (u64, Sender<CutReason>)>,
    numbers: u64,
    timer_at: Option<Monotonic>,
}

impl Table {
    pub(super) fn new(limits: HoldingLimits) -> Self {
        Self {
            holdings: Holdings::new(limits),
            putting: BTreeMap::new(),
            receiving: BTreeMap::new(),
            readers: BTreeMap::new(),
            numbers: 0,
            timer_at: None,
        }
    }
}

impl core::fmt::Debug for Stored {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Stored({})", self.id)
    }
}

/// An object as a producer's answer shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) stored: Rc<Stored>,
    pub(crate) size: Option<u64>,
    pub(crate) retrievals_left: u32,
    pub(crate) expires: zipline_core::time::WallTime,
}

impl Shown {
    fn of(view: &View<'_, Rc<Stored>>) -> Self {
        Self { stored: Rc::clone(view.payload), size: view.size, retrievals_left: view.retrievals_left, expires: view.expires }
    }
}

impl Proxy {
    /// Asks or tells the table something, tells the books what it answered, and carries out what follows.
    fn command<T>(
        self: &Rc<Self>,
        run: impl FnOnce(&mut Holdings<Rc<Stored>>, Now) -> T,
        tell: impl FnOnce(&mut Books, &T, Now) -> Checked,
    ) -> T {
        self.note_elsewhere();
        self.carry_out(run, tell)
    }

    fn carry_out<T>(
        self: &Rc<Self>,
        run: impl FnOnce(&mut Holdings<Rc<Stored>>, Now) -> T,
        tell: impl FnOnce(&mut Books, &T, Now) -> Checked,
    ) -> T {
        let (now, check) = (self.now(), &self.world.check);
        let answer = run(&mut self.table.borrow_mut().holdings, now);
        check.books(self.process, |books| tell(books, &answer, now));
        loop {
            let effect = self.table.borrow_mut().holdings.poll_effect();
            let Some(effect) = effect else { break };
            check.books(self.process, |books| books.effect(&effect, now));
            self.effect(effect);
        }
        let census = self.census();
        check.books(self.process, |books| books.settled(census, now));
        self.follow(census);
        answer
    }

    fn effect(self: &Rc<Self>, effect: Effect<Rc<Stored>>) {
        let mut table = self.table.borrow_mut();
        match effect {
            Effect::Admitted(id) => give(table.putting.remove(&id), Ok(())),
            Effect::Refused(id, refusal) => {
                self.world.hit(match refusal {
                    Refusal::Draining => T::PutSentAway,
                    Refusal::Ended(_) => T::GrowEnded,
                    _ => T::PutWaitOver,
                });
                give(table.putting.remove(&id), Err(refusal));
            }
            Effect::ReceiveAdmitted(id) => give(table.receiving.remove(&id), Ok(())),
            Effect::ReceiveRefused(id, refusal) => give(table.receiving.remove(&id), Err(refusal)),
            Effect::Cut { object, lease, why } => {
                self.world.hit(match why {
                    CutReason::Lapsed => T::LeaseLapsed,
                    CutReason::SlotRetrieved => T::LeaseCutBySlot,
                    CutReason::Ended(_) => T::LeaseCutByEnd,
                });
                self.note(|| format!("cuts {lease} off {object}: {why:?}"));
                if let Some((_, cut)) = table.readers.remove(&(object, lease)) {
                    cut.send(why);
                }
            }
            Effect::Forget(id) => self.note(|| format!("{id} has no durable copy to forget")),
            Effect::Freed { object, end, payload } => {
                drop(table);
                self.freed(object, end, &payload);
            }
        }
    }

    fn freed(&self, object: ObjectId, end: ObjectEnd, payload: &Stored) {
        let is_writing = matches!(payload.progress.get(), Progress::Writing(_));
        self.world.hit(match (end, is_writing) {
            (ObjectEnd::Retrieved, false) => T::ObjectRetrieved,
            (ObjectEnd::Retrieved, true) => T::ObjectRetrievedWhileWritten,
            (ObjectEnd::Released, false) => T::ObjectReleased,
            (ObjectEnd::Released, true) => T::ObjectReleasedWhileWritten,
            (ObjectEnd::Expired, false) => T::ObjectExpired,
            (ObjectEnd::Expired, true) => T::ObjectExpiredWhileWritten,
            (ObjectEnd::Aborted, _) => T::ObjectAborted,
        });
        self.note(|| format!("{object} has ended: {}", end.name()));
        payload.set(Progress::Ended, self);
    }

    /// What every change of the table means for others.
    fn follow(self: &Rc<Self>, census: Census) {
        let next = self.table.borrow().holdings.next_timeout();
        if self.table.borrow_mut().timer_at != next {
            self.table.borrow_mut().timer_at = next;
            self.rearm.ring(&self.world.exec);
        }
        if self.world.settings().shared_budget && self.world.publish(self.process, census.bytes) {
            self.wake_others();
        }
        if self.told_at.get().is_some() {
            let now = self.world.now();
            self.drain.borrow_mut().handle_held(now, held(census));
            self.drain_changed.ring(&self.world.exec);
        }
    }

    /// Others have given room of a shared budget back: whoever waits elsewhere may fit.
    pub(super) fn wake_others(&self) {
        for other in self.world.proxies.borrow().values() {
            if other.process != self.process && other.census().waiters > 0 {
                let waiting = Rc::clone(other);
                other.spawn(async move { waiting.note_elsewhere() });
            }
        }
    }

    fn note_elsewhere(self: &Rc<Self>) {
        if self.world.settings().shared_budget {
            let bytes = self.world.held_elsewhere(self.process);
            self.carry_out(|holdings, _| holdings.set_held_elsewhere(bytes), |books, (), _| books.set_elsewhere(bytes));
        }
    }

    /// What is held now.
    pub(crate) fn census(&self) -> Census {
        self.table.borrow().holdings.census()
    }

    /// Keeps the table's timer.
    pub(super) async fn keep_time(self: Rc<Self>) {
        loop {
            let next = self.table.borrow().holdings.next_timeout();
            let changed = self.rearm.until(&self.world.exec, || (self.table.borrow().timer_at != next).then_some(()));
            let due = async {
                match next {
                    Some(at) => self.world.timer(self.process, at).await,
                    None => std::future::pending().await,
                }
            };
            if let crate::wait::First::Right(()) = crate::wait::race(changed, due).await {
                self.timer_fired();
                if self.world.check.has_failed() {
                    return; // A timer that stays due would keep everything else from running.
                }
            }
        }
    }

    fn timer_fired(self: &Rc<Self>) {
        for _ in 0..TIMER_CALLS_MAX {
            self.command(|holdings, now| holdings.handle_timeout(now), |_, (), _| Ok(()));
            let next = self.table.borrow().holdings.next_timeout();
            if next.is_none_or(|at| at > self.world.now()) || self.world.check.has_failed() {
                return;
            }
        }
        self.world.check.fails(Invariant::Settles, "a timer stays due, however often it is served".into());
    }

    /// Takes room for an object, or waits for it.
    pub(super) async fn reserve(self: &Rc<Self>, id: ObjectId, bytes: u64) -> Result<Reservation, Refusal> {
        let reservation = Reservation { proxy: Rc::clone(self), id, used: false };
        let said = self.command(
            |holdings, now| holdings.reserve(id, bytes, now),
            |books, said, now| books.reserve(id, bytes, now, said.as_ref().copied()),
        );
        let waiting = match said {
            Ok(Admission::Admitted) => {
                self.world.hit(T::PutAdmitted);
                return Ok(reservation);
            }
            Ok(Admission::Waiting) => self.waits_to_put(id),
            Err(refusal) => {
                self.world.hit(match refusal {
                    Refusal::Draining => T::PutDraining,
                    Refusal::TooLarge { .. } => T::PutTooLarge,
                    _ => T::PutRefusedFull,
                });
                return Err(refusal);
            }
        };
        self.note(|| format!("{id} waits for room for {bytes} bytes"));
        waiting.await.unwrap_or(Err(Refusal::Draining))?;
        self.world.hit(T::PutWaited);
        Ok(reservation)
    }

    fn waits_to_put(&self, id: ObjectId) -> Receiver<Result<(), Refusal>> {
        let (sender, receiver) = once(&self.world.exec);
        self.table.borrow_mut().putting.insert(id, sender);
        receiver
    }

    pub(super) fn insert(self: &Rc<Self>, stored: &Rc<Stored>, new: NewObject, guaranteed_until: Monotonic) -> bool {
        let (id, payload) = (stored.id, Rc::clone(stored));
        self.command(
            |holdings, now| holdings.insert(id, new, payload, now).is_ok(),
            |books, _, now| books.insert(id, new, guaranteed_until, now),
        )
    }

    /// Takes more room for an object, or waits for it.
    pub(super) async fn grow(self: &Rc<Self>, id: ObjectId, bytes: u64) -> Result<(), Refusal> {
        let said = self.command(
            |holdings, now| holdings.grow(id, bytes, now),
            |books, said, now| books.grow(id, bytes, now, said.as_ref().copied()),
        );
        match said {
            Ok(Admission::Admitted) => self.world.hit(T::GrowAdmitted),
            Ok(Admission::Waiting) => {
                self.waits_to_put(id).await.unwrap_or(Err(Refusal::Draining))?;
                self.world.hit(T::GrowWaited);
            }
            Err(refusal) => {
                self.world.hit(T::GrowRefused);
                return Err(refusal);
            }
        }
        Ok(())
    }

    pub(super) fn wrote(self: &Rc<Self>, id: ObjectId, bytes: u64) -> Result<(), WriteError> {
        self.command(|holdings, _| holdings.written(id, bytes), |books, said, _| books.written(id, bytes, *said))
    }

    pub(super) fn finish(self: &Rc<Self>, id: ObjectId, size: u64) -> Result<(), WriteError> {
        let said = self.command(|holdings, _| holdings.finish(id, size), |books, said, _| books.finish(id, size, *said));
        if said.is_ok() {
            self.world.hit(T::ObjectAvailable);
            self.world.check.read(|reads| reads.finished(id, size));
        }
        said
    }

    pub(super) fn abort(self: &Rc<Self>, id: ObjectId) {
        if self.is_alive() {
            self.command(|holdings, now| holdings.abort(id, now), |books, (), _| books.abort(id));
        }
    }

    /// Ends an object for everybody.
    pub(crate) fn free(self: &Rc<Self>, id: ObjectId) {
        if self.is_alive() {
            self.command(|holdings, now| holdings.free(id, now), |books, said, _| books.free(id, *said));
        }
    }

    /// Lets a reader in, if it may.
    pub(super) fn grant(self: &Rc<Self>, id: ObjectId, asked: LeaseRequest) -> Result<Shown, ReadError> {
        let grant = Cell::new(None);
        let said = self.command(
            |holdings, now| holdings.grant(id, asked, now).map(|view| Shown::of(&view)),
            |books, said, now| {
                grant.set(books.grant(id, asked, now, said.as_ref().map(|_| ()).map_err(|error| *error))?);
                Ok(())
            },
        );
        self.world.hit(match (grant.get(), &said) {
            (Some(Grant::New), _) if asked.via == Via::Handover => T::LeaseHandover,
            (Some(Grant::New), _) => T::LeaseGranted,
            (Some(Grant::Again), _) => T::LeaseRegranted,
            (Some(Grant::Resumed), _) => T::LeaseResumed,
            (None, Err(ReadError::Ended(_))) => T::ReadEnded,
            (None, Err(ReadError::Attempts { .. })) => T::ReadAttempts,
            (None, Err(ReadError::SlotRetrieved { .. })) => T::ReadSlot,
            (None, Err(ReadError::Acknowledged)) => T::ReadAcknowledged,
            (None, _) => T::ReadUnknown,
        });
        if said.is_ok() {
            self.world.check.read(|reads| reads.granted(id, asked.lease, asked.slot));
            if self.told_at.get().is_some() {
                self.world.hit(T::DrainServedRead);
            }
        }
        self.note(|| format!("read of {id} by {}: {:?}", asked.lease, said.as_ref().map(|_| grant.get())));
        said
    }

    pub(super) fn status(self: &Rc<Self>, id: ObjectId, lease: Option<LeaseId>) -> Result<Shown, ReadError> {
        self.command(
            |holdings, now| holdings.status(id, lease, now).map(|view| Shown::of(&view)),
            |books, said, now| books.status(id, lease, now, said.as_ref().map(|_| ()).map_err(|error| *error)),
        )
    }

    pub(super) fn progress(self: &Rc<Self>, id: ObjectId, lease: LeaseId) {
        self.command(|holdings, now| holdings.progress(id, lease, now), |books, said, now| books.progress(id, lease, now, *said));
    }

    pub(super) fn acknowledge(self: &Rc<Self>, id: ObjectId, lease: LeaseId) -> Result<Acknowledged, NotCounted> {
        let what = Cell::new(None);
        let said = self.command(
            |holdings, now| holdings.acknowledge(id, lease, now),
            |books, said, now| {
                what.set(Some(books.acknowledge(id, lease, now, *said)?));
                Ok(())
            },
        );
        match what.get() {
            Some(Acknowledge::Counted { after_lapse }) => {
                self.world.check.read(|reads| reads.counted(id, lease));
                self.world.hit(if after_lapse { T::AckAfterLapse } else { T::AckCounted });
            }
            Some(Acknowledge::Repeated) => self.world.hit(T::AckRepeated),
            Some(Acknowledge::RepeatedAfterEnd) => self.world.hit(T::AckRepeatedAfterEnd),
            Some(Acknowledge::NotCounted) | None => self.world.hit(T::AckNotCounted),
        }
        self.note(|| format!("{lease} acknowledges {id}: {said:?}"));
        said
    }

    pub(super) fn release(self: &Rc<Self>, id: ObjectId, lease: LeaseId) {
        if !self.is_alive() {
            return;
        }
        let (was_active, lingered) = (Cell::new(false), self.census().lingering_bytes);
        self.command(
            |holdings, _| holdings.release(id, lease),
            |books, (), _| {
                was_active.set(books.release(id, lease)?);
                Ok(())
            },
        );
        if was_active.get() {
            self.world.hit(T::LeaseReleased);
            self.note(|| format!("{lease} of {id} is given back"));
        } else if self.census().lingering_bytes < lingered {
            self.world.hit(T::LingeringLeft);
        }
    }

    /// Registers a reader, so that it hears when it is cut. Another one of the same lease stops.
    pub(super) fn watch_reader(self: &Rc<Self>, object: ObjectId, lease: LeaseId) -> ReaderWatch {
        let (sender, cut) = once(&self.world.exec);
        let mut table = self.table.borrow_mut();
        table.numbers += 1;
        let number = table.numbers;
        let before = table.readers.insert((object, lease), (number, sender));
        drop(table);
        drop(before);
        ReaderWatch { proxy: Rc::clone(self), reader: (object, lease), number, cut }
    }

    /// Takes room for a payload to be received, or waits for it.
    pub(super) async fn receive(self: &Rc<Self>, bytes: u64) -> Result<ReceiveRoom, Refusal> {
        let id = {
            let mut table = self.table.borrow_mut();
            table.numbers += 1;
            ReceiveId(table.numbers)
        };
        let room = ReceiveRoom { proxy: Rc::clone(self), id };
        let said = self.command(
            |holdings, now| holdings.receive(id, bytes, now),
            |books, said, now| books.receive(id, bytes, now, said.as_ref().copied()),
        );
        room.admission(said).await?;
        Ok(room)
    }

    /// Takes no more puts.
    pub(super) fn quiesce(self: &Rc<Self>) {
        self.command(|holdings, _| holdings.drain(), |books, (), _| books.drain());
    }
}

/// What a census counts as held.
pub(super) fn held(census: Census) -> Held {
    let objects = census.objects as u64;
    Held { objects, bytes: census.bytes - census.lingering_bytes }
}

fn give(waiter: Option<Answer>, answer: Result<(), Refusal>) {
    if let Some(waiter) = waiter {
        waiter.send(answer);
    }
}

/// Room for an object that is not there yet. Dropping it gives it back.
pub(super) struct Reservation {
    proxy: Rc<Proxy>,
    id: ObjectId,
    used: bool,
}

impl Reservation {
    pub(super) fn used(mut self) {
        self.used = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.used || !self.proxy.is_alive() {
            return;
        }
        let id = self.id;
        if self.proxy.table.borrow_mut().putting.remove(&id).is_some() {
            self.proxy.world.hit(T::PutCancelled);
        }
        self.proxy.command(|holdings, _| holdings.cancel(id), |books, (), _| books.cancel(id));
    }
}

/// Room for a payload that is received. Dropping it gives it back.
pub(crate) struct ReceiveRoom {
    proxy: Rc<Proxy>,
    id: ReceiveId,
}

impl ReceiveRoom {
    /// Takes more, for a payload of `bytes` in all.
    pub(super) async fn grow(&self, bytes: u64) -> Result<(), Refusal> {
        let id = self.id;
        let said = self.proxy.command(
            |holdings, now| holdings.receive_more(id, bytes, now),
            |books, said, now| books.receive_more(id, bytes, now, said.as_ref().copied()),
        );
        self.admission(said).await
    }

    async fn admission(&self, said: Result<Admission, Refusal>) -> Result<(), Refusal> {
        let world = &self.proxy.world;
        match said {
            Ok(Admission::Admitted) => {
                world.hit(T::ReceiveAdmitted);
                Ok(())
            }
            Ok(Admission::Waiting) => {
                let (sender, receiver) = once(&world.exec);
                self.proxy.table.borrow_mut().receiving.insert(self.id, sender);
                let waited = receiver.await.unwrap_or(Err(Refusal::Draining));
                world.hit(if waited.is_ok() { T::ReceiveWaited } else { T::ReceiveRefused });
                waited
            }
            Err(refusal) => {
                world.hit(T::ReceiveRefused);
                Err(refusal)
            }
        }
    }
}

impl Drop for ReceiveRoom {
    fn drop(&mut self) {
        if !self.proxy.is_alive() {
            return;
        }
        let id = self.id;
        self.proxy.table.borrow_mut().receiving.remove(&id);
        self.proxy.command(|holdings, _| holdings.received(id), |books, (), _| books.received(id));
    }
}

/// A reader over TCP, as the ledger knows it.
pub(super) struct ReaderWatch {
    proxy: Rc<Proxy>,
    reader: (ObjectId, LeaseId),
    number: u64,
    cut: Receiver<CutReason>,
}

impl ReaderWatch {
    /// Returns when the reader is to stop.
    pub(super) async fn cut(&mut self) {
        (&mut self.cut).await;
    }
}

impl Drop for ReaderWatch {
    fn drop(&mut self) {
        let readers = &mut self.proxy.table.borrow_mut().readers;
        if readers.get(&self.reader).is_some_and(|(number, _)| *number == self.number) {
            readers.remove(&self.reader);
        }
    }
}
