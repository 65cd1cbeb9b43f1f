//! The producer's side of [`Holdings`]: room, then bytes, then an object that is complete.

use core::time::Duration;

use zipline_contract::ErrorCode;

use super::holdings::{Holdings, Object};
use super::lease::Leases;
use super::room::{Admission, NoRoom, Wish};
use super::{End, Now, ObjectId, Owner, State};
use crate::tier::Durability;
use crate::time::{Monotonic, WallTime};

/// An object to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// Whom it belongs to.
    pub owner: Owner,
    /// Its size, where it is known before its bytes come.
    pub size: Option<u64>,
    /// How long it is held, by the clock that does not jump.
    pub ttl: Duration,
    /// When its references expire, by the clock that others read. It ends at whichever comes first.
    pub expires: WallTime,
    /// What is promised about it beyond this process' life.
    pub durability: Durability,
}

impl<P> Holdings<P> {
    /// Takes room for an object of `bytes` (or for its first part, where its size is unknown), or waits for it. Waiting
    /// ends with [`Effect::Admitted`](super::Effect::Admitted) or [`Effect::Refused`](super::Effect::Refused).
    ///
    /// What is admitted is used by [`Holdings::insert`] or given back by [`Holdings::cancel`].
    pub fn reserve(&mut self, id: ObjectId, bytes: u64, now: Now) -> Result<Admission, Refusal> {
        if self.draining && !mutant!("drain-takes-puts") {
            return Err(Refusal::Draining);
        }
        let in_use = self.objects.contains_key(&id) || self.reserved.contains_key(&id) || self.held.is_waiting(id);
        if in_use || self.lingering.contains_key(&id) || self.ended.end(id).is_some() {
            return Err(Refusal::IdTaken);
        }
        let admission = self.enter_held(id, bytes, Wish { bytes, places: 1 }, now.mono)?;
        if admission == Admission::Admitted {
            self.reserved.insert(id, bytes);
        }
        Ok(admission)
    }

    /// Gives a reservation back, or the place in the queue. Nothing happens where there is neither.
    pub fn cancel(&mut self, id: ObjectId) {
        if self.objects.contains_key(&id) {
            return;
        }
        if let Some(bytes) = self.reserved.remove(&id) {
            self.held.leave(if mutant!("budget-kept-on-cancel") { 0 } else { bytes }, 1);
        } else {
            self.held.withdraw(id);
        }
        // Also a place in the queue: whoever stood behind a large payload may fit.
        self.admit_waiting();
    }

    /// Begins an object in the room reserved for it. It can be read from now on, as far as it is written.
    ///
    /// Without a reservation the payload comes back.
    pub fn insert(&mut self, id: ObjectId, new: NewObject, payload: P, now: Now) -> Result<(), P> {
        let Some(charged) = self.reserved.remove(&id) else { return Err(payload) };
        let deadline = now.mono.saturating_add(new.ttl);
        self.expiries.insert((deadline, id));
        self.writers += 1;
        self.counts.writing += 1;
        let places = self.places_of_new(new.durability);
        self.objects.insert(
            id,
            Object {
                state: State::Writing,
                owner: new.owner,
                acknowledged: 0,
                size: new.size,
                written: 0,
                charged,
                expires: new.expires,
                deadline,
                leases: Leases::default(),
                places,
                payload,
            },
        );
        Ok(())
    }

    /// Takes more room, so that the object may have `bytes` in all, or waits for it as [`Holdings::reserve`] does.
    pub fn grow(&mut self, id: ObjectId, bytes: u64, now: Now) -> Result<Admission, Refusal> {
        let Some(object) = self.objects.get(&id) else { return Err(self.gone(id)) };
        let more = bytes.saturating_sub(object.charged);
        if more == 0 {
            return Ok(Admission::Admitted);
        }
        if self.held.is_waiting(id) {
            return Ok(Admission::Waiting);
        }
        let admission = self.enter_held(id, bytes, Wish { bytes: more, places: 0 }, now.mono)?;
        if admission == Admission::Admitted
            && let Some(object) = self.objects.get_mut(&id)
        {
            object.charged += more;
        }
        Ok(admission)
    }

    /// Notes that `bytes` of the object are written in all; readers may be sent that much.
    pub fn written(&mut self, id: ObjectId, bytes: u64) -> Result<(), WriteError> {
        let object = self.writable(id)?;
        let room = object.size.map_or(object.charged, |size| size.min(object.charged));
        if bytes > room {
            return Err(WriteError::TooMuch { written: bytes, room });
        }
        object.written = object.written.max(bytes);
        Ok(())
    }

