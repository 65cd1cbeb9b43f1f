//! The platform of a demo: in this process, on free ports, its state in a folder of the demo's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;
use zipline_contract::settings;
use zipline_platform::model::{ServiceView, Status};
use zipline_platform::{Ending, Platform, PlatformConfig};
use zipline_sdk::{Client, Stores};

use crate::commands::up::TransferMethod;
use crate::control::Body;
use crate::failure::{Exit, Failure};
use crate::running::Running;

/// How long a service may take to become ready.
const READY_SECONDS: u32 = 60;

/// A platform that runs.
pub(super) struct Cloud {
    platform: Platform,
    running: Running,
}

/// What the platform counted.
pub(super) struct Counters {
    pub(super) requests: u64,
    pub(super) activator_payload_bytes: u64,
    pub(super) instances_started: u64,
}

impl Cloud {
    pub(super) async fn start(state: &Path, transfer: TransferMethod) -> Result<Self, Failure> {
        let mut config = PlatformConfig::from_environment(PathBuf::from(state))?;
        config.ingress = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.proxy_settings.insert(settings::TRANSFER.variable.to_owned(), transfer.name().to_owned());
        // Nothing comes any more when the demo ends its platform.
        config.proxy_settings.insert(settings::DRAIN_QUIET_SECONDS.variable.to_owned(), "0".to_owned());
        let platform = Platform::start(config).await?;
        let running = Running::new(platform.info().state_dir.clone());
        Ok(Self { platform, running })
    }

    pub(super) fn state(&self) -> &Path {
        &self.platform.info().state_dir
    }

    /// Applies one manifest. JSON is YAML.
    pub(super) fn apply(&self, manifest: &Value) -> Result<(), Failure> {
        let refused = |error: zipline_platform::ApplyRefused| Failure::new(Exit::Refused, "manifest-invalid", error.to_string());
        self.platform.apply(&manifest.to_string(), Path::new("/")).map(drop).map_err(refused)
    }

    /// Waits until a service takes requests.
    pub(super) async fn ready(&self, name: &str) -> Result<(), Failure> {
        let path = format!("/v1/services/default/{name}?wait_ready_seconds={READY_SECONDS}");
        let _service: ServiceView = self.running.control().ask(Method::GET, &path, Body::None).await?;
        Ok(())
    }

    /// A client of the client proxy, which reads what lies in these stores.
    pub(super) async fn client(&self, stores: Stores) -> Result<Client, Failure> {
        self.running.client_of(stores).await
    }

    pub(super) async fn status(&self) -> Result<Status, Failure> {
        self.running.control().ask(Method::GET, "/v1/status", Body::None).await
    }

    pub(super) async fn counters(&self) -> Result<Counters, Failure> {
        let status = self.status().await?;
        Ok(Counters {
            requests: status.activator.requests(),
            activator_payload_bytes: status.activator.body_bytes_in + status.activator.body_bytes_out,
            instances_started: status.instance_starts,
        })
    }

    /// Ends every process of it.
    pub(super) async fn stop(self) {
        self.platform.shut_down(Ending::Quick).await;
    }
}
