//! A function's own calls, through the egress and `/v1/invoke`: large bodies become references on the way to a service,
//! everything else passes untouched.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Body;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zipline_contract::{doors, headers, metrics};
use zipline_testkit::{
    Answer, Behaviour, Function, KeyRing, Keys, Loopback, Metrics, Payload, Proxy, ProxyOptions, Relay, Scratch, Side, Target,
    http as client,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;
/// What a gateway may see of a call whose body travels beside it.
const CONTROL_BYTES_MAX: u64 = 8 * 1024;

/// A calling instance, and a called service `echo.default` behind a relay that stands for the ingress.
struct World {
    scratch: Scratch,
    ring: KeyRing,
    function: Function,
    caller: Proxy,
    callee: Proxy,
    ingress: Relay,
    _ingress_at: Loopback,
}

impl World {
    async fn new() -> Result<Self> {
        Self::with(|options| options).await
    }

    async fn with(caller: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let callee = ProxyOptions::new("echo", Keys::Inherited(ring.clone())).function(function.port()).start(&scratch).await?;
        let ingress_at = Loopback::claim()?;
        let ingress = Relay::start(ingress_at.port(0), callee.request_address()).await?;
        let options = ProxyOptions::new("caller", Keys::Inherited(ring.clone()))
            .env("ZIPLINE_EGRESS_PORT", doors::EGRESS.to_string())
            .env("ZIPLINE_SERVICE_DOMAIN", "localhost")
            .env("ZIPLINE_PEERS_KNOWN", "all")
            .env("ZIPLINE_INGRESS", ingress.address().to_string());
        let caller = caller(options).start(&scratch).await?;
        Ok(Self { scratch, ring, function, caller, callee, ingress, _ingress_at: ingress_at })
    }

    fn egress(&self) -> Target {
        self.caller.port(doors::EGRESS)
    }

    fn egress_address(&self) -> SocketAddr {
        SocketAddr::new(self.caller.ip(), doors::EGRESS)
    }

    /// Through the egress as an HTTP proxy.
    async fn proxied<B>(&self, url: &str, body: B) -> Result<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let authority: http::Uri = url.parse()?;
        let host = authority.authority().context("an authority")?.to_string();
        let request = Request::post(url).header("host", host).header("proxy-authorization", token("testtoken"));
        client::send(&self.egress(), request.body(body)?).await
    }

    fn swaps(metrics: &Metrics) -> f64 {
        metrics.labelled(metrics::SWAPS.name, "direction", "out")
    }

    async fn at_rest(&self) -> Result<()> {
        self.callee.at_rest(REST).await?;
        self.caller.at_rest(REST).await?;
        Ok(())
    }
}

fn token(token: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("zipline:{token}")))
}

#[tokio::test]
async fn a_large_body_reaches_its_callee_past_the_ingress() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(100 * MIB, 1);
    let answer = world.proxied("http://echo.default.localhost/some/path?q=1", payload.body()).await?;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{}", answer.error());
    let seen = &world.function.seen()[0];
    assert_eq!((seen.path.as_str(), seen.header("host")), ("/some/path?q=1", "echo.default.localhost"));
    assert_eq!(seen.header("content-length"), payload.size().to_string());
    assert!(seen.headers.keys().all(|name| !name.as_str().starts_with(headers::PREFIX)), "{:?}", seen.headers);
    assert!(!seen.headers.contains_key("proxy-authorization"), "the token is the proxy's alone");
    let through = world.ingress.passed(Side::ToTarget);
    assert!(through < CONTROL_BYTES_MAX, "the ingress saw {through} bytes");
    world.at_rest().await?;
    assert_eq!(World::swaps(&world.caller.metrics().await?), 1.0);
    Ok(())
}

#[tokio::test]
async fn the_base_url_and_the_local_api_invoke_alike() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(3 * MIB, 2);
    let base = Request::post("/v1/invoke/echo/p?q").header("authorization", token("testtoken")).body(payload.body())?;
    let api = Request::post("/v1/invoke/echo.default/p?q").body(payload.body())?;
    for (target, request) in [(world.egress(), base), (world.caller.api(), api)] {
        let answer = client::send(&target, request).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{}", answer.error());
    }
    for seen in world.function.seen() {
        assert_eq!((seen.path.as_str(), seen.header("host")), ("/p?q", "echo.default.localhost"));
        assert!(!seen.headers.contains_key("authorization"));
    }
    assert!(world.ingress.passed(Side::ToTarget) < CONTROL_BYTES_MAX);
    world.at_rest().await
}

