//! What a request meets on its way.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zipline_core::kpa::RequestPath;
use zipline_platform::model::{ServiceView, Status};
use zipline_testkit::{Payload, Target, http as client, wait};

use crate::world::{LIMIT, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_sees_the_callers_request_and_its_own_environment() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[("zipline.dev/transfer", "inline")], "containerConcurrency: 3").await?;
    let answer = world.get("echo", "/path?sleep=0").await?.json()?;
    let (headers, env) = (&answer["headers"], &answer["env"]);
    assert_eq!(headers["host"], "echo.default.localhost");
    assert_eq!(headers["x-forwarded-for"].as_str().map(|hops| hops.starts_with("127.0.0.1")), Some(true));
    for removed in ["k-original-host", "knative-serving-revision", "knative-serving-namespace"] {
        assert!(headers[removed].is_null(), "{removed} reached the function");
    }
    assert_eq!((env["K_SERVICE"].as_str(), env["K_REVISION"].as_str()), (Some("echo"), Some("echo-00001")));
    assert_eq!(env["ZIPLINE_TRANSFER"], "inline");
    let api = env["ZIPLINE_API"].as_str().and_then(|api| api.strip_prefix("unix:")).context("a socket")?;
    assert!(std::path::Path::new(api).exists(), "{api}");
    let proxy = env["http_proxy"].as_str().context("an egress")?;
    assert!(proxy.starts_with("http://zipline:") && proxy.ends_with(":8124"), "{proxy}");
    assert!(env["CARGO_MANIFEST_DIR"].is_null(), "the platform's environment was inherited");

    let payload = Payload::new(3_000_000, 7).bytes();
    let request = Request::post("/").header("host", "echo.default.localhost").body(payload.clone())?;
    assert_eq!(world.send(request).await?.body, payload);
    let by_header = Request::get("/")
        .header("host", "elsewhere")
        .header("knative-serving-namespace", "default")
        .header("knative-serving-revision", "echo-00001")
        .body(Bytes::new())?;
    assert_eq!(world.send(by_header).await?.status, 200);
    let service = world.service("echo").await?;
    let (activator, direct) = (service.activator, service.direct);
    assert_eq!(activator.requests() + direct.requests(), 3);
    assert_eq!(activator.body_bytes_in + direct.body_bytes_in, 3_000_000);
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_host_and_a_malformed_file_are_named_and_change_nothing() -> Result<()> {
    let world = World::start().await?;
    let answer = world.get("nobody", "/").await?;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (404, "text/plain; charset=utf-8"));
    assert!(answer.text().contains("nobody.default.localhost"), "{}", answer.text());
    let answer = world.control_with("POST", "/v1/apply?base_dir=/tmp", "kind: Service\nspec: [".to_owned()).await?;
    assert_eq!((answer.status.as_u16(), answer.error()), (400, "manifest-invalid"));
    let answer = world.control_with("POST", "/v1/apply?base_dir=/tmp", "apiVersion: v1\nkind: Pod\n".to_owned()).await?;
    assert_eq!(answer.json()?["findings"][0]["line"], 1);
    assert_eq!(world.control("GET", "/v1/nothing").await?.error(), "path-unknown");
    assert_eq!(world.control("GET", "/v1/status?verbose").await?.error(), "request-invalid");
    assert_eq!(world.status().await?.services, 0);
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_have_every_line_of_the_function_and_warn_of_open_listeners() -> Result<()> {
    let world = World::start().await?;
    let container =
        "command: [python3, -u, function.py]\nenv: [{ name: LISTEN, value: 0.0.0.0 }, { name: VERSION, value: nine }]";
    world.apply_command("open", &[], "timeoutSeconds: 10", container).await?;
    world.ready("open").await?;
    let warned = |logs: &String| logs.contains("function up nine") && logs.contains("warning: the function listens on 0.0.0.0:");
    wait::until("the log", LIMIT, async || world.logs("open").await, warned).await?;
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_capacity_to_spare_requests_go_straight_to_an_instance() -> Result<()> {
    let world = World::start().await?;
    let annotations = [("autoscaling.knative.dev/target-burst-capacity", "0"), ("autoscaling.knative.dev/min-scale", "1")];
    world.apply("direct", &annotations, "timeoutSeconds: 10").await?;
    world.ready("direct").await?;
    let spare = |service: &ServiceView| service.revisions[0].scale.is_some_and(|scale| scale.path == RequestPath::Serve);
    wait::until("the activator to leave the path", LIMIT, async || world.service("direct").await, spare).await?;
    let answer = world.get("direct", "/").await?.json()?;
    assert_eq!(answer["headers"]["host"], "direct.default.localhost");
    assert!(answer["headers"]["k-proxy-request"].is_null(), "{answer}");
    let service = world.service("direct").await?;
    assert_eq!((service.direct.ok, service.activator.requests()), (1, 0));
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_upgraded_passes_in_both_directions() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("upgrade.py", UPGRADED)?;
    world.apply_command("shout", &[], "timeoutSeconds: 10", "command: [python3, -u, upgrade.py]").await?;
    let address = world.platform.info().ingress.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shout.default.localhost\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.with_context(|| String::from_utf8_lossy(&head).into_owned())?);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await?;
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer.to_vec(), word.to_uppercase().into_bytes());
    }
    drop(stream);
    let over = |service: &ServiceView| service.revisions[0].in_flight == 0;
    wait::until("the connection to be over", LIMIT, async || world.service("shout").await, over).await?;
    world.end().await;
    Ok(())
}

