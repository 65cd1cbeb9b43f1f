//! HTTP/2 on both sides: by prior knowledge, by upgrade, and what gRPC needs.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{PATIENCE, Proxy, silent_port};

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Response<AnyBody>> + Send>>;

/// A function that speaks h2c. Ends with the test's runtime.
async fn function(answer: impl Fn(Request<Incoming>) -> Answering + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (answer, connections) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(100);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, connections)
}

async fn client<B>(address: SocketAddr) -> SendRequest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.expect("a connection");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

fn empty() -> AnyBody {
    Empty::new().boxed_unsync()
}

fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).boxed_unsync()
}

/// A body whose frames are sent one by one.
fn by_hand() -> (mpsc::Sender<Frame<Bytes>>, AnyBody) {
    let (sender, mut frames) = mpsc::channel(16);
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (sender, StreamBody::new(stream.map(Ok)).boxed_unsync())
}

async fn next(body: &mut Incoming) -> Frame<Bytes> {
    timeout(PATIENCE, body.frame()).await.expect("a frame in time").expect("a frame before the end").expect("a sound frame")
}

fn trailers(status: &'static str) -> HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static(status))].into_iter().collect()
}

async fn start(port: u16, variables: &[(&str, &str)]) -> Proxy {
    let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    tokio::task::spawn_blocking(move || {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Proxy::start(port, &variables)
    })
    .await
    .expect("a proxy")
}

#[tokio::test]
async fn a_request_keeps_its_protocol_its_headers_and_its_body() {
    let (port, _) = function(|request| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            assert_eq!((head.version, head.method.as_str()), (Version::HTTP_2, "POST"));
            assert_eq!(head.uri.to_string(), "http://shop.default.example.com/a%20b?c=%zz");
            assert_eq!(head.headers["x-forwarded-for"], "127.0.0.1");
            assert_eq!(head.headers["te"], "trailers");
            assert!(!head.headers.contains_key("knative-serving-revision"));
            let body = body.collect().await.expect("a whole body");
            assert_eq!(body.trailers().expect("trailers")["x-end"], "1");
            Response::builder().status(201).header("x-answer", "y").body(full(body.to_bytes())).expect("a response")
        })
    })
    .await;
    let proxy = start(port, &[]).await;
    let (frames, body) = by_hand();
    let request = Request::post("http://front.example.com/a%20b?c=%zz")
        .header("k-original-host", "shop.default.example.com")
        .header("knative-serving-revision", "x")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    frames.send(Frame::data("hello".into())).await.expect("room");
    let end = [(http::HeaderName::from_static("x-end"), http::HeaderValue::from_static("1"))].into_iter().collect();
    frames.send(Frame::trailers(end)).await.expect("room");
    drop(frames);
    let answer = client(proxy.requests()).await.send_request(request).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers()["x-answer"].as_bytes()), (201, &b"y"[..]));
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "hello");
}

