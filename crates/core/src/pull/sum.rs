//! Sums over payload bytes: what a block is checked against before it reaches a function.

use core::fmt;
use core::str::FromStr;

/// Bytes of a sum's field on the wire, whatever its kind.
pub const SUM_BYTES: usize = 32;

/// How payload bytes are summed. A reference names the kind, never the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SumKind {
    /// CRC-32C: finds accidents, at memory speed. Does not stop an attacker on the wire.
    #[default]
    Crc32c,
    /// BLAKE3: finds every change, under the record's MAC also a deliberate one.
    Blake3,
}

impl SumKind {
    /// The name in headers and queries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Blake3 => "blake3",
        }
    }

    /// The number in references and records.
    pub const fn number(self) -> u8 {
        match self {
            Self::Crc32c => 1,
            Self::Blake3 => 2,
        }
    }

    /// The kind with that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Crc32c),
            2 => Some(Self::Blake3),
            _ => None,
        }
    }

    /// The sum of `bytes`.
    pub fn sum(self, bytes: &[u8]) -> Sum {
        let mut running = self.start();
        running.update(bytes);
        running.finish()
    }

    /// A sum that is fed piece by piece.
    pub fn start(self) -> RunningSum {
        match self {
            Self::Crc32c => RunningSum::Crc32c(0),
            Self::Blake3 => RunningSum::Blake3(Box::new(blake3::Hasher::new())),
        }
    }
}

impl fmt::Display for SumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no sum kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sum is crc32c or blake3")]
pub struct UnknownSum;

impl FromStr for SumKind {
    type Err = UnknownSum;

    fn from_str(text: &str) -> Result<Self, UnknownSum> {
        match text {
            "crc32c" => Ok(Self::Crc32c),
            "blake3" => Ok(Self::Blake3),
            _ => Err(UnknownSum),
        }
    }
}

/// A finished sum, as it stands in a record: crc32c in the first four bytes (big-endian) and zeros, or BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum([u8; SUM_BYTES]);

impl Sum {
    /// The sum that a record's field holds.
    pub const fn from_bytes(bytes: [u8; SUM_BYTES]) -> Self {
        Self(bytes)
    }

    /// The record's field.
    pub const fn as_bytes(&self) -> &[u8; SUM_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({})", crate::hex::encode(&self.0))
    }
}

/// A sum on its way, so that a block is summed while it arrives.
#[derive(Clone, Debug)]
pub enum RunningSum {
    /// The value so far.
    Crc32c(u32),
    /// Boxed: BLAKE3's state is about 2 KiB.
    Blake3(Box<blake3::Hasher>),
}

impl RunningSum {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// The sum over everything taken in.
    pub fn finish(&self) -> Sum {
        match self {
            Self::Crc32c(crc) => {
                let mut field = [0; SUM_BYTES];
                field[..4].copy_from_slice(&crc.to_be_bytes());
                Sum(field)
            }
            Self::Blake3(hasher) => Sum(*hasher.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_match_the_published_check_values() {
        assert_eq!(SumKind::Crc32c.sum(b"123456789").as_bytes()[..4], 0xe306_9283_u32.to_be_bytes());
        assert_eq!(SumKind::Crc32c.sum(b"123456789").as_bytes()[4..], [0; 28]);
        assert_eq!(
            crate::hex::encode(SumKind::Blake3.sum(b"").as_bytes()),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn a_sum_fed_in_pieces_equals_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i * 31) as u8).collect();
        for kind in [SumKind::Crc32c, SumKind::Blake3] {
            let mut running = kind.start();
            bytes.chunks(777).for_each(|piece| running.update(piece));
            assert_eq!(running.finish(), kind.sum(&bytes));
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(SumKind::from_number(kind.number()), Some(kind));
        }
    }
}
