//! The data plane over real sockets on loopback: two or more nodes in one process, one file a promise.

mod authentication;
mod budget;
mod common;
mod cut_through;
mod descriptors;
mod durable;
mod handover;
mod leases;
mod peers;
mod resume;
mod round_trip;
mod spill;
mod tls;
mod trace;
