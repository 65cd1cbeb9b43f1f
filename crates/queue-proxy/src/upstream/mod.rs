//! Connections to the function.
//!
//! A request goes on as it came: HTTP/1 requests take one of the kept connections ([`Http1Pool`]) or a new one for
//! themselves, HTTP/2 requests share connections ([`Http2Pool`]). Both dial the same way ([`connect()`]).

mod connect;
mod http1_pool;
mod http2_pool;

pub use connect::{ConnectError, connect};
pub use http1_pool::{FunctionConn, Http1Pool};
pub use http2_pool::{Http2Pool, InUse, SendError};

use std::net::{Ipv4Addr, SocketAddr};

/// The function's side of this instance.
#[derive(Debug)]
pub struct Upstream {
    /// Where the function listens.
    pub address: SocketAddr,
    /// Kept HTTP/1 connections.
    pub http1: Http1Pool,
    /// HTTP/2 connections.
    pub http2: Http2Pool,
}

impl Upstream {
    /// The function that listens on 127.0.0.1 at `port`. `concurrency` is how many requests it works on at once, 0 for no limit.
    pub fn new(port: u16, concurrency: u32) -> Self {
        /// Knative's own number where nothing limits the requests.
        const KEPT_WITHOUT_LIMIT: usize = 1000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let kept_max = if concurrency == 0 { KEPT_WITHOUT_LIMIT } else { concurrency as usize };
        Self { address, http1: Http1Pool::new(kept_max), http2: Http2Pool::new(address) }
    }
}
