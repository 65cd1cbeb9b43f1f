//! Zipline's decisions, without input or output.
#![forbid(unsafe_code)]

/// Whether a deliberately wrong variant is in force; `false` but in builds with `--cfg zipline_mutants`.
#[cfg(zipline_mutants)]
macro_rules! mutant {
    ($name:literal) => {
        crate::mutants::is_chosen($name)
    };
}
#[cfg(not(zipline_mutants))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

pub mod balance;
pub mod breaker;
pub mod drain;
pub mod forwarded;
pub mod hex;
pub mod kpa;
#[cfg(zipline_mutants)]
pub mod mutants;
pub mod object;
pub mod pull;
pub mod reference;
pub mod settings;
pub mod stats;
pub mod tier;
pub mod time;
pub mod trace;

pub use hex::IdError;
