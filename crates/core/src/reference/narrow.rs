//! Narrowing: giving on less than one was given.

use zipline_contract::ErrorCode;

use super::{Extent, Receiver, Reference};
use crate::time::WallTime;

/// What to take away. `None` leaves a part as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// A sooner expiry; a later one changes nothing.
    pub expires: Option<WallTime>,
    /// A part of what can be read. Counts from the first byte that the reference denotes, since its holder knows no
    /// other: in a reference that has a range, from that range's first byte.
    pub range: Option<Extent>,
    /// The only service that may read; none may be set yet, or the same.
    pub receiver: Option<Receiver>,
    /// The slot whose retrieval to use; none may be set yet, or the same.
    pub slot: Option<u32>,
}

impl Reference {
    /// The same reference with less in it. Whatever the result allows, `self` allowed.
    pub fn narrow(mut self, narrowing: Narrowing) -> Result<Self, NarrowError> {
        if let Some(expires) = narrowing.expires {
            self.expires = self.expires.min(expires);
        }
        if let Some(part) = narrowing.range {
            self.range = Some(self.part(part)?);
        }
        if let Some(receiver) = narrowing.receiver {
            match &self.receiver {
                Some(set) if *set != receiver => {
                    return Err(NarrowError::OtherReceiver { receiver: set.clone(), asked: receiver });
                }
                _ => self.receiver = Some(receiver),
            }
        }
        if let Some(slot) = narrowing.slot {
            match self.slot {
                Some(set) if set != slot => return Err(NarrowError::OtherSlot { slot: set, asked: slot }),
                _ if slot >= self.retrievals.get() => {
                    return Err(NarrowError::NoSuchSlot { asked: slot, slots: self.retrievals.get() });
                }
                _ => self.slot = Some(slot),
            }
        }
        Ok(self)
    }

    /// Where `part` of what this reference denotes lies in the object.
    fn part(&self, part: Extent) -> Result<Extent, NarrowError> {
        let outside = NarrowError::OutsideRange { asked: part, size: self.visible_size() };
        if self.visible_size().is_some_and(|size| part.end() > size) {
            return Err(outside);
        }
        let origin = if mutant!("narrowing-widens") { 0 } else { self.range.map_or(0, Extent::first) };
        part.first().checked_add(origin).and_then(|first| Extent::new(first, part.length())).ok_or(outside)
    }
}

/// A narrowing that would widen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NarrowError {
    /// Bytes that the reference does not give.
    #[error("bytes {}..{} are asked for, the reference gives {}", .asked.first(), .asked.end(), SizeText(*.size))]
    OutsideRange {
        /// What was asked for.
        asked: Extent,
        /// How many bytes there are, if that is known.
        size: Option<u64>,
    },
    /// The reference is for another service.
    #[error("the reference is for {receiver} and cannot be made one for {asked}")]
    OtherReceiver {
        /// Whom it is for.
        receiver: Receiver,
        /// Who was asked for.
        asked: Receiver,
    },
    /// The reference has another slot.
    #[error("the reference has slot {slot} and cannot be given slot {asked}")]
    OtherSlot {
        /// Its slot.
        slot: u32,
        /// The one asked for.
        asked: u32,
    },
    /// There are fewer slots.
    #[error("slot {asked} is asked for; the object has {slots}, counted from 0")]
    NoSuchSlot {
        /// The slot asked for.
        asked: u32,
        /// How many there are.
        slots: u32,
    },
}

impl NarrowError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::OutsideRange { .. } | Self::NoSuchSlot { .. } => ErrorCode::RequestInvalid,
            Self::OtherReceiver { .. } => ErrorCode::ReferenceWrongReceiver,
            Self::OtherSlot { .. } => ErrorCode::RequestInvalid,
        }
    }
}

struct SizeText(Option<u64>);

impl core::fmt::Display for SizeText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(size) => write!(f, "{size}"),
            None => f.write_str("no offsets that large"),
        }
    }
}
