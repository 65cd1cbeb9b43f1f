//! The zipline command.

fn main() {}
