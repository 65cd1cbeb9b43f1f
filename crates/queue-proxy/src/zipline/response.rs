//! A function's large answer, on its way back by reference.
//!
//! Only to a request that carried `Zipline-Accept`, and only an answer whose length is known and at least the inline
//! threshold: its bytes go into the buffer while they come, and the caller's proxy gets the answer's head at once, with a
//! reference in the place of the body. The object is a put of one retrieval that ends with the request's time. Where it
//! gets no room at once (a full buffer, a drain, no keys), the answer goes inline, and nobody notices.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use zipline_contract::headers;
use zipline_core::tier::Durability;
use zipline_transfer::{Node, PutOptions, Writer};

use crate::zipline::call::CallSettings;
use crate::zipline::counters::Counters;
use crate::zipline::tasks::Tasks;
use zipline_contract::Transfer;

/// Takes answers into the buffer.
pub(crate) struct Responses {
    node: Node,
    settings: CallSettings,
    counters: Arc<Counters>,
    writing: Tasks,
}

/// An answer that goes back by reference: where its bytes are to go, and what its head says.
pub struct Taken {
    /// Takes the answer's bytes. Dropped before all are written, it tells whoever reads.
    pub writer: Writer,
    reference: HeaderValue,
}

impl Responses {
    /// Answers of functions behind this node.
    pub(crate) fn new(node: Node, settings: CallSettings, counters: Arc<Counters>) -> Self {
        Self { node, settings, counters, writing: Tasks::default() }
    }

    /// Room for an answer of `length` bytes whose request may take `left` more; `None`: it goes inline.
    pub(crate) fn take(&self, length: u64, left: Option<Duration>) -> Option<Taken> {
        let is_large = length >= self.settings.inline_threshold_bytes.max(1);
        if !is_large || self.settings.transfer != Transfer::Zipline || !self.node.has_keys() {
            return None;
        }
        let ttl = left.unwrap_or(self.settings.timeout).min(self.node.config().ttl_max);
        let durability = Some(Durability::None); // It lives as long as the call; nobody can ask for it after that.
        let options = PutOptions { ttl: Some(ttl), size: Some(length), durability, ..PutOptions::default() };
        // What has to wait for room is not taken: dropping the put gives its place back.
        let writer = self.node.put(options).now_or_never()?.ok()?;
        let reference = HeaderValue::from_str(writer.reference().ok()?.as_str()).ok()?;
        self.counters.swap_out();
        Some(Taken { writer, reference })
    }

    /// Runs what moves an answer's bytes, after its head has gone.
    pub(crate) fn write(&self, moving: impl Future<Output = ()> + Send + 'static) {
        self.writing.spawn(moving);
    }
}

impl Taken {
    /// Says in the answer's head where its body is. The framing, of an empty body, is whoever's who writes the head.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(HeaderName::from_static(headers::REFERENCE), self.reference.clone());
        headers.insert(HeaderName::from_static(headers::BODY), HeaderValue::from_static(BY_REFERENCE));
    }
}

/// What [`headers::BODY`] says of such an answer.
pub(crate) const BY_REFERENCE: &str = "reference";
