//! Zipline's decisions, without input or output.
#![forbid(unsafe_code)]

pub mod forwarded;
pub mod kpa;
pub mod stats;
pub mod time;
