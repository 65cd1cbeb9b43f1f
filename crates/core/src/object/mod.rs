//! Objects held for their consumers.

mod id;

pub use id::{Epoch, LeaseId, ObjectId};

use crate::time::{Monotonic, WallTime};

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For TTLs and timers.
    pub mono: Monotonic,
    /// For what other machines read.
    pub wall: WallTime,
}
