//! A function inside the test: an HTTP/1.1 server that records what it saw and can misbehave.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::key_ring::hex;

/// Bytes of a body that are kept in [`Seen::body`]; larger ones are only summed.
const BODY_KEPT_BYTES_MAX: usize = 64 * 1024;
/// What [`Behaviour::DieAfter`] promises; it sends half.
const ANSWER_PROMISED_BYTES: usize = 1024 * 1024;

/// How a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 200 with the body's SHA-256 in hexadecimal.
    Sha256,
    /// 200 with the body, streamed.
    Echo,
    /// This status with an empty body, after reading the request's.
    Status(u16),
    /// Reads the body, then answers 200 only once [`Function::release`] was called.
    Held,
    /// Cuts the connection before reading a byte of the body.
    DieBefore,
    /// Cuts the connection after reading at least that many bytes of the body.
    DieDuring(u64),
    /// Answers 200 with a head that promises 1 MiB, sends half of it and cuts the connection.
    DieAfter,
}

/// A request as the function saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Bytes of the body that arrived.
    pub size: u64,
    /// SHA-256 of those bytes in hexadecimal.
    pub sha256: String,
    /// The body where it was small, else its beginning.
    pub body: Bytes,
    /// Whether the body arrived to its end, as its framing says.
    pub whole: bool,
}

impl Seen {
    /// A header's text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    released: watch::Sender<bool>,
    begun: watch::Sender<usize>,
}

/// A function inside the test. Dropping it ends its server and cuts its connections.
#[derive(Debug)]
pub struct Function {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

impl Function {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start(behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            seen: Mutex::default(),
            released: watch::Sender::new(false),
            begun: watch::Sender::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, _server: server })
    }

    /// Its address on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes how requests are answered that begin from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Lets every [`Behaviour::Held`] request go on, now and later.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// The requests whose bodies ended or were left so far, in that order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests have begun.
    pub fn begun(&self) -> usize {
        *self.shared.begun.borrow()
    }

    /// Waits until that many requests have begun; wrap it in a deadline.
    pub async fn has_begun(&self, requests: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.shared.begun.subscribe().wait_for(|begun| *begun >= requests).await;
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let shared = shared.clone();
                let service = service_fn(move |request| answer(request, shared.clone()));
                connections.spawn(async move {
                    // A refused answer (`Died`) ends the connection; that is the misbehaviour asked for.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        }
    }
}

/// Why a connection was cut.
#[derive(Debug)]
struct Died;

impl std::fmt::Display for Died {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the function died, as it was told to")
    }
}

impl std::error::Error for Died {}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Died> {
    let behaviour = *shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    shared.begun.send_modify(|begun| *begun += 1);
    let (seen, echoed) = read(request, behaviour).await;
    let sha256 = seen.sha256.clone();
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);

    let mut response = Response::new(body(Bytes::new()));
    match behaviour {
        Behaviour::DieBefore | Behaviour::DieDuring(_) => return Err(Died),
        Behaviour::Sha256 => *response.body_mut() = body(sha256),
        Behaviour::Echo => *response.body_mut() = body(echoed),
        Behaviour::Status(code) => *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::IM_A_TEAPOT),
        Behaviour::Held => {
            // The sender lives in `shared`, so the wait cannot fail.
            let _ = shared.released.subscribe().wait_for(|released| *released).await;
        }
        Behaviour::DieAfter => {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(ANSWER_PROMISED_BYTES));
            *response.body_mut() = half_a_body();
        }
    }
    Ok(response)
}

/// Reads the request as far as the behaviour says; returns its whole body too where it is to be echoed.
async fn read(request: Request<Incoming>, behaviour: Behaviour) -> (Seen, Vec<u8>) {
    let (head, mut incoming) = request.into_parts();
    let limit = match behaviour {
        Behaviour::DieBefore => 0,
        Behaviour::DieDuring(bytes) => bytes,
        _ => u64::MAX,
    };
    let (mut sum, mut size, mut kept, mut whole) = (Sha256::new(), 0, Vec::new(), false);
    let mut echoed = Vec::new();
    while size < limit {
        match incoming.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    sum.update(&data);
                    size += data.len() as u64;
                    let room = BODY_KEPT_BYTES_MAX - kept.len();
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                    if behaviour == Behaviour::Echo {
                        echoed.extend_from_slice(&data);
                    }
                }
            }
            Some(Err(_)) => break,
            None => {
                whole = true;
                break;
            }
        }
    }
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let sha256 = hex(&sum.finalize());
    (Seen { method: head.method, path, headers: head.headers, size, sha256, body: kept.into(), whole }, echoed)
}

/// Half of the promised bytes, then an error that makes the server cut the connection.
fn half_a_body() -> Body {
    HalfBody { polls: 0 }.boxed_unsync()
}

struct HalfBody {
    polls: u8,
}

impl hyper::body::Body for HalfBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.polls += 1;
        match self.polls {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; ANSWER_PROMISED_BYTES / 2]))))),
            2 => {
                // One turn in between lets the server flush what it has.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(Died.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, Target, http as client};

    fn post(payload: &Payload) -> Request<crate::payload::PayloadBody> {
        Request::post("/x").body(payload.body()).unwrap()
    }

    #[tokio::test]
    async fn a_function_sums_what_it_got_and_dies_when_told_to() {
        let function = Function::start(Behaviour::Sha256).await.unwrap();
        let target = Target::Tcp(function.address());
        let payload = Payload::new(3_000_000, 1);
        let answer = client::send(&target, post(&payload)).await.unwrap();
        assert_eq!(answer.text(), payload.sha256());

        function.behave(Behaviour::DieBefore);
        client::send(&target, post(&payload)).await.unwrap_err();
        function.behave(Behaviour::DieDuring(1_000_000));
        client::send(&target, post(&payload)).await.unwrap_err();
        function.behave(Behaviour::DieAfter);
        let mut open = client::open(&target, post(&payload)).await.unwrap();
        assert_eq!(open.response.status(), 200);
        open.response.body_mut().collect().await.unwrap_err();

        let sizes: Vec<(u64, bool)> = function.seen().iter().map(|seen| (seen.size, seen.whole)).collect();
        assert_eq!((sizes[0], sizes[1], sizes[3]), ((3_000_000, true), (0, false), (3_000_000, true)));
        assert!(sizes[2].0 >= 1_000_000 && !sizes[2].1);
    }
}
