//! Zipline's own settings, each from the table in `zipline_contract::settings`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zipline_contract::{Transfer, settings};
use zipline_core::tier::Durability;

use super::reader::Reader;
use super::tier::{self, Spill, Tier};

/// What this proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The queue-proxy of one function.
    Sidecar,
    /// Without a function: local API, egress, pull and admin only.
    Client,
}

/// Where the local API listens for its function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSocket {
    /// A socket file.
    Path(PathBuf),
    /// An abstract socket: it has no file and is seen in one network namespace only.
    Abstract(String),
}

/// Who may connect to the local API's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMode {
    /// Any uid of the pod.
    Pod,
    /// Only our own uid.
    Uid,
}

/// Congestion control of pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// `reno` over loopback, else the system's.
    Auto,
    /// The system's.
    System,
    /// One the kernel knows by this name.
    Named(String),
}

/// Which hosts are taken to have a queue-proxy of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Every service of the domain.
    All,
    /// Those that said so, for a while.
    Learn,
}

/// A network: `address/prefix`, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// First address.
    pub address: IpAddr,
    /// Bits that are fixed.
    pub prefix: u8,
}

/// Zipline's settings. The fields are named after their variables and mean what the settings table says.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the settings table documents each; a second text here would drift")]
pub struct Zipline {
    pub role: Role,
    /// `None`: all addresses.
    pub bind: Option<IpAddr>,
    pub certificates_dir: PathBuf,
    pub pull_port: u16,
    /// `None`: off.
    pub api_port: Option<u16>,
    /// `None`: whoever can connect to the port may use it.
    pub api_token_file: Option<PathBuf>,
    /// `None`: off.
    pub api_socket: Option<ApiSocket>,
    pub api_socket_mode: PeerMode,
    /// `None`: off.
    pub egress_port: Option<u16>,
    pub keys_file: PathBuf,
    pub secrets_fd: Option<i32>,
    pub shared_budget_fd: Option<i32>,
    pub shared_budget_slot: Option<u16>,
    /// `None`: the default networks.
    pub peer_cidrs: Option<Vec<Network>>,
    pub inline_threshold_bytes: u64,
    pub heap_threshold_bytes: u64,
    pub buffer_bytes: u64,
    pub buffer_objects: usize,
    pub put_wait: Duration,
    pub put_waiters: usize,
    pub put_ttl: Duration,
    pub ttl_max: Duration,
    pub attempts_extra: u32,
    pub lease: Duration,
    pub pull_idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub pull_resumes: u32,
    pub pull_connections: usize,
    pub pull_peer_connections: usize,
    pub pulls: usize,
    pub pull_congestion: Congestion,
    /// Whether pulls go over mutual TLS only.
    pub pull_tls: bool,
    /// `None`: off.
    pub handover_dir: Option<PathBuf>,
    /// `HOST:PORT`; `None`: the called host itself.
    pub ingress: Option<String>,
    pub service_domain: String,
    pub peers_known: Known,
    pub transfer: Transfer,
    pub invoke_timeout: Duration,
    pub drain_quiet: Duration,
    /// `None`: the revision's timeout; see [`Config::grace`](super::Config::grace).
    pub grace: Option<Duration>,
    pub durability: Durability,
    /// `None`: no durable tier.
    pub tier: Option<Tier>,
    /// `None`: memory only.
    pub spill: Option<Spill>,
    pub worker_threads: usize,
    /// Whether core dumps and debuggers may see what is in memory.
    pub core_dumps: bool,
    /// `None`: not set; see [`Config::log_filter`](super::Config::log_filter).
    pub log: Option<String>,
}