#[tokio::test]
async fn small_bodies_bodies_of_unknown_length_and_other_hosts_pass_inline() -> Result<()> {
    let world = World::new().await?;
    let service = "http://echo.default.localhost/";
    let small = Payload::new(32 * 1024 - 1, 1);
    assert_eq!(world.proxied(service, small.body()).await?.text(), small.sha256());
    let large = Payload::new(MIB, 2);
    let frames =
        large.chunks().map(|bytes| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes))).collect::<Vec<_>>();
    let chunked = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    assert_eq!(world.proxied(service, chunked).await?.text(), large.sha256());

    let elsewhere = Function::start(Behaviour::Sha256).await?;
    let url = format!("http://{}/x?y", elsewhere.address());
    let answer = world.proxied(&url, large.body()).await?;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, large.sha256()));
    let seen = &elsewhere.seen()[0];
    assert_eq!((seen.path.as_str(), seen.header("host")), ("/x?y", elsewhere.address().to_string().as_str()));
    assert_eq!(World::swaps(&world.caller.metrics().await?), 0.0);
    world.at_rest().await
}

#[tokio::test]
async fn under_the_inline_method_nothing_is_swapped() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_TRANSFER", "inline")).await?;
    let payload = Payload::new(2 * MIB, 1);
    assert_eq!(world.proxied("http://echo.default.localhost/", payload.body()).await?.text(), payload.sha256());
    let invoke = Request::post("/v1/invoke/echo/").body(payload.body())?;
    assert_eq!(client::send(&world.caller.api(), invoke).await?.text(), payload.sha256());
    assert!(world.ingress.passed(Side::ToTarget) > 2 * payload.size());
    assert_eq!(World::swaps(&world.caller.metrics().await?), 0.0);
    Ok(())
}

#[tokio::test]
async fn the_egress_needs_its_token_in_every_form() -> Result<()> {
    let world = World::new().await?;
    let url = "http://echo.default.localhost/";
    for credentials in [None, Some(token("wrong")), Some("Bearer testtoken".into())] {
        for (uri, header) in [(url, "proxy-authorization"), ("/v1/invoke/echo/", "authorization")] {
            let mut request = Request::post(uri);
            if let Some(credentials) = &credentials {
                request = request.header(header, credentials);
            }
            let answer = client::send(&world.egress(), request.body(client::full("x"))?).await?;
            assert_eq!((answer.status.as_u16(), answer.error()), (407, "egress-unauthorized"), "{credentials:?}");
            assert!(answer.headers.contains_key("proxy-authenticate"));
        }
    }
    let connect = ask(world.egress_address(), "CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    assert!(connect.starts_with("HTTP/1.1 407"), "{connect}");
    assert_eq!(world.function.begun(), 0);
    Ok(())
}

/// Sends a head, reads one.
async fn ask(address: SocketAddr, text: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    head(&mut stream).await
}

/// Reads one head.
async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(REST, stream.read_u8()).await.context("no head")??);
    }
    Ok(String::from_utf8(head)?)
}

/// A server that answers each connection's first head with `answer` and then sends back whatever comes.
async fn scripted(answer: &'static str) -> Result<(SocketAddr, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                if head(&mut stream).await.is_ok() && stream.write_all(answer.as_bytes()).await.is_ok() {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            });
        }
    });
    Ok((address, server))
}

