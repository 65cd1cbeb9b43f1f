//! Payload bytes, without storing them: every payload's bytes follow from its number and their offset.
//!
//! Short runs are made and summed for real. Of a long one the sum is made from what identifies it (number, offset,
//! length, damage), so that two runs have the same sum exactly if they have the same bytes, and a gigabyte costs nothing.

use zipline_core::pull::{RunningSum, SUM_BYTES, Sum, SumKind};

use crate::random::mix;

/// Runs up to this long are made of real bytes.
pub(crate) const REAL_BYTES_MAX: u32 = 2048;

/// A run of one payload's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Which payload.
    pub(crate) content: u64,
    /// Where in it.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) length: u32,
    /// Distance of a byte that was changed on the way from the run's first byte.
    pub(crate) damage: Option<u32>,
}

impl Chunk {
    pub(crate) const fn new(content: u64, offset: u64, length: u32) -> Self {
        Self { content, offset, length, damage: None }
    }

    /// The first `length` bytes and the rest.
    pub(crate) fn split(self, length: u32) -> (Self, Self) {
        let first = Self { length, damage: self.damage.filter(|at| *at < length), ..self };
        let rest = Self {
            offset: self.offset + u64::from(length),
            length: self.length - length,
            damage: self.damage.and_then(|at| at.checked_sub(length)),
            ..self
        };
        (first, rest)
    }

    /// This run and the one behind it as one; `None` when that does not follow.
    pub(crate) fn join(self, next: Self) -> Option<Self> {
        if self.length == 0 {
            return Some(next);
        }
        let follows = self.content == next.content && self.offset + u64::from(self.length) == next.offset;
        let damage = self.damage.or(next.damage.map(|at| at + self.length));
        follows.then_some(Self { length: self.length + next.length, damage, ..self })
    }

    /// The bytes of a short run.
    pub(crate) fn bytes(self) -> Option<Vec<u8>> {
        if self.length > REAL_BYTES_MAX {
            return None;
        }
        let byte = |at: u32| {
            let offset = self.offset + u64::from(at);
            (mix(self.content ^ (offset >> 3)) >> ((offset & 7) * 8)) as u8
        };
        let mut bytes: Vec<u8> = (0..self.length).map(byte).collect();
        if let Some(at) = self.damage {
            bytes[at as usize] ^= 1;
        }
        Some(bytes)
    }

    /// The run's sum.
    pub(crate) fn sum(self, kind: SumKind) -> Sum {
        if let Some(bytes) = self.bytes() {
            return kind.sum(&bytes);
        }
        let identity = mix(self.content ^ mix(self.offset ^ mix(u64::from(self.length) ^ mix(damage_number(self.damage)))));
        let mut field = [0; SUM_BYTES];
        let bytes = match kind.start() {
            RunningSum::Crc32c(_) => 4,
            RunningSum::Blake3(_) => 8,
        };
        field[..bytes].copy_from_slice(&identity.to_be_bytes()[..bytes]);
        Sum::from_bytes(field)
    }
}

const fn damage_number(damage: Option<u32>) -> u64 {
    match damage {
        None => u64::MAX,
        Some(at) => at as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_runs_have_equal_sums_and_a_changed_byte_gives_another() {
        for length in [1, 7, REAL_BYTES_MAX, REAL_BYTES_MAX + 1, 1 << 20] {
            let whole = Chunk::new(7, 3, length);
            for kind in [SumKind::Crc32c, SumKind::Blake3] {
                assert_eq!(whole.sum(kind), Chunk::new(7, 3, length).sum(kind));
                let others =
                    [Chunk { damage: Some(length - 1), ..whole }, Chunk { offset: 4, ..whole }, Chunk { content: 8, ..whole }];
                assert!(others.iter().all(|other| other.sum(kind) != whole.sum(kind)), "{length}");
            }
        }
    }

    #[test]
    fn a_run_in_pieces_is_the_run() {
        let whole = Chunk { damage: Some(900), ..Chunk::new(7, 3, 1000) };
        let (first, rest) = whole.split(600);
        assert_eq!(first.join(rest), Some(whole));
        assert_eq!(rest.join(first), None);
        let bytes = [first.bytes().unwrap(), rest.bytes().unwrap()].concat();
        assert_eq!(Some(bytes), whole.bytes());
    }
}
