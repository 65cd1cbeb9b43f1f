//! The local platform with real queue-proxies and stock Python functions: from YAML to processes and back.

mod faults;
mod holding;
mod load;
mod requests;
mod scaling;
mod world;
