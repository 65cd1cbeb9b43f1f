//! The kernel interfaces Zipline uses, one file each. The only crate with `unsafe`; it holds no policy.

pub mod child;

pub use rustix::process::Signal;
