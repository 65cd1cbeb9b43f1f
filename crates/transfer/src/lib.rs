//! Zipline's data plane: object buffer, pull, hand-over.
#![forbid(unsafe_code)]
