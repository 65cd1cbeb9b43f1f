//! HTTP/2 on both sides, as gRPC uses it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Frame;
use tokio::sync::Notify;

use super::observability::settled;
use super::{Bench, Case, case};
use crate::http2::{Answering, AnyBody, ask, by_hand, client, full, function, note_body, note_headers};
use crate::proxy::{Proxy, REQUESTS, Variables};
use crate::transcript::Transcript;
use crate::wire::{Function, PATIENCE, Peer};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("h2/get", |bench| simple(bench, &[], |request| request.method("GET").uri("http://shop.example/a%20b?c=%zz"), "")),
        case("h2/post", |bench| simple(bench, &[], |request| request.method("POST").header("content-type", "a/b"), "hello")),
        case("h2/put-large", |bench| simple(bench, &[], |request| request.method("PUT"), "x".repeat(3 << 20))),
        case("h2/head", |bench| simple(bench, &[], |request| request.method("HEAD"), "")),
        case("h2/own-method", |bench| simple(bench, &[], |request| request.method("PURGE"), "")),
        case("h2/headers", |bench| {
            simple(
                bench,
                &[],
                |request| {
                    request
                        .header("x-a", "1")
                        .header("x-a", "2")
                        .header("cookie", "a=b")
                        .header("cookie", "c=d")
                        .header("te", "trailers")
                        .header("x-forwarded-for", "1.2.3.4")
                        .header("x-forwarded-proto", "https")
                        .header("k-original-host", "shop")
                        .header("knative-serving-revision", "r")
                        .header("k-proxy-request", "activator")
                        .header("user-agent", "t")
                        .header("accept-encoding", "gzip")
                },
                "",
            )
        }),
        case("h2/probe", |bench| {
            simple(bench, &[], |request| request.header("user-agent", "kube-probe/1").header("k-network-probe", "queue"), "")
        }),
        case("h2/network-probe", |bench| {
            simple(bench, &[], |request| request.header("k-network-hash", "h").header("k-network-probe", "probe"), "")
        }),
        case("h2/bad-expect", |bench| simple(bench, &[], |request| request.header("expect", "magic"), "")),
        case("h2/grpc-unary", grpc_unary),
        case("h2/grpc-error", grpc_error),
        case("h2/grpc-server-streaming", grpc_server_streaming),
        case("h2/grpc-bidirectional", grpc_bidirectional),
        case("h2/early-answer", early_answer),
        case("h2/function-resets", function_resets),
        case("h2/function-resets-before-its-head", |bench| function_resets_at_once(bench, b"")),
        case("h2/function-resets-with-its-head", |bench| function_resets_at_once(bench, HEAD_FRAME)),
        case("h2/function-resets-with-its-body", |bench| function_resets_at_once(bench, BEGUN_FRAMES)),
        case("h2/function-gone", function_gone),
        case("h2/function-speaks-http1", function_speaks_http1),
        case("h2/overload", overload),
        case("h2/whole-timeout", |bench| slow(bench, &[("REVISION_TIMEOUT_SECONDS", Some("1"))], false)),
        case("h2/whole-timeout-streaming", |bench| slow(bench, &[("REVISION_TIMEOUT_SECONDS", Some("1"))], true)),
        case("h2/start-timeout", |bench| slow(bench, &[("REVISION_RESPONSE_START_TIMEOUT_SECONDS", Some("1"))], false)),
        case("h2/idle-timeout", |bench| slow(bench, &[("REVISION_IDLE_TIMEOUT_SECONDS", Some("1"))], true)),
        case("h2/upgrade-from-http1", upgrade),
        case("h2/log", log),
    ]
}

/// Runs a case that waits on both sides at once.
fn run(case: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(case);
    runtime.shutdown_background();
    outcome
}

/// The start of a proxy blocks.
async fn start(bench: &Bench<'_>, port: u16, variables: Variables<'_>) -> Result<Proxy> {
    tokio::task::block_in_place(|| bench.proxy(port, variables))
}

