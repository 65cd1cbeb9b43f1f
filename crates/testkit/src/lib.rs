//! Starts the built binaries for tests, and wounds their connections.
//!
//! A test owns its world: a [`Scratch`] directory, [`Loopback`] addresses of its own, [`Proxy`] and [`Program`] processes that are
//! killed by handle when they are dropped, [`Function`]s that record what they saw and can misbehave, and a [`Relay`] that cuts,
//! stalls or corrupts a connection at a given byte. [`wait::until`] waits for a state and prints what was seen instead; [`census`]
//! counts processes, descriptors and memory.
//!
//! Nothing here links the product: everything is driven through its binaries, sockets and files. Development only; a failing
//! step is an `anyhow` error that carries the tail of the program's log.
#![forbid(unsafe_code)]

mod address;
mod binaries;
pub mod census;
mod function;
pub mod http;
mod key_ring;
mod payload;
mod program;
mod proxy;
mod python;
mod relay;
mod scratch;
mod skip;
pub mod wait;

pub use address::{Loopback, free_port};
pub use binaries::{binary, build_dir};
pub use function::{Behaviour, Function, Seen};
pub use http::{Answer, Digested, Target};
pub use key_ring::KeyRing;
pub use payload::Payload;
pub use program::{Program, Started};
pub use proxy::{Keys, Metrics, Proxy, ProxyOptions};
pub use python::{PYTHON_SHA256, PythonFunction};
pub use relay::{Fault, Relay, Side};
pub use scratch::Scratch;
pub use skip::skip;
