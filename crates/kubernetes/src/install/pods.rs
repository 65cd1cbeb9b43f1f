//! What a pod says of its sidecar.

use k8s_openapi::api::core::v1::Pod;

use crate::names::QUEUE_PROXY;

/// The image of a pod's queue-proxy.
pub(super) fn sidecar(pod: &Pod) -> Option<&str> {
    let containers = &pod.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == QUEUE_PROXY)?.image.as_deref()
}