fn noting(transcript: &Transcript) -> impl Fn(Request<hyper::body::Incoming>) -> Answering + Send + Sync + 'static {
    let transcript = transcript.clone();
    move |request| {
        let transcript = transcript.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            transcript.note(format!("function: {} {}", head.method, head.uri));
            note_headers("function", &head.headers, &transcript);
            note_body("function", body, &transcript).await;
            let mut response = response(200, if head.method == "HEAD" { "" } else { "ok" });
            response.headers_mut().insert("content-length", HeaderValue::from_static("2"));
            response
        })
    }
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<AnyBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    response
}

fn request(path: &str) -> http::request::Builder {
    Request::get(format!("http://shop.example{path}"))
}

fn simple(
    bench: &Bench<'_>,
    variables: Variables<'_>,
    build: impl FnOnce(http::request::Builder) -> http::request::Builder,
    body: impl Into<Bytes>,
) -> Result<()> {
    run(async {
        let port = function(noting(&bench.transcript)).await?;
        let proxy = start(bench, port, variables).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, build(request("/")).body(full(body))?, &bench.transcript).await;
        Ok(())
    })
}

fn trailers(status: &'static str) -> HeaderMap {
    let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    [pair("grpc-status", status), pair("grpc-message", "m"), pair("x-t", "1")].into_iter().collect()
}

fn grpc(body: AnyBody) -> Result<Request<AnyBody>> {
    let request = Request::post("http://shop.example/pkg.Service/Method").header("content-type", "application/grpc");
    Ok(request.header("te", "trailers").header("grpc-timeout", "5S").body(body)?)
}

fn grpc_response(body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn data(text: &'static str) -> std::io::Result<Frame<Bytes>> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn grpc_unary(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let transcript = bench.transcript.clone();
        let port = function(move |request| {
            let transcript = transcript.clone();
            Box::pin(async move {
                note_headers("function", request.headers(), &transcript);
                note_body("function", request.into_body(), &transcript).await;
                let (sender, body) = by_hand();
                tokio::spawn(async move {
                    drop(sender.send(data("reply")).await);
                    drop(sender.send(Ok(Frame::trailers(trailers("0")))).await);
                });
                grpc_response(body)
            })
        })
        .await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let (body, frames) = by_hand();
        tokio::spawn(async move {
            drop(body.send(data("ask")).await);
            drop(body.send(Ok(Frame::trailers(trailers("1")))).await);
        });
        ask(&mut sender, grpc(frames)?, &bench.transcript).await;
        Ok(())
    })
}

/// Only trailers, in the place of headers.
fn grpc_error(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|_| {
            Box::pin(async {
                let mut response = grpc_response(full(""));
                response.headers_mut().extend(trailers("7"));
                response
            })
        })
        .await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, grpc(full("ask"))?, &bench.transcript).await;
        Ok(())
    })
}

fn grpc_server_streaming(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|_| {
            Box::pin(async {
                let (sender, body) = by_hand();
                tokio::spawn(async move {
                    for piece in ["one", "two", "three"] {
                        drop(sender.send(data(piece)).await);
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                    drop(sender.send(Ok(Frame::trailers(trailers("0")))).await);
                });
                grpc_response(body)
            })
        })
        .await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, grpc(full("ask"))?, &bench.transcript).await;
        Ok(())
    })
}

/// Each piece goes there and comes back before the next one is sent.
fn grpc_bidirectional(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|request| {
            Box::pin(async move {
                let (sender, body) = by_hand();
                tokio::spawn(async move {
                    let mut incoming = request.into_body();
                    while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut incoming).await {
                        drop(sender.send(Ok(frame)).await);
                    }
                });
                grpc_response(body)
            })
        })
        .await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let (body, frames) = by_hand();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(grpc(frames)?)).await??;
        bench.transcript.note(format!("client: {}", response.status()));
        let mut incoming = response.into_body();
        for piece in ["one", "two"] {
            body.send(data(piece)).await?;
            let echoed = tokio::time::timeout(PATIENCE, http_body_util::BodyExt::frame(&mut incoming)).await?;
            let echoed = echoed.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
            bench.transcript.note(format!("client: {echoed:?}"));
        }
        body.send(Ok(Frame::trailers(trailers("0")))).await?;
        drop(body);
        note_body("client", incoming, &bench.transcript).await;
        Ok(())
    })
}

