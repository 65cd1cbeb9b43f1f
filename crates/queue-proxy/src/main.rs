//! The sidecar of one function instance.

fn main() {}
