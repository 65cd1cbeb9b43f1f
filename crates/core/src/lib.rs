//! Zipline's decisions, without input or output.
#![forbid(unsafe_code)]

pub mod balance;
pub mod breaker;
pub mod drain;
pub mod forwarded;
mod hex;
pub mod kpa;
pub mod object;
pub mod pull;
pub mod reference;
pub mod stats;
pub mod time;

pub use hex::IdError;
