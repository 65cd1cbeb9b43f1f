//! The data plane over real sockets on loopback: two or more nodes in one process, one file a promise.

mod common;
mod round_trip;
