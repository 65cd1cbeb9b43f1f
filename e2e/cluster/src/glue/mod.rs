//! What a cluster needs and no ready binary of Kubernetes or Knative brings: names of Services, an ingress, and NetworkPolicies that hold.

pub mod dns;
pub mod ingress;
pub mod policy;
pub mod services;
