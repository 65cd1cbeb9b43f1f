//! The two clocks of Zipline, as two types that cannot be mixed up.
//!
//! Nothing in this crate reads a clock: whoever drives a decision passes the time in. [`Monotonic`] measures
//! how long something took or may still take (TTLs, timers, averages); it means nothing outside the process that
//! made it. [`WallTime`] is what another machine reads (a reference's expiry, a statistics bucket); it can jump,
//! and two machines may disagree about it.
//!
//! Arithmetic saturates at both ends: a time near the end of its range is "never" or "always", and no clock value,
//! however wrong, can make a decision panic.

use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that never goes backwards, in nanoseconds since an origin of the driver's choosing.
///
/// The range is about 584 years from the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);
    /// The end of the range: a timer at this time never fires.
    pub const MAX: Self = Self(u64::MAX);

    /// The time `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The time `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// The time `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The time `secs` seconds after the origin.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time since the origin.
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long until `later`; zero when it has passed.
    pub const fn until(self, later: Self) -> Duration {
        later.since(self)
    }

    /// The time `duration` later, or [`Monotonic::MAX`].
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The time `duration` earlier, or [`Monotonic::ZERO`].
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    /// Saturates at [`Monotonic::MAX`].
    fn add(self, duration: Duration) -> Self {
        self.saturating_add(duration)
    }
}

impl AddAssign<Duration> for Monotonic {
    /// Saturates at [`Monotonic::MAX`].
    fn add_assign(&mut self, duration: Duration) {
        *self = self.saturating_add(duration);
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Self;

    /// Saturates at [`Monotonic::ZERO`].
    fn sub(self, duration: Duration) -> Self {
        self.saturating_sub(duration)
    }
}

impl Sub for Monotonic {
    type Output = Duration;

    /// Zero when `earlier` lies ahead.
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// A point in civil time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(u64);

impl WallTime {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);
    /// The end of the range: an expiry at this time never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// The time `millis` milliseconds after the Unix epoch.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The time `secs` seconds after the Unix epoch.
    pub const fn from_unix_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn unix_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// How long until `later`; zero when it has passed.
    pub const fn until(self, later: Self) -> Duration {
        later.since(self)
    }

    /// The distance to `other`, whichever comes first.
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// The time `duration` later, or [`WallTime::MAX`]. Parts of a millisecond are cut.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The time `duration` earlier, or [`WallTime::UNIX_EPOCH`]. Parts of a millisecond are cut.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }
}

impl Add<Duration> for WallTime {
    type Output = Self;

    /// Saturates at [`WallTime::MAX`]; parts of a millisecond are cut.
    fn add(self, duration: Duration) -> Self {
        self.saturating_add(duration)
    }
}

impl AddAssign<Duration> for WallTime {
    /// Saturates at [`WallTime::MAX`]; parts of a millisecond are cut.
    fn add_assign(&mut self, duration: Duration) {
        *self = self.saturating_add(duration);
    }
}

impl Sub<Duration> for WallTime {
    type Output = Self;

    /// Saturates at [`WallTime::UNIX_EPOCH`]; parts of a millisecond are cut.
    fn sub(self, duration: Duration) -> Self {
        self.saturating_sub(duration)
    }
}

impl Sub for WallTime {
    type Output = Duration;

    /// Zero when `earlier` lies ahead.
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends_of_the_range() {
        let century = Duration::from_secs(u64::MAX);
        assert_eq!(Monotonic::from_secs(1) + century, Monotonic::MAX);
        assert_eq!(Monotonic::from_secs(1) - century, Monotonic::ZERO);
        assert_eq!(WallTime::from_unix_secs(1) + century, WallTime::MAX);
        assert_eq!(WallTime::from_unix_secs(1) - century, WallTime::UNIX_EPOCH);
        assert_eq!(Monotonic::from_secs(u64::MAX), Monotonic::MAX);
    }

    #[test]
    fn a_time_ahead_is_zero_ago_and_a_time_past_is_zero_away() {
        let (early, late) = (Monotonic::from_millis(5), Monotonic::from_millis(8));
        assert_eq!(late - early, Duration::from_millis(3));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(late.until(early), Duration::ZERO);
        let (early, late) = (WallTime::from_unix_millis(5), WallTime::from_unix_millis(8));
        assert_eq!(late - early, Duration::from_millis(3));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(early.distance(late), Duration::from_millis(3));
    }

    #[test]
    fn both_clocks_travel_as_plain_numbers() {
        let wall = WallTime::from_unix_millis(1_700_000_000_123);
        assert_eq!(serde_json::to_string(&wall).ok().as_deref(), Some("1700000000123"));
        assert_eq!(serde_json::from_str::<Monotonic>("42").ok(), Some(Monotonic::from_nanos(42)));
    }
}
