//! What the control API says, as types; `docs/reference/control-api.md` is their description.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zipline_core::kpa::{Activity, RequestPath};
use zipline_core::time::WallTime;

use crate::activator::PathCount;
use crate::autoscaler::Held;
use crate::manifest::{Finding, ServiceName};
use crate::services::Applied;
use crate::supervisor::Phase;

/// Answer of `GET /v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the control API.
    pub version: u32,
    /// Release of the platform.
    pub release: String,
    /// Its process.
    pub pid: u32,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// URL of the ingress.
    pub ingress: String,
    /// Domain of services: `NAME.NAMESPACE.DOMAIN`.
    pub domain: String,
    /// Socket of this API.
    pub control_socket: PathBuf,
    /// Socket of the client proxy's local API.
    pub client_socket: PathBuf,
    /// URL of the client proxy's local API on loopback TCP, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_http: Option<String>,
    /// File with the token that every local API on loopback TCP wants to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_token_file: Option<PathBuf>,
    /// Network of the queue-proxies.
    pub network: String,
    /// The autoscaler's decisions, one JSON document a line.
    pub decision_log: PathBuf,
    /// Directory of the logs.
    pub logs_dir: PathBuf,
    /// When it was started.
    pub started_ms: WallTime,
}

/// Answer of `POST /v1/apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// The file's services, in its order.
    pub applied: Vec<Applied>,
    /// Whether the file set the autoscaler's settings.
    pub config_autoscaler: bool,
    /// What has no effect, by name.
    pub warnings: Vec<Finding>,
}

/// Instances by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCount {
    /// Not ready, or not yet.
    pub starting: usize,
    /// Taking requests.
    pub ready: usize,
    /// Finishing.
    pub stopping: usize,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    #[serde(flatten)]
    pub service: ServiceName,
    /// Where it is reached.
    pub url: String,
    /// Whether its latest revision has the route and has been ready.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// It was deleted, and waits for its last instance.
    pub deleting: bool,
    /// Revisions so far.
    pub generation: u64,
    /// When it was applied first.
    pub created_ms: WallTime,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The revision applied last.
    pub latest_revision: String,
    /// The revision that requests go to.
    pub routed_revision: Option<String>,
    /// Its instances.
    pub instances: InstanceCount,
    /// Requests that wait for an instance.
    pub waiting: usize,
    /// What passed the activator.
    pub activator: PathCount,
    /// What went straight to instances.
    pub direct: PathCount,
    /// Its living revisions, oldest first.
    pub revisions: Vec<RevisionView>,
}

/// A revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevisionView {
    /// Its name.
    pub name: String,
    /// Whether an instance of it has been ready.
    pub was_ready: bool,
    /// Whether a route leads to it, or is about to.
    pub reachable: bool,
    /// Its instances.
    pub instances: InstanceCount,
    /// Requests between arrival and end, through the activator.
    pub in_flight: u64,
    /// Requests at once in an instance; 0: no limit.
    pub container_concurrency: u32,
    /// What the autoscaler last decided.
    pub scale: Option<ScaleView>,
}

/// The autoscaler's last decision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleView {
    /// Instances wanted.
    pub want: Option<u32>,
    /// Who stands in the path of requests.
    pub path: RequestPath,
    /// Whether the revision serves.
    pub activity: Activity,
    /// Whether it is in panic.
    pub panicking: bool,
    /// Load over the stable window.
    pub stable: Option<f64>,
    /// Load over the panic window.
    pub panic: Option<f64>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name.
    pub name: String,
    /// Whose.
    #[serde(flatten)]
    pub service: InstanceOf,
    /// What it does.
    pub state: Phase,
    /// Why, in words.
    pub reason: String,
    /// Its queue-proxy's address.
    pub address: std::net::IpAddr,
    /// The port its function was given.
    pub function_port: u16,
    /// Its queue-proxy.
    pub proxy_pid: Option<i32>,
    /// Its function.
    pub function_pid: Option<i32>,
    /// Times that a process of it ended without being asked to.
    pub restarts: u32,
    /// When it was started.
    pub started_ms: WallTime,
    /// What it holds; `null` when its queue-proxy does not say.
    pub held: Option<Held>,
}

/// Whose an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceOf {
    /// Namespace.
    pub namespace: String,
    /// Service.
    pub service: String,
    /// Revision.
    pub revision: String,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Services, those being deleted included.
    pub services: usize,
    /// Instances of all services.
    pub instances: InstanceCount,
    /// Instances started since the platform was.
    pub instance_starts: u64,
    /// Processes that ended without being asked to.
    pub instance_crashes: u64,
    /// Requests that wait for an instance.
    pub waiting: usize,
    /// What passed the activator since the start.
    pub activator: PathCount,
    /// What went straight to instances.
    pub direct: PathCount,
    /// Bytes that all queue-proxies hold or receive, by the shared budget.
    pub budget_bytes_used: u64,
    /// What the client proxy holds; `null` when it does not say.
    pub client: Option<Held>,
}
