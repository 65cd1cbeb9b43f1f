//! The zipline command.
#![forbid(unsafe_code)]

fn main() {}
