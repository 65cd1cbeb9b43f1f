//! The platform as a whole: what `zipline up` runs.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zipline_contract::{doors, settings};

use crate::addresses::AddressError;
use crate::autoscaler::DecisionLog;
use crate::clock;
use crate::control::model::{ApplyAnswer, Info};
use crate::control::{self, Control};
use crate::ingress::{self, IngressError};
use crate::manifest::{AutoscalerSettings, ManifestError, check_setting};
use crate::services::{ApplyError, Services, Shared};
use crate::shutdown::{self, ShutdownSender};
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::{ClientProxy, ClientProxyError, Host, HostOptions, StopMode, api_token, end_orphans};

/// The ingress's port where none is named.
pub const INGRESS_PORT_DEFAULT: u16 = 8080;
/// File name of the queue-proxy.
const PROXY_BINARY: &str = "zipline-queue-proxy";
/// Names the queue-proxy's file, where it does not lie beside this program.
pub const PROXY_BINARY_VARIABLE: &str = "ZIPLINE_QUEUE_PROXY";
/// Prefix of queue-proxies' settings.
const SETTING_PREFIX: &str = "ZIPLINE_";

/// What a platform is started with.
#[derive(Clone, Debug)]
pub struct PlatformConfig {
    /// Where it keeps its state; made if needed.
    pub state_dir: PathBuf,
    /// Where the ingress listens; port 0: any free one.
    pub ingress: SocketAddr,
    /// Keys of `config-autoscaler`; they go before a ConfigMap's.
    pub autoscaler: BTreeMap<String, String>,
    /// `ZIPLINE_*` for every queue-proxy; a service's annotations go before them.
    pub proxy_settings: BTreeMap<String, String>,
    /// Whether local APIs are to listen on loopback TCP too, for whoever shows the token in the state directory.
    pub loopback_api: bool,
    /// The queue-proxy's file.
    pub proxy_binary: PathBuf,
    /// This process's environment; functions get the part of it that [`PASSED_ON`](crate::PASSED_ON) names.
    pub environment: BTreeMap<String, String>,
}

impl PlatformConfig {
    /// A platform on `state_dir`, the rest from this process's environment: every `ZIPLINE_*` setting that is not the
    /// platform's own goes to the queue-proxies, and [`PROXY_BINARY_VARIABLE`] may name their program.
    ///
    /// # Errors
    /// When there is no queue-proxy, or a setting can't be used.
    pub fn from_environment(state_dir: PathBuf) -> Result<Self, PlatformError> {
        // Variables that are not UTF-8 are none of ours, and functions do without.
        let environment: BTreeMap<String, String> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let mut proxy_settings = BTreeMap::new();
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(SETTING_PREFIX)) {
            // Others are the platform's own, or of programs that are not queue-proxies.
            if check_proxy_setting(name, value)? {
                proxy_settings.insert(name.clone(), value.clone());
            }
        }
        let proxy_binary = match environment.get(PROXY_BINARY_VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => beside_this_program()?,
        };
        Ok(Self {
            state_dir,
            ingress: (Ipv4Addr::LOCALHOST, INGRESS_PORT_DEFAULT).into(),
            autoscaler: BTreeMap::new(),
            proxy_settings,
            loopback_api: false,
            proxy_binary,
            environment,
        })
    }
}

/// Whether a variable is a setting that an operator may give to queue-proxies.
fn check_proxy_setting(name: &str, value: &str) -> Result<bool, PlatformError> {
    let setting = settings::ALL.iter().find(|setting| setting.variable == name);
    let Some(usable) = setting.and_then(|setting| check_setting(setting, value)) else { return Ok(false) };
    match usable {
        Ok(()) => Ok(true),
        Err(rule) => Err(PlatformError::Setting { name: name.to_owned(), value: value.to_owned(), rule }),
    }
}

fn beside_this_program() -> Result<PathBuf, PlatformError> {
    let own = std::env::current_exe().map_err(|source| PlatformError::Io { what: "this program's path", source })?;
    Ok(own.with_file_name(PROXY_BINARY))
}