/// The function answers at once, and the client's body never ends.
fn early_answer(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|_| Box::pin(async { response(403, "no") })).await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let (body, frames) = by_hand();
        body.send(data("begun")).await?;
        ask(&mut sender, grpc(frames)?, &bench.transcript).await;
        Ok(())
    })
}

/// The function breaks off when its client has the beginning.
fn function_resets(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let arrived = Arc::new(Notify::new());
        let told = Arc::clone(&arrived);
        let port = function(move |_| {
            let told = Arc::clone(&told);
            Box::pin(async move {
                let (sender, body) = by_hand();
                tokio::spawn(async move {
                    drop(sender.send(data("part")).await);
                    told.notified().await;
                    drop(sender.send(Err(std::io::Error::other("broken"))).await);
                });
                grpc_response(body)
            })
        })
        .await?;
        let proxy = start(bench, port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(grpc(full("ask"))?)).await??;
        bench.transcript.note(format!("client: {}", response.status()));
        let mut incoming = response.into_body();
        let piece = tokio::time::timeout(PATIENCE, http_body_util::BodyExt::frame(&mut incoming)).await?;
        let piece = piece.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        bench.transcript.note(format!("client: {piece:?}"));
        arrived.notify_one();
        note_body("client", incoming, &bench.transcript).await;
        Ok(())
    })
}

/// The head of a response on stream 1: `:status: 200` by HPACK's static table.
const HEAD_FRAME: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
/// The same, and the beginning of its body.
const BEGUN_FRAMES: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\0\0\0\0\x01part";
/// `RST_STREAM` of stream 1 with `INTERNAL_ERROR`.
const RESET_FRAME: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02";

/// The function resets the stream in the very write in which it says `before`.
fn function_resets_at_once(bench: &Bench<'_>, before: &'static [u8]) -> Result<()> {
    let function = Function::with_connections(move |mut peer| {
        drop(peer.exactly(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()));
        peer.send(b"\0\0\0\x04\0\0\0\0\0");
        loop {
            let head = peer.exactly(9);
            let [a, b, c, kind, flags, ..] = head[..] else { return };
            drop(peer.exactly(u32::from_be_bytes([0, a, b, c]) as usize));
            if kind == 4 && flags & 1 == 0 {
                peer.send(b"\0\0\0\x04\x01\0\0\0\0"); // That its settings were read.
            }
            if kind <= 1 && flags & 1 == 1 {
                peer.send([before, RESET_FRAME].concat()); // The request is complete.
            }
        }
    })?;
    run(async {
        let proxy = start(bench, function.port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let seen = Transcript::default();
        ask(&mut sender, grpc(full("ask"))?, &seen).await;
        let lines = seen.take();
        // What was said in the same breath may be lost with the stream, at either proxy: that it was reset may not.
        match lines.iter().any(|line| line.contains("the stream was reset")) {
            true => bench.transcript.note("client: the stream was reset"),
            false => lines.into_iter().for_each(|line| bench.transcript.note(line)),
        }
        Ok(())
    })
}

fn function_gone(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let proxy = start(bench, zipline_testkit::free_port()?, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, request("/").body(full(""))?, &bench.transcript).await;
        Ok(())
    })
}

fn function_speaks_http1(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let function = Function::with_heads(|peer, _| peer.reply("ok"))?;
        let proxy = start(bench, function.port, &[]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, request("/").body(full(""))?, &bench.transcript).await;
        Ok(())
    })
}