#[tokio::test]
async fn tunnels_and_upgrades_pass_byte_by_byte() -> Result<()> {
    let world = World::new().await?;
    let (address, _server) = scripted("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await?;
    let credentials = token("testtoken");

    let mut upgraded = TcpStream::connect(world.egress_address()).await?;
    let request = format!(
        "GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\nProxy-Authorization: {credentials}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    upgraded.write_all(request.as_bytes()).await?;
    let answer = head(&mut upgraded).await?;
    ensure!(answer.starts_with("HTTP/1.1 101") && answer.to_ascii_lowercase().contains("upgrade: echo"), "{answer}");
    echoes(&mut upgraded).await?;

    let mut tunnel = TcpStream::connect(world.egress_address()).await?;
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nProxy-Authorization: {credentials}\r\n\r\n");
    tunnel.write_all(request.as_bytes()).await?;
    let answer = head(&mut tunnel).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    tunnel.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    ensure!(head(&mut tunnel).await?.starts_with("HTTP/1.1 101"), "through the tunnel");
    echoes(&mut tunnel).await?;

    let refused = format!("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {credentials}\r\n\r\n");
    let answer = ask(world.egress_address(), &refused).await?;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("callee-unreachable"), "{answer}");
    Ok(())
}

async fn echoes(stream: &mut TcpStream) -> Result<()> {
    for text in ["one", "another"] {
        stream.write_all(text.as_bytes()).await?;
        let mut back = vec![0; text.len()];
        tokio::time::timeout(REST, stream.read_exact(&mut back)).await.context("no echo")??;
        ensure!(back == text.as_bytes());
    }
    Ok(())
}

#[tokio::test]
async fn the_head_travels_at_once_and_the_local_proxy_says_continue() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(4 * MIB, 3);
    let mut stream = TcpStream::connect(world.egress_address()).await?;
    let request = format!(
        "POST http://echo.default.localhost/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        token("testtoken"),
        payload.size()
    );
    stream.write_all(request.as_bytes()).await?;
    assert!(head(&mut stream).await?.starts_with("HTTP/1.1 100"));
    // The callee's function is called although not a byte of the body was sent.
    tokio::time::timeout(REST, world.function.has_begun(1)).await.context("the head waits for the body")?;
    stream.write_all(&payload.bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&payload.sha256()), "{answer}");
    world.at_rest().await
}

