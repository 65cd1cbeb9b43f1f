//! The project's own tools: tests, generated docs.

fn main() {}
