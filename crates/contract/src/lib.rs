//! The names Zipline's parts share: headers, ports, settings, errors, metrics, limits.
#![forbid(unsafe_code)]
