//! MapReduce as a workflow of scaled functions.

fn main() {}
