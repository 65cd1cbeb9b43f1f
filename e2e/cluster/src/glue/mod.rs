//! What a cluster needs and no ready binary of Kubernetes or Knative brings: names of Services, and an ingress.

pub mod dns;
pub mod ingress;
pub mod services;
