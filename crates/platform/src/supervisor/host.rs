//! What all instances of one platform share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use zipline_contract::{Setting, doors, settings};
use zipline_sys::child::{SpawnError, Spawner};
use zipline_sys::shared_budget::{SLOTS, SharedBudget};

use super::environment::PASSED_ON;
use super::secrets::TrustDomain;
use crate::addresses::{AddressError, FunctionPort, Network};
use crate::state_dir::StateDir;

/// Slot of the client proxy; instances have the others.
const CLIENT_SLOT: usize = 0;
/// Instances of one platform at once: each has a slot in the shared budget.
pub(crate) const INSTANCES_MAX: usize = SLOTS - 1;
/// The part of the machine's memory that all queue-proxies together may hold.
const MEMORY_PARTS: u64 = 4;

/// Why an instance could not be started.
#[derive(Debug, Error)]
pub(crate) enum LaunchError {
    #[error("{INSTANCES_MAX} instances run already, which is as many as one platform can have")]
    TooMany,
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("working directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    #[error("the system has no more resources for an instance: {0}")]
    Io(#[from] io::Error),
}

/// What a host is made of.
pub(crate) struct HostOptions {
    pub(crate) state: Arc<StateDir>,
    pub(crate) proxy_binary: PathBuf,
    /// Where the ingress listens.
    pub(crate) ingress: SocketAddr,
    /// Whether local APIs listen on loopback TCP too.
    pub(crate) loopback_api: bool,
    /// `ZIPLINE_*` for every queue-proxy; a service's annotations go before them.
    pub(crate) proxy_settings: BTreeMap<String, String>,
    /// The platform's own environment.
    pub(crate) environment: BTreeMap<String, String>,
}

/// What all instances of one platform share.
pub(crate) struct Host {
    pub(super) spawner: Spawner,
    pub(super) state: Arc<StateDir>,
    pub(super) proxy_binary: PathBuf,
    pub(super) domain: TrustDomain,
    ingress: SocketAddr,
    loopback_api: bool,
    proxy_settings: BTreeMap<String, String>,
    passed_on: BTreeMap<String, String>,
    network: Mutex<Network>,
    budget: SharedBudget,
    free_slots: Arc<Mutex<BTreeSet<usize>>>,
}

impl Host {
    pub(crate) fn new(options: HostOptions) -> Result<Self, AddressError> {
        let network = Network::claim(options.state.path())?;
        let mut proxy_settings = options.proxy_settings;
        if let Some(total) = memory_bytes() {
            proxy_settings.entry(settings::BUFFER_BYTES.variable.to_owned()).or_insert((total / MEMORY_PARTS).to_string());
        }
        let mut passed_on = options.environment;
        passed_on.retain(|name, _| PASSED_ON.contains(&name.as_str()) || name.starts_with("LC_"));
        Ok(Self {
            spawner: Spawner::start()?,
            state: options.state,
            proxy_binary: options.proxy_binary,
            domain: TrustDomain::random()?,
            ingress: options.ingress,
            loopback_api: options.loopback_api,
            proxy_settings,
            passed_on,
            network: Mutex::new(network),
            budget: SharedBudget::create()?,
            free_slots: Arc::new(Mutex::new((CLIENT_SLOT + 1..SLOTS).collect())),
        })
    }

    /// The network of this platform's queue-proxies.
    pub(crate) fn network(&self) -> String {
        lock(&self.network).cidr()
    }

    /// Bytes that all queue-proxies together hold, those being received included.
    pub(crate) fn budget_bytes_used(&self) -> u64 {
        self.budget.total()
    }

    /// Variables of every queue-proxy.
    pub(super) fn proxy_environment(&self, address: Ipv4Addr, api_socket: &Path) -> BTreeMap<String, String> {
        let (api_port, token_file) = match self.loopback_api {
            true => (doors::API.to_string(), self.state.api_token_file().display().to_string()),
            false => ("0".to_owned(), String::new()),
        };
        let own = [
            (&settings::BIND, address.to_string()),
            (&settings::API_PORT, api_port),
            (&settings::API_TOKEN_FILE, token_file),
            (&settings::API_SOCKET, api_socket.display().to_string()),
            (&settings::API_SOCKET_MODE, "uid".to_owned()),
            (&settings::PEER_CIDRS, self.network()),
            (&settings::HANDOVER_DIR, self.state.handover_dir().display().to_string()),
            (&settings::INGRESS, self.ingress.to_string()),
            (&settings::SERVICE_DOMAIN, "localhost".to_owned()),
            (&settings::PEERS_KNOWN, "all".to_owned()),
        ];
        let mut env = self.proxy_settings.clone();
        env.extend(own.map(|(setting, value)| (setting.variable.to_owned(), value)));
        env.extend(zipline_fault_point::passed_on());
        env
    }

    /// Whether local APIs listen on loopback TCP too.
    pub(crate) const fn loopback_api(&self) -> bool {
        self.loopback_api
    }

    pub(super) fn passed_on(&self) -> BTreeMap<String, String> {
        self.passed_on.clone()
    }

    /// Transfer method of services that name none.
    pub(super) fn transfer(&self) -> &str {
        self.setting(&settings::TRANSFER).unwrap_or(settings::TRANSFER.default)
    }

    /// A setting of every queue-proxy, where the operator gave one.
    pub(super) fn setting(&self, setting: &Setting) -> Option<&str> {
        self.proxy_settings.get(setting.variable).map(String::as_str)
    }

    pub(crate) fn client_address(&self) -> Ipv4Addr {
        lock(&self.network).client()
    }

    pub(super) fn instance_address(&self) -> Ipv4Addr {
        lock(&self.network).instance_address()
    }

    pub(super) fn function_port(&self) -> Result<FunctionPort, AddressError> {
        lock(&self.network).function_port()
    }

    /// A slot of the shared budget for an instance.
    pub(super) fn slot(&self) -> Result<Slot, LaunchError> {
        let number = lock(&self.free_slots).pop_first().ok_or(LaunchError::TooMany)?;
        Ok(Slot { number, free: Arc::clone(&self.free_slots) })
    }

    /// Forgets what a queue-proxy held that has ended.
    pub(super) fn forget_held(&self, slot: usize) {
        self.budget.clear_slot(slot);
    }

    /// Variables and the descriptor by which a queue-proxy finds the shared budget.
    pub(super) fn budget_share(&self, slot: usize) -> io::Result<((String, String), OwnedFd)> {
        let variable = (settings::SHARED_BUDGET_SLOT.variable.to_owned(), slot.to_string());
        Ok((variable, self.budget.as_fd().try_clone_to_owned()?))
    }

    pub(super) const fn client_slot() -> usize {
        CLIENT_SLOT
    }
}

/// A slot of the shared budget, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: usize,
    free: Arc<Mutex<BTreeSet<usize>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.free).insert(self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters and sets: whole after every step, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine's memory; `None` where the system does not say.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
