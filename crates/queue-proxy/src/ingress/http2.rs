//! Serving HTTP/2 connections. Framing, flow control and multiplexing are hyper's; the way of a request is the same as over
//! HTTP/1, with the function asked over HTTP/2 as well.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::Instrument;
use zipline_contract::headers::{ACCEPT, REFERENCE};
use zipline_core::breaker::QueueFull;

use super::answers::{self, Answer};
use super::gate::{self, Gate};
use super::request_body::{Failure, RequestBody};
use super::timer::{Deadlines, Timer};
use super::{referred, rewrite};
use crate::breaker::{Breaker, Slot};
use crate::drain::{Stage, Visit, reached};
use crate::http1::head::REQUEST_HEAD_BYTES_MAX;
use crate::instance::{Counted, Instance, Invocation};
use crate::payload::Payload;
use crate::telemetry::{Arrival, Observed};
use crate::upstream::InUse;

/// Requests on one connection at once; the stock proxy's limit.
const STREAMS_MAX: u32 = 250;
/// Bytes that a client may send on one stream ahead of the function.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes that a client may send on one connection ahead of the function.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Serves a connection until it ends; when the instance closes, after its requests in flight.
pub(super) async fn serve<T>(instance: Arc<Instance>, io: T, peer: SocketAddr)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stage = instance.drain.stage();
    let service = service_fn(move |request| {
        let instance = Arc::clone(&instance);
        async move { Ok::<_, Infallible>(answer(instance, request, peer).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new()); // hyper ends a stream's task with its connection.
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(REQUEST_HEAD_BYTES_MAX as u32);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = reached(&mut stage, Stage::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/2 connection broke");
    }
}

async fn answer(instance: Arc<Instance>, request: Request<Incoming>, peer: SocketAddr) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let arrival = Arrival { method: &head.method, target: &head.uri, version: Version::HTTP_2, headers: &head.headers, peer };
    let mut observed = Observed::arrive(&instance.telemetry, &arrival);
    let response = lead(instance, (head, body), peer, &mut observed).await;
    if let Some(observed) = &mut observed {
        observed.answered(response.status());
        observed.sent(response.body().size_hint().exact().unwrap_or_default());
    }
    response
}

/// Leads a request to its answer. Whose body is the function's takes `observed` along.
async fn lead(
    instance: Arc<Instance>,
    (mut head, body): (Parts, Incoming),
    peer: SocketAddr,
    observed: &mut Option<Box<Observed>>,
) -> Response<ResponseBody> {
    match gate::gate(&head.method, head.uri.path(), (Version::HTTP_2, &head.headers), || instance.drain.fails_probes()) {
        Gate::Answer(answer) => own(answer, false),
        Gate::Health => own(gate::health(instance.readiness.is_ready().await), false),
        Gate::Pass => {
            let authority = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            if let Some(host) = authority {
                head.headers.insert(HOST, host);
            }
            let span = observed.as_ref().map_or_else(tracing::Span::none, |observed| observed.span());
            pass(instance, (head, body), peer, observed).instrument(span).await
        }
    }
}

/// The way of a request that is for the function.
async fn pass(
    instance: Arc<Instance>,
    (mut head, body): (Parts, Incoming),
    peer: SocketAddr,
    observed: &mut Option<Box<Observed>>,
) -> Response<ResponseBody> {
    let visit = instance.drain.visit();
    let deadlines = Deadlines::new(&instance.sidecar.timeouts, Instant::now());
    let mut limits = Limits { deadlines, timer: Timer::default() };
    rewrite::add_forwarded(&mut head.headers);

    let is_kubelet = gate::is_kubelet_probe(&head.headers);
    let counted = (!is_kubelet).then(|| Counted::arrive(&instance, &head.headers));
    if !is_kubelet {
        rewrite::restore_host(&mut head.headers);
    }
    let slot = match &instance.breaker {
        Some(breaker) if !is_kubelet => match slot(breaker, &mut limits, observed).await {
            Some(Ok(slot)) => Some(slot),
            Some(Err(full)) => return own(answers::error(StatusCode::SERVICE_UNAVAILABLE, full), false),
            None => return own(answers::timed_out(), false),
        },
        _ => None,
    };
    let invocation = (!gate::is_probe(&head.headers)).then(|| Invocation::begin(&instance));
    let mut guards = Guards { invocation, _slot: slot, counted, _visit: visit, _in_use: None, observed: None };

    let method = head.method.clone();
    let taken = rewrite::take_zipline(&mut head.headers);
    let is_asked = taken.as_ref().is_some_and(|taken| taken.contains_key(ACCEPT));
    if let Some(observed) = observed {
        observed.asked(&mut head.headers);
        if let Some(context) = observed.context() {
            head.extensions.insert(context);
        }
    }
    let outcome = match taken.filter(|taken| taken.contains_key(REFERENCE)) {
        None => {
            let by_activator = guards.counted.as_ref().and_then(Counted::by_activator).cloned();
            send(&instance, head, RequestBody::Client(body, by_activator), None, peer, &mut limits).await
        }
        Some(taken) => match resolve(&instance, &mut head, body, &taken, &mut limits).await {
            Ok(payload) => {
                let (body, failure) = RequestBody::payload(payload.body, payload.length);
                let resolved = Resolved { failure, answered: payload.answered };
                send(&instance, head, body, Some(resolved), peer, &mut limits).await
            }
            Err(answer) => Err(answer),
        },
    };
    let status = outcome.as_ref().map_or_else(Response::status, |(response, _)| response.status());
    if let Some(invocation) = &mut guards.invocation {
        invocation.answered(status);
    }
    match outcome {
        Ok((response, in_use)) => {
            guards._in_use = Some(in_use);
            guards.observed = observed.take();
            returned(&instance, response, (&method, is_asked), limits, guards)
        }
        Err(answer) => own(answer, is_asked),
    }
}

/// The function's answer on its way back: as it comes, or as a reference while it comes.
fn returned(
    instance: &Arc<Instance>,
    response: Response<Incoming>,
    (method, is_asked): (&http::Method, bool),
    mut limits: Limits,
    mut guards: Guards,
) -> Response<ResponseBody> {
    if let Some(observed) = &mut guards.observed {
        observed.answered(response.status());
    }
    limits.deadlines.started();
    let (mut head, incoming) = response.into_parts();
    head.version = Version::HTTP_2;
    let answered = referred::Answered { method, status: head.status, length: incoming.size_hint().exact() };
    if let Some(taken) = referred::take(instance, is_asked, &answered, &mut head.headers, limits.deadlines.whole()) {
        rewrite::toward_client(&mut head.headers, is_asked);
        taken.mark(&mut head.headers);
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        instance.zipline.write_response(async move {
            referred::move_http2(incoming, taken.writer, &limits.deadlines).await;
            drop(guards);
        });
        return Response::from_parts(head, ResponseBody::Own(Full::new(Bytes::new())));
    }
    rewrite::toward_client(&mut head.headers, is_asked);
    Response::from_parts(head, ResponseBody::Function(FunctionBody { incoming, limits, guards }))
}

/// Waits for a slot of the breaker. `None`: the time was up.
async fn slot(
    breaker: &Arc<Breaker>,
    limits: &mut Limits,
    observed: &mut Option<Box<Observed>>,
) -> Option<Result<Slot, QueueFull>> {
    if let Some(observed) = observed {
        observed.queued();
    }
    let slot = limits.within(breaker.slot()).await;
    if let (Some(observed), Some(Ok(_))) = (observed, &slot) {
        observed.admitted();
    }
    slot
}

/// Puts the payload in the place of the empty body that a reference came with.
async fn resolve(
    instance: &Instance,
    head: &mut Parts,
    body: Incoming,
    taken: &http::HeaderMap,
    limits: &mut Limits,
) -> Result<Payload, Answer> {
    let has_body = limits.within(has_bytes(body)).await.ok_or_else(answers::timed_out)?;
    match limits.within(instance.zipline.resolve(head, taken, has_body)).await {
        Some(Ok(payload)) => {
            head.headers.remove(EXPECT);
            Ok(payload)
        }
        Some(Err(refusal)) => Err(answers::refused(refusal).await),
        None => Err(answers::timed_out()),
    }
}

/// Whether at least one byte of a body comes. A body that breaks off has none that count: its client is gone.
async fn has_bytes(mut body: Incoming) -> bool {
    while let Some(Ok(frame)) = body.frame().await {
        if frame.data_ref().is_some_and(|data| !data.is_empty()) {
            return true;
        }
    }
    false
}

/// What a payload's end has to be told to.
struct Resolved {
    failure: Failure,
    answered: Box<dyn FnOnce(StatusCode) + Send>,
}

/// Hands the request to the function and waits for its response's head.
async fn send(
    instance: &Instance,
    mut head: Parts,
    body: RequestBody,
    resolved: Option<Resolved>,
    peer: SocketAddr,
    limits: &mut Limits,
) -> Result<(Response<Incoming>, InUse), Answer> {
    rewrite::toward_function(&mut head.headers, peer.ip(), None);
    if let (RequestBody::Client(..), Some(length)) = (&body, body.size_hint().exact())
        && length > 0
    {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let host = head.headers.remove(HOST);
    head.uri = absolute(&head.uri, host.as_ref());
    head.version = Version::HTTP_2;
    let sent = limits.within(instance.upstream.http2.send(Request::from_parts(head, body))).await;
    match sent {
        Some(Ok((response, in_use))) => {
            if let Some(resolved) = resolved {
                (resolved.answered)(response.status());
            }
            Ok((response, in_use))
        }
        Some(Err(error)) => match resolved.and_then(|resolved| resolved.failure.take()) {
            Some(refusal) => Err(answers::refused(refusal).await),
            None => {
                tracing::warn!(%error, "the function gave no answer");
                Err(answers::bad_gateway(error))
            }
        },
        None => Err(answers::timed_out()),
    }
}

/// The target with scheme and authority, which HTTP/2 wants.
fn absolute(target: &Uri, host: Option<&HeaderValue>) -> Uri {
    let path = target.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let authority =
        host.and_then(|host| Authority::try_from(host.as_bytes()).ok()).unwrap_or_else(|| Authority::from_static("localhost"));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path.clone());
    // All three are there, so they make a target; the path alone is one as well.
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path))
}

