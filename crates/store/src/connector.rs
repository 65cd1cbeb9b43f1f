//! How the store client's requests leave: hyper, with connections that are kept, and rustls where the endpoint is `https`.

use std::error::Error;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::timeout;

/// Connecting to the store ends after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept without use.
const IDLE_MAX: usize = 16;
/// How long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

type Https = Client<HttpsConnector<TcpConnector>, HttpRequestBody>;
type Http = Client<TcpConnector, HttpRequestBody>;

/// Makes the client once; every part of the store client shares it.
#[derive(Debug)]
pub(crate) struct Connector(Requests);

#[derive(Clone, Debug)]
struct Requests {
    client: Either,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Either {
    Http(Http),
    Https(Https),
}

/// TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the certificates that a store's TLS is checked with can't be used: {0}; hint: install ca-certificates, or name a bundle by SSL_CERT_FILE"
)]
pub struct TlsError(#[source] Box<dyn Error + Send + Sync>);

impl Connector {
    /// Requests over plain HTTP only, or over both.
    pub(crate) fn new(plain: bool, timeout: Duration) -> Result<Self, TlsError> {
        let mut tcp = TcpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut pooled = Client::builder(TokioExecutor::new());
        pooled.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        pooled.pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(IDLE_MAX);
        let client = if plain {
            Either::Http(pooled.build(tcp))
        } else {
            tcp.enforce_http(false);
            let provider = rustls::crypto::ring::default_provider();
            let tls = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(|error| TlsError(error.into()))?
                .with_native_roots()
                .map_err(|error| TlsError(error.into()))?
                .with_no_client_auth();
            Either::Https(
                pooled
                    .build(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp)),
            )
        };
        Ok(Self(Requests { client, timeout }))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Requests {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answered = async {
            match &self.client {
                Either::Http(client) => client.request(request).await,
                Either::Https(client) => client.request(request).await,
            }
        };
        match timeout(self.timeout, answered).await {
            Ok(Ok(response)) => Ok(response
                .map(|body| HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))))),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Request, error)),
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}
