//! Calls of the own function to services and to the world: what `/v1/invoke` and the egress do with a request.
//!
//! ```text
//! egress, proxy ──┐                          ┌─ inline: head and body pass untouched
//! egress, base URL├─► Target ─► Calls::make ─┤
//! local API invoke┘                          └─ swapped: head with a reference at once, body into the object buffer
//! ```
//!
//! A body is swapped only if its length is known and at least the inline threshold, the target is a service whose
//! queue-proxy is known to be ours, and the transfer method is `zipline`. Nothing is ever held back to find out how
//! long a body is, and no request is sent twice.

mod answer;
pub(crate) mod hop;
mod referred;
mod swap;
pub(crate) mod target;
pub(crate) mod upstream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::timeout_at;
use zipline_contract::{ErrorCode, Transfer, headers};
use zipline_transfer::{Node, Work, WorkSpan};

use self::answer::Deadline;
use self::target::{Routes, Target};
use self::upstream::Upstream;
use crate::zipline::body::{self, Body};
use crate::zipline::counters::Counters;
use crate::zipline::door::Upgrade;
use crate::zipline::peers::Peers;
use crate::zipline::problem::{Dialect, Problem};
use crate::zipline::service::Service;
use crate::zipline::tasks::Tasks;
use crate::zipline::trace;
use crate::zipline::upload::Upload;

/// What decides how calls travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallSettings {
    /// The configured transfer method.
    pub(crate) transfer: Transfer,
    /// Bodies below it travel inside their request.
    pub(crate) inline_threshold_bytes: u64,
    /// Limit over a whole invocation or swapped call.
    pub(crate) timeout: Duration,
}

/// How a call reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By the local API: the caller knows Zipline and is told by name when its payload can't be buffered; unless it is
    /// for the drain of this instance, of which nobody is to notice anything.
    Invoke,
    /// By the egress: the caller knows nothing, and a payload that can't be buffered goes inline instead.
    Egress,
}

/// Makes the function's calls.
pub(crate) struct Calls {
    node: Node,
    upstream: Upstream,
    routes: Routes,
    peers: Peers,
    settings: CallSettings,
    counters: Arc<Counters>,
    acknowledgements: Arc<Tasks>,
}

/// When a call's payload is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retain {
    /// With the end of the call, however often it was read until then.
    Call,
    /// At the first acknowledgement.
    Retrieval,
}

impl Calls {
    /// Calls along these routes.
    pub(crate) fn new(
        node: Node,
        routes: Routes,
        peers: Peers,
        settings: CallSettings,
        counters: Arc<Counters>,
        acknowledgements: Arc<Tasks>,
    ) -> Self {
        Self { node, upstream: Upstream::new(), routes, peers, settings, counters, acknowledgements }
    }

    /// The way to services.
    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// A problem as the answer to the function, counted.
    pub(crate) fn refuse(&self, problem: &Problem, dialect: Dialect) -> Response<Body> {
        self.counters.error(problem.code);
        problem.response(dialect).map(body::full_body)
    }

    /// Counts an error that is answered otherwise.
    pub(crate) fn count(&self, code: ErrorCode) {
        self.counters.error(code);
    }

    /// Sends one request on and returns its answer.
    ///
    /// # Errors
    /// `callee-unreachable`, `call-timeout`, and for an invocation what keeps its payload from being buffered.
    pub(crate) async fn make(
        &self,
        mut request: Request<Upload>,
        target: Target,
        origin: Origin,
        upgrade: &Upgrade,
    ) -> Result<Response<Body>, Problem> {
        let near = hop::wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        hop::strip(&mut head.headers);
        let retain = take_retain(&mut head.headers)?;
        head.version = Version::HTTP_11;
        head.uri = target.uri;
        if let Some(host) = target.host {
            head.headers.insert(HOST, host);
        }
        let Some(service) = target.service else {
            let response = self.upstream.send(Request::from_parts(head, body::passed_on(body))).await?;
            return Ok(switch(response, near, upgrade).map(body::passed_on));
        };
        if origin == Origin::Invoke {
            self.name_receiver(&mut head.headers, &service)?;
        }
        let asked = self.ask(&mut head.headers, &service);
        let length = self.swappable_length(&head, &service).filter(|_| near.is_none());
        let mut span = WorkSpan::begin(Work::Invoke, trace::of(&head.headers, &head.extensions));
        span.passed(content_length(&head.headers).unwrap_or_default());
        let answered = match length {
            Some(length) => {
                self.swap(head, body, swap::Swap { service: &service, length, retain, origin, asked, span: &mut span }).await
            }
            None => {
                span.method(Transfer::Inline.name());
                span.waited();
                self.inline(Request::from_parts(head, body::passed_on(body)), (origin, asked), near, upgrade).await
            }
        };
        match &answered {
            Ok(_) => span.settled(),
            Err(problem) => span.failed(problem.code),
        }
        let mut response = answered?;
        self.peers.heard(&service, response.headers(), Instant::now());
        if asked {
            response.headers_mut().remove(headers::CAPABLE); // The answer to our question, not to the function's.
        }
        Ok(response)
    }

