//! The transfer methods `s3` and `redis` against a real S3 server and a real Redis.
//!
//! Where a server cannot be installed the test says so and passes. What goes wrong on the way is brought about by a relay or by
//! a peer that answers what the test says.
#![cfg(all(feature = "s3", feature = "redis"))]
#![forbid(unsafe_code)]

mod cleaning;
mod faults;
mod moving;
mod places;
