//! The relay itself: hyper on both sides, delays in between.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Method, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use super::model::{Delays, Service};
use super::{Operations, REPORT_PATH, Report};

/// tokio's timers come up to a millisecond late; the rest of a delay is slept on a thread, which comes some 0.1 ms late.
const TIMER_COARSE: Duration = Duration::from_millis(2);
/// Idle connections to the server that are kept.
const IDLE_MAX: usize = 64;

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

struct Relay {
    server: Authority,
    client: Client<HttpConnector, Incoming>,
    drawn: Mutex<(Delays, Report)>,
}

/// What a request is to the published figures.
enum Kind {
    Get,
    Put(u64),
    Other,
}

/// Serves until standard input ends, which it does with whoever started this process. Prints the address.
pub(crate) async fn serve(server: SocketAddr, service: Service, factor: f64, seed: u64) -> Result<()> {
    // A terminal's Ctrl-C goes to this process too, but it is the starter who ends it, after asking for the report.
    let _ignored = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let report = Report { seed, factor, service: service.name().to_owned(), ..Report::default() };
    let relay = Arc::new(Relay {
        server: Authority::try_from(server.to_string())?,
        client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_MAX).build(connector),
        drawn: Mutex::new((Delays::new(service, factor, seed), report)),
    });
    let mut starter_gone = std::pin::pin!(standard_input_ends()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {} // An end by the client's cut is no error here.
            _ = &mut starter_gone => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream, Arc::clone(&relay)));
            }
        }
    }
}

/// Ready when nobody holds the other end of standard input any more.
fn standard_input_ends() -> Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    // The thread is not awaited: when it has something to say, the process ends.
    std::thread::Builder::new().name("starter".into()).spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        ended.send(()).ok();
    })?;
    Ok(end)
}

async fn connection(stream: TcpStream, relay: Arc<Relay>) -> Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(move |request| {
        let relay = Arc::clone(&relay);
        async move { relay.pass(request).await }
    });
    Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

impl Relay {
    async fn pass(&self, request: Request<Incoming>) -> Result<Answer> {
        if request.uri().path() == REPORT_PATH {
            let report = serde_json::to_vec(&self.drawn().1)?;
            return Ok(Response::new(Full::new(Bytes::from(report)).map_err(|never| match never {}).boxed_unsync()));
        }
        let (begun, kind) = (Instant::now(), kind(&request));
        match kind {
            Kind::Get => {
                let get = self.drawn().0.get();
                let answer = self.forward(request).await?;
                let server = begun.elapsed();
                wait_until(begun + get.first_byte).await;
                let bytes = answer.body().size_hint().lower();
                if answer.status().is_success() {
                    self.drawn().1.gets.note(bytes, get.first_byte, server);
                }
                let first_byte = Instant::now();
                let paced = |body: Incoming| match get.bytes_per_second {
                    Some(rate) => Paced::new(body, first_byte, rate).boxed_unsync(),
                    None => body.boxed_unsync(),
                };
                Ok(answer.map(paced))
            }
            Kind::Put(bytes) => {
                let drawn = self.drawn().0.put(bytes);
                let answer = self.forward(request).await?;
                let server = begun.elapsed();
                wait_until(begun + drawn).await;
                if answer.status() == StatusCode::OK {
                    self.drawn().1.puts.note(bytes, drawn, server);
                }
                Ok(answer.map(BodyExt::boxed_unsync))
            }
            Kind::Other => {
                self.drawn().1.others += 1;
                Ok(self.forward(request).await?.map(BodyExt::boxed_unsync))
            }
        }
    }

    /// Sends a request on as it is: its `Host` is what the client signed.
    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.server.clone());
        *request.uri_mut() = Uri::from_parts(parts)?;
        Ok(self.client.request(request).await?)
    }

    fn drawn(&self) -> MutexGuard<'_, (Delays, Report)> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind(request: &Request<Incoming>) -> Kind {
    let of_object = request.uri().path().trim_matches('/').contains('/');
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match *request.method() {
        Method::GET | Method::HEAD if of_object => Kind::Get,
        Method::PUT if of_object => Kind::Put(length.unwrap_or(0)),
        _ => Kind::Other,
    }
}

impl Operations {
    fn note(&mut self, bytes: u64, drawn: Duration, server: Duration) {
        self.count += 1;
        self.bytes += bytes;
        self.drawn_seconds += drawn.as_secs_f64();
        self.server_seconds += server.as_secs_f64();
        self.added_seconds += drawn.saturating_sub(server).as_secs_f64();
        self.server_slower += u64::from(server > drawn);
    }
}

/// Waits to the tenth of a millisecond.
async fn wait_until(deadline: Instant) {
    if let Some(coarse) = deadline.checked_sub(TIMER_COARSE)
        && coarse > Instant::now()
    {
        sleep_until(coarse).await;
    }
    let rest = deadline.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        // A failed join means that the runtime ends, and the delay with it.
        tokio::task::spawn_blocking(move || std::thread::sleep(rest)).await.ok();
    }
}

/// A body whose bytes come at a rate, counted from its first byte.
struct Paced {
    body: Incoming,
    begun: Instant,
    bytes_per_second: f64,
    passed_bytes: u64,
    held: Option<(Frame<Bytes>, Pin<Box<Sleep>>)>,
}

impl Paced {
    fn new(body: Incoming, begun: Instant, bytes_per_second: f64) -> Self {
        Self { body, begun, bytes_per_second, passed_bytes: 0, held: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.held.is_none() {
            let frame = match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            self.passed_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            let due = self.begun + Duration::from_secs_f64(self.passed_bytes as f64 / self.bytes_per_second);
            self.held = Some((frame, Box::pin(sleep_until(due))));
        }
        if let Some((_, sleep)) = &mut self.held {
            std::task::ready!(sleep.as_mut().poll(context));
        }
        Poll::Ready(self.held.take().map(|(frame, _)| Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.held.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}
