//! The work: what clients and functions do with payloads.

pub(crate) mod client;
pub(crate) mod function;
