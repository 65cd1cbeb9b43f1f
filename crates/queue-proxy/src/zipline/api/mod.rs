//! The local API: what a function asks of its own queue-proxy, as `docs/reference/local-api.md` fixes it.
//!
//! One service for both doors. A connection of the Unix socket may become a descriptor channel; one of loopback TCP may
//! not, since no descriptor passes there. Answers to reads are acknowledged once they have left ([`flushed`]).

pub(crate) mod flushed;
mod info;
pub(crate) mod listen;
pub(crate) mod objects;
mod opened;
pub(crate) mod options;
mod references;

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpStream, UnixStream};
use zipline_contract::DESCRIPTOR_PROTOCOL;
use zipline_contract::limits::API_JSON_BYTES_MAX;
use zipline_transfer::Node;

use self::flushed::{AfterFlush, Flushed};
pub(crate) use self::info::Info;
use self::opened::Opened;
use crate::zipline::body::{self, Body};
use crate::zipline::call::hop::wants_upgrade;
use crate::zipline::call::target::INVOKE_PATH;
use crate::zipline::call::{Calls, Origin};
use crate::zipline::descriptors::Channels;
use crate::zipline::door::Upgrade;
use crate::zipline::problem::{self, Dialect, Problem};
use crate::zipline::tasks::Tasks;
use crate::zipline::token::{Token, Via};
use crate::zipline::upload::Upload;

/// The local API of one instance.
pub(crate) struct Api {
    pub(super) node: Node,
    pub(super) calls: Arc<Calls>,
    pub(super) channels: Channels,
    pub(super) acknowledgements: Arc<Tasks>,
    pub(super) info: Info,
    pub(super) opened: Arc<Opened>,
    /// Rests of bodies that nobody wants.
    discards: Arc<Tasks>,
}

/// What an answer needs to know of the connection it goes out by.
struct Connection {
    after: AfterFlush,
    upgrade: Upgrade,
    /// None on the Unix socket, where the kernel says who connects; descriptors pass only there.
    token: Option<Arc<Token>>,
}

type Answer = Result<Response<Body>, Problem>;

impl Api {
    /// The API over these parts.
    pub(crate) fn new(node: Node, calls: Arc<Calls>, channels: Channels, acknowledgements: Arc<Tasks>, info: Info) -> Self {
        Self { node, calls, channels, acknowledgements, info, opened: Arc::default(), discards: Arc::default() }
    }

    /// Serves a connection of the Unix socket, and the descriptor channel it may become.
    pub(crate) async fn unix_connection(self: Arc<Self>, stream: UnixStream) {
        let io = Flushed::new(TokioIo::new(stream));
        let connection = Arc::new(Connection { after: io.after(), upgrade: Upgrade::default(), token: None });
        self.serve(io, &connection).await;
        if let Some(channel) = connection.upgrade.take() {
            channel.await;
        }
    }

    /// Serves a connection of loopback TCP, for requests that show the token.
    pub(crate) async fn tcp_connection(self: Arc<Self>, stream: TcpStream, token: Arc<Token>) {
        let io = Flushed::new(TokioIo::new(stream));
        let connection = Arc::new(Connection { after: io.after(), upgrade: Upgrade::default(), token: Some(token) });
        self.serve(io, &connection).await;
        if let Some(upgraded) = connection.upgrade.take() {
            upgraded.await;
        }
    }