/// One runs, ten wait, and one is refused, on one connection: whichever it is.
fn overload(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|_| {
            Box::pin(async {
                tokio::time::sleep(PATIENCE * 2).await; // Until it is left.
                response(200, "ok")
            })
        })
        .await?;
        let proxy = start(bench, port, &[("CONTAINER_CONCURRENCY", Some("1"))]).await?;
        let sender = client(proxy.at(REQUESTS)).await?;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (mut sender, request) = (sender.clone(), request("/").body(full(""))?);
            asking.spawn(async move {
                let seen = Transcript::default();
                ask(&mut sender, request, &seen).await;
                seen.take()
            });
        }
        let refused = asking.join_next().await.unwrap_or_else(|| Ok(Vec::new()))?;
        refused.into_iter().for_each(|line| bench.transcript.note(line));
        Ok(())
    })
}

fn slow(bench: &Bench<'_>, variables: Variables<'_>, begins: bool) -> Result<()> {
    run(async {
        let port = function(move |_| {
            Box::pin(async move {
                if !begins {
                    tokio::time::sleep(PATIENCE * 2).await; // Until it is left.
                    return response(200, "late");
                }
                let (sender, body) = by_hand();
                tokio::spawn(async move {
                    drop(sender.send(data("part")).await);
                    tokio::time::sleep(PATIENCE * 2).await; // Until it is left.
                    drop(sender.send(data("late")).await);
                });
                grpc_response(body)
            })
        })
        .await?;
        let proxy = start(bench, port, variables).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        ask(&mut sender, request("/").body(full(""))?, &bench.transcript).await;
        Ok(())
    })
}

/// `Upgrade: h2c` on a request without a body.
fn upgrade(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(noting(&bench.transcript)).await?;
        let proxy = start(bench, port, &[]).await?;
        let transcript = bench.transcript.clone();
        let address = proxy.at(REQUESTS);
        tokio::task::spawn_blocking(move || -> Result<()> {
            let mut peer = Peer::connect(address)?;
            peer.send("GET /up HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n");
            let head = peer.head()?;
            transcript.note(format!("client: {:?}", head.map(|head| head.first)));
            peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            // Frames until one of stream 1 ends it.
            loop {
                let head = peer.exactly(9);
                let [a, b, c, kind, flags, _, _, _, stream] = head[..] else {
                    transcript.note("client: no more frames");
                    return Ok(());
                };
                let payload = peer.exactly(u32::from_be_bytes([0, a, b, c]) as usize);
                match (kind, stream) {
                    (0, 1) => transcript.note(format!("client: data {:?}", String::from_utf8_lossy(&payload))),
                    (1, 1) => transcript.note("client: headers"),
                    (3, 1) => transcript.note("client: reset"),
                    _ => {}
                }
                if stream == 1 && (flags & 1 == 1 || kind == 3) {
                    return Ok(());
                }
            }
        })
        .await??;
        Ok(())
    })
}

fn log(bench: &Bench<'_>) -> Result<()> {
    run(async {
        let port = function(|_| Box::pin(async { response(201, "hello") })).await?;
        let template = "{{.Request.Method}} {{.Request.RequestURI}} {{.Request.URL}} {{.Request.Proto}} {{.Request.ProtoMajor}} {{.Request.Host}} {{.Request.ContentLength}} {{.Response.Code}} {{.Response.Size}}";
        let config = serde_json::json!({ "enableRequestLog": true, "requestLogTemplate": template }).to_string();
        let proxy = start(bench, port, &[("OBSERVABILITY_CONFIG", Some(&config))]).await?;
        let mut sender = client(proxy.at(REQUESTS)).await?;
        let unseen = Transcript::default();
        ask(&mut sender, request("/get?a").body(full(""))?, &unseen).await;
        ask(&mut sender, Request::post("http://shop.example/post").body(full("abc"))?, &unseen).await;
        let (body, frames) = by_hand();
        body.send(data("abc")).await?;
        drop(body);
        ask(&mut sender, Request::post("http://shop.example/stream").body(frames)?, &unseen).await;
        let is_own = |line: &&str| line.starts_with(r#"{"severity""#) || line.starts_with(r#"{"level""#);
        let lines = || proxy.stdout().lines().filter(|line| !is_own(line)).map(str::to_owned).collect();
        let lines = tokio::task::block_in_place(|| settled(lines, 3));
        lines.into_iter().for_each(|line| bench.transcript.note(format!("log: {line}")));
        Ok(())
    })
}
