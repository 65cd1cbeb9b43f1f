//! The name of a durable copy.

use core::fmt;

use sha2::{Digest, Sha256};

use crate::hex;
use crate::object::{Epoch, LeaseId, ObjectId};

/// Hexadecimal digits of a name's shard.
const SHARD_CHARS: usize = 2;

/// Names the durable copy of one object: what every reference to it says, and nothing else, makes it. Whoever sees it
/// (the store, its operator) learns nothing that is in a reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DurableName(String);

impl DurableName {
    /// The name for that object of that instance.
    pub fn of(epoch: Epoch, object: ObjectId) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"zipline/1 tier name");
        digest.update(epoch.as_bytes());
        digest.update(object.as_bytes());
        Self(hex::encode(digest.finalize().as_ref()))
    }

    /// The key of the copy itself: `o/SHARD/NAME`.
    pub fn copy(&self) -> String {
        format!("o/{}/{}", self.shard(), self.0)
    }

    /// The folder of the marks that count retrievals once the producer is gone: `r/SHARD/NAME`.
    pub fn marks(&self) -> String {
        format!("r/{}/{}", self.shard(), self.0)
    }

    /// The mark of one retrieval: by its slot where the reader has one, so that a slot counts once, else by its lease.
    pub fn mark(&self, slot: Option<u32>, lease: LeaseId) -> String {
        match slot {
            Some(slot) => format!("{}/slot-{slot}", self.marks()),
            None => format!("{}/{lease}", self.marks()),
        }
    }

    /// The shard that a copy lies in, of 256: what is swept at a time.
    pub fn shard(&self) -> &str {
        self.0.get(..SHARD_CHARS).unwrap_or_default()
    }
}

impl fmt::Debug for DurableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_from_epoch_and_object_alone() {
        let of = |epoch: u8, object: u8| DurableName::of(Epoch::from_bytes([epoch; 8]), ObjectId::from_bytes([object; 16]));
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(1, 2), of(2, 2), "another instance's object of the same id");
        assert_ne!(of(1, 2), of(1, 3));
        let name = of(1, 2);
        assert_eq!(name.copy(), format!("o/{}/{name:?}", name.shard()));
        assert_eq!(name.mark(Some(4), LeaseId::from_bytes([0; 16])), format!("r/{}/{name:?}/slot-4", name.shard()));
        assert!(!name.copy().contains(&ObjectId::from_bytes([2; 16]).to_string()), "the id stays in references");
    }
}
