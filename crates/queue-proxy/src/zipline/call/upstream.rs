//! The connections by which a function's own calls leave.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use zipline_contract::ErrorCode;
use zipline_fault_point::kept_for;

use crate::zipline::body::Body;
use crate::zipline::problem::Problem;

/// Connecting to a callee ends after it.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept a host.
const IDLE_MAX: usize = 64;
/// How long an idle connection is kept: less than what servers commonly allow, so that they rarely close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP/1.1 client with pooled connections.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Client<HttpConnector, Body>);

impl Upstream {
    /// A client without connections.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // The pool sends a request again only if a kept connection turned out closed before a byte of it was written.
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(kept_for(IDLE_TIMEOUT))
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_preserve_header_case(true)
            .build(connector);
        Self(client)
    }

    /// Sends a request with an absolute URI and awaits the head of the answer.
    ///
    /// # Errors
    /// `callee-unreachable`, saying whether the connection or the answer failed.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Problem> {
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        self.0.request(request).await.map_err(|error| unreachable(&host, &error))
    }
}

fn unreachable(host: &str, error: &Error) -> Problem {
    let what = if error.is_connect() { "can't be connected to" } else { "broke off before it answered" };
    let cause = std::iter::successors(std::error::Error::source(error), |error| error.source())
        .last()
        .map_or_else(String::new, |cause| format!(": {cause}"));
    Problem::new(ErrorCode::CalleeUnreachable, format!("{host} {what}{cause}"))
}
