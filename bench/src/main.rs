//! Zipline measured.
#![forbid(unsafe_code)]

fn main() {}
