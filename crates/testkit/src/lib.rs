//! Starts the built binaries for tests, and wounds their connections.
#![forbid(unsafe_code)]
