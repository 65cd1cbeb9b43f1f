//! HTTP/1.1: methods, heads, bodies, interim responses, upgrades, cut connections, malformed input.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::{Bench, Case, case};
use crate::proxy::{REQUESTS, Variables};
use crate::transcript::{Transcript, shown};
use crate::wire::{Function, PATIENCE, Peer};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok";

/// Requests that one function answers with one response, each on a connection of its own.
const EXCHANGES: &[(&str, &str, &str)] = &[
    ("h1/get", "GET /a/b%20c?x=%31&y HTTP/1.1\r\nHost: shop.example\r\n\r\n", OK),
    ("h1/head", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\n"),
    ("h1/post", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", OK),
    ("h1/post-empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", OK),
    ("h1/post-no-length", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/put", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", OK),
    ("h1/patch", "PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", OK),
    ("h1/delete", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/delete-body", "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", OK),
    ("h1/options", "OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/options-star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/trace", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/own-method", "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/get-body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", OK),
    ("h1/chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", OK),
    ("h1/chunked-empty", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK),
    (
        "h1/request-trailers",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\na\r\n0\r\nX-T: 1\r\n\r\n",
        OK,
    ),
    ("h1/http10", "GET / HTTP/1.0\r\n\r\n", OK),
    ("h1/http10-keep-alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", OK),
    ("h1/close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", OK),
    ("h1/absolute-target", "GET http://other.example:81/p?q HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/odd-targets", "GET //x/../y;z?a=b#c HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/raw-characters", "GET /a\"b<c>`d{e}|f^g?h=\"<>`&i='[j]' HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/bad-escape", "GET /%zz?%zz HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    (
        "h1/hop-by-hop",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\nProxy-Connection: y\r\nTE: trailers, gzip\r\nX-Stays: 1\r\n\r\n",
        OK,
    ),
    (
        "h1/forwarded",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8, ::1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n\r\n",
        OK,
    ),
    ("h1/forwarded-kept", "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", OK),
    (
        "h1/knative-headers",
        "GET / HTTP/1.1\r\nHost: pod\r\nK-Original-Host: shop.example\r\nK-Proxy-Request: activator\r\nKnative-Serving-Namespace: n\r\nKnative-Serving-Revision: r\r\nKnative-Serving-Tag: t\r\nKnative-Serving-Default-Route: true\r\nK-Passthrough-Lb: true\r\n\r\n",
        OK,
    ),
    (
        "h1/many-headers",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nCookie: a=b\r\nCookie: c=d\r\nAccept-Encoding: gzip, br\r\nUser-Agent: \r\nX-Empty:\r\nX-Utf: h\u{e9}\r\nX_Under: 1\r\n\r\n",
        OK,
    ),
    ("h1/no-agent", "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", OK),
    (
        "h1/trace-headers",
        "GET / HTTP/1.1\r\nHost: a\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b,c=d\r\nBaggage: k=v\r\nX-B3-TraceId: 1\r\n\r\n",
        OK,
    ),
    ("h1/bad-trace-header", "GET / HTTP/1.1\r\nHost: a\r\nTraceparent: odd\r\n\r\n", OK),
    ("h1/zipline-free", "GET / HTTP/1.1\r\nHost: a\r\nX-Zipline: 1\r\n\r\n", OK),
    ("h1/204", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
    ("h1/304", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
    (
        "h1/404",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nno\n",
    ),
    ("h1/500", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 500 Oh No\r\nContent-Length: 0\r\n\r\n"),
    ("h1/own-status", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"),
    ("h1/redirect", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    (
        "h1/response-chunked",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "h1/response-trailers",
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\nContent-Type: text/plain\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
    ),
    (
        "h1/response-until-close",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nabc",
    ),
    (
        "h1/response-http10",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
    ),
    (
        "h1/response-hop-by-hop",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: x\r\nUpgrade: y\r\nContent-Length: 0\r\nServer: f\r\nX-Powered-By: f\r\n\r\n",
    ),
    (
        "h1/response-compressed",
        "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc",
    ),
    ("h1/response-no-type", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
    (
        "h1/response-date",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
    ),
    (
        "h1/early-hints",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok",
    ),
    (
        "h1/early-hints-error",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno",
    ),
    // What a function must not say.
    ("h1/function-bad-status-line", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "BANANA\r\n\r\n"),
    ("h1/function-bad-header", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 0\r\n\r\n"),
    ("h1/function-bad-length", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    (
        "h1/function-two-lengths",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    (
        "h1/function-unasked-upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ),
    // What a client must not say.
    ("h1/bad-request-line", "GET\r\n\r\n", OK),
    ("h1/bad-version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", OK),
    ("h1/bad-version-3", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", OK),
    ("h1/bad-method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    ("h1/no-host", "GET / HTTP/1.1\r\n\r\n", OK),
    ("h1/two-hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", OK),
    ("h1/bad-host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", OK),
    ("h1/bad-header-name", "GET / HTTP/1.1\r\nHost: a\r\nX A: 1\r\n\r\n", OK),
    ("h1/bad-header-value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: \u{1}\r\n\r\n", OK),
    ("h1/no-colon", "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n", OK),
    ("h1/folded-header", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n", OK),
    ("h1/bad-length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", OK),
    ("h1/negative-length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", OK),
    ("h1/two-lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", OK),
    ("h1/same-lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", OK),
    (
        "h1/length-and-chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        OK,
    ),
    ("h1/odd-coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", OK),
    ("h1/bad-chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", OK),
    ("h1/bad-expect", "GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", OK),
    ("h1/connect", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", OK),
    ("h1/http2-settings", "GET / HTTP/1.1\r\nHost: a\r\nHTTP2-Settings: x\r\n\r\n", OK),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = EXCHANGES
        .iter()
        .map(|(name, request, response)| case(*name, move |bench| exchange(bench, &[], request, response)))
        .collect();
    for (name, variables) in [("h1/large", &[][..]), ("h1/large-full-duplex", FULL_DUPLEX)] {
        cases.push(case(name, move |bench| large(bench, variables)));
    }
    for (name, variables) in [("h1/early-answer", &[][..]), ("h1/early-answer-full-duplex", FULL_DUPLEX)] {
        cases.push(case(name, move |bench| early_answer(bench, variables)));
    }
    cases.extend([
        case("h1/kept-connection", kept_connection),
        case("h1/pipelined", pipelined),
        case("h1/continue", |bench| expect_continue(bench, "HTTP/1.1 100 Continue\r\n\r\n")),
        case("h1/continue-refused", |bench| expect_continue(bench, "")),
        case("h1/streamed", streamed),
        case("h1/upgrade", |bench| upgrade(bench, "echo")),
        case("h1/upgrade-other", |bench| upgrade(bench, "other")),
        case("h1/upgrade-refused", upgrade_refused),
        case("h1/function-gone", function_gone),
        case("h1/function-closes", |bench| function_cuts(bench, "")),
        case("h1/function-closes-in-head", |bench| function_cuts(bench, "HTTP/1.1 200 OK\r\nContent-Le")),
        case("h1/function-closes-in-body", |bench| {
            function_cuts(bench, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: a/b\r\n\r\nab")
        }),
        case("h1/function-closes-in-chunk", |bench| {
            function_cuts(bench, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n5\r\nab")
        }),
        case("h1/client-cuts-upload", client_cuts_upload),
        case("h1/client-leaves", client_leaves),
        case("h1/head-too-large", head_too_large),
        case("h1/slow-head", slow_head),
    ]);
    cases
}

const FULL_DUPLEX: Variables<'static> = &[("ENABLE_HTTP_FULL_DUPLEX", Some("true"))];

fn exchange(bench: &Bench<'_>, variables: Variables<'_>, request: &str, response: &'static str) -> anyhow::Result<()> {
    let function = Function::with_connections({
        let transcript = bench.transcript.clone();
        move |mut peer| {
            while let Ok(Some(head)) = peer.request(&transcript) {
                if head.is_again() {
                    peer.reply("again");
                    continue;
                }
                peer.send(response);
                if response.contains("Connection: close") || response.starts_with("HTTP/1.0") {
                    return;
                }
            }
        }
    })?;
    let proxy = bench.proxy(function.port, variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.ask(request, &bench.transcript)?;
    client.note_end(&bench.transcript)
}

fn kept_connection(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    for path in ["/1", "/2", "/3"] {
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), &bench.transcript)?;
    }
    Ok(())
}

fn pipelined(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.answer("GET", &bench.transcript)?;
    client.answer("GET", &bench.transcript)?;
    client.note_end(&bench.transcript)
}

/// 3 MiB both ways.
fn large(bench: &Bench<'_>, variables: Variables<'_>) -> anyhow::Result<()> {
    const BYTES: usize = 3 << 20;
    let function = Function::with_requests(&bench.transcript, |peer, _| {
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\nContent-Type: a/b\r\n\r\n"));
        peer.send(vec![b'r'; BYTES]);
    })?;
    let proxy = bench.proxy(function.port, variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(vec![b'q'; BYTES]);
    client.answer("POST", &bench.transcript)?;
    Ok(())
}

/// The function answers when it has the head; the client sends its body only then.
fn early_answer(bench: &Bench<'_>, variables: Variables<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| {
        peer.reply("early");
        drop(peer.exactly(1 << 20));
    })?;
    let proxy = bench.proxy(function.port, variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    client.send([b'x'; 10]);
    client.answer("POST", &bench.transcript)?;
    client.send([b'x'; 990]);
    client.note_end(&bench.transcript)
}

fn expect_continue(bench: &Bench<'_>, interim: &'static str) -> anyhow::Result<()> {
    let transcript = bench.transcript.clone();
    let function = Function::with_heads(move |peer, head| {
        transcript.note(format!("function: {} expect {:?}", head.first, head.get("expect")));
        if interim.is_empty() {
            peer.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        peer.send(interim);
        transcript.note(format!("function: body {}", shown(&peer.exactly(4))));
        peer.reply("ok");
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let Some(first) = client.head()? else {
        bench.transcript.note("client: no interim response");
        return Ok(());
    };
    bench.transcript.note(format!("client: first {}", first.first));
    if first.first.contains(" 100") {
        client.send("body");
        client.answer("POST", &bench.transcript)?;
    }
    Ok(())
}

/// Each piece is sent when the one before has arrived: nothing may be held back.
fn streamed(bench: &Bench<'_>) -> anyhow::Result<()> {
    let (arrived, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let function = Function::with_heads(move |peer, _| {
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n");
        for piece in ["one", "two"] {
            peer.send(format!("3\r\n{piece}\r\n"));
            drop(wait.lock().map(|wait| wait.recv_timeout(PATIENCE)));
        }
        peer.send("0\r\n\r\n");
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head()?;
    for _ in 0..2 {
        let size = client.line()?;
        let piece = client.exactly(5);
        bench.transcript.note(format!("client: piece {size:?} {}", shown(&piece)));
        arrived.send(()).ok();
    }
    bench.transcript.note(format!("client: end {:?}", client.line()?));
    Ok(())
}

fn upgrade(bench: &Bench<'_>, to: &'static str) -> anyhow::Result<()> {
    let transcript = bench.transcript.clone();
    let function = Function::with_connections(move |mut peer| {
        while let Ok(Some(_)) = peer.request(&transcript) {
            peer.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {to}\r\nX-A: 1\r\n\r\n"));
            transcript.note(format!("function: tunnel {}", shown(&peer.exactly(4))));
            peer.send("pong");
            transcript.note(format!("function: and then {}", shown(&peer.exactly(1))));
            peer.finish();
        }
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    if client.ask("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n", &bench.transcript)? {
        client.send("ping");
        bench.transcript.note(format!("client: tunnel {}", shown(&client.exactly(4))));
        client.finish();
    }
    client.note_rest(&bench.transcript);
    Ok(())
}

fn upgrade_refused(bench: &Bench<'_>) -> anyhow::Result<()> {
    exchange(
        bench,
        &[],
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno",
    )
}

fn function_gone(bench: &Bench<'_>) -> anyhow::Result<()> {
    let port = zipline_testkit::free_port()?;
    let proxy = bench.proxy(port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", &bench.transcript)?;
    client.note_end(&bench.transcript)
}

fn function_cuts(bench: &Bench<'_>, after: &'static str) -> anyhow::Result<()> {
    let function = Function::with_connections(move |mut peer| {
        if let Ok(Some(_)) = peer.request(&Transcript::default()) {
            peer.send(after);
            peer.cut();
        }
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", &bench.transcript)?;
    client.note_end(&bench.transcript)
}

fn client_cuts_upload(bench: &Bench<'_>) -> anyhow::Result<()> {
    let (done, wait) = mpsc::channel();
    let (transcript, done) = (bench.transcript.clone(), Mutex::new(done));
    let function = Function::with_connections(move |mut peer| {
        drop(peer.request(&transcript));
        drop(done.lock().map(|done| done.send(())));
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    client.cut();
    if wait.recv_timeout(PATIENCE).is_err() {
        bench.transcript.note("function: was not told");
    }
    Ok(())
}

/// The client leaves while the function works: the function's connection ends.
fn client_leaves(bench: &Bench<'_>) -> anyhow::Result<()> {
    let (came, wait_came) = mpsc::channel();
    let (ended, wait_ended) = mpsc::channel();
    let tell = Arc::new(Mutex::new((came, ended)));
    let function = Function::with_connections(move |mut peer| {
        if let Ok(Some(_)) = peer.head() {
            drop(tell.lock().map(|tell| tell.0.send(())));
            let more = peer.exactly(1);
            drop(tell.lock().map(|tell| tell.1.send(more.is_empty())));
        }
    })?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_came.recv_timeout(PATIENCE)?;
    client.cut();
    bench.transcript.note(match wait_ended.recv_timeout(PATIENCE) {
        Ok(true) => "function: its connection was closed",
        Ok(false) => "function: more bytes came",
        Err(_) => "function: it was left working",
    });
    Ok(())
}

fn head_too_large(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| peer.reply("ok"))?;
    let proxy = bench.proxy(function.port, &[])?;
    for bytes in [100_000, 1_000_000, 2_000_000] {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes)));
        bench.transcript.note(format!("a head of {bytes} bytes"));
        let answer = client.head()?;
        bench.transcript.note(format!("client: {bytes}: {:?}", answer.map(|head| head.first)));
    }
    Ok(())
}

fn slow_head(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    for piece in ["G", "ET / HT", "TP/1.1\r", "\nHost: a\r\nX-A", ": 1\r\n\r", "\n"] {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(20));
    }
    client.answer("GET", &bench.transcript)?;
    Ok(())
}
