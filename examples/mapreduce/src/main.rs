//! MapReduce as a workflow of scaled functions.
#![forbid(unsafe_code)]

fn main() {}
