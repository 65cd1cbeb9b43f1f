//! Where a demo's services run: on a platform of its own in this process, or in a namespace of a cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::Method;
use serde_json::Value;
use zipline_contract::{Transfer, settings};
use zipline_platform::model::{ApplyAnswer, InstanceCount, ServiceView};
use zipline_platform::{Ending, Platform, PlatformConfig};
use zipline_sdk::{Client, Stores};

use crate::commands::service::apply_manifest;
use crate::connection::Connection;
use crate::control::Body;
use crate::failure::Failure;
use crate::running::Running;

/// How long a service may take to become ready.
const READY_SECONDS: u32 = 60;

/// A cluster that a demo runs on. What it deployed is known here, so that nothing is left when it is interrupted.
pub(super) struct Cluster {
    running: Running,
    namespace: String,
    deployed: Mutex<Vec<String>>,
    _connection: Connection,
}

impl Cluster {
    pub(super) async fn connect(namespace: String) -> Result<Self, Failure> {
        let connection = Connection::open(&namespace).await?;
        let running = Running::of_cluster(connection.state(), namespace.clone());
        Ok(Self { running, namespace, deployed: Mutex::default(), _connection: connection })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Deletes what was deployed and is still there; their pods drain by themselves.
    pub(super) async fn clean_up(&self) -> Result<(), Failure> {
        let names = std::mem::take(&mut *self.deployed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        for name in names {
            let path = format!("/v1/services/{}/{name}", self.namespace);
            let deleted: Result<Value, Failure> = self.running.control().ask(Method::DELETE, &path, Body::None).await;
            result = result.and(deleted.map(drop));
        }
        result
    }
}

/// What runs the services of one run.
pub(super) enum Cloud<'c> {
    Own { platform: Box<Platform>, running: Running },
    Cluster(&'c Cluster),
}

/// What was counted.
pub(super) struct Counters {
    pub(super) requests: u64,
    pub(super) activator_payload_bytes: u64,
    pub(super) instances_started: u64,
}

impl Cloud<'_> {
    /// Starts a platform, in this state directory.
    pub(super) async fn start(state: &Path, transfer: Transfer) -> Result<Self, Failure> {
        let mut config = PlatformConfig::from_environment(PathBuf::from(state))?;
        config.ingress = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.proxy_settings.insert(settings::TRANSFER.variable.to_owned(), transfer.name().to_owned());
        // Nothing comes any more when the demo ends its platform.
        config.proxy_settings.insert(settings::DRAIN_QUIET_SECONDS.variable.to_owned(), "0".to_owned());
        let platform = Platform::start(config).await?;
        let running = Running::new(platform.info().state_dir.clone());
        Ok(Self::Own { platform: Box::new(platform), running })
    }

    fn running(&self) -> &Running {
        match self {
            Self::Own { running, .. } => running,
            Self::Cluster(cluster) => &cluster.running,
        }
    }

    /// Where it is, in words.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Own { platform, .. } => format!("state in {}", platform.info().state_dir.display()),
            Self::Cluster(cluster) => format!("namespace {}", cluster.namespace),
        }
    }

    /// Applies one manifest. JSON is YAML.
    pub(super) async fn apply(&self, name: &str, manifest: &Value) -> Result<(), Failure> {
        if let Self::Cluster(cluster) = self {
            cluster.deployed.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        }
        let manifest = manifest.to_string().into();
        let _applied: ApplyAnswer = apply_manifest(&self.running().control(), manifest, Path::new("/")).await?;
        Ok(())
    }

    /// Waits until a service takes requests.
    pub(super) async fn ready(&self, name: &str) -> Result<(), Failure> {
        self.service(name, &format!("?wait_ready_seconds={READY_SECONDS}")).await.map(drop)
    }

    async fn service(&self, name: &str, query: &str) -> Result<ServiceView, Failure> {
        let running = self.running();
        let path = format!("/v1/services/{}/{name}{query}", running.namespace(&None));
        running.control().ask(Method::GET, &path, Body::None).await
    }

    /// A client of the client proxy, which reads what lies in these stores.
    pub(super) async fn client(&self, stores: Stores) -> Result<Client, Failure> {
        self.running().client_of(stores).await
    }

    /// The instances of these services.
    pub(super) async fn instances(&self, services: &[&str]) -> Result<InstanceCount, Failure> {
        let mut sum = InstanceCount::default();
        for name in services {
            let of = self.service(name, "").await?.instances;
            sum.starting += of.starting;
            sum.ready += of.ready;
            sum.stopping += of.stopping;
        }
        Ok(sum)
    }

    /// What came by the activator to these services, and how many instances they took.
    pub(super) async fn counters(&self, services: &[&str]) -> Result<Counters, Failure> {
        let mut counters = Counters { requests: 0, activator_payload_bytes: 0, instances_started: 0 };
        for name in services {
            let service = self.service(name, "").await?;
            counters.requests += service.activator.requests();
            counters.activator_payload_bytes += service.activator.body_bytes_in + service.activator.body_bytes_out;
            let InstanceCount { starting, ready, stopping } = service.instances;
            counters.instances_started += (starting + ready + stopping) as u64;
        }
        if let Self::Own { running, .. } = self {
            let status: zipline_platform::model::Status = running.control().ask(Method::GET, "/v1/status", Body::None).await?;
            counters.instances_started = status.instance_starts;
        }
        Ok(counters)
    }

    /// Ends every process of a platform of its own; on a cluster, deletes the services.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        match self {
            Self::Own { platform, .. } => platform.shut_down(Ending::Quick).await,
            Self::Cluster(cluster) => return cluster.clean_up().await,
        }
        Ok(())
    }
}
