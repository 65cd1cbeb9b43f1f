//! The one HTTP client of stores: hyper, with connections that are kept, and rustls where an endpoint is `https`.

use std::error::Error;
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{HttpRequest, HttpRequestBody};

/// Connecting to the store ends after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that are kept without use.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// To one service, at most.
    pub connections_max: usize,
    /// How long.
    pub timeout: Duration,
}

/// Which endpoints there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// `http` only: no certificates are needed.
    Plain,
    /// `https` and `http`.
    Both,
}

/// An HTTP/1.1 client whose clones share their connections.
#[derive(Clone, Debug)]
pub struct Pooled(Either);

#[derive(Clone, Debug)]
enum Either {
    Http(Client<TcpConnector, HttpRequestBody>),
    Https(Client<HttpsConnector<TcpConnector>, HttpRequestBody>),
}

/// TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the certificates that a store's TLS is checked with can't be used: {0}; hint: install ca-certificates, or name a bundle by SSL_CERT_FILE"
)]
pub struct TlsError(#[source] Box<dyn Error + Send + Sync>);

impl Pooled {
    /// A client without a connection yet.
    ///
    /// # Errors
    /// Certificates that cannot be read, where there may be TLS.
    pub fn new(schemes: Schemes, idle: Idle) -> Result<Self, TlsError> {
        let mut tcp = TcpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut pooled = Client::builder(TokioExecutor::new());
        pooled.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        pooled.pool_idle_timeout(idle.timeout).pool_max_idle_per_host(idle.connections_max);
        if schemes == Schemes::Plain {
            return Ok(Self(Either::Http(pooled.build(tcp))));
        }
        tcp.enforce_http(false);
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.into()))?
            .with_native_roots()
            .map_err(|error| TlsError(error.into()))?
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self(Either::Https(pooled.build(connector))))
    }

    /// Sends a request; its answer has begun when this returns.
    ///
    /// # Errors
    /// No connection, or one that broke before the answer began.
    pub async fn send(&self, request: HttpRequest) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        match &self.0 {
            Either::Http(client) => client.request(request).await,
            Either::Https(client) => client.request(request).await,
        }
    }
}
