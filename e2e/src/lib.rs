//! Zipline's promises, tested on the real binaries.
#![forbid(unsafe_code)]
