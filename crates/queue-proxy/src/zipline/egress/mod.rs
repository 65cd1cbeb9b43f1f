//! The egress: how a function's own calls leave, with large bodies swapped for references on the way.
//!
//! Two ways in on one port: as an HTTP proxy (`http_proxy`: absolute-form requests, `CONNECT`), and by the base URL
//! (`ZIPLINE_EGRESS_URL` + `/v1/invoke/NAME[.NAMESPACE]/path`). Both need the instance's token where one is configured.
//! What becomes of a request is decided in [`call`](crate::zipline::call); here are the connections and the tunnels.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zipline_contract::ErrorCode;

use crate::zipline::body::{self, Body};
use crate::zipline::call::target::{INVOKE_PATH, Target};
use crate::zipline::call::upstream::CONNECT_TIMEOUT;
use crate::zipline::call::{Calls, Origin};
use crate::zipline::door::Upgrade;
use crate::zipline::problem::{Dialect, Problem};
use crate::zipline::tasks::Tasks;
use crate::zipline::token::{Token, Via};
use crate::zipline::upload::Upload;

/// Bytes a tunnel copies at a time, each way.
const TUNNEL_BUFFER_BYTES: usize = 64 * 1024;

/// The egress of one instance.
#[derive(Debug)]
pub(crate) struct Egress {
    token: Token,
    calls: Arc<Calls>,
    /// Rests of bodies that nobody wants.
    discards: Arc<Tasks>,
}

impl Egress {
    /// An egress that lets in whoever shows the token; anybody where there is none.
    pub(crate) fn new(token: Option<String>, calls: Arc<Calls>) -> Self {
        Self { token: Token::of_egress(token), calls, discards: Arc::default() }
    }

    /// Serves one connection to its end, and the tunnel it may become.
    pub(crate) async fn connection(self: Arc<Self>, stream: TcpStream) {
        let upgrade = Upgrade::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (egress, upgrade) = (self.clone(), upgrade.clone());
            let request = request.map(|incoming| Upload::new(incoming, Arc::clone(&self.discards)));
            async move { Ok::<_, Infallible>(egress.answer(request, &upgrade).await) }
        });
        let served = http1::Builder::new()
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an egress connection broke off");
        }
        if let Some(tunnel) = upgrade.take() {
            tunnel.await;
        }
    }

    async fn answer(&self, request: Request<Upload>, upgrade: &Upgrade) -> Response<Body> {
        let dialect = Dialect::of(request.headers());
        self.forward(request, upgrade).await.unwrap_or_else(|problem| {
            tracing::debug!(error = problem.code.name(), detail = %problem.detail, "an egress call failed");
            self.calls.refuse(&problem, dialect)
        })
    }

    async fn forward(&self, mut request: Request<Upload>, upgrade: &Upgrade) -> Result<Response<Body>, Problem> {
        let via = match request.uri().scheme().is_some() || *request.method() == Method::CONNECT {
            true => Via::Proxy,
            false => Via::BaseUrl,
        };
        self.token.admit(request.headers_mut(), via)?;
        if *request.method() == Method::CONNECT {
            return tunnel(request, upgrade).await;
        }
        let target = self.target(&request, via)?;
        self.calls.make(request, target, Origin::Egress, upgrade).await
    }

    fn target(&self, request: &Request<Upload>, via: Via) -> Result<Target, Problem> {
        let uri = request.uri();
        match via {
            Via::Proxy => self.calls.routes().proxied(uri),
            Via::BaseUrl if uri.path().starts_with(INVOKE_PATH) => self.calls.routes().invoked(uri),
            Via::BaseUrl => Err(Problem::invalid(format!(
                "{}: the egress takes {INVOKE_PATH}NAME[.NAMESPACE]/path, and absolute URLs as an HTTP proxy",
                uri.path()
            ))),
        }
    }
}

/// Connects a function with any host, byte by byte: TLS and everything else that is not plain HTTP.
async fn tunnel(request: Request<Upload>, upgrade: &Upgrade) -> Result<Response<Body>, Problem> {
    let authority = request.uri().authority().filter(|authority| authority.port_u16().is_some());
    let Some(authority) = authority.map(ToString::to_string) else {
        return Err(Problem::invalid(format!("CONNECT {}: HOST:PORT is needed", request.uri())));
    };
    let unreachable =
        |why: String| Problem::new(ErrorCode::CalleeUnreachable, format!("{authority} can't be connected to: {why}"));
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority)).await;
    let mut far = connected
        .map_err(|_| unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    if let Err(error) = far.set_nodelay(true) {
        tracing::debug!(%error, "a tunnel goes without TCP_NODELAY");
    }
    let upgraded = hyper::upgrade::on(request);
    upgrade.to(async move {
        let Ok(near) = upgraded.await else { return };
        let mut near = TokioIo::new(near);
        // Either end's failure ends both; the other sees its connection close.
        if let Err(error) = copy_bidirectional_with_sizes(&mut near, &mut far, TUNNEL_BUFFER_BYTES, TUNNEL_BUFFER_BYTES).await {
            tracing::debug!(%error, "a tunnel broke off");
        }
    });
    Ok(Response::new(body::empty()))
}
