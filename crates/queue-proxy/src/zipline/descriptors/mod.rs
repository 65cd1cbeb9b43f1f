//! The descriptor channel: payloads pass between a function and its queue-proxy as descriptors, without a copy.
//!
//! A channel is a connection of the local API's Unix socket after its upgrade; `docs/reference/local-api.md` has the
//! messages. Requests are answered as they are done, so that a `get` of an object still being written holds up nobody;
//! as many as [`CHANNEL_REQUESTS_MAX`](zipline_contract::limits::CHANNEL_REQUESTS_MAX) run at once, further ones wait
//! unread. The channel owns the leases it granted and the registration it made: both end with it.

mod channel;
mod message;
mod operation;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use zipline_transfer::Node;

use self::channel::Channel;
use crate::zipline::counters::Counters;
use crate::zipline::tickets::Tickets;

/// What every channel of one instance works with.
#[derive(Clone)]
pub(crate) struct Channels {
    /// Where objects are put and read.
    pub(crate) node: Node,
    /// The tickets of requests in progress.
    pub(crate) tickets: Arc<Tickets>,
    /// Errors answered and payloads handed over.
    pub(crate) counters: Arc<Counters>,
    /// The longest ttl a put may ask for.
    pub(crate) ttl_max: Duration,
}

impl Channels {
    /// Serves a channel until either side closes it. `ahead` was read before the upgrade was through.
    pub(crate) async fn serve(&self, socket: UnixStream, ahead: &[u8]) {
        if let Err(error) = Channel::new(self.clone(), socket).serve(ahead).await {
            tracing::debug!(%error, "a descriptor channel broke off");
        }
    }
}
