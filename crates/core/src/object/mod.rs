//! Objects held for their consumers: what may happen to them, and what that means for everybody else.
//!
//! Begin with [`State`], the life of one object; then [`Holdings`], the table over all of them.

mod ended;
mod holdings;
mod id;
mod lease;
mod reading;
mod receiving;
mod room;
mod state;
mod tiers;
mod writing;

pub use holdings::{Census, Counts, CutReason, Effect, HoldingLimits, Holdings, TIMEOUTS_A_CALL};
pub use id::{Epoch, LeaseId, ObjectId};
pub use lease::{LeaseRequest, Via};
pub use reading::{Acknowledged, NotCounted, ReadError, View};
pub use receiving::ReceiveId;
pub use room::{Admission, RoomLimits};
pub use state::{End, Owner, State};
pub use tiers::{STORE_TRIES_MAX, SpillLimits};
pub use writing::{NewObject, Refusal, WriteError};

use crate::time::{Monotonic, WallTime};

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For TTLs and timers.
    pub mono: Monotonic,
    /// For what other machines read.
    pub wall: WallTime,
}
