//! The control API: how the command line, and scripts, speak to a running platform.
//!
//! HTTP/1.1 with JSON over the Unix socket `control.sock` of the state directory, for the platform's own user only.
//! `docs/reference/control-api.md` describes it; [`model`] has its types.

mod logs;
mod metrics;
pub(crate) mod model;
mod problem;
mod query;
mod view;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::autoscaler;
use crate::manifest::{MANIFEST_BYTES_MAX, ServiceName};
use crate::services::Services;
use crate::shutdown::Shutdown;
use crate::supervisor::StopMode;
use model::{ApplyAnswer, Info};
use problem::Problem;
use query::Query;

/// Version of the API.
pub(crate) const VERSION: u32 = 1;
/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take to come.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Lines on their way to one reader of logs.
const LOG_LINES_QUEUED_MAX: usize = 256;
/// Longest wait for a service to become ready.
const WAIT_SECONDS_MAX: f64 = 3600.0;

/// Body of an answer.
pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// What the API works on.
pub(crate) struct Control {
    pub(crate) services: Arc<Services>,
    pub(crate) info: Info,
    /// The only user that may connect.
    pub(crate) owner: u32,
    /// Where `POST /v1/shutdown` goes; full when one was there already.
    pub(crate) shutdown_requests: mpsc::Sender<StopMode>,
}

/// Binds the API's socket.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(path)
}

/// Serves until the platform has ended; the API is the last of its doors to close.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>, mut stop: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.begun() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked; it cost this connection only");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == control.owner) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&control)));
                }
                Ok(_) => tracing::warn!("another user's connection to the control API was refused"),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control API could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    // Answers under way, the one to a shutdown among them, get a moment.
    let rest = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_millis(200), rest).await.is_err() {
        connections.abort_all();
    }
}

