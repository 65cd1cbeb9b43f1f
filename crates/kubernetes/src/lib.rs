//! Zipline on stock Kubernetes and Knative.
//!
//! Three jobs, and no cluster manager of our own:
//! - [`manifests`]: every object that an installation consists of, made in one place; `deploy/` holds them as files.
//! - [`admission`] and [`controller`]: what runs in the cluster. A webhook that gives a pod's queue-proxy the keys of its
//!   namespace and its function the way to the egress, and a loop that makes and renews those keys and the webhook's own
//!   certificate.
//! - [`connect`]: the control API and the local API of the local platform, served here for a cluster, so that `zipline service`,
//!   `invoke`, `object` and `demo` are the same there.
//! - [`install`]: `zipline install`, `uninstall` and `status`, by a user's own rights.
//!
//! Nothing here stands between two functions: without it, pods start and run as before, with a plain queue-proxy.
#![forbid(unsafe_code)]

pub mod admission;
pub mod connect;
pub mod controller;
mod door;
pub mod install;
pub mod manifests;
pub mod names;
pub mod rotation;