    /// The last byte was written: the object has `size` bytes.
    pub fn finish(&mut self, id: ObjectId, size: u64) -> Result<(), WriteError> {
        let object = self.writable(id)?;
        if let Some(declared) = object.size
            && declared != size
        {
            return Err(WriteError::OtherSize { declared, written: size });
        }
        if size > object.charged {
            return Err(WriteError::TooMuch { written: size, room: object.charged });
        }
        let Some(next) = object.state.finished() else { return Err(WriteError::Finished) };
        object.state = next;
        object.size = Some(size);
        object.written = size;
        let surplus = object.charged - size;
        object.charged = size;
        self.writers -= 1;
        self.counts.available += 1;
        self.held.leave(if mutant!("surplus-kept") { 0 } else { surplus }, 0);
        self.held.withdraw(id);
        self.may_move(id);
        self.admit_waiting();
        Ok(())
    }

    /// The writer failed: the object ends, and its readers are told. Nothing happens once it is complete or over.
    pub fn abort(&mut self, id: ObjectId, now: Now) {
        self.end(id, State::writer_failed, now.mono);
    }

    /// Ends the object for everybody: it was freed, or the call it belongs to is over. False when it had ended before.
    pub fn free(&mut self, id: ObjectId, now: Now) -> bool {
        self.end(id, State::freed, now.mono)
    }

    fn enter_held(&mut self, id: ObjectId, total: u64, wish: Wish, now: Monotonic) -> Result<Admission, Refusal> {
        let bytes_max = self.held.limits().bytes_max;
        if total > bytes_max {
            return Err(Refusal::TooLarge { bytes: total, bytes_max });
        }
        self.held.enter(id, wish, now).map_err(|refusal| match refusal {
            NoRoom::TooLarge => Refusal::TooLarge { bytes: total, bytes_max },
            NoRoom::Full => self.full(now),
        })
    }

    fn writable(&mut self, id: ObjectId) -> Result<&mut Object<P>, WriteError> {
        let ended = self.ended.end(id);
        match self.objects.get_mut(&id) {
            Some(object) if object.state == State::Writing => Ok(object),
            Some(_) => Err(WriteError::Finished),
            None => Err(WriteError::Ended(ended.unwrap_or(End::Released))),
        }
    }

    fn gone(&self, id: ObjectId) -> Refusal {
        Refusal::Ended(self.ended.end(id).unwrap_or(End::Released))
    }
}

/// Why there is no room, with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Larger than the whole buffer: waiting cannot help.
    #[error("the payload has {bytes} bytes or more, the buffer {bytes_max}")]
    TooLarge {
        /// Bytes wanted in all.
        bytes: u64,
        /// Bytes of the buffer.
        bytes_max: u64,
    },
    /// Nothing became free in time, or too many wait already.
    #[error("the buffer holds {bytes} of {bytes_max} bytes in {objects} of {objects_max} payloads, and {waiters} wait for room")]
    Full {
        /// Bytes held, also by others who share the budget.
        bytes: u64,
        /// Bytes of the buffer.
        bytes_max: u64,
        /// Payloads held.
        objects: usize,
        /// Payloads that may be held.
        objects_max: usize,
        /// Who waits.
        waiters: usize,
        /// In how long the next object expires, if none is read before: no use in trying sooner.
        next_expiry: Option<Duration>,
    },
    /// The instance is shutting down.
    #[error("the instance is shutting down and takes no more payloads")]
    Draining,
    /// The object ended while its writer waited.
    #[error("the object was {} while its writer waited for room", .0.name())]
    Ended(End),
    /// Two objects were given one id: the driver's generator is broken.
    #[error("the id is in use, or was a moment ago")]
    IdTaken,
}

impl Refusal {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::Full { .. } | Self::IdTaken => ErrorCode::BufferFull,
            Self::Draining => ErrorCode::Draining,
            Self::Ended(end) => end.code(),
        }
    }
}

/// Why bytes cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object ended before its writer was done.
    #[error("the object was {} before it was complete", .0.name())]
    Ended(End),
    /// It is complete.
    #[error("the object is complete; it is written once")]
    Finished,
    /// More than was declared or than there is room for.
    #[error("{written} bytes are written, room is for {room}")]
    TooMuch {
        /// Bytes written in all.
        written: u64,
        /// Bytes there is room for.
        room: u64,
    },
    /// Fewer than were declared.
    #[error("{declared} bytes were declared, {written} were written")]
    OtherSize {
        /// Bytes declared.
        declared: u64,
        /// Bytes written.
        written: u64,
    },
}

impl WriteError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Ended(end) => end.code(),
            Self::Finished | Self::TooMuch { .. } | Self::OtherSize { .. } => ErrorCode::RequestInvalid,
        }
    }
}
