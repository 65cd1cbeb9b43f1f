//! The control API over a cluster: what `docs/reference/control-api.md` says, with Knative behind it.
//!
//! Every answer is made anew from what the API server says at that moment. What only the local platform can know is left out
//! (`null`), and said so in that page.

mod apply;
mod logs;
mod pods;
mod services;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::door;
use crate::install::InstallError;

pub(super) use pods::is_ready;

/// Connections at once: commands make few.
const CONNECTIONS_MAX: usize = 64;
/// How long a head may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file that is applied.
const MANIFEST_BYTES_MAX: usize = 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves it until it is dropped.
pub(super) async fn serve(listener: UnixListener, client: Client, namespace: String) {
    let cluster = Arc::new(Cluster { client, namespace });
    door::serve(listener, CONNECTIONS_MAX, |stream| Arc::clone(&cluster).connection(stream)).await;
}

/// A cluster, and the namespace of whoever names none.
struct Cluster {
    client: Client,
    namespace: String,
}

/// Why a request is refused: a name of `control-api.md`, and in words.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    name: &'static str,
    detail: String,
    is_for_later: bool,
}

impl Refusal {
    fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, detail: detail.into(), is_for_later: false }
    }

    fn unknown(what: &str, namespace: &str, name: &str) -> Self {
        let detail = format!("{what} `{name}` does not exist in namespace `{namespace}`");
        Self::new(StatusCode::NOT_FOUND, if what == "service" { "service-unknown" } else { "instance-unknown" }, detail)
    }

    fn answer(&self) -> Response<Body> {
        let problem = json!({
            "type": format!("urn:zipline:error:{}", self.name), "title": self.name.replace('-', " "),
            "status": self.status.as_u16(), "detail": self.detail, "retry": if self.is_for_later { "later" } else { "never" },
        });
        let mut response = answer(self.status, "application/problem+json", problem.to_string());
        response.headers_mut().insert(zipline_contract::headers::ERROR, http::HeaderValue::from_static(self.name));
        response
    }
}

/// For `map_err`: the cluster refused `what`.
fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Refusal {
    let what = what.into();
    move |error| Refusal::new(StatusCode::BAD_GATEWAY, "cluster-refused", format!("{what}: {error}"))
}

impl From<InstallError> for Refusal {
    fn from(error: InstallError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "cluster-refused", error.to_string())
    }
}

impl Cluster {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(move |request| {
            let cluster = Arc::clone(&self);
            async move { Ok::<_, Infallible>(cluster.respond(request).await.unwrap_or_else(|refusal| refusal.answer())) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection broke off");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = Query::of(request.uri().query().unwrap_or_default());
        match (request.method(), &parts[..]) {
            (&Method::POST, ["v1", "apply"]) => {
                let body = Limited::new(request.into_body(), MANIFEST_BYTES_MAX).collect().await;
                let body = body.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "request-invalid", error.to_string()))?;
                Ok(document(&self.apply(&body.to_bytes()).await?))
            }
            (&Method::GET, ["v1", "services"]) => {
                let services = services::of(&self.client, query.text("namespace")).await?;
                Ok(document(&json!({ "services": services.iter().map(services::Service::view).collect::<Vec<_>>() })))
            }
            (&Method::GET, ["v1", "services", namespace, name]) => {
                if let Some(seconds) = query.text("wait_ready_seconds") {
                    let seconds: f64 = seconds.parse().map_err(|_| invalid("wait_ready_seconds", seconds))?;
                    let limit =
                        Duration::try_from_secs_f64(seconds).map_err(|_| invalid("wait_ready_seconds", "out of range"))?;
                    self.wait_ready(namespace, name, limit).await?;
                }
                Ok(document(&services::one(&self.client, namespace, name).await?.view()))
            }
            (&Method::DELETE, ["v1", "services", namespace, name]) => {
                Ok(document(&self.delete(namespace, name, query.has("wait")).await?))
            }
            (&Method::GET, ["v1", "services", namespace, name, "logs"]) => self.logs(namespace, name, &query).await,
            (&Method::GET, ["v1", "instances"]) => {
                let found = pods::of(&self.client, query.text("namespace"), query.text("service")).await?;
                Ok(document(&json!({ "instances": found.iter().map(pods::Instance::view).collect::<Vec<_>>() })))
            }
            (&Method::GET, ["v1", "status"]) => Ok(document(&self.status().await?)),
            (method, _) => {
                let detail = format!("{method} {path} is not known here");
                Err(Refusal::new(StatusCode::NOT_FOUND, "path-unknown", detail))
            }
        }
    }

    /// The namespace as a whole.
    async fn status(&self) -> Result<Value, Refusal> {
        let services = services::of(&self.client, Some(&self.namespace)).await?;
        let pods: Vec<&pods::Instance> = services.iter().flat_map(services::Service::pods).collect();
        let total = |value: fn(&pods::Metrics) -> u64| -> u64 { pods.iter().filter_map(|pod| pod.metrics()).map(value).sum() };
        let restarts: u64 = pods.iter().map(|pod| pod.restarts()).sum();
        Ok(json!({
            "services": services.len(),
            "instances": pods::count(pods.iter().copied()),
            "instance_starts": pods.len() as u64 + restarts,
            "instance_crashes": restarts,
            "waiting": total(|metrics| metrics.queued),
            "activator": pods::by_activator(pods.iter().copied()),
            "direct": pods::nothing_counted(),
            "budget_bytes_used": total(|metrics| metrics.held_bytes + metrics.receiving_bytes),
            "client": null,
        }))
    }
}

/// A request's query: names with their values.
struct Query(BTreeMap<String, String>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        )
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Percent-encoded text as it was; what is no encoding stays as it stands.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn invalid(name: &str, value: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "request-invalid", format!("`{name}`: `{value}` can't be read"))
}

fn document(value: &Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", value.to_string())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_the_command_writes_it() {
        let query = Query::of("namespace=a%2Fb&wait&tail=3&odd=%zz%4");
        assert_eq!(query.text("namespace"), Some("a/b"));
        assert!(query.has("wait"));
        assert_eq!((query.text("tail"), query.text("odd"), query.text("none")), (Some("3"), Some("%zz%4"), None));
    }
}
