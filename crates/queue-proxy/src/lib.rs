//! The sidecar of one function instance.
#![forbid(unsafe_code)]