async fn serve_connection(stream: UnixStream, control: Arc<Control>) {
    let service = service_fn(move |request| {
        let control = Arc::clone(&control);
        async move { Ok::<_, Infallible>(answer(request, &control).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the control API ended");
    }
}

async fn answer(request: Request<Incoming>, control: &Control) -> Response<Answer> {
    match route(request, control).await {
        Ok(response) => response,
        Err(problem) => problem.into_answer(),
    }
}

async fn route(request: Request<Incoming>, control: &Control) -> Result<Response<Answer>, Problem> {
    let (parts, body) = request.into_parts();
    let mut query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let service = |namespace: &str, name: &str| ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
    let response = match (&parts.method, path.as_slice()) {
        (&Method::GET, ["v1"]) => json(&control.info),
        (&Method::POST, ["v1", "apply"]) => apply(control, &mut query, body).await?,
        (&Method::GET, ["v1", "services"]) => list(control, &mut query),
        (&Method::GET, ["v1", "services", namespace, name]) => describe(control, &mut query, service(namespace, name)).await?,
        (&Method::DELETE, ["v1", "services", namespace, name]) => delete(control, &mut query, service(namespace, name)).await?,
        (&Method::GET, ["v1", "services", namespace, name, "logs"]) => read_logs(control, &mut query, service(namespace, name))?,
        (&Method::GET, ["v1", "instances"]) => instances(control, &mut query).await,
        (&Method::GET, ["v1", "status"]) => json(&status(control).await),
        (&Method::GET, ["metrics"]) => {
            let text = metrics::render(&view::status(&control.services.shared));
            whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        (&Method::POST, ["v1", "shutdown"]) => shut_down(control, &mut query)?,
        (method, _) => {
            return Err(Problem::PathUnknown { method: method.clone(), path: parts.uri.path().to_owned() });
        }
    };
    query.finish()?;
    Ok(response)
}

async fn apply(control: &Control, query: &mut Query, body: Incoming) -> Result<Response<Answer>, Problem> {
    let base_dir = query.text("base_dir").map(PathBuf::from).filter(|path| path.is_absolute());
    let base_dir = base_dir.ok_or_else(|| Problem::Invalid("`base_dir` must be an absolute path".to_owned()))?;
    query.finish()?;
    let body = Limited::new(body, MANIFEST_BYTES_MAX + 1).collect().await;
    let body = body.map_err(|error| Problem::Invalid(format!("the manifest did not arrive whole: {error}")))?.to_bytes();
    let text = std::str::from_utf8(&body).map_err(|error| Problem::Invalid(format!("the manifest is not UTF-8: {error}")))?;
    let (applied, manifest) = control.services.apply(text, &base_dir)?;
    Ok(json(&ApplyAnswer { applied, config_autoscaler: manifest.autoscaler.is_some(), warnings: manifest.warnings }))
}

fn list(control: &Control, query: &mut Query) -> Response<Answer> {
    let namespace = query.text("namespace");
    let shared = &control.services.shared;
    let mut services = shared.services();
    services.retain(|service| namespace.as_ref().is_none_or(|namespace| *namespace == service.spec.name.namespace));
    let views: Vec<_> = services.iter().map(|service| view::service(shared, &control.info.ingress, service)).collect();
    json(&serde_json::json!({ "services": views }))
}

async fn describe(control: &Control, query: &mut Query, name: ServiceName) -> Result<Response<Answer>, Problem> {
    let shared = &control.services.shared;
    if let Some(seconds) = query.seconds("wait_ready_seconds", WAIT_SECONDS_MAX)? {
        let look = || match shared.service(&name) {
            None => Some(Err(Problem::ServiceUnknown(name.clone()))),
            Some(service) if view::why_not_ready(shared, &service).is_none() => Some(Ok(())),
            Some(_) => None,
        };
        let Ok(ended) = timeout(Duration::from_secs_f64(seconds), shared.changes.until(look)).await else {
            let reason = shared.service(&name).and_then(|service| view::why_not_ready(shared, &service));
            return Err(Problem::NotReady { service: name, seconds, reason: reason.unwrap_or_default() });
        };
        ended?;
    }
    let service = shared.service(&name).ok_or(Problem::ServiceUnknown(name))?;
    Ok(json(&view::service(shared, &control.info.ingress, &service)))
}

async fn delete(control: &Control, query: &mut Query, name: ServiceName) -> Result<Response<Answer>, Problem> {
    let wait = query.flag("wait")?;
    query.finish()?;
    if control.services.delete(&name).is_none() {
        return Err(Problem::ServiceUnknown(name));
    }
    let shared = &control.services.shared;
    if wait {
        // It may be applied again meanwhile; then the old instances are gone when it is not being deleted.
        shared.changes.until(|| shared.service(&name).is_none_or(|service| !service.deleted).then_some(())).await;
    }
    let left: usize = shared
        .service(&name)
        .map(|service| service.revisions.iter().map(|revision| revision.instances().len()).sum())
        .unwrap_or_default();
    Ok(json(&serde_json::json!({ "namespace": name.namespace, "name": name.name, "instances_left": left })))
}

fn read_logs(control: &Control, query: &mut Query, service: ServiceName) -> Result<Response<Answer>, Problem> {
    let shared = &control.services.shared;
    let wanted = logs::Wanted { instance: query.text("instance"), tail: query.count("tail")?.unwrap_or(usize::MAX), service };
    let Some(known) = shared.service(&wanted.service) else { return Err(Problem::ServiceUnknown(wanted.service)) };
    if let Some(instance) = &wanted.instance {
        let mut logs = known.revisions.iter().flat_map(|revision| revision.logs());
        if !logs.any(|log| log.instance() == instance) {
            return Err(Problem::InstanceUnknown { service: wanted.service, instance: instance.clone() });
        }
    }
    if !query.flag("follow")? {
        let lines: Vec<u8> = logs::past(shared, &wanted).iter().flat_map(|line| logs::encode(line).to_vec()).collect();
        return Ok(whole(StatusCode::OK, "application/x-ndjson", lines));
    }
    let (sender, receiver) = mpsc::channel(LOG_LINES_QUEUED_MAX);
    let mut follower = JoinSet::new();
    follower.spawn(logs::follow(Arc::clone(shared), wanted, sender));
    // The follower lives and ends with the body that it fills.
    let frames = stream::unfold((receiver, follower), |(mut receiver, follower)| async move {
        let line = receiver.recv().await?;
        Some((Ok(Frame::data(line)), (receiver, follower)))
    });
    Ok(with_type(StatusCode::OK, "application/x-ndjson", StreamBody::new(frames).boxed_unsync()))
}

async fn instances(control: &Control, query: &mut Query) -> Response<Answer> {
    let (namespace, name) = (query.text("namespace"), query.text("service"));
    let mut services = control.services.shared.services();
    services.retain(|service| {
        let of = &service.spec.name;
        namespace.as_ref().is_none_or(|namespace| *namespace == of.namespace) && name.as_ref().is_none_or(|name| *name == of.name)
    });
    json(&serde_json::json!({ "instances": view::instances(&services).await }))
}

async fn status(control: &Control) -> model::Status {
    let shared = &control.services.shared;
    let client = autoscaler::held(shared.host.client_address()).await;
    model::Status { client, ..view::status(shared) }
}

fn shut_down(control: &Control, query: &mut Query) -> Result<Response<Answer>, Problem> {
    let mode = if query.flag("drain")? { StopMode::Drain } else { StopMode::Quick };
    query.finish()?;
    if control.shutdown_requests.try_send(mode).is_err() {
        tracing::debug!("a shutdown was asked for before");
    }
    let mut response = json(&serde_json::json!({ "pid": control.info.pid }));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn json(value: &impl Serialize) -> Response<Answer> {
    match serde_json::to_vec(value) {
        Ok(body) => whole(StatusCode::OK, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "an answer of the control API could not be written; please report this");
            whole(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string())
        }
    }
}

pub(super) fn whole(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    with_type(status, media_type, Full::new(body.into()).boxed_unsync())
}

fn with_type(status: StatusCode, media_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
