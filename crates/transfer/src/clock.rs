//! The one place of the data plane that reads the clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zipline_core::object::Now;
use zipline_core::time::{Monotonic, WallTime};

/// Both clocks of one node.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_shift_ms: i64,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self { origin: Instant::now(), wall_shift_ms: 0 }
    }

    /// The system's clocks with the wall clock wrong by that many milliseconds, as on a machine without NTP.
    pub fn shifted(wall_shift_ms: i64) -> Self {
        Self { wall_shift_ms, ..Self::system() }
    }

    /// Both, read together.
    pub(crate) fn now(&self) -> Now {
        Now { mono: self.monotonic(), wall: self.wall() }
    }

    pub(crate) fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn wall(&self) -> WallTime {
        // A clock before 1970 reads as 1970: every reference has then expired in the eyes of others, and none in ours.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        WallTime::from_unix_millis(millis.saturating_add_signed(self.wall_shift_ms + zipline_fault_point::wall_shift_ms()))
    }

    /// When `at` comes, for a timer; a time beyond every timer's range is a year from now.
    pub(crate) fn instant(&self, at: Monotonic) -> tokio::time::Instant {
        let far = || Instant::now() + Duration::from_secs(365 * 24 * 3600);
        tokio::time::Instant::from_std(self.origin.checked_add(at.since_origin()).unwrap_or_else(far))
    }
}