#[tokio::test]
async fn a_grpc_call_streams_both_ways_and_ends_with_its_trailers() {
    let (port, _) = function(|request| {
        Box::pin(async move {
            let (frames, body) = by_hand();
            tokio::spawn(async move {
                let mut incoming = request.into_body();
                while let Some(Ok(frame)) = incoming.frame().await {
                    frames.send(frame).await.expect("room");
                }
                frames.send(Frame::trailers(trailers("0"))).await.expect("room");
            });
            Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
        })
    })
    .await;
    let proxy = start(port, &[]).await;
    let (frames, body) = by_hand();
    let request = Request::post("http://a/pkg.Service/Chat").header("content-type", "application/grpc").body(body).expect("one");
    let answer = client(proxy.requests()).await.send_request(request).await.expect("a head before the request has ended");
    let mut answer = answer.into_body();
    for text in ["one", "two", "three"] {
        frames.send(Frame::data(text.into())).await.expect("room");
        assert_eq!(next(&mut answer).await.into_data().expect("data"), text);
    }
    drop(frames);
    assert_eq!(next(&mut answer).await.into_trailers().expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn an_answer_of_trailers_only_passes() {
    let (port, _) =
        function(|_| Box::pin(async { Response::builder().header("grpc-status", "12").body(empty()).expect("a response") }))
            .await;
    let proxy = start(port, &[]).await;
    let answer = client(proxy.requests()).await.send_request(Request::new(empty())).await.expect("an answer");
    assert!(answer.body().is_end_stream());
    assert_eq!(answer.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    const SIZE: usize = 64 << 20;
    let (port, _) = function(|request| {
        Box::pin(async move { Response::new(request.into_body().map_err(|error| panic!("{error}")).boxed_unsync()) })
    })
    .await;
    let proxy = start(port, &[]).await;
    let sent: Bytes = (0..SIZE).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<_>>().into();
    let request = Request::post("http://a/").body(full(sent.clone())).expect("a request");
    let answer = client(proxy.requests()).await.send_request(request).await.expect("an answer");
    let got = answer.into_body().collect().await.expect("a body").to_bytes();
    assert!(got == sent, "{} bytes came back", got.len());
}

#[tokio::test]
async fn more_requests_than_one_connection_allows_get_another() {
    let (release, held) = tokio::sync::watch::channel(false);
    let (come, mut came) = tokio::sync::watch::channel(0);
    let (port, connections) = function(move |_| {
        let mut held = held.clone();
        come.send_modify(|count| *count += 1);
        Box::pin(async move {
            held.wait_for(|open| *open).await.expect("a release");
            Response::new(full("ok"))
        })
    })
    .await;
    let proxy = start(port, &[]).await;
    let mut senders = [client(proxy.requests()).await, client(proxy.requests()).await];
    let answers: Vec<_> = (0..150).map(|n| tokio::spawn(senders[n % 2].send_request(Request::new(empty())))).collect();
    timeout(PATIENCE, came.wait_for(|count| *count == 150)).await.expect("all requests run").expect("a function");
    release.send(true).expect("requests that wait");
    for answer in answers {
        assert_eq!(answer.await.expect("a task").expect("an answer").status(), 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn failures_of_the_function_are_502() {
    let http1 = crate::support::Function::with_connections(|mut peer| {
        peer.try_send("HTTP/1.1 400 Bad Request\r\n\r\n").ok();
    });
    for (port, text) in [(silent_port(), "connection refused"), (http1.port, "http2:")] {
        let proxy = start(port, &[]).await;
        let mut sender = client(proxy.requests()).await;
        for _ in 0..2 {
            let answer = sender.send_request(Request::new(empty())).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(text), "{text} in {body:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_reset_at_the_function() {
    let (told, mut outcome) = mpsc::channel(2);
    let (port, _) = function(move |request| {
        let told = told.clone();
        Box::pin(async move {
            told.send("begun").await.expect("a test that listens");
            let whole = request.into_body().collect().await.is_ok();
            told.send(if whole { "whole" } else { "reset" }).await.expect("a test that listens");
            Response::new(empty())
        })
    })
    .await;
    let proxy = start(port, &[]).await;
    let (frames, mut coming) = mpsc::channel(1);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| coming.poll_recv(cx)));
    let request = Request::post("http://a/").body(body).expect("a request");
    let answer = tokio::spawn(client(proxy.requests()).await.send_request(request));
    frames.send(Ok(Frame::data(Bytes::from("some")))).await.expect("room");
    let next = async |outcome: &mut mpsc::Receiver<_>| timeout(PATIENCE, outcome.recv()).await.expect("an outcome in time");
    assert_eq!(next(&mut outcome).await, Some("begun"));
    frames.send(Err(std::io::Error::other("enough"))).await.expect("room");
    assert_eq!(next(&mut outcome).await, Some("reset"));
    assert!(answer.await.expect("a task").is_err());
}

#[tokio::test]
async fn a_response_that_breaks_off_is_reset_at_the_client() {
    let (port, _) = function(|_| {
        Box::pin(async {
            // The connection ends with the task that panics over an error it can't send.
            let (frames, body) = by_hand();
            frames.send(Frame::data("some".into())).await.expect("room");
            let never_whole = body.map_frame(|frame| frame).boxed_unsync();
            tokio::spawn(async move {
                frames.closed().await;
            });
            Response::builder().header("content-length", "100").body(never_whole).expect("a response")
        })
    })
    .await;
    let proxy = start(port, &[("REVISION_IDLE_TIMEOUT_SECONDS", "1")]).await;
    let answer = client(proxy.requests()).await.send_request(Request::new(empty())).await.expect("a head");
    let mut body = answer.into_body();
    assert_eq!(next(&mut body).await.into_data().expect("data"), "some");
    assert!(timeout(PATIENCE, body.frame()).await.expect("an end in time").expect("not the end of a whole body").is_err());
}

#[tokio::test]
async fn limits_hold_for_each_stream() {
    let (port, _) = function(|request| {
        Box::pin(async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            Response::new(full("ok"))
        })
    })
    .await;
    let proxy = start(port, &[("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1")]).await;
    let mut sender = client(proxy.requests()).await;
    let slow = sender.send_request(Request::get("http://a/never").body(empty()).expect("a request"));
    let fast = sender.send_request(Request::get("http://a/").body(empty()).expect("a request"));
    assert_eq!(fast.await.expect("an answer").status(), 200);
    let answer = slow.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "request timeout");
}

#[tokio::test]
async fn connect_is_refused() {
    let proxy = start(silent_port(), &[]).await;
    let request = Request::builder().method("CONNECT").uri("somewhere:443").body(empty()).expect("a request");
    let answer = client(proxy.requests()).await.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn draining_lets_streams_end_and_says_goodbye() {
    let (release, held) = tokio::sync::watch::channel(false);
    let (port, _) = function(move |_| {
        let mut held = held.clone();
        Box::pin(async move {
            held.wait_for(|open| *open).await.expect("a release");
            Response::new(full("ok"))
        })
    })
    .await;
    let mut proxy = start(port, &[]).await;
    let mut sender = client(proxy.requests()).await;
    let answer = tokio::spawn(sender.send_request(Request::new(empty())));
    let reaches = async |field: &str, value: serde_json::Value| {
        let look = async {
            while proxy.status(field) != value {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{field} became {value}"));
    };
    reaches("running", 1.into()).await;
    proxy.signal("-TERM");
    reaches("drain_phase", "finishing".into()).await;
    release.send(true).expect("a request that waits");
    assert_eq!(answer.await.expect("a task").expect("an answer").status(), 200);
    assert!(tokio::task::spawn_blocking(move || proxy.ended().success()).await.expect("an exit"));
}

/// What is read of a connection after an upgrade, by a client that begins HTTP/2 there.
async fn upgraded(address: SocketAddr, request: &str) -> (u16, Option<SendRequest<AnyBody>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a connection that takes bytes");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let status = String::from_utf8_lossy(&head)[9..12].parse().expect("a status");
    if status != 101 {
        return (status, None);
    }
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    (status, Some(sender))
}

#[tokio::test]
async fn a_connection_can_be_upgraded_and_its_request_is_the_first_stream() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let (port, _) = function(move |request| {
        let line = format!("{} {:?}", request.uri(), request.headers().get("x-mine"));
        record.lock().expect("a sound lock").push(line);
        Box::pin(async { Response::new(full("ok")) })
    })
    .await;
    let proxy = start(port, &[]).await;
    let first = "GET /first?a=b HTTP/1.1\r\nHost: shop\r\nX-Mine: 1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    // hyper's client knows nothing of a stream 1 that it did not open, so only the function's side is looked at here.
    let (status, _sender) = upgraded(proxy.requests(), first).await;
    assert_eq!(status, 101);
    let arrived = async {
        while seen.lock().expect("a sound lock").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, arrived).await.expect("the first stream arrives");
    assert_eq!(seen.lock().expect("a sound lock")[0], "http://shop/first?a=b Some(\"1\")");
}

#[tokio::test]
async fn a_request_with_a_body_is_answered_over_http1_instead_of_upgraded() {
    let function = crate::support::Function::with_requests(|peer, head| {
        assert_eq!((head.get("upgrade"), head.get("http2-settings")), (None, None));
        peer.body(&head);
        peer.reply("ok");
    });
    let proxy = start(function.port, &[]).await;
    let request = "POST / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 3\r\n\r\nabc";
    let (status, _) = upgraded(proxy.requests(), request).await;
    assert_eq!(status, 200);
}
