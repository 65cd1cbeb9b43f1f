//! One instance, as everybody else sees it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use zipline_core::balance::Candidate;
use zipline_core::time::{Monotonic, WallTime};

use super::environment::request_port;
use super::host::{Host, LaunchError, Slot};
use super::log::InstanceLog;
use super::secrets;
use crate::addresses::FunctionPort;
use crate::clock;
use crate::manifest::{RevisionSpec, ServiceName};

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its readiness probe has not succeeded, or fails again.
    Starting,
    /// It takes requests.
    Ready,
    /// It finishes what it has, and then ends.
    Stopping,
    /// Both processes are gone.
    Ended,
}

/// How an instance is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopMode {
    /// With a drain: quiet period, then until everything held was read, within the revision's timeout.
    Drain,
    /// SIGTERM, two seconds, SIGKILL.
    Quick,
}

/// What changes in the life of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceStatus {
    pub(crate) phase: Phase,
    pub(crate) ready_since: Option<Monotonic>,
    pub(crate) proxy_pid: Option<i32>,
    pub(crate) function_pid: Option<i32>,
    /// Times that a process of this instance ended without being asked to.
    pub(crate) restarts: u32,
    /// What happened last, in words; for who asks why it is not ready.
    pub(crate) reason: String,
}

/// Starts and crashes of all instances of a platform.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    starts: AtomicU64,
    crashes: AtomicU64,
}

impl Counters {
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    pub(crate) fn crashes(&self) -> u64 {
        self.crashes.load(Ordering::Relaxed)
    }

    pub(super) fn started(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn crashed(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }
}

/// A function's process with its queue-proxy.
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) service: ServiceName,
    pub(crate) revision: String,
    /// The queue-proxy's address.
    pub(crate) address: Ipv4Addr,
    pub(crate) started: Monotonic,
    pub(crate) started_wall: WallTime,
    pub(crate) log: Arc<InstanceLog>,
    pub(super) spec: Arc<RevisionSpec>,
    pub(super) function_port: FunctionPort,
    pub(super) slot: Slot,
    pub(super) egress_token: String,
    pub(super) counters: Arc<Counters>,
    /// Requests that were brought to it and have not ended.
    requests: watch::Sender<usize>,
    /// Told whenever the status changes.
    changed: Arc<Notify>,
    pub(super) status: watch::Sender<InstanceStatus>,
    pub(super) stop: watch::Sender<Option<StopMode>>,
    /// Somebody doubts that it is ready; it is probed at once.
    pub(super) doubt: Notify,
}

impl Instance {
    /// Claims what an instance needs; nothing runs before [`Instance::run`].
    pub(crate) fn claim(
        host: &Host,
        service: &ServiceName,
        revision: &str,
        spec: Arc<RevisionSpec>,
        counters: Arc<Counters>,
        changed: Arc<Notify>,
    ) -> Result<Arc<Self>, LaunchError> {
        let slot = host.slot()?;
        let function_port = host.function_port()?;
        let name = format!("{revision}-deployment-{}", secrets::name_suffix()?);
        let directory = host.state.logs_dir().join(&service.namespace).join(&service.name);
        let log = InstanceLog::open(name.clone(), directory.join(format!("{name}.log")));
        let status = InstanceStatus {
            phase: Phase::Starting,
            ready_since: None,
            proxy_pid: None,
            function_pid: None,
            restarts: 0,
            reason: "starting".to_owned(),
        };
        Ok(Arc::new(Self {
            name,
            service: service.clone(),
            revision: revision.to_owned(),
            address: host.instance_address(),
            started: clock::now(),
            started_wall: clock::wall_now(),
            log,
            spec,
            function_port,
            slot,
            egress_token: secrets::egress_token()?,
            counters,
            requests: watch::Sender::new(0),
            changed,
            status: watch::Sender::new(status),
            stop: watch::Sender::new(None),
            doubt: Notify::new(),
        }))
    }

    /// Counts a request until the answered guard is dropped.
    pub(crate) fn count_request(self: &Arc<Self>) -> Busy {
        self.requests.send_modify(|count| *count += 1);
        Busy { instance: Arc::clone(self) }
    }

    /// Waits until no request is with it. New ones may come, unless it was asked to stop before.
    pub(super) async fn idle(&self) {
        if self.requests.subscribe().wait_for(|count| *count == 0).await.is_err() {
            debug_assert!(false, "the sender is our own");
        }
    }

    /// Where its queue-proxy takes requests.
    pub(crate) fn request_address(&self) -> SocketAddr {
        (self.address, request_port(self.spec.function.protocol)).into()
    }

    /// Another port of its queue-proxy.
    pub(crate) fn port(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// The port its function was given.
    pub(crate) fn function_port(&self) -> u16 {
        self.function_port.number
    }

    /// What it is doing now.
    pub(crate) fn status(&self) -> InstanceStatus {
        self.status.borrow().clone()
    }

    /// Follows what it does.
    pub(crate) fn watch(&self) -> watch::Receiver<InstanceStatus> {
        self.status.subscribe()
    }

    /// Whether it takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.borrow().phase == Phase::Ready
    }

    /// Asks it to end. It takes no more requests from here on. A second, quicker request overrides a first.
    pub(crate) fn stop(&self, mode: StopMode) {
        self.set_phase(Phase::Stopping, "asked to stop");
        self.stop.send_if_modified(|current| {
            let quicker = current.is_none_or(|current| mode > current);
            if quicker {
                *current = Some(mode);
            }
            quicker
        });
    }

    /// A request could not be brought to it: it is probed at once instead of at its next turn.
    pub(crate) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Nothing listens where its queue-proxy should: it is not ready, whatever its last probe said.
    pub(crate) fn unreachable(&self) {
        if self.is_ready() {
            self.set_phase(Phase::Starting, "its queue-proxy does not answer");
        }
    }

    /// What counts when one of several instances must go.
    pub(crate) fn candidate(&self, held_bytes: u64) -> Candidate {
        let status = self.status.borrow();
        Candidate { ready_since: status.ready_since, held_bytes, restarts: status.restarts, started: self.started }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut InstanceStatus)) {
        let modified = self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
        if modified {
            self.changed.notify_one();
        }
    }

    /// Moves on in life, never back from stopping or ended.
    pub(super) fn set_phase(&self, phase: Phase, reason: &str) {
        self.change(|status| {
            let backwards = match status.phase {
                Phase::Ended => true,
                Phase::Stopping => phase != Phase::Ended,
                Phase::Starting | Phase::Ready => false,
            };
            if backwards {
                return;
            }
            if status.phase != phase {
                status.ready_since = (phase == Phase::Ready).then(clock::now);
            }
            status.phase = phase;
            reason.clone_into(&mut status.reason);
        });
    }
}

/// A request that is with an instance.
#[derive(Debug)]
pub(crate) struct Busy {
    instance: Arc<Instance>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.instance.requests.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}
