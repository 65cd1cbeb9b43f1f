//! Zipline for Rust functions.
#![forbid(unsafe_code)]