impl Zipline {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let tier = tier::durable(r);
        Self {
            durability: tier::durability(r, tier.as_ref()),
            tier,
            spill: tier::spill(r),
            role: one_of(r, &settings::ROLE, &[("sidecar", Role::Sidecar), ("client", Role::Client)]),
            bind: r.setting_as(&settings::BIND, "an IP address", |t| t.parse().ok()),
            certificates_dir: r.setting(&settings::CERTIFICATES_DIR).into(),
            pull_port: r.count(&settings::PULL_PORT),
            api_port: port(r, &settings::API_PORT),
            api_token_file: r.setting_as(&settings::API_TOKEN_FILE, "a file", |t| Some(PathBuf::from(t))),
            api_socket: r.setting_as(&settings::API_SOCKET, "a path or `@NAME`", api_socket),
            api_socket_mode: one_of(r, &settings::API_SOCKET_MODE, &[("pod", PeerMode::Pod), ("uid", PeerMode::Uid)]),
            egress_port: port(r, &settings::EGRESS_PORT),
            keys_file: r.setting(&settings::KEYS_FILE).into(),
            secrets_fd: r.optional_count(&settings::SECRETS_FD),
            shared_budget_fd: r.optional_count(&settings::SHARED_BUDGET_FD),
            shared_budget_slot: r.optional_count(&settings::SHARED_BUDGET_SLOT),
            peer_cidrs: r.setting_as(&settings::PEER_CIDRS, "networks such as `10.0.0.0/8,fd00::/8`", networks),
            inline_threshold_bytes: r.bytes(&settings::INLINE_THRESHOLD_BYTES),
            heap_threshold_bytes: r.bytes(&settings::HEAP_THRESHOLD_BYTES),
            buffer_bytes: r.bytes(&settings::BUFFER_BYTES),
            buffer_objects: r.count(&settings::BUFFER_OBJECTS),
            put_wait: r.seconds(&settings::PUT_WAIT_SECONDS),
            put_waiters: r.count(&settings::PUT_WAITERS),
            put_ttl: r.seconds(&settings::PUT_TTL_SECONDS),
            ttl_max: r.seconds(&settings::TTL_SECONDS_MAX),
            attempts_extra: r.count(&settings::ATTEMPTS_EXTRA),
            lease: r.seconds(&settings::LEASE_SECONDS),
            pull_idle_timeout: r.seconds(&settings::PULL_IDLE_TIMEOUT_SECONDS),
            connect_timeout: r.seconds(&settings::CONNECT_TIMEOUT_SECONDS),
            pull_resumes: r.count(&settings::PULL_RESUMES),
            pull_connections: r.count(&settings::PULL_CONNECTIONS),
            pull_peer_connections: r.count(&settings::PULL_PEER_CONNECTIONS),
            pulls: r.count(&settings::PULLS),
            pull_congestion: r
                .setting_as(&settings::PULL_CONGESTION, "`auto`, `system` or a congestion control's name", congestion)
                .unwrap_or(Congestion::Auto),
            pull_tls: one_of(r, &settings::PULL_TLS, &[("off", false), ("require", true)]),
            handover_dir: r.setting_as(&settings::HANDOVER_DIR, "a directory", |t| Some(PathBuf::from(t))),
            ingress: r.setting_as(&settings::INGRESS, "`HOST:PORT`", host_and_port),
            service_domain: r.setting(&settings::SERVICE_DOMAIN).trim_matches('.').to_ascii_lowercase(),
            peers_known: one_of(r, &settings::PEERS_KNOWN, &[("learn", Known::Learn), ("all", Known::All)]),
            transfer: one_of(r, &settings::TRANSFER, &Transfer::ALL.map(|method| (method.name(), method))),
            invoke_timeout: r.seconds(&settings::INVOKE_TIMEOUT_SECONDS),
            drain_quiet: r.seconds(&settings::DRAIN_QUIET_SECONDS),
            grace: r.optional_seconds(&settings::GRACE_SECONDS),
            worker_threads: r.count(&settings::WORKER_THREADS),
            core_dumps: one_of(r, &settings::CORE_DUMPS, &[("off", false), ("on", true)]),
            log: log(r),
        }
    }
}

fn port(r: &mut Reader<'_>, setting: &settings::Setting) -> Option<u16> {
    r.optional_count(setting).filter(|port| *port != 0)
}

/// Reads one of a closed set of names; the first stands in for a bad value until reading is over.
fn one_of<T: Copy>(r: &mut Reader<'_>, setting: &settings::Setting, known: &[(&str, T)]) -> T {
    let names: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
    let expected = format!("one of {}", names.join(", "));
    r.setting_as(setting, &expected, |text| known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value))
        .unwrap_or(known[0].1)
}

fn log(r: &mut Reader<'_>) -> Option<String> {
    let text = r.text(settings::LOG.variable);
    if text.parse::<tracing_subscriber::filter::Targets>().is_err() {
        r.unreadable(settings::LOG.variable, text, "a log filter such as `info` or `zipline_queue_proxy=debug,warn`");
    }
    (!text.is_empty()).then(|| text.to_owned())
}

fn api_socket(text: &str) -> Option<ApiSocket> {
    /// `sockaddr_un` has 108 bytes, one of which a path ends with and an abstract name begins with.
    const BYTES_MAX: usize = 107;
    if text.len() > BYTES_MAX {
        return None;
    }
    match text.strip_prefix('@') {
        Some("") => None,
        Some(name) => Some(ApiSocket::Abstract(name.to_owned())),
        None => Some(ApiSocket::Path(text.into())),
    }
}

fn networks(text: &str) -> Option<Vec<Network>> {
    text.split(',').map(|part| network(part.trim())).collect()
}

fn network(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    if prefix > bits {
        return None;
    }
    let address = match address {
        IpAddr::V4(a) => IpAddr::from((a.to_bits() & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(a) => IpAddr::from((a.to_bits() & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0)).to_be_bytes()),
    };
    Some(Network { address, prefix })
}

fn congestion(text: &str) -> Option<Congestion> {
    /// `TCP_CA_NAME_MAX` less its final zero.
    const BYTES_MAX: usize = 15;
    match text {
        "auto" => Some(Congestion::Auto),
        "system" => Some(Congestion::System),
        name if name.len() <= BYTES_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') => {
            Some(Congestion::Named(name.to_owned()))
        }
        _ => None,
    }
}

fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let sound = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_lose_their_host_bits_and_refuse_impossible_prefixes() {
        let of = |address: &str, prefix| Some(Network { address: address.parse().expect("an address"), prefix });
        assert_eq!(network("10.1.2.3/8"), of("10.0.0.0", 8));
        assert_eq!(network("0.0.0.0/0"), of("0.0.0.0", 0));
        assert_eq!(network("127.0.0.1"), of("127.0.0.1", 32));
        assert_eq!(network("fd00:1::5/16"), of("fd00::", 16));
        assert_eq!(network("::/0"), of("::", 0));
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("ten/8"), None);
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name_that_fits_the_kernel() {
        assert_eq!(api_socket("@zipline"), Some(ApiSocket::Abstract("zipline".into())));
        assert_eq!(api_socket("/run/zl/api.sock"), Some(ApiSocket::Path("/run/zl/api.sock".into())));
        assert_eq!(api_socket("@"), None);
        assert_eq!(api_socket(&"x".repeat(108)), None);
    }
}
