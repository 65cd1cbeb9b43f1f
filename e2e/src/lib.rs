//! Zipline's promises, tested on the real binaries.
