//! From the configuration to open doors: secrets, data plane, local API, egress.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zipline_contract::limits::{API_CONNECTIONS_MAX, EGRESS_CONNECTIONS_MAX};
use zipline_contract::{Transfer, settings};
use zipline_core::pull::{PeerPolicy, PeerPolicyError};
use zipline_store::Credentials;
use zipline_sys::{SharedBudget, inherited, shared_budget};
use zipline_transfer::{Clock, Congestion, Keys, Node, NodeConfig, SpillConfig, TierConfig};

use super::Zipline;
use super::api::listen::{ListenError, UnixDoor, open_tcp};
use super::api::{Api, Info};
use super::call::target::Routes;
use super::call::{CallSettings, Calls};
use super::counters::Counters;
use super::descriptors::Channels;
use super::door::serve;
use super::egress::Egress;
use super::keys::{self, KeysError, KeysFile, Secrets};
use super::memory_limit;
use super::peers::Peers;
use super::resolve::Resolver;
use super::response::Responses;
use super::service::Domain;
use super::tasks::Tasks;
use super::tickets::Tickets;
use super::token::{Token, TokenFileError};
use crate::config::{self, Config, Known};

/// The namespace of a proxy that was told none: the client proxy of the local platform.
const NAMESPACE_DEFAULT: &str = "default";

