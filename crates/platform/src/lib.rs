//! The single-machine cloud of `zipline up`.
//!
//! One process without privileges: it takes Knative Services ([`parse_manifest`]), runs each instance's command with a
//! queue-proxy of its own (`supervisor`), brings requests to them (`ingress`, `activator`), and decides how many there
//! are (`autoscaler`, which drives `zipline_core::kpa`). [`Platform`] is all of it; a running one is spoken to through
//! the control API ([`model`] has its types).
#![forbid(unsafe_code)]

mod activator;
mod addresses;
mod autoscaler;
mod changes;
mod clock;
mod control;
mod http_client;
mod ingress;
mod manifest;
mod platform;
mod revision;
mod services;
mod shutdown;
mod state_dir;
mod supervisor;

pub use addresses::AddressError;
pub use autoscaler::DecisionRecord;
pub use ingress::IngressError;
pub use manifest::{
    AutoscalerSettings, FunctionSpec, MANIFEST_BYTES_MAX, Manifest, ManifestError, Probe, ProbeAction, Protocol, RequestLimits,
    RevisionSpec, ServiceSpec, UnusableSettings, parse_manifest,
};
pub use platform::{ApplyRefused, Ending, INGRESS_PORT_DEFAULT, PROXY_BINARY_VARIABLE, Platform, PlatformConfig, PlatformError};
pub use services::SERVICES_MAX;
pub use state_dir::{StateDir, StateDirError, default_state_dir};
pub use supervisor::{LINES_MAX, PASSED_ON};

/// What the control API says.
pub mod model {
    pub use crate::activator::PathCount;
    pub use crate::autoscaler::Held;
    pub use crate::control::model::*;
    pub use crate::manifest::{Finding, ServiceName};
    pub use crate::services::{Applied, Change};
    pub use crate::supervisor::{LogLine, Phase, Stream};
}