/// Why a platform can't be started.
#[derive(Debug, Error)]
pub enum PlatformError {
    /// The state directory can't be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The ingress can't listen.
    #[error(transparent)]
    Ingress(#[from] IngressError),
    /// No loopback network is free.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A setting of the autoscaler can't be used.
    #[error(transparent)]
    Autoscaler(#[from] crate::manifest::UnusableSettings),
    /// A setting of the queue-proxies can't be used.
    #[error("{name}: `{value}` is not {rule}")]
    Setting {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        rule: String,
    },
    /// There is no queue-proxy.
    #[error("the queue-proxy {} does not exist (hint: build it with `cargo build`, or name it in {PROXY_BINARY_VARIABLE})", path.display())]
    NoQueueProxy {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The client proxy did not start.
    #[error("{0}")]
    ClientProxy(String),
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<ClientProxyError> for PlatformError {
    fn from(error: ClientProxyError) -> Self {
        Self::ClientProxy(error.to_string())
    }
}

/// A running platform. Dropping it kills every process it started; [`Platform::shut_down`] ends them in order.
pub struct Platform {
    info: Info,
    services: Arc<Services>,
    state: Arc<StateDir>,
    client_proxy: Arc<ClientProxy>,
    doors: JoinSet<()>,
    client: JoinSet<()>,
    control: JoinSet<()>,
    close_doors: ShutdownSender,
    close_client: ShutdownSender,
    close_control: ShutdownSender,
    shutdown_requests: mpsc::Receiver<StopMode>,
}

impl Platform {
    /// Starts a platform; returns once the ingress, the control API and the client proxy answer.
    ///
    /// From here on descendants whose parents die fall to this process, which ends them: all its children must be
    /// started by the platform.
    ///
    /// # Errors
    /// When another platform has the state directory, the ingress's port is taken, or something it needs is missing.
    pub async fn start(config: PlatformConfig) -> Result<Self, PlatformError> {
        zipline_fault_point::enlist("platform");
        let io_error = |what| move |source| PlatformError::Io { what, source };
        let settings = AutoscalerSettings::from_flags(config.autoscaler)?;
        for (name, value) in &config.proxy_settings {
            if !check_proxy_setting(name, value)? {
                let rule = "a setting of queue-proxies that may be given; docs/reference/settings.md has them".to_owned();
                return Err(PlatformError::Setting { name: name.clone(), value: value.clone(), rule });
            }
        }
        if !config.proxy_binary.is_file() {
            return Err(PlatformError::NoQueueProxy { path: config.proxy_binary });
        }
        let state = Arc::new(StateDir::open(&config.state_dir)?);
        let listener = ingress::bind(config.ingress).await?;
        let ingress_address = listener.local_addr().map_err(io_error("the ingress's address"))?;
        let control_listener = control::bind(&state.control_socket()).map_err(io_error("the control API's socket"))?;
        let decisions = DecisionLog::open(state.decision_log()).map_err(io_error("the decision log"))?;
        zipline_sys::child::set_subreaper().map_err(io_error("adopting orphans"))?;
        if config.loopback_api {
            let token = api_token().map_err(io_error("randomness"))?;
            state.write_api_token(&token).map_err(io_error("the token of the local APIs"))?;
        }
        let host = Arc::new(Host::new(HostOptions {
            state: Arc::clone(&state),
            proxy_binary: config.proxy_binary,
            ingress: ingress_address,
            loopback_api: config.loopback_api,
            proxy_settings: config.proxy_settings,
            environment: config.environment,
        })?);
        let info = info(&state, ingress_address, &host);
        let shared = Arc::new(Shared::new(Arc::clone(&host), decisions, settings));
        let services = Arc::new(Services::new(shared));

        let (close_client, client_stop) = shutdown::channel();
        let client_proxy = Arc::new(ClientProxy::new(host).map_err(ClientProxyError::from)?);
        let mut client = JoinSet::new();
        client.spawn(Arc::clone(&client_proxy).start(client_stop).await?);

        let (close_doors, doors_stop) = shutdown::channel();
        let mut doors = JoinSet::new();
        doors.spawn(ingress::serve(listener, Arc::clone(&services.shared), doors_stop));
        let (close_control, control_stop) = shutdown::channel();
        let (ask_shutdown, shutdown_requests) = mpsc::channel(1);
        let control_api = Control {
            services: Arc::clone(&services),
            info: info.clone(),
            owner: state.owner(),
            shutdown_requests: ask_shutdown,
        };
        let mut control = JoinSet::new();
        control.spawn(control::serve(control_listener, Arc::new(control_api), control_stop));
        Ok(Self {
            info,
            services,
            state,
            client_proxy,
            doors,
            client,
            control,
            close_doors,
            close_client,
            close_control,
            shutdown_requests,
        })
    }

    /// Where everything is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Applies a manifest; relative working directories in it are taken from `base_dir`, which must be absolute.
    ///
    /// # Errors
    /// Why nothing was applied.
    pub fn apply(&self, text: &str, base_dir: &Path) -> Result<ApplyAnswer, ApplyRefused> {
        let (applied, manifest) = self.services.apply(text, base_dir)?;
        Ok(ApplyAnswer { applied, config_autoscaler: manifest.autoscaler.is_some(), warnings: manifest.warnings })
    }

    /// Waits until somebody asks through the control API for the end, and answers whether with a drain.
    pub async fn shutdown_requested(&mut self) -> Ending {
        match self.shutdown_requests.recv().await {
            Some(StopMode::Drain) => Ending::Drained,
            Some(StopMode::Quick) | None => Ending::Quick,
        }
    }

    /// Ends everything: first the ingress takes no more connections, then the instances end, then the client proxy (with
    /// the instances where nothing drains), the control API last. Sockets are removed; logs and decisions stay.
    pub async fn shut_down(mut self, ending: Ending) {
        self.close_doors.begin();
        let mode = match ending {
            Ending::Drained => StopMode::Drain,
            Ending::Quick => {
                self.close_client.begin(); // Nobody reads to the end what it holds.
                StopMode::Quick
            }
        };
        let finish_doors = async { while self.doors.join_next().await.is_some() {} };
        tokio::join!(self.services.shut_down(mode), finish_doors);
        self.close_client.begin();
        while self.client.join_next().await.is_some() {}
        end_orphans(&self.client_proxy.log).await;
        self.close_control.begin();
        while self.control.join_next().await.is_some() {}
        self.state.close();
    }
}

/// How a platform ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every instance drains: quiet period, then until what it holds was read, within its revision's timeout.
    Drained,
    /// SIGTERM, two seconds, SIGKILL.
    Quick,
}

/// Why a manifest was not applied.
#[derive(Debug, Error)]
pub enum ApplyRefused {
    /// It has mistakes.
    #[error(transparent)]
    Manifest(ManifestError),
    /// It does not fit what is there.
    #[error("{0}")]
    Other(String),
}

impl From<ApplyError> for ApplyRefused {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Manifest(error) => Self::Manifest(error),
            other => Self::Other(other.to_string()),
        }
    }
}

fn info(state: &StateDir, ingress: SocketAddr, host: &Host) -> Info {
    Info {
        version: control::VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state_dir: state.path().to_owned(),
        ingress: format!("http://{ingress}"),
        domain: "localhost".to_owned(),
        control_socket: state.control_socket(),
        client_socket: state.client_socket(),
        client_http: host.loopback_api().then(|| format!("http://{}:{}", host.client_address(), doors::API)),
        api_token_file: host.loopback_api().then(|| state.api_token_file()),
        network: host.network(),
        decision_log: state.decision_log(),
        logs_dir: state.logs_dir(),
        started_ms: clock::wall_now(),
    }
}
