//! Zipline's decisions, without input or output.
#![forbid(unsafe_code)]

pub mod time;
