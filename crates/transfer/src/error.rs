//! Why something of the data plane did not happen.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use zipline_contract::ErrorCode;
use zipline_core::object::{End, NotCounted, ReadError, Refusal, WriteError};
use zipline_core::pull::{PeerForbidden, PullError, RangeError};
use zipline_core::reference::{NarrowError, ReferenceError, SealError, WrongReceiver};
use zipline_sys::NotAdmitted;

use crate::tier::TierError;

/// An error of a put or a read. [`TransferError::code`] is the public one; the text has the numbers.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// No key ring: this proxy is a plain one.
    #[error("this proxy has no keys; it neither makes nor opens references")]
    NoKeys,
    /// The token gives no reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No reference can be sealed now.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The reference is another service's.
    #[error(transparent)]
    WrongReceiver(#[from] WrongReceiver),
    /// The narrowing would widen.
    #[error(transparent)]
    Narrow(#[from] NarrowError),
    /// The range is not there.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A put asks for what no put gets.
    #[error("{0}")]
    Options(String),
    /// No room.
    #[error(transparent)]
    Room(#[from] Refusal),
    /// The writer and its object do not agree.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The object of this node cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The object ended while it was read or written here.
    #[error("the object was {} meanwhile", .0.name())]
    Ended(End),
    /// The acknowledgement is no retrieval.
    #[error(transparent)]
    NotCounted(#[from] NotCounted),
    /// A read was to be acknowledged before it was whole.
    #[error("a read is acknowledged when every byte was verified, and this one is not whole")]
    Incomplete,
    /// The descriptor is no payload.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// The kernel has no memory, descriptor or randomness left for it.
    #[error("the system has no room for the payload: {0}")]
    System(#[from] io::Error),
    /// The address may not be dialled.
    #[error(transparent)]
    PeerForbidden(#[from] PeerForbidden),
    /// The durable tier.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The object was held by this address, but by an instance before this one.
    #[error("the object was held by an instance that is no more")]
    ProducerGone,
    /// The producer does not accept a connection.
    #[error("{peer} does not accept a connection{}: {source}", limit_text(.limit))]
    Unreachable {
        /// The producer.
        peer: SocketAddr,
        /// How long it was tried, if that was the reason.
        limit: Option<Duration>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The two ends do not agree on TLS: one of them has none, or shows a certificate of another trust domain.
    #[error("no TLS with {peer}: {source}; ZIPLINE_PULL_TLS and the key ring must be the same at both ends")]
    Tls {
        /// The producer.
        peer: SocketAddr,
        /// What was said.
        source: io::Error,
    },
    /// The read failed.
    #[error("reading from {peer}: {source}")]
    Pull {
        /// The producer.
        peer: SocketAddr,
        /// Why.
        source: PullError,
    },
    /// The writer of an object on this machine was silent for too long.
    #[error(transparent)]
    Idle(PullError),
    /// A question to the producer (state, acknowledgement, release, end) got no answer.
    #[error("{peer} did not answer: {source}")]
    Unanswered {
        /// The producer.
        peer: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

fn limit_text(limit: &Option<Duration>) -> String {
    limit.map(|limit| format!(" within {} ms", limit.as_millis())).unwrap_or_default()
}

impl TransferError {
    /// The public error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoKeys => ErrorCode::ReferenceUnknownKey,
            Self::Reference(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::WrongReceiver(error) => error.code(),
            Self::Narrow(error) => error.code(),
            Self::Range(error) => error.code(),
            Self::Options(_) | Self::Incomplete => ErrorCode::RequestInvalid,
            Self::Room(refusal) => refusal.code(),
            Self::Write(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Ended(end) => end.code(),
            Self::NotCounted(error) => error.code(),
            Self::NotAdmitted(NotAdmitted::TooLarge { .. }) => ErrorCode::PayloadTooLarge,
            Self::NotAdmitted(_) => ErrorCode::RequestInvalid,
            Self::System(_) => ErrorCode::BufferFull,
            Self::PeerForbidden(error) => error.code(),
            Self::Tier(error) => error.code(),
            Self::ProducerGone => ErrorCode::ProducerGone,
            Self::Tls { .. } => ErrorCode::PullUnauthenticated,
            Self::Unreachable { .. } | Self::Unanswered { .. } => ErrorCode::ProducerUnreachable,
            Self::Pull { source, .. } | Self::Idle(source) => source.code(),
        }
    }

    /// After how long it may be tried again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Room(Refusal::Full { next_expiry, .. }) => *next_expiry,
            _ => None,
        }
    }

    /// The error of a read from `peer`.
    pub(crate) fn pull(peer: SocketAddr) -> impl Fn(PullError) -> Self {
        move |source| Self::Pull { peer, source }
    }
}
