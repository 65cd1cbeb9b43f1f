//! The only place of this crate that reads a clock.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use zipline_core::time::{Monotonic, WallTime};

/// Civil time. A clock before 1970 reads as 1970.
pub(crate) fn wall_now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::UNIX_EPOCH + since
}

/// Time since the first call in this process.
pub(crate) fn now() -> Monotonic {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    Monotonic::ZERO + ORIGIN.get_or_init(Instant::now).elapsed()
}
