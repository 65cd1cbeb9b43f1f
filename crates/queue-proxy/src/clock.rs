//! The one clock of this process: monotonic time since its start, as the core wants it passed in.

use std::time::Instant;

use zipline_core::time::Monotonic;

/// Reads monotonic time. Copies read the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Time since the start.
    pub fn now(&self) -> Monotonic {
        self.at(Instant::now())
    }

    /// The time of an instant that was read already.
    pub fn at(&self, instant: Instant) -> Monotonic {
        Monotonic::ZERO + instant.saturating_duration_since(self.origin)
    }

    /// The instant of a time.
    pub fn instant(&self, time: Monotonic) -> Instant {
        // A time past what the system can name is as good as never.
        const NEVER: std::time::Duration = std::time::Duration::from_secs(1 << 31);
        self.origin.checked_add(time.since_origin()).unwrap_or_else(|| self.origin + NEVER)
    }
}
