//! Named steps of the protocol at which a test can stop a process of a debug build, and then kill, freeze or resume it.
//!
//! `fault_point!("pull.head")` does nothing but look at a flag, unless the process was started with [`SOCKET_VARIABLE`]. Then
//! it has told whoever listens there that it is alive, and at a point that was *armed* it says so and blocks its thread
//! until it is let go. So a test does not sleep until a step was probably reached: it is told, and while the process stands
//! there it may do whatever it likes to it, or to somebody else. The same connection moves the process's wall clock.
//!
//! Lines of text, both ways:
//!
//! ```text
//! process ─► test     hello PID NAME          once, at the start
//!                     reached POINT           and now it stands there
//!                     clocked                 the wall clock is as wrong as it was told
//! test ─► process     ready                   after the first arms: the process goes on with its start
//!                     arm POINT NTH           stop when it is passed for the NTH time from now
//!                     disarm                  forget every arm
//!                     go                      everybody who stands goes on
//!                     clock MS                the wall clock is wrong by that much from now on
//! ```
//!
//! A test that goes away lets everybody go. In release builds the macro expands to nothing, the clock is right, and nothing
//! here reads the environment. A point must not be passed with a lock held. Not here: what the points are used for
//! (`crates/faults`).
#![forbid(unsafe_code)]

mod points;
#[cfg(debug_assertions)]
mod steering;

pub use points::{POINTS, Part, Point, is_known};
#[cfg(debug_assertions)]
pub use steering::{enlist, kept_for, passed_on, reached, wall_shift_ms};

/// Where the test listens: the path of a Unix socket.
pub const SOCKET_VARIABLE: &str = "FAULT_POINTS_SOCKET";
/// How long unused connections are kept in place of what the code says, in milliseconds, so that a test need not wait for them.
pub const KEPT_VARIABLE: &str = "FAULT_POINTS_KEPT_MS";

/// Marks a step of [`POINTS`]. A statement; nothing at all in release builds.
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {{
        const _: () = assert!($crate::is_known($name), "the point stands in the table of zipline-fault-point");
        #[cfg(debug_assertions)]
        $crate::reached($name);
    }};
}

/// Says hello to the test that started this process, if one did.
#[cfg(not(debug_assertions))]
pub const fn enlist(_name: &str) {}

/// By how much the wall clock is wrong, in milliseconds.
#[cfg(not(debug_assertions))]
pub const fn wall_shift_ms() -> i64 {
    0
}

/// How long unused connections are kept.
#[cfg(not(debug_assertions))]
pub const fn kept_for(normal: std::time::Duration) -> std::time::Duration {
    normal
}

/// Variables that a process hands to the processes it starts, so that they can be steered too.
#[cfg(not(debug_assertions))]
pub fn passed_on() -> impl Iterator<Item = (String, String)> {
    std::iter::empty()
}