/// Answers every connection with 101 and then in upper case.
const UPGRADED: &str = r#"
import os, socketserver

class Shout(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
        while data := self.request.recv(1000):
            self.request.sendall(data.upper())

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(os.environ["PORT"])), Shout).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_may_speak_http2_to_a_function_that_does_not() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[], "timeoutSeconds: 10").await?;
    let address = world.platform.info().ingress.trim_start_matches("http://").to_owned();
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    let driver = tokio::spawn(connection);
    let payload = Payload::new(1_000_000, 3).bytes();
    let request = Request::post("http://echo.default.localhost/").body(Full::new(payload.clone()))?;
    let response = sender.send_request(request).await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await?.to_bytes(), payload);
    driver.abort();
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_at_the_client_proxy_reaches_a_function_past_the_activator() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[], "timeoutSeconds: 60").await?;
    world.ready("echo").await?;
    let client = Target::Unix(world.platform.info().client_socket.clone());
    for (size, seed) in [(1, 1), (65_536, 2), (20_000_000, 3)] {
        let payload = Payload::new(size, seed);
        let put = Request::post("/v1/objects").header("host", "zipline").body(payload.body())?;
        let put = client::send(&client, put).await?;
        assert_eq!(put.status, 201, "{}", put.text());
        let request = Request::post("/")
            .header("host", "echo.default.localhost")
            .header("zipline-reference", put.header("zipline-reference"))
            .body(Bytes::new())?;
        let answer = world.send(request).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.body, payload.bytes());
    }
    let invoked = Request::post("/v1/invoke/echo/").header("host", "zipline").body(Payload::new(5_000_000, 4).body())?;
    assert_eq!(client::send(&client, invoked).await?.body, Payload::new(5_000_000, 4).bytes());
    assert_eq!(world.service("echo").await?.activator.body_bytes_in, 0, "every payload went from memory to memory");
    let nothing = |status: &Status| status.client.is_some_and(|held| held.held_bytes == 0) && status.budget_bytes_used == 0;
    wait::until("everything to be given back", LIMIT, async || world.status().await, nothing).await?;
    world.end().await;
    Ok(())
}

/// Posts as many bytes as it is asked for to the service `sink`, with nothing but the standard library.
const POSTER: &str = r#"
import http.server, os, urllib.request

class Poster(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"0123456789abcdef" * (int(self.path[1:]) // 16)
        with urllib.request.urlopen(urllib.request.Request("http://sink.default.localhost/", body)) as answer:
            echoed = answer.read()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(echoed == body).encode())

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Poster).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_functions_large_post_reaches_its_callee_past_the_activator() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("poster.py", POSTER)?;
    world.apply("sink", &[], "timeoutSeconds: 60").await?;
    world.apply_command("poster", &[], "timeoutSeconds: 60", "command: [python3, -u, poster.py]").await?;
    let answer = world.get("poster", "/16777216").await?;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "True"), "{}", world.logs("poster").await?);
    let sink = world.service("sink").await?.activator;
    assert_eq!((sink.ok, sink.body_bytes_in), (1, 0), "{sink:?}");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_no_longer_waits_for_an_instance() -> Result<()> {
    let world = World::start().await?;
    world.apply_command("never", &[], "timeoutSeconds: 300", "command: [sleep, \"1000\"]").await?;
    let address = world.platform.info().ingress.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: never.default.localhost\r\n\r\n").await?;
    wait::until("the request to wait", LIMIT, async || world.status().await, |status| status.waiting == 1).await?;
    drop(stream);
    wait::until("nobody to wait", LIMIT, async || world.status().await, |status| status.waiting == 0).await?;
    let in_flight = world.service("never").await?.revisions[0].in_flight;
    assert_eq!(in_flight, 0);
    world.end().await;
    Ok(())
}
