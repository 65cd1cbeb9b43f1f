//! A request's way through the platform, and its answer's way back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use zipline_contract::headers;
use zipline_core::kpa::RequestPath;

use super::route::{self, Routes};
use crate::activator::upstream::{UpstreamError, Wire};
use crate::activator::{InFlight, NoPlace, Outcome, Place, Traffic};
use crate::manifest::Protocol;
use crate::revision::Revision;

/// Instances a request is brought to before it is given up; only one that was never sent is brought to another.
const TRIES_MAX: usize = 3;
/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Brings a request to an instance. Every failure is an answer.
pub(super) async fn forward(request: Request<Incoming>, peer: SocketAddr, routes: &Routes) -> Response<AnswerBody> {
    zipline_fault_point::fault_point!("ingress.arrived");
    let revision = match routes.find(request.uri(), request.headers()) {
        Ok(revision) => revision,
        Err(error) => return refusal(StatusCode::NOT_FOUND, &error.to_string()),
    };
    let mut request = request;
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let wire = wire(&revision, upgrade.is_some());
    let host = route::host(request.uri(), request.headers()).unwrap_or_default().to_owned();
    prepare(&mut request, &host, peer, &revision, wire);

    let deadline = Instant::now() + Duration::from_secs(revision.spec.limits.timeout_seconds.into());
    let mut passage = Passage::open(&revision);
    let traffic = Arc::clone(passage.traffic());
    let mut request = request.map(|body| ForwardedBody { body, traffic });
    for _ in 0..TRIES_MAX {
        let place = match passage.place(deadline).await {
            Ok(place) => place,
            Err(error) => return passage.refused(&error),
        };
        passage.mark(&mut request, &host, wire, &place);
        zipline_fault_point::fault_point!("activator.placed");
        match place.backend.upstream.send(wire, request).await {
            Ok(response) => {
                zipline_fault_point::fault_point!("activator.answered");
                passage.traffic().ended(Outcome::Ok);
                return answer(response, upgrade, passage, place);
            }
            Err(UpstreamError::Broken(error)) => {
                place.backend.instance.doubt();
                passage.traffic().ended(Outcome::Error);
                let text = format!("the instance's connection broke before it answered: {error}");
                return refusal(StatusCode::BAD_GATEWAY, &text);
            }
            Err(UpstreamError::NotSent { request: unsent, reason }) => {
                tracing::debug!(instance = %place.backend.instance.name, reason, "a request was not sent");
                revision.activator.unreachable(&place.backend.instance);
                request = *unsent;
            }
        }
    }
    passage.traffic().ended(Outcome::Error);
    refusal(StatusCode::BAD_GATEWAY, &format!("none of {TRIES_MAX} instances of {} could be reached", revision.service))
}

/// A request's way: through the activator or past it. Past it there must be a ready instance; else it comes back.
pub(super) struct Passage {
    revision: Arc<Revision>,
    /// Present while the request goes through the activator.
    in_flight: Option<InFlight>,
}

impl Passage {
    fn open(revision: &Arc<Revision>) -> Self {
        let mut passage = Self { revision: Arc::clone(revision), in_flight: None };
        if revision.path() == RequestPath::Proxy {
            passage.through_activator();
        }
        passage
    }

    fn through_activator(&mut self) {
        let (in_flight, ahead) = self.revision.activator.count_request();
        self.in_flight = Some(in_flight);
        if let Some(stat) = ahead {
            self.revision.poke(stat);
        }
    }

    async fn place(&mut self, deadline: Instant) -> Result<Place, NoPlace> {
        if self.in_flight.is_none() {
            if let Some(place) = self.revision.activator.direct_place() {
                return Ok(place);
            }
            self.through_activator();
        }
        self.revision.activator.place(deadline).await
    }

    fn traffic(&self) -> &Arc<Traffic> {
        if self.in_flight.is_some() { &self.revision.through_activator } else { &self.revision.past_activator }
    }

    /// Marks the request for the queue-proxy, which counts what came through the activator apart.
    fn mark(&self, request: &mut Request<ForwardedBody>, host: &str, wire: Wire, place: &Place) {
        request.body_mut().traffic = Arc::clone(self.traffic());
        let headers = request.headers_mut();
        let Ok(original) = HeaderValue::from_str(host) else { return };
        if self.in_flight.is_some() {
            headers.insert(headers::K_PROXY_REQUEST, HeaderValue::from_static("activator"));
            headers.entry(headers::K_ORIGINAL_HOST).or_insert(original);
            if wire == Wire::Http1
                && let Ok(address) = HeaderValue::from_str(&place.backend.instance.request_address().to_string())
            {
                headers.insert(header::HOST, address);
            }
        } else if wire == Wire::Http1 {
            headers.insert(header::HOST, original);
        }
        if wire == Wire::Http2 {
            // Its place is the target.
            headers.remove(header::HOST);
        }
    }

