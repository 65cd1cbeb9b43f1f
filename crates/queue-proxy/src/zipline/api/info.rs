//! `GET /v1`: who this proxy is and what it can do.

use http::{Request, Response, StatusCode};
use serde::Serialize;
use zipline_contract::limits::RETRIEVALS_MAX;

use super::{Api, json, options};
use crate::zipline::body::Body;
use crate::zipline::problem::Problem;
use crate::zipline::upload::Upload;

/// What it can do; the first only on the Unix socket.
const FEATURES: [&str; 4] = ["descriptors", "open", "narrow", "invoke"];

/// What does not change while the proxy runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Info {
    version: u32,
    name: &'static str,
    release: &'static str,
    instance: String,
    namespace: String,
    service: String,
    features: &'static [&'static str],
    inline_threshold_bytes: u64,
    heap_threshold_bytes: u64,
    transfer: &'static str,
    limits: Limits,
}

#[derive(Clone, Debug, Serialize)]
struct Limits {
    payload_bytes_max: u64,
    retrievals_max: u32,
    ttl_seconds_max: u64,
}

impl Info {
    /// Reads it off the configuration; `payload_bytes_max` is the buffer's budget in force.
    pub(crate) fn new(config: &crate::config::Config, payload_bytes_max: u64) -> Self {
        let (identity, zipline) = (&config.identity, &config.zipline);
        Self {
            version: 1,
            name: env!("CARGO_PKG_NAME"),
            release: env!("CARGO_PKG_VERSION"),
            instance: identity.pod.clone(),
            namespace: identity.namespace.clone(),
            service: identity.service.clone(),
            features: &FEATURES,
            inline_threshold_bytes: zipline.inline_threshold_bytes,
            heap_threshold_bytes: zipline.heap_threshold_bytes,
            transfer: zipline.transfer.name(),
            limits: Limits { payload_bytes_max, retrievals_max: RETRIEVALS_MAX, ttl_seconds_max: zipline.ttl_max.as_secs() },
        }
    }

    /// The same to whoever no descriptor can reach.
    fn without_descriptors(&self) -> Self {
        Self { features: &FEATURES[1..], ..self.clone() }
    }

    /// The longest ttl a put may ask for.
    pub(crate) fn ttl_max(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.limits.ttl_seconds_max)
    }
}

impl Api {
    /// `passes_descriptors`: the request came by the Unix socket.
    pub(super) fn describe(&self, request: &Request<Upload>, passes_descriptors: bool) -> Result<Response<Body>, Problem> {
        options::no_query(request.uri().query())?;
        match passes_descriptors {
            true => json(StatusCode::OK, &self.info),
            false => json(StatusCode::OK, &self.info.without_descriptors()),
        }
    }
}
