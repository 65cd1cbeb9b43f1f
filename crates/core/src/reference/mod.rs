//! References: the sealed, opaque tokens that stand for objects.
//!
//! A producer seals what a consumer must know to read an object (where it is, until when, how much of it) with a key
//! of the trust domain. Functions carry the token and can neither read nor change it; every queue-proxy of the trust
//! domain opens it without asking anybody. What is left of the retrievals is the producer's to know: the token says
//! what was granted.
//!
//! ```text
//! KeyRing::seal(&Reference) ──► Token ──► KeyRing::open ──► Reference ──► Reference::narrow ──► KeyRing::seal …
//! ```
//!
//! [`Reference::narrow`] can only take away. Not here: reading the object (`pull`), and what becomes of it (`object`).

mod fields;
mod keys;
mod narrow;
mod receiver;
mod token;

pub use fields::FieldError;
pub(crate) use keys::Secret;
pub use keys::{DomainKey, KeyId, KeyRing, KeyRingError, RING_BYTES_MAX, RING_KEYS_MAX};
pub use narrow::{NarrowError, Narrowing};
pub use receiver::{Receiver, ReceiverError};
pub use token::{Fingerprint, InvalidReference, NONCE_BYTES, ReferenceError, SealError, Token, fingerprint, token_key};

use core::fmt;
use core::num::{NonZeroU32, NonZeroU64};
use std::net::SocketAddr;

use zipline_contract::ErrorCode;
use zipline_contract::limits::TIER_NAME_BYTES_MAX;

use crate::object::{Epoch, ObjectId};
use crate::pull::SumKind;
use crate::time::WallTime;

/// What a token says, once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Highest pull protocol that the producer speaks.
    pub pull_version: u8,
    /// Where its pull port is.
    pub producer: SocketAddr,
    /// Which instance must answer there.
    pub epoch: Epoch,
    /// Which of its objects.
    pub object: ObjectId,
    /// Bytes of the whole object; `None` while it was being written when this was sealed.
    pub size: Option<u64>,
    /// How its blocks are summed.
    pub sum: SumKind,
    /// When it ends, by the producer's clock.
    pub expires: WallTime,
    /// Retrievals granted in all; at most [`RETRIEVALS_MAX`](zipline_contract::limits::RETRIEVALS_MAX).
    pub retrievals: NonZeroU32,
    /// The branch of a broadcast whose own retrieval this is; below `retrievals`.
    pub slot: Option<u32>,
    /// The only service that may read.
    pub receiver: Option<Receiver>,
    /// The only bytes that may be read.
    pub range: Option<Extent>,
    /// Where else the object may lie, by configured name.
    pub tier: Option<TierName>,
}

impl Reference {
    /// Bytes that a holder sees: those of the range, or of the whole object; `None` when not known yet.
    pub fn visible_size(&self) -> Option<u64> {
        self.range.map_or(self.size, |range| Some(range.length().get()))
    }

    /// Whether a proxy that serves as any of `names` may resolve this reference.
    pub fn check_receiver<'a>(&self, names: impl IntoIterator<Item = &'a Receiver>) -> Result<(), WrongReceiver> {
        match &self.receiver {
            Some(receiver) if !mutant!("receiver-not-checked") && !names.into_iter().any(|name| name == receiver) => {
                Err(WrongReceiver { receiver: receiver.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A reference that is for somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reference is for {receiver}, which is not this service")]
pub struct WrongReceiver {
    /// Whom it is for.
    pub receiver: Receiver,
}

impl WrongReceiver {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::ReferenceWrongReceiver
    }
}

/// A non-empty run of an object's bytes whose end is a valid offset.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    first: u64,
    length: NonZeroU64,
}

impl Extent {
    /// `length` bytes from `first` on; `None` when the end would not be an offset.
    pub const fn new(first: u64, length: NonZeroU64) -> Option<Self> {
        match first.checked_add(length.get()) {
            Some(_) => Some(Self { first, length }),
            None => None,
        }
    }

    /// Offset of the first byte.
    pub const fn first(self) -> u64 {
        self.first
    }

    /// How many bytes.
    pub const fn length(self) -> NonZeroU64 {
        self.length
    }

    /// Offset behind the last byte.
    pub const fn end(self) -> u64 {
        self.first + self.length.get() // Checked when it was made.
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({}..{})", self.first, self.end())
    }
}

/// The configured name of a tier; never a location.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TierName(Box<str>);

/// A text that cannot name a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tier's name has 1 to {TIER_NAME_BYTES_MAX} characters a-z, 0-9, - and _")]
pub struct TierNameError;

impl TierName {
    /// The name, if it is one.
    pub fn new(name: &str) -> Result<Self, TierNameError> {
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if letters && (1..=TIER_NAME_BYTES_MAX).contains(&name.len()) { Ok(Self(name.into())) } else { Err(TierNameError) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