    fn refused(&self, error: &NoPlace) -> Response<AnswerBody> {
        let (status, outcome) = match error {
            NoPlace::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Overload),
            NoPlace::Late => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Timeout),
            NoPlace::Closed => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Error),
        };
        self.traffic().ended(outcome);
        refusal(status, &error.to_string())
    }
}

/// The protocol in which a function is spoken to is its revision's, whichever its callers use. Only HTTP/1.1 can be
/// upgraded to something else.
fn wire(revision: &Revision, upgrade: bool) -> Wire {
    match revision.spec.function.protocol {
        Protocol::H2c if !upgrade => Wire::Http2,
        Protocol::H2c | Protocol::Http1 => Wire::Http1,
    }
}

/// What every instance sees, whichever way the request takes.
fn prepare(request: &mut Request<Incoming>, host: &str, peer: SocketAddr, revision: &Revision, wire: Wire) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = target(path, host, wire);
    *request.version_mut() = if wire == Wire::Http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let headers = request.headers_mut();
    let upgrade = headers.get(header::UPGRADE).cloned();
    let trailers = headers.get_all(header::TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade.filter(|_| wire == Wire::Http1) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // Only the activator may say that it was there.
    headers.remove(headers::K_PROXY_REQUEST);
    for (name, value) in [
        (headers::KNATIVE_SERVING_NAMESPACE, revision.service.namespace.as_str()),
        (headers::KNATIVE_SERVING_REVISION, revision.name.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    if let Ok(peer) = HeaderValue::from_str(&peer.ip().to_string()) {
        headers.append(X_FORWARDED_FOR, peer);
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Path and query for HTTP/1.1; for HTTP/2 with the host, which stands there in place of a header.
fn target(path: Option<http::uri::PathAndQuery>, host: &str, wire: Wire) -> Uri {
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let origin = Uri::from(path.clone());
    match wire {
        Wire::Http1 => origin,
        Wire::Http2 => Uri::builder().scheme("http").authority(host).path_and_query(path).build().unwrap_or(origin),
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP).chain([&header::UPGRADE]) {
        headers.remove(name);
    }
}

/// Hands the answer on. What was in flight stays so until the answer's last byte, or the end of an upgraded connection.
fn answer(
    mut response: Response<Incoming>,
    client: Option<hyper::upgrade::OnUpgrade>,
    passage: Passage,
    place: Place,
) -> Response<AnswerBody> {
    let traffic = Arc::clone(passage.traffic());
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(client) = client.filter(|_| upgraded) {
        let instance = hyper::upgrade::on(&mut response);
        let revision = Arc::clone(&passage.revision);
        let counted = Arc::clone(&traffic);
        revision.tunnel(async move {
            let _in_flight = (passage, place);
            if let Err(error) = tunnel(client, instance, &counted).await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        });
        return response.map(|_| AnswerBody::empty());
    }
    // Hyper frames the body anew; the rest of the head is the function's.
    strip_hop_by_hop(response.headers_mut());
    response.map(|body| AnswerBody::Streamed { body, traffic, _in_flight: Box::new((passage, place)) })
}

async fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    instance: hyper::upgrade::OnUpgrade,
    traffic: &Traffic,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, instance) = tokio::try_join!(client, instance)?;
    let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
    let (came, went) = tokio::io::copy_bidirectional(&mut client, &mut instance).await?;
    traffic.came_in(usize::try_from(came).unwrap_or(usize::MAX));
    traffic.went_out(usize::try_from(went).unwrap_or(usize::MAX));
    Ok(())
}

/// An answer of the platform's own, in the form of Knative's.
fn refusal(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Text(Some(format!("{text}\n").into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A request's body on its way to an instance, counted.
pub(crate) struct ForwardedBody {
    body: Incoming,
    traffic: Arc<Traffic>,
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            self.traffic.came_in(data.map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) enum AnswerBody {
    /// The platform's own words, or nothing.
    Text(Option<Bytes>),
    /// An instance's, counted; the request is over when this is dropped.
    Streamed { body: Incoming, traffic: Arc<Traffic>, _in_flight: Box<(Passage, Place)> },
}

impl AnswerBody {
    const fn empty() -> Self {
        Self::Text(None)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Streamed { body, traffic, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
                    traffic.went_out(data.map_or(0, Bytes::len));
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}