fn own(mut answer: Answer, is_asked: bool) -> Response<ResponseBody> {
    rewrite::add_date(answer.headers_mut());
    rewrite::add_capability(answer.headers_mut(), is_asked);
    let length = HeaderValue::from(answer.body().len());
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer.map(|bytes| ResponseBody::Own(Full::new(bytes)))
}

/// The limits on one request's time.
struct Limits {
    deadlines: Deadlines,
    timer: Timer,
}

impl Limits {
    /// Waits for something while time lasts.
    async fn within<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.timer.poll(self.deadlines.next(), cx).map(|()| None),
        })
        .await
    }
}

/// What a request holds until its response is complete; given back in this order.
struct Guards {
    invocation: Option<Invocation>,
    _slot: Option<Slot>,
    counted: Option<Counted>,
    _visit: Visit,
    _in_use: Option<InUse>,
    observed: Option<Box<Observed>>,
}

impl Guards {
    /// So many bytes of the response's body go out.
    fn sent(&mut self, bytes: u64) {
        if let Some(observed) = &mut self.observed {
            observed.sent(bytes);
        }
        if let Some(by_activator) = self.counted.as_ref().and_then(Counted::by_activator) {
            by_activator.answered(bytes);
        }
    }
}

/// A response's body.
pub(super) enum ResponseBody {
    /// Our own.
    Own(Full<Bytes>),
    /// The function's.
    Function(FunctionBody),
}

/// The function's body, under the request's limits.
pub(super) struct FunctionBody {
    incoming: Incoming,
    limits: Limits,
    guards: Guards,
}

/// Why a response was cut: the stream is reset, which its client can't take for the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("the function's response broke off")]
    Function(#[source] hyper::Error),
    #[error("the request took too long")]
    TimedOut,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let body = match self.get_mut() {
            Self::Own(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Function(body) => body,
        };
        match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                body.limits.deadlines.progressed();
                if let Some(Ok(frame)) = &frame {
                    body.guards.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Cut::Function)))
            }
            Poll::Pending => {
                let deadline = body.limits.deadlines.next();
                body.limits.timer.poll(deadline, cx).map(|()| Some(Err(Cut::TimedOut)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Function(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Function(body) => body.incoming.size_hint(),
        }
    }
}