#[tokio::test]
async fn an_early_refusal_stops_the_upload() -> Result<()> {
    let (address, _server) = scripted("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await?;
    let world = World::new().await?;
    let callee =
        ProxyOptions::new("strict", Keys::Inherited(world.ring.clone())).function(address.port()).start(&world.scratch).await?;
    let caller = ProxyOptions::new("caller2", Keys::Inherited(world.ring.clone()))
        .envs([("ZIPLINE_SERVICE_DOMAIN", "localhost"), ("ZIPLINE_PEERS_KNOWN", "all")])
        .env("ZIPLINE_INGRESS", callee.request_address().to_string())
        .start(&world.scratch)
        .await?;
    let mut stream = tokio::net::UnixStream::connect(caller.api_path()).await?;
    let request = "POST /v1/invoke/strict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 400000000\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.write_all(&vec![1; MIB as usize]).await?;
    let mut answer = Vec::new();
    // Most of the body is never sent; the answer comes all the same, and then the connection ends.
    let read = tokio::time::timeout(REST, stream.read_to_end(&mut answer)).await.context("the refusal waits for the body")?;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 413") && text.ends_with("no"), "{read:?}: {text}");
    caller.at_rest(REST).await?;
    callee.at_rest(REST).await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_begins_before_the_body_is_through_lets_both_go_on() -> Result<()> {
    // A function that answers at once and then echoes what comes: inline that works, so it must by reference.
    let (address, _server) = scripted("HTTP/1.1 200 OK\r\nContent-Length: 6291456\r\n\r\n").await?;
    let world = World::new().await?;
    let callee = ProxyOptions::new("duplex", Keys::Inherited(world.ring.clone())).function(address.port());
    let callee = callee.env("ENABLE_HTTP_FULL_DUPLEX", "true").start(&world.scratch).await?;
    let caller = ProxyOptions::new("caller2", Keys::Inherited(world.ring.clone()))
        .envs([("ZIPLINE_SERVICE_DOMAIN", "localhost"), ("ZIPLINE_PEERS_KNOWN", "all")])
        .env("ZIPLINE_INGRESS", callee.request_address().to_string())
        .start(&world.scratch)
        .await?;
    let payload = Payload::new(6 * MIB, 8);
    let invoke = Request::post("/v1/invoke/duplex/").body(payload.body())?;
    let answer = client::send(&caller.api(), invoke).await?;
    assert_eq!((answer.status, answer.body.len() as u64), (StatusCode::OK, payload.size()));
    assert!(answer.body == payload.bytes(), "the echo differs");
    caller.at_rest(REST).await?;
    callee.at_rest(REST).await?;
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_call_and_frees_its_payload() -> Result<()> {
    let world = World::new().await?;
    for sent_bytes in [MIB as usize, 4 * MIB as usize] {
        world.function.behave(Behaviour::Held);
        let begun = world.function.begun();
        let mut stream = tokio::net::UnixStream::connect(world.caller.api_path()).await?;
        stream
            .write_all(format!("POST /v1/invoke/echo/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 4 * MIB).as_bytes())
            .await?;
        stream.write_all(&vec![1; sent_bytes]).await?;
        tokio::time::timeout(REST, world.function.has_begun(begun + 1)).await?;
        assert_eq!(world.caller.metrics().await?.sum(metrics::HELD_OBJECTS.name), 1.0);
        drop(stream);
        world.at_rest().await.with_context(|| format!("after {sent_bytes} bytes"))?;
    }
    assert!(world.function.seen().iter().filter(|seen| seen.whole).count() <= 1, "the cut upload passed for whole");
    Ok(())
}

#[tokio::test]
async fn a_callee_that_dies_ends_the_call_and_the_callers_retry_succeeds() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(4 * MIB, 1);
    let call = async || world.proxied("http://echo.default.localhost/", payload.body()).await;
    for death in [Behaviour::DieBefore, Behaviour::DieDuring(MIB)] {
        world.function.behave(death);
        assert_eq!(call().await?.status, StatusCode::BAD_GATEWAY, "{death:?}");
        world.at_rest().await?;
    }
    world.function.behave(Behaviour::Sha256);
    assert_eq!(call().await?.text(), payload.sha256());
    world.at_rest().await
}

#[tokio::test]
async fn a_large_answer_to_a_large_call_comes_whole() -> Result<()> {
    let world = World::new().await?;
    world.function.behave(Behaviour::Echo);
    let payload = Payload::new(8 * MIB, 1);
    let answer = world.proxied("http://echo.default.localhost/", payload.body()).await?;
    assert!(answer.status == StatusCode::OK && answer.body == payload.bytes());
    world.at_rest().await
}

#[tokio::test]
async fn a_call_has_a_limit_and_an_unreachable_callee_a_name() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_INVOKE_TIMEOUT_SECONDS", "0.4")).await?;
    world.function.behave(Behaviour::Held);
    for size in [10, MIB] {
        let request = Request::post("/v1/invoke/echo/").body(Payload::new(size, 1).body())?;
        let answer = client::send(&world.caller.api(), request).await?;
        assert_eq!((answer.status.as_u16(), answer.error()), (504, "call-timeout"), "{size}: {}", answer.text());
    }
    world.function.release();
    world.at_rest().await?;

    let nobody = Loopback::claim()?;
    let world = World::with(|options| options.env("ZIPLINE_INGRESS", nobody.port(1).to_string())).await?;
    for size in [10, MIB] {
        let request = Request::post("/v1/invoke/echo/").body(Payload::new(size, 1).body())?;
        let answer = client::send(&world.caller.api(), request).await?;
        assert_eq!((answer.status.as_u16(), answer.error()), (502, "callee-unreachable"), "{size}: {}", answer.text());
    }
    world.at_rest().await
}

#[tokio::test]
async fn a_full_buffer_is_told_to_an_invocation_and_goes_inline_at_the_egress() -> Result<()> {
    let world =
        World::with(|options| options.envs([("ZIPLINE_BUFFER_BYTES", "2MiB"), ("ZIPLINE_PUT_WAIT_SECONDS", "0.05")])).await?;
    let held = world.caller.put("", Payload::new(2 * MIB - 10, 1).body()).await?;
    for (size, name, status) in [(MIB, "buffer-full", 503), (3 * MIB, "payload-too-large", 413)] {
        let payload = Payload::new(size, 1);
        let answer = client::send(&world.caller.api(), Request::post("/v1/invoke/echo/").body(payload.body())?).await?;
        assert_eq!((answer.error(), answer.status.as_u16()), (name, status), "{}", answer.text());
        assert_eq!(world.proxied("http://echo.default.localhost/", payload.body()).await?.text(), payload.sha256());
    }
    assert_eq!(world.caller.release(&held).await?.status, StatusCode::NO_CONTENT);
    world.at_rest().await
}

#[tokio::test]
async fn an_invocation_with_a_reference_names_its_callee_as_the_receiver() -> Result<()> {
    let world = World::new().await?;
    let payload = Payload::new(2 * MIB, 1);
    let reference = world.caller.put("retrievals=2", payload.body()).await?;
    let invoke = Request::post("/v1/invoke/echo/").header(headers::REFERENCE, &reference).body(client::empty())?;
    let answer = client::send(&world.caller.api(), invoke).await?;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{}", answer.error());

    let document = json!({"reference": reference, "receiver": "default/other"}).to_string();
    let other = client::send(&world.caller.api(), Request::post("/v1/references/narrow").body(client::full(document))?).await?;
    let other = other.json()?["reference"].as_str().context("a reference")?.to_owned();
    for (reference, name) in [(other.as_str(), "reference-wrong-receiver"), ("nonsense", "reference-invalid")] {
        let invoke = Request::post("/v1/invoke/echo/").header(headers::REFERENCE, reference).body(client::empty())?;
        assert_eq!(client::send(&world.caller.api(), invoke).await?.error(), name);
    }
    assert_eq!(world.function.begun(), 1);
    Ok(())
}

#[tokio::test]
async fn a_call_may_give_its_payload_up_at_the_first_retrieval() -> Result<()> {
    let world = World::new().await?;
    let ended = |metrics: &Metrics, how| metrics.labelled(metrics::OBJECT_TRANSITIONS.name, "to", how);
    let invoke = async |retain: Option<&str>| -> Result<Answer> {
        let mut request = Request::post("/v1/invoke/echo/");
        if let Some(retain) = retain {
            request = request.header(headers::RETAIN, retain);
        }
        client::send(&world.caller.api(), request.body(Payload::new(MIB, 1).body())?).await
    };
    assert_eq!(invoke(None).await?.status, StatusCode::OK);
    world.at_rest().await?;
    assert_eq!(ended(&world.caller.metrics().await?, "released"), 1.0);
    // Who gets there first, the acknowledgement or the answer, is chance; that it is freed with either is not.
    assert_eq!(invoke(Some("retrieval")).await?.status, StatusCode::OK);
    world.at_rest().await?;
    let metrics = world.caller.metrics().await?;
    assert_eq!(ended(&metrics, "released") + ended(&metrics, "retrieved"), 2.0);
    assert_eq!(invoke(Some("for-ever")).await?.error(), "request-invalid");
    Ok(())
}

#[tokio::test]
async fn where_peers_are_learnt_the_first_call_goes_inline_and_asks() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_PEERS_KNOWN", "learn")).await?;
    let payload = Payload::new(MIB, 1);
    for (swapped, through) in [(0.0, payload.size()..2 * payload.size()), (1.0, 0..CONTROL_BYTES_MAX)] {
        let before = world.ingress.passed(Side::ToTarget);
        let answer = world.proxied("http://echo.default.localhost/", payload.body()).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()));
        assert!(!answer.headers.contains_key(headers::CAPABLE), "the answer to the proxy's question is the proxy's");
        assert_eq!(World::swaps(&world.caller.metrics().await?), swapped);
        let passed = world.ingress.passed(Side::ToTarget) - before;
        assert!(through.contains(&passed), "{passed} bytes passed the ingress");
    }
    let seen: Vec<HeaderMap> = world.function.seen().into_iter().map(|seen| seen.headers).collect();
    assert!(seen.iter().flat_map(HeaderMap::keys).all(|name| !name.as_str().starts_with(headers::PREFIX)), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_proxy_without_a_function_puts_and_invokes() -> Result<()> {
    let world = World::new().await?;
    let own = Loopback::claim()?;
    let socket = world.scratch.join("client.api");
    let secrets = world.scratch.write("client.secrets", world.ring.secrets("t").to_string())?;
    let program = zipline_testkit::Program::built("zipline-queue-proxy")?
        .descriptor_3(std::fs::File::open(secrets)?)
        .env("ZIPLINE_SECRETS_FD", "3")
        .env("ZIPLINE_ROLE", "client")
        .env("ZIPLINE_BIND", own.ip().to_string())
        .env("ZIPLINE_PEER_CIDRS", "127.0.0.0/8")
        .env("ZIPLINE_API_SOCKET", socket.clone())
        .env("ZIPLINE_API_SOCKET_MODE", "uid")
        .env("ZIPLINE_API_PORT", "0")
        .env("ZIPLINE_SERVICE_DOMAIN", "localhost")
        .env("ZIPLINE_PEERS_KNOWN", "all")
        .env("ZIPLINE_INGRESS", world.ingress.address().to_string());
    let running = program.start(&world.scratch)?;
    let api = Target::Unix(socket);
    let ready = zipline_testkit::wait::until(
        "the client proxy",
        REST,
        async || client::send(&api, Request::get("/v1").body(client::empty())?).await,
        |_| true,
    );
    ready.await.with_context(|| running.tail())?;
    let payload = Payload::new(2 * MIB, 7);
    let put = client::send(&api, Request::post("/v1/objects").body(payload.body())?).await?;
    let post = Request::post("/").header(headers::REFERENCE, put.header(headers::REFERENCE)).body(client::empty())?;
    assert_eq!(client::send(&world.callee.requests(), post).await?.text(), payload.sha256());
    let invoke = Request::post("/v1/invoke/echo/").body(payload.body())?;
    assert_eq!(client::send(&api, invoke).await?.text(), payload.sha256());
    Ok(())
}
