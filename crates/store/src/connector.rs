//! How the store client's requests leave: each once, within its time; the client above repeats them.

use std::time::Duration;

use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::timeout;

use crate::pooled::{Idle, Pooled, Schemes, TlsError};

/// A sidecar keeps few connections.
const IDLE: Idle = Idle { connections_max: 16, timeout: Duration::from_secs(20) };

/// Makes the client once; every part of the store client shares it.
#[derive(Debug)]
pub(crate) struct Connector(Requests);

#[derive(Clone, Debug)]
struct Requests {
    client: Pooled,
    timeout: Duration,
}

impl Connector {
    /// Requests to those endpoints.
    pub(crate) fn new(schemes: Schemes, timeout: Duration) -> Result<Self, TlsError> {
        Ok(Self(Requests { client: Pooled::new(schemes, IDLE)?, timeout }))
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
        match timeout(self.timeout, self.client.send(request)).await {
            Ok(Ok(response)) => Ok(response
                .map(|body| HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))))),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Request, error)),
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}
