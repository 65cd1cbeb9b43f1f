//! The life of an object.
//!
//! ```text
//!            put: bytes still come                      put: bytes all there
//!                     │                                          │
//!                     ▼                 finished                 ▼
//!              ┌─────────────┐ ───────────────────────► ┌─────────────────┐
//!              │   Writing   │                          │    Available    │   both are read under leases
//!              └─────────────┘                          └─────────────────┘   (cut-through, or whole)
//!   writer failed │  │ last retrieval, freed, expired      │    │    │
//!                 │  └──────────────────────────┐          │    │    │ expired
//!                 │                             ▼          │    │    └────────► Ended(Expired)
//!                 │                    as from Available   │    │ freed, or the call it belongs to ended
//!                 ▼                                        │    └─────────────► Ended(Released)
//!           Ended(Aborted)                                 │ last retrieval
//!                                                          └──────────────────► Ended(Retrieved)
//! ```
//!
//! An end is final, and its memory is given back at once. Which retrieval is the last depends on the [`Owner`]. Leases
//! come and go within `Writing` and `Available` and change neither. The tier is where the bytes lie, not a state.

use core::num::NonZeroU32;

use zipline_contract::ErrorCode;

/// Where an object is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Bytes still come; what is there can be read.
    Writing,
    /// Every byte is there.
    Available,
    /// Over; how, says the [`End`].
    Ended(End),
}

/// How an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// By its last retrieval.
    Retrieved,
    /// It was freed, or the call it belonged to is over.
    Released,
    /// Nobody read it in time.
    Expired,
    /// Its writer failed before it was complete.
    Aborted,
}

impl End {
    /// What a reader of the ended object is told.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Retrieved | Self::Released => ErrorCode::ReferenceExhausted,
            Self::Expired => ErrorCode::ReferenceExpired,
            Self::Aborted => ErrorCode::PayloadAborted,
        }
    }

    /// The word for it, in metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retrieved => "retrieved",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Aborted => "aborted",
        }
    }
}

impl State {
    /// The word for it, in metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Available => "available",
            Self::Ended(end) => end.name(),
        }
    }

    /// The last byte was written. `None`: there is no writer in this state.
    #[must_use]
    pub const fn finished(self) -> Option<Self> {
        match self {
            Self::Writing => Some(Self::Available),
            Self::Available | Self::Ended(_) => None,
        }
    }

    /// The writer failed, or went away before the last byte. `None`: there is no writer in this state.
    #[must_use]
    pub const fn writer_failed(self) -> Option<Self> {
        match self {
            Self::Writing => Some(Self::Ended(End::Aborted)),
            Self::Available | Self::Ended(_) => None,
        }
    }

    /// The last retrieval was acknowledged: of parts, that may be before the last byte is written.
    #[must_use]
    pub const fn retrieved(self) -> Option<Self> {
        self.over(End::Retrieved)
    }

    /// It was freed for everybody, or its call ended.
    #[must_use]
    pub const fn freed(self) -> Option<Self> {
        self.over(End::Released)
    }

    /// Its time is over.
    #[must_use]
    pub const fn expired(self) -> Option<Self> {
        self.over(End::Expired)
    }

    const fn over(self, end: End) -> Option<Self> {
        match self {
            Self::Writing | Self::Available => Some(Self::Ended(end)),
            Self::Ended(_) => None,
        }
    }
}

/// Whom an object belongs to, which decides when a retrieval is its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A call: it lives until the call is over, and any number of readers may read it, up to the attempts, so that
    /// retried, hedged and mirrored requests work.
    Call,
    /// A call that gave that up (`Zipline-Retain: retrieval`): freed at the first acknowledgement, at the latest with
    /// the call.
    CallUntilRetrieved,
    /// A put: it lives until it was retrieved this often.
    Put {
        /// How often.
        retrievals: NonZeroU32,
    },
}

impl Owner {
    /// Retrievals granted in all.
    pub const fn retrievals(self) -> NonZeroU32 {
        match self {
            Self::Call | Self::CallUntilRetrieved => NonZeroU32::MIN,
            Self::Put { retrievals } => retrievals,
        }
    }

    /// Retrievals left after `acknowledged` of them; 0 ends the object.
    pub const fn retrievals_left(self, acknowledged: u32) -> u32 {
        match self {
            Self::Call => 1,
            Self::CallUntilRetrieved | Self::Put { .. } => self.retrievals().get().saturating_sub(acknowledged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 6] = [
        State::Writing,
        State::Available,
        State::Ended(End::Retrieved),
        State::Ended(End::Released),
        State::Ended(End::Expired),
        State::Ended(End::Aborted),
    ];

    #[test]
    fn an_end_is_final() {
        for state in &STATES[2..] {
            let next = [state.finished(), state.writer_failed(), state.retrieved(), state.freed(), state.expired()];
            assert_eq!(next, [None; 5], "{}", state.name());
        }
    }

    #[test]
    fn only_a_writer_can_finish_or_fail() {
        assert_eq!(State::Writing.finished(), Some(State::Available));
        assert_eq!(State::Writing.writer_failed(), Some(State::Ended(End::Aborted)));
        assert_eq!(State::Available.finished(), None);
        assert_eq!(State::Available.writer_failed(), None);
    }

    #[test]
    fn a_call_s_payload_outlives_its_acknowledgements_and_a_put_does_not() {
        assert_eq!(Owner::Call.retrievals_left(7), 1);
        assert_eq!(Owner::CallUntilRetrieved.retrievals_left(1), 0);
        let put = Owner::Put { retrievals: NonZeroU32::MIN.saturating_add(2) };
        assert_eq!((put.retrievals_left(2), put.retrievals_left(3)), (1, 0));
    }
}
