//! Zipline measured.

fn main() {}