    /// Sends a request with its body inside.
    async fn inline(
        &self,
        request: Request<Body>,
        (origin, asked): (Origin, bool),
        near: Option<OnUpgrade>,
        upgrade: &Upgrade,
    ) -> Result<Response<Body>, Problem> {
        let deadline = (origin == Origin::Invoke).then(|| Deadline::after(self.settings.timeout));
        let response = switch(self.send(request, deadline).await?, near, upgrade);
        let response = self.received(response, asked, deadline).await?;
        Ok(response.map(|body| match deadline {
            Some(deadline) => answer::until(body, deadline, None),
            None => body,
        }))
    }

    /// Sends a request and awaits the head of its answer until the deadline, if there is one.
    async fn send(&self, request: Request<Body>, deadline: Option<Deadline>) -> Result<Response<Incoming>, Problem> {
        let sent = self.upstream.send(request);
        let Some(deadline) = deadline else { return sent.await };
        timeout_at(deadline.at(), sent).await.unwrap_or_else(|_| Err(timed_out(deadline)))
    }

    /// Binds a reference that is passed on by an invocation to the callee.
    fn name_receiver(&self, headers: &mut HeaderMap, service: &Service) -> Result<(), Problem> {
        let Some(reference) = headers.get(headers::REFERENCE).and_then(|value| value.to_str().ok()) else { return Ok(()) };
        let narrowed = swap::narrowed(&self.node, reference, service)?;
        headers.insert(headers::REFERENCE, narrowed);
        Ok(())
    }

    /// Tells the service's queue-proxy that its answer may come by reference; whether it was us who did.
    fn ask(&self, headers: &mut HeaderMap, service: &Service) -> bool {
        let accept = HeaderName::from_static(headers::ACCEPT);
        let takes_references = self.settings.transfer == Transfer::Zipline && self.node.has_keys();
        if !takes_references || !self.peers.asks(service) || headers.contains_key(&accept) {
            return false;
        }
        headers.insert(accept, HeaderValue::from_static("1"));
        true
    }

    /// The length of a body that is to be swapped.
    fn swappable_length(&self, head: &Parts, service: &Service) -> Option<u64> {
        let eligible = self.settings.transfer == Transfer::Zipline
            && !head.headers.contains_key(headers::REFERENCE) // Two payloads are the caller's mistake to be told of.
            && head.method != Method::CONNECT
            && self.node.has_keys()
            && self.peers.is_ours(service, Instant::now());
        let length = content_length(&head.headers)?;
        (eligible && length >= self.settings.inline_threshold_bytes.max(1)).then_some(length)
    }
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("routes", &self.routes).field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn timed_out(deadline: Deadline) -> Problem {
    let limit = deadline.limit_seconds();
    let variable = zipline_contract::settings::INVOKE_TIMEOUT_SECONDS.variable;
    Problem::new(ErrorCode::CallTimeout, format!("no answer within {limit} s ({variable})")).with_limit(limit, limit)
}

/// The length that a request's body says it has.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes `Zipline-Retain` off: it is for this proxy.
fn take_retain(headers: &mut HeaderMap) -> Result<Retain, Problem> {
    match headers.remove(headers::RETAIN) {
        None => Ok(Retain::Call),
        Some(value) if value == "retrieval" => Ok(Retain::Retrieval),
        Some(value) => Err(Problem::invalid(format!("Zipline-Retain: {value:?} is not `retrieval`"))),
    }
}

/// Joins the two connections of a call that switched protocols.
fn switch(mut response: Response<Incoming>, near: Option<OnUpgrade>, upgrade: &Upgrade) -> Response<Incoming> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        hop::strip(response.headers_mut());
        return response;
    }
    let Some(near) = near else { return response };
    let far = hyper::upgrade::on(&mut response);
    upgrade.to(async move {
        let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
        if let Err(error) = copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await {
            tracing::debug!(%error, "an upgraded call broke off");
        }
    });
    response
}