    async fn serve<T>(self: &Arc<Self>, io: Flushed<TokioIo<T>>, connection: &Arc<Connection>)
    where
        Flushed<TokioIo<T>>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (api, connection) = (self.clone(), connection.clone());
            let request = request.map(|incoming| Upload::new(incoming, Arc::clone(&self.discards)));
            async move { Ok::<_, Infallible>(api.answer(request, &connection).await) }
        });
        if let Err(error) = http1::Builder::new().serve_connection(io, service).with_upgrades().await {
            tracing::debug!(%error, "a connection of the local API broke off");
        }
    }

    async fn answer(&self, request: Request<Upload>, connection: &Connection) -> Response<Body> {
        let dialect = Dialect::of(request.headers());
        self.route(request, connection).await.unwrap_or_else(|problem| {
            tracing::debug!(error = problem.code.name(), detail = %problem.detail, "a request to the local API failed");
            self.calls.refuse(&problem, dialect)
        })
    }

    async fn route(&self, mut request: Request<Upload>, connection: &Connection) -> Answer {
        if let Some(token) = &connection.token {
            token.admit(request.headers_mut(), Via::BaseUrl)?;
        }
        let path = request.uri().path();
        if path.starts_with(INVOKE_PATH) {
            let target = self.calls.routes().invoked(request.uri())?;
            return self.calls.make(request, target, Origin::Invoke, &connection.upgrade).await;
        }
        match (path, request.method()) {
            ("/v1", &Method::GET) => self.describe(&request, connection.token.is_none()),
            ("/v1/objects", &Method::POST) => self.put(request, &connection.after).await,
            ("/v1/objects", &Method::PUT) => self.write(request).await,
            ("/v1/objects", &Method::GET) => self.get(&request, &connection.after).await,
            ("/v1/objects", &Method::HEAD) => self.head(&request).await,
            ("/v1/objects", &Method::DELETE) => self.delete(&request).await,
            ("/v1/references/narrow", &Method::POST) => self.narrow(request).await,
            ("/v1/descriptors", &Method::GET) => self.open_channel(request, connection),
            ("/v1", _) => Ok(self.no_such_method(&request, "GET")),
            ("/v1/objects", _) => Ok(self.no_such_method(&request, "POST, PUT, GET, HEAD, DELETE")),
            ("/v1/references/narrow", _) => Ok(self.no_such_method(&request, "POST")),
            ("/v1/descriptors", _) => Ok(self.no_such_method(&request, "GET")),
            (path, _) => Err(Problem::invalid(format!(
                "{path} is no path of the local API; known: /v1, /v1/objects, /v1/references/narrow, /v1/descriptors, {INVOKE_PATH}NAME"
            ))),
        }
    }

    fn no_such_method(&self, request: &Request<Upload>, allowed: &'static str) -> Response<Body> {
        let problem =
            Problem::invalid(format!("{} can't be used on {}; possible: {allowed}", request.method(), request.uri().path()));
        self.calls.count(problem.code);
        problem::method_unknown(allowed, &problem).map(body::full_body)
    }

    fn open_channel(&self, request: Request<Upload>, connection: &Connection) -> Answer {
        let asked = request
            .headers()
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(DESCRIPTOR_PROTOCOL.as_bytes()));
        if !asked || !wants_upgrade(request.headers()) {
            return Err(Problem::invalid(format!(
                "/v1/descriptors needs Connection: Upgrade and Upgrade: {DESCRIPTOR_PROTOCOL}"
            )));
        }
        if connection.token.is_some() {
            return Err(Problem::invalid("descriptors pass on the Unix socket only; this is loopback TCP"));
        }
        let channels = self.channels.clone();
        let upgraded = hyper::upgrade::on(request);
        connection.upgrade.to(async move {
            let Ok(upgraded) = upgraded.await else { return };
            // What was served over this type comes back as it.
            let Ok(parts) = upgraded.downcast::<Flushed<TokioIo<UnixStream>>>() else { return };
            channels.serve(parts.io.into_inner().into_inner(), &parts.read_buf).await;
        });
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(DESCRIPTOR_PROTOCOL));
        Ok(response)
    }
}

/// An answer of one JSON document.
fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(document).map_err(|error| Problem::invalid(format!("the answer can't be written: {error}")))?;
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// An answer without a body.
fn no_content() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A small body, whole.
async fn small_body(request: Request<Upload>) -> Result<bytes::Bytes, Problem> {
    let limited = Limited::new(request.into_body(), API_JSON_BYTES_MAX);
    match limited.collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) => {
            Err(Problem::invalid(format!("the body (at most {API_JSON_BYTES_MAX} bytes of JSON) can't be read: {error}")))
        }
    }
}
