//! Where a cluster keeps its files, under its state folder.

use std::path::{Path, PathBuf};

/// The administrator's kubeconfig. It is of use inside the node's network namespace only.
pub fn kubeconfig(state: &Path) -> PathBuf {
    state.join("admin.kubeconfig")
}

/// The kubeconfig for programs outside of the node's network.
pub fn kubeconfig_outside(state: &Path) -> PathBuf {
    state.join("kubeconfig")
}

/// The socket of `kubectl proxy`, which is of use everywhere.
pub fn socket(state: &Path) -> PathBuf {
    state.join("api.sock")
}

/// What the programs wrote.
pub fn logs(state: &Path) -> PathBuf {
    state.join("log")
}

/// Keys and certificates.
pub fn pki(state: &Path) -> PathBuf {
    state.join("pki")
}
