//! Zipline's side of the queue-proxy: references resolved into requests, the local API, the descriptor channel, the
//! egress, invocations, and the pull port. The ingress knows it through [`Zipline`] alone.
//!
//! ```text
//! ingress ──► resolve ─────────┐            ┌─► zipline_transfer::Node ◄─► other proxies
//! function ─► api, descriptors ┼─ (tickets) ┤
//!          └► egress ──► call ─┘            └─► upstream: ingress, services, the world
//! ```
//!
//! [`problem`] is the one place where an error becomes an answer. What Zipline needs from the configuration is read in
//! [`start`]; nothing here reads the environment.

mod api;
mod body;
mod call;
mod counters;
mod descriptors;
mod door;
mod egress;
mod keys;
mod memory_limit;
mod metrics;
mod peers;
mod problem;
mod reading;
mod resolve;
mod response;
pub(crate) mod rfc3339;
mod service;
mod start;
mod tasks;
mod tickets;
mod token;
mod trace;
mod upload;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zipline_core::drain;
use zipline_core::object::Census;
use zipline_transfer::Node;

pub use self::api::listen::ListenError;
pub use self::keys::KeysError;
pub use self::response::Taken;
pub use self::start::StartError;
pub use self::token::TokenFileError;

use self::counters::Counters;
use self::resolve::Resolver;
use self::response::Responses;
use self::tasks::Tasks;
use crate::config::Config;
use crate::payload::{Payload, Refusal};

/// At the end, acknowledgements that are on their way are awaited for so long.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);

/// Everything Zipline adds to this instance. Lives as long as the process; its listeners end in [`Zipline::finish`].
pub struct Zipline {
    node: Node,
    resolver: Resolver,
    responses: Responses,
    acknowledgements: Arc<Tasks>,
    counters: Arc<Counters>,
    /// The doors' tasks, and the one that follows the key ring.
    doors: Mutex<JoinSet<()>>,
}

/// What this instance holds and does for others at this moment; the admin port's `/zipline/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of objects held for their consumers.
    pub held_bytes: u64,
    /// Objects held for their consumers.
    pub held_objects: u64,
    /// Leases granted and not ended.
    pub leases: u64,
    /// Puts waiting for room.
    pub waiters: u64,
    /// Bytes reserved for payloads being received or in use.
    pub receiving_bytes: u64,
    /// Open pull connections, both sides.
    pub pull_connections: u64,
}

impl Zipline {
    /// Binds pull port, local API and egress, and serves them on the current runtime.
    ///
    /// # Errors
    /// The door that can't be opened, with its address and the reason.
    pub async fn start(config: &Arc<Config>) -> Result<Self, StartError> {
        start::start(config).await
    }

    /// Puts the payload that a request refers to in the place of its empty body.
    ///
    /// `head` has lost every `zipline-*` header; `taken` has them, at least one `Zipline-Reference` among them.
    /// `has_body` says that at least one byte of a body came. What the function shall see beside the body (a
    /// `Zipline-Ticket`, the object's `Content-Type`) is put into `head`; framing headers are the caller's.
    ///
    /// # Errors
    /// The answer for the client; the function has seen nothing.
    pub async fn resolve(&self, head: &mut Parts, taken: &HeaderMap, has_body: bool) -> Result<Payload, Refusal> {
        self.resolver.resolve(head, taken, has_body).await
    }

    /// Takes an answer of `length` bytes into the buffer, for a request that asked for that by `Zipline-Accept` and may
    /// take `left` more. `None`: it goes inline.
    pub fn take_response(&self, length: u64, left: Option<Duration>) -> Option<Taken> {
        self.responses.take(length, left)
    }

    /// Runs what moves the bytes of an answer that was taken; it ends with this process at the latest.
    pub fn write_response(&self, moving: impl Future<Output = ()> + Send + 'static) {
        self.responses.write(moving);
    }

    /// What is held, for statistics (the hold of an idle instance), `/zipline/status` and the drain.
    pub fn held(&self) -> Held {
        let counted = self.node.counters();
        held(&self.node.census(), counted.connections_served + counted.connections_made)
    }

    /// The objects that nobody has read to the end and that have no durable copy: what is lost if this process ends now.
    pub fn unread(&self) -> drain::Held {
        let (objects, bytes) = self.node.census().unstored();
        drain::Held { objects: objects as u64, bytes }
    }

    /// SIGTERM came: no new puts from here on; everything held stays readable.
    pub fn quiesce(&self) {
        self.node.drain();
    }

    /// Returns once nothing that is held needs this process any more: all acknowledged, released, expired or stored.
    pub async fn drained(&self) {
        self.node.unneeded().await;
    }

    /// Ends the listeners and what they serve. What is still held without a durable copy is given up, by count and bytes in
    /// the answer.
    pub async fn finish(&self) -> Held {
        let mut doors = std::mem::take(&mut *self.doors.lock().unwrap_or_else(PoisonError::into_inner));
        doors.shutdown().await;
        if timeout(LAST_ACKNOWLEDGEMENTS, self.acknowledgements.finished()).await.is_err() {
            tracing::warn!("acknowledgements were still on their way at the end; their payloads may be read again");
        }
        let census = self.node.stop().await;
        let (objects, bytes) = census.unstored();
        Held { held_objects: objects as u64, held_bytes: bytes, ..held(&census, 0) }
    }

    /// Appends Zipline's own metrics in Prometheus' text format.
    pub fn write_metrics(&self, text: &mut String) {
        let snapshot = metrics::Snapshot {
            census: self.node.census(),
            counts: self.node.counts(),
            counted: self.node.counters(),
            tier: self.node.tier().unwrap_or_default(),
            buffer_limit_bytes: self.node.config().buffer_bytes,
            counters: &self.counters,
        };
        snapshot.write(text);
    }
}

fn held(census: &Census, pull_connections: usize) -> Held {
    Held {
        held_bytes: census.bytes.saturating_add(census.spilled_bytes),
        held_objects: census.objects as u64,
        leases: census.leases as u64,
        waiters: census.waiters as u64,
        receiving_bytes: census.receiving_bytes,
        pull_connections: pull_connections as u64,
    }
}
