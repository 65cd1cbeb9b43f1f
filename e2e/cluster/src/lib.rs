//! A real Kubernetes with stock Knative, for tests: one that is there already, or one made here from ready binaries.
//!
//! [`Cluster`] is what tests hold. With `KUBECONFIG` it is that cluster. With [`BINARIES`], a folder with the programs of Kubernetes
//! and Knative (and nothing else: `docs/compatibility.md` names them), [`up`] makes one on this machine: a node is a network, mount and process
//! namespace of its own, so that nothing of it reaches the machine's network and killing its first process ends it. [`node`] is
//! what runs inside: `node::control_plane`, `node::kubelet`, and the two things a cluster needs that no binary there brings,
//! [`glue::dns`] and [`glue::ingress`].
//!
//! Nothing here links the product. Its images come from the archives that `cargo xtask image` writes.
#![forbid(unsafe_code)]

pub mod api;
pub mod binaries;
pub mod cluster;
pub mod driver;
pub mod glue;
pub mod knative;
pub mod node;
pub mod up;

pub use api::Api;
pub use binaries::{BINARIES, Binaries};
pub use cluster::{Cluster, Origin};
