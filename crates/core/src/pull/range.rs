//! Ranges of bytes, as HTTP asks for them and as an object can give them.
//!
//! One `Range` of one run, `bytes=FIRST-LAST` or `bytes=FIRST-`; lists of ranges are refused, as HTTP allows. A suffix
//! (`bytes=-N`) is understood where the size is known. [`ByteRange`] is what was asked for; [`ByteRange::resolve`]
//! gives the [`Span`] to send once the object is at hand. Offsets are below 2^64 - 1, since that size means "unknown".

use core::fmt;

use zipline_contract::ErrorCode;

use crate::reference::Extent;

/// The bytes that are asked for: from `first` to `last`, both included, or to the end, wherever that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    first: u64,
    last: Option<u64>,
}

/// Bytes of an object that are to be sent: from `first` up to, without, `limit` or the object's end if that comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset behind the last byte that may be sent; [`u64::MAX`]: all there will be.
    pub limit: u64,
}

impl Span {
    /// A whole object.
    pub const WHOLE: Self = Self { first: 0, limit: u64::MAX };

    /// Offset behind the last byte of the span in an object of `size` bytes.
    pub const fn end(self, size: u64) -> u64 {
        if self.limit < size { self.limit } else { size }
    }
}

impl ByteRange {
    /// The bytes `first..=last`; `None` when that is no run of bytes.
    pub const fn closed(first: u64, last: u64) -> Option<Self> {
        if first > last || last == u64::MAX {
            return None;
        }
        Some(Self { first, last: Some(last) })
    }

    /// Everything from `first` on.
    pub const fn starting_at(first: u64) -> Self {
        Self { first, last: None }
    }

    /// Reads an HTTP `Range` value. `size` is the size of what the range counts in, if that is known.
    pub fn parse(value: &str, size: Option<u64>) -> Result<Self, RangeError> {
        let Some((unit, set)) = value.split_once('=') else { return Err(RangeError::Malformed) };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Err(RangeError::Unit);
        }
        if set.contains(',') {
            return Err(RangeError::Several);
        }
        let (first, last) = set.trim().split_once('-').ok_or(RangeError::Malformed)?;
        match (first, last) {
            ("", "") => Err(RangeError::Malformed),
            ("", length) => suffix(number(length)?, size),
            (first, "") => Ok(Self::starting_at(number(first)?)),
            // A last byte beyond every offset asks for all there is.
            (first, last) => Self::closed(number(first)?, number(last)?.min(u64::MAX - 1)).ok_or(RangeError::Backwards),
        }
    }

    /// Reads a `Range` of the pull port: only the exact text that [`ByteRange`] prints, since it stands under a MAC.
    pub fn parse_exact(value: &str) -> Result<Self, RangeError> {
        let range = Self::parse(value, None)?;
        if range.to_string() == value { Ok(range) } else { Err(RangeError::Malformed) }
    }

    /// Offset of the first byte.
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Offset of the last byte, if one was named.
    pub const fn last(self) -> Option<u64> {
        self.last
    }

    /// The same bytes, counted in the object of which only `part` is seen.
    ///
    /// `None` when the first byte lies outside of the part. A last byte outside of it is cut, as HTTP does.
    pub fn within(self, part: Extent) -> Option<Self> {
        let first = part.first().checked_add(self.first).filter(|first| *first < part.end())?;
        let end = part.end() - 1;
        let last = self.last.map_or(end, |last| part.first().saturating_add(last).min(end));
        Self::closed(first, last)
    }

    /// What to send of an object of `size` bytes, or of one whose size is not known yet.
    ///
    /// A range that begins exactly at the end is satisfied by nothing: a reader that resumes there learns that it has all.
    pub const fn resolve(self, size: Option<u64>) -> Result<Span, RangeError> {
        if let Some(size) = size
            && self.first > size
        {
            return Err(RangeError::Unsatisfiable { first: self.first, size });
        }
        let limit = match self.last {
            Some(last) => last + 1, // Below u64::MAX, checked when it was made.
            None => u64::MAX,
        };
        Ok(Span { first: self.first, limit })
    }
}

impl From<Extent> for ByteRange {
    fn from(extent: Extent) -> Self {
        Self { first: extent.first(), last: Some(extent.end() - 1) }
    }
}

/// As it stands in a `Range` header.
impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) => write!(f, "bytes={}-{last}", self.first),
            None => write!(f, "bytes={}-", self.first),
        }
    }
}

fn suffix(length: u64, size: Option<u64>) -> Result<ByteRange, RangeError> {
    let size = size.ok_or(RangeError::SuffixOfUnknown)?;
    if length == 0 || size == 0 {
        return Err(RangeError::Unsatisfiable { first: size, size });
    }
    Ok(ByteRange::starting_at(size.saturating_sub(length)))
}

/// Digits only: no sign, no space. More than 2^64 is more than any offset.
fn number(digits: &str) -> Result<u64, RangeError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RangeError::Malformed);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

/// A range that cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not of the form `bytes=FIRST-LAST`.
    #[error("a range is bytes=FIRST-LAST, bytes=FIRST- or, of a known size, bytes=-LENGTH")]
    Malformed,
    /// Another unit than bytes.
    #[error("ranges are given in bytes only")]
    Unit,
    /// More than one range.
    #[error("one range at a time is given, not several")]
    Several,
    /// The last byte lies before the first.
    #[error("the range's last byte lies before its first")]
    Backwards,
    /// A suffix of an object that is still being written.
    #[error("the last bytes of an object can be asked for only when its size is known")]
    SuffixOfUnknown,
    /// Begins behind the end.
    #[error("the range begins at byte {first}, the payload has {size} bytes")]
    Unsatisfiable {
        /// Where it begins.
        first: u64,
        /// How many bytes there are.
        size: u64,
    },
}

impl RangeError {
    /// The public error: a range that is well formed but not there is told apart.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Unsatisfiable { .. } | Self::SuffixOfUnknown => ErrorCode::RangeUnsatisfiable,
            Self::Malformed | Self::Unit | Self::Several | Self::Backwards => ErrorCode::RequestInvalid,
        }
    }
}