/// Why Zipline's doors can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An inherited descriptor is not what the setting says.
    #[error("{variable}={number}: {error}")]
    Descriptor {
        /// The setting.
        variable: &'static str,
        /// The descriptor.
        number: RawFd,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The shared budget lacks its other half.
    #[error("ZIPLINE_SHARED_BUDGET_FD and ZIPLINE_SHARED_BUDGET_SLOT (0 to {}) go together", shared_budget::SLOTS - 1)]
    SharedBudget,
    /// The secrets are none.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Not a list of networks.
    #[error("ZIPLINE_PEER_CIDRS: {0}")]
    Peers(#[from] PeerPolicyError),
    /// The called services' ingress is no address.
    #[error("ZIPLINE_INGRESS: {0:?} is not HOST:PORT")]
    Ingress(String),
    /// The durable tier's credentials can't be read.
    #[error("ZIPLINE_TIER_CREDENTIALS_FILE={}: {error}", .file.display())]
    TierCredentials {
        /// The file.
        file: PathBuf,
        /// What is wrong with it. Quotes nothing of it.
        error: String,
    },
    /// The durable tier can't be used as described.
    #[error("the durable tier: {0}")]
    Tier(#[from] zipline_store::OpenError),
    /// The pull port or the hand-over socket can't be opened.
    #[error("{0}; hint: see that no other queue-proxy runs at this address, or set ZIPLINE_BIND, ZIPLINE_PULL_PORT")]
    Node(#[from] zipline_transfer::StartError),
    /// The local API can't be opened.
    #[error(transparent)]
    Api(#[from] ListenError),
    /// The token of the local API on TCP can't be had.
    #[error("the local API's token: {0}")]
    ApiToken(#[from] TokenFileError),
    /// The egress can't be opened.
    #[error("the egress can't listen on {address}: {error}; hint: set ZIPLINE_EGRESS_PORT to a free port, or to 0 for none")]
    Egress {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Opens everything and serves it on the current runtime.
pub(super) async fn start(config: &Arc<Config>) -> Result<Zipline, StartError> {
    let secrets = secrets(&config.zipline)?;
    let mut doors = JoinSet::new();
    let keys = Arc::new(secrets.ring.map_or_else(Keys::none, Keys::new));
    if config.zipline.secrets_fd.is_none() {
        let followed = Arc::clone(&keys);
        doors.spawn(KeysFile::new(&config.zipline.keys_file).follow(move |ring| followed.replace(ring)));
    }
    if own_address(config).is_none() {
        tracing::warn!(
            "SERVING_POD_IP is not given: nobody else can read what is held here, so calls and answers go inline; \
             a reference to it is `peer-forbidden` to others"
        );
    }
    let node = Node::start(node_config(config)?, Arc::clone(&keys)).await?;
    let (counters, tickets) = (Arc::<Counters>::default(), Arc::<Tickets>::default());
    let acknowledgements = Arc::<Tasks>::default();
    let calls = Arc::new(calls(config, &node, &counters, &acknowledgements)?);
    let responses = Responses::new(node.clone(), call_settings(config), Arc::clone(&counters));
    let channels = Channels {
        node: node.clone(),
        tickets: Arc::clone(&tickets),
        counters: Arc::clone(&counters),
        ttl_max: config.zipline.ttl_max,
    };
    let info = Info::new(config, node.config().buffer_bytes);
    let api = Arc::new(Api::new(node.clone(), Arc::clone(&calls), channels, Arc::clone(&acknowledgements), info));
    if config.identity.is_on_host_network() {
        tracing::warn!(
            "the pod shares its node's network: local API and egress stay closed, as others on the node could use them"
        );
    } else {
        open_api(config, &api, &mut doors).await?;
        open_egress(config, secrets.egress_token, calls, &mut doors).await?;
    }
    let resolver = Resolver {
        node: node.clone(),
        tickets,
        acknowledgements: Arc::clone(&acknowledgements),
        counters: Arc::clone(&counters),
    };
    Ok(Zipline { node, resolver, responses, acknowledgements, counters, doors: Mutex::new(doors) })
}

/// What the parent process or the key file holds at the start.
fn secrets(settings: &config::Zipline) -> Result<Secrets, StartError> {
    match settings.secrets_fd {
        Some(number) => Ok(keys::inherited(take(&settings::SECRETS_FD, number)?)?),
        None => {
            let ring = KeysFile::new(&settings.keys_file).read().unwrap_or_else(|error| {
                tracing::warn!(%error, "the key ring can't be used; a plain queue-proxy until it can");
                None
            });
            Ok(Secrets { ring, egress_token: None })
        }
    }
}

fn take(setting: &settings::Setting, number: RawFd) -> Result<std::os::fd::OwnedFd, StartError> {
    inherited::take(number).map_err(|error| StartError::Descriptor { variable: setting.variable, number, error })
}

/// Where others reach what is held here; `None`: nobody can.
fn own_address(config: &Config) -> Option<IpAddr> {
    config.identity.pod_ip.or(config.zipline.bind)
}

fn node_config(config: &Config) -> Result<NodeConfig, StartError> {
    let zipline = &config.zipline;
    let own = own_address(config);
    let networks = zipline.peer_cidrs.iter().flatten().map(|network| format!("{}/{}", network.address, network.prefix));
    let networks: Vec<String> = networks.collect();
    let peers = PeerPolicy::parse(&networks.join(","), own, zipline.pull_port)?;
    let everywhere = || match own {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let listen = SocketAddr::new(zipline.bind.unwrap_or_else(everywhere), zipline.pull_port);
    let budget = zipline_sys::memory_limit::own()
        .map_or(zipline.buffer_bytes, |limit| zipline.buffer_bytes.min(memory_limit::budget(limit)));
    Ok(NodeConfig {
        advertised: own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        receivers: config.identity.receiver().parse().into_iter().collect(),
        heap_threshold_bytes: zipline.heap_threshold_bytes,
        buffer_bytes: budget,
        buffer_objects: zipline.buffer_objects,
        put_waiters: zipline.put_waiters,
        put_wait: zipline.put_wait,
        put_ttl: zipline.put_ttl,
        ttl_max: zipline.ttl_max,
        grace: config.grace(),
        attempts_extra: zipline.attempts_extra,
        lease: zipline.lease,
        pull_idle_timeout: zipline.pull_idle_timeout,
        connect_timeout: zipline.connect_timeout,
        pull_resumes: zipline.pull_resumes,
        pull_connections: zipline.pull_connections,
        pull_peer_connections: zipline.pull_peer_connections,
        pulls: zipline.pulls,
        congestion: congestion(&zipline.pull_congestion),
        tls: zipline.pull_tls,
        handover_dir: zipline.handover_dir.clone(),
        shared_budget: shared_budget(zipline)?,
        durability: zipline.durability,
        tier: zipline.tier.as_ref().map(|settings| tier(settings, zipline.pull_idle_timeout)).transpose()?,
        spill: zipline.spill.as_ref().map(|spill| SpillConfig { directory: spill.directory.clone(), bytes_max: spill.bytes_max }),
        clock: Clock::system(),
        ..NodeConfig::new(listen, peers)
    })
}

fn tier(settings: &config::Tier, idle: Duration) -> Result<TierConfig, StartError> {
    /// How often a request to the store is tried again.
    const RETRIES: usize = 3;
    let credentials = match &settings.access {
        config::Access::File(file) => tier_credentials(file)?,
        config::Access::Given(credentials) => credentials.clone(),
    };
    let store = zipline_store::open(&zipline_store::S3 {
        bucket: settings.bucket.clone(),
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        credentials,
        request_timeout: settings.timeout,
        retries: RETRIES,
    })?;
    let (name, prefix) = (settings.name.clone(), settings.prefix.clone());
    Ok(TierConfig { name, store, prefix, transfers: settings.transfers, sweep: settings.sweep, idle })
}

fn tier_credentials(file: &Path) -> Result<Credentials, StartError> {
    #[derive(serde::Deserialize)]
    struct Document {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
    }
    let unusable = |error: String| StartError::TierCredentials { file: file.to_owned(), error };
    let text = match std::fs::read(file) {
        Ok(text) => text,
        // A Secret that is not there must not stop a pod, whose requests are none of the tier's business.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), "the durable tier's credentials are not there: requests to it go unsigned");
            return Ok(Credentials::Anonymous);
        }
        Err(error) => return Err(unusable(error.to_string())),
    };
    // The reason is not passed on: it may quote what stands in the wrong place.
    let document: Document = serde_json::from_slice(&text)
        .map_err(|_| unusable("not a document with access_key_id and secret_access_key".to_owned()))?;
    Ok(Credentials::Keys {
        id: document.access_key_id,
        secret: document.secret_access_key,
        session_token: document.session_token,
    })
}

fn congestion(setting: &config::Congestion) -> Congestion {
    match setting {
        config::Congestion::Auto => Congestion::Auto,
        config::Congestion::System => Congestion::System,
        config::Congestion::Named(name) => Congestion::Named(name.clone()),
    }
}

fn shared_budget(settings: &config::Zipline) -> Result<Option<(SharedBudget, usize)>, StartError> {
    let (number, slot) = match (settings.shared_budget_fd, settings.shared_budget_slot) {
        (Some(number), Some(slot)) if usize::from(slot) < shared_budget::SLOTS => (number, usize::from(slot)),
        (None, None) => return Ok(None),
        _ => return Err(StartError::SharedBudget),
    };
    let descriptor = take(&settings::SHARED_BUDGET_FD, number)?;
    let unusable = |error| StartError::Descriptor { variable: settings::SHARED_BUDGET_FD.variable, number, error };
    Ok(Some((SharedBudget::from_fd(descriptor).map_err(unusable)?, slot)))
}

fn call_settings(config: &Config) -> CallSettings {
    let zipline = &config.zipline;
    // A payload that nobody could pull would fail a call that inline succeeds.
    let transfer = if own_address(config).is_some() { zipline.transfer } else { Transfer::Inline };
    CallSettings { transfer, inline_threshold_bytes: zipline.inline_threshold_bytes, timeout: zipline.invoke_timeout }
}

fn calls(config: &Config, node: &Node, counters: &Arc<Counters>, acknowledgements: &Arc<Tasks>) -> Result<Calls, StartError> {
    let zipline = &config.zipline;
    let namespace = match config.identity.namespace.as_str() {
        "" => NAMESPACE_DEFAULT,
        namespace => namespace,
    };
    let ingress = match &zipline.ingress {
        Some(text) => Some(text.parse().map_err(|_| StartError::Ingress(text.clone()))?),
        None => None,
    };
    let routes = Routes::new(Domain::new(&zipline.service_domain, namespace), ingress);
    let peers = match zipline.peers_known {
        Known::All => Peers::All,
        Known::Learn => Peers::learning(namespace),
    };
    let settings = call_settings(config);
    Ok(Calls::new(node.clone(), routes, peers, settings, Arc::clone(counters), Arc::clone(acknowledgements)))
}

async fn open_api(config: &Config, api: &Arc<Api>, doors: &mut JoinSet<()>) -> Result<(), StartError> {
    let zipline = &config.zipline;
    if let Some(socket) = &zipline.api_socket {
        let door = UnixDoor::open(socket, zipline.api_socket_mode, inherited::effective_uid())?;
        let api = Arc::clone(api);
        doors.spawn(serve(door, API_CONNECTIONS_MAX, move |stream| Arc::clone(&api).unix_connection(stream)));
    }
    if let Some(port) = zipline.api_port {
        let door = open_tcp(on_loopback(config, port)).await?;
        let token = Arc::new(Token::of_api(zipline.api_token_file.as_deref())?);
        let api = Arc::clone(api);
        let serve_one = move |stream| Arc::clone(&api).tcp_connection(stream, Arc::clone(&token));
        doors.spawn(serve(door, API_CONNECTIONS_MAX, serve_one));
    }
    Ok(())
}

async fn open_egress(
    config: &Config,
    token: Option<String>,
    calls: Arc<Calls>,
    doors: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let Some(port) = config.zipline.egress_port else { return Ok(()) };
    let address = on_loopback(config, port);
    let door = TcpListener::bind(address).await.map_err(|error| StartError::Egress { address, error })?;
    let egress = Arc::new(Egress::new(token, calls));
    doors.spawn(serve(door, EGRESS_CONNECTIONS_MAX, move |stream| Arc::clone(&egress).connection(stream)));
    Ok(())
}

/// The function's doors are on loopback, or on the own address where that is a loopback one.
fn on_loopback(config: &Config, port: u16) -> SocketAddr {
    let own = config.zipline.bind.filter(IpAddr::is_loopback);
    SocketAddr::new(own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_address_that_others_reach_sends_its_payloads_inline() {
        let of = |variables: &[(&'static str, &'static str)]| {
            let given = variables.iter().chain(&[("ZIPLINE_ROLE", "client")]).copied();
            call_settings(&Config::parse(&given.collect()).expect("a configuration")).transfer
        };
        assert_eq!(of(&[("SERVING_POD_IP", "10.0.0.7")]), Transfer::Zipline);
        assert_eq!(of(&[("SERVING_POD_IP", "fd00::7")]), Transfer::Zipline);
        assert_eq!(of(&[("ZIPLINE_BIND", "127.0.0.7")]), Transfer::Zipline, "what is bound is reached");
        for nowhere in ["", "x"] {
            assert_eq!(of(&[("SERVING_POD_IP", nowhere)]), Transfer::Inline, "{nowhere:?}");
        }
    }
}
