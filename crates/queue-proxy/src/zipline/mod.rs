//! Zipline's side of the queue-proxy: references resolved into requests, the local API, the descriptor channel, the
//! egress, invocations, and the pull port. The ingress knows it through [`Zipline`] alone.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

use crate::config::Config;
use crate::payload::{Payload, Refusal};

/// Everything Zipline adds to this instance. Lives as long as the process; its listeners end in [`Zipline::finish`].
pub struct Zipline {}

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
    pub async fn start(_config: &Arc<Config>) -> Result<Self, StartError> {
        Ok(Self {})
    }

    /// Puts the payload that a request refers to in the place of its empty body.
    ///
    /// `head` has lost every `zipline-*` header; `taken` has them, at least one `Zipline-Reference` among them.
    /// `has_body` says that at least one byte of a body came. What the function shall see beside the body (a
    /// `Zipline-Ticket`, the object's `Content-Type`) is put into `head`; framing headers are the caller's.
    ///
    /// # Errors
    /// The answer for the client; the function has seen nothing.
    pub async fn resolve(&self, _head: &mut Parts, _taken: &HeaderMap, _has_body: bool) -> Result<Payload, Refusal> {
        std::future::pending().await
    }

    /// What is held, for statistics (the hold of an idle instance), `/zipline/status` and the drain.
    pub fn held(&self) -> Held {
        Held::default()
    }

    /// SIGTERM came: no new puts from here on; everything held stays readable.
    pub fn quiesce(&self) {}

    /// Returns once nothing is held any more: all acknowledged, released, expired or stored.
    pub async fn drained(&self) {}

    /// Ends the listeners and what they serve. What is still held is given up, by count and bytes in the answer.
    pub async fn finish(&self) -> Held {
        self.held()
    }

    /// Appends Zipline's own metrics in Prometheus' text format.
    pub fn write_metrics(&self, _text: &mut String) {}
}

/// Why Zipline's doors can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {}
