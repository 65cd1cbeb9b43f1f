//! The single-machine cloud of zipline up.
#![forbid(unsafe_code)]
