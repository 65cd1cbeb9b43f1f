//! A function that speaks HTTP/2 without TLS, as gRPC servers do. It is this test's own program, run again by the platform.

use std::convert::Infallible;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2 as client2;
use hyper::server::conn::http2 as server2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zipline_contract::headers;
use zipline_testkit::{Payload, Program, Target};

use crate::up::{LIMIT, Up};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Frames of a message: a body, and trailers behind it.
fn message(body: impl Into<Bytes>, trailer: &'static str) -> Body {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), HeaderValue::from_static(trailer))]);
    let frames = [Frame::data(body.into()), Frame::trailers(trailers)].map(Ok);
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// What the platform runs: says what it saw, with trailers.
async fn be_the_function() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", std::env::var("PORT")?.parse()?)).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let served = server2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer));
        connections.spawn(async move { served.await.map_err(|error| eprintln!("a connection ended: {error}")) });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let version = format!("{:?}", request.version());
    let whole = request.into_body().collect().await?;
    let trailer = whole.trailers().and_then(|trailers| trailers.get("x-end")?.to_str().ok()).map(str::to_owned);
    let bytes = whole.to_bytes();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let seen = json!({ "version": version, "size": bytes.len(), "sha256": sha256, "trailer": trailer });
    Ok(Response::new(message(seen.to_string(), "from the function")))
}

async fn deploy(up: &Up) -> Result<()> {
    let own = std::env::current_exe()?;
    let command = json!([own, "--exact", "h2c::an_h2c_function_gets_http2_with_trailers_and_references", "--nocapture"]);
    let yaml = format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: two\nspec:\n  template:\n    spec:\n      containers:\n        - command: {command}\n          \
         ports: [{{name: h2c, containerPort: 8080}}]\n"
    );
    let file = up.scratch.write("two.yaml", yaml)?;
    let program = Program::built("zipline")?.args(["--json", "--state"]).arg(&up.state);
    let mut applied = program.args(["service", "apply", "-f"]).arg(file).start(&up.scratch)?;
    let status = applied.ended(LIMIT).await?;
    ensure!(status.success(), "apply ended {status}\n{}", applied.tail());
    Ok(())
}

#[tokio::test]
async fn an_h2c_function_gets_http2_with_trailers_and_references() -> Result<()> {
    if std::env::var_os("K_SERVICE").is_some() {
        return be_the_function().await;
    }
    let up = Up::start().await?;
    deploy(&up).await?;
    let Target::Tcp(ingress) = up.ingress()? else { anyhow::bail!("the ingress is TCP") };
    let stream = TokioIo::new(TcpStream::connect(ingress).await?);
    let (mut sender, connection) = client2::handshake(TokioExecutor::new(), stream).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let url = "http://two.default.localhost/pkg.Service/Method";
    let request = Request::post(url).version(Version::HTTP_2).header("te", "trailers").body(message("abc", "from the caller"))?;
    let answer = tokio::time::timeout(LIMIT, sender.send_request(request)).await??;
    assert_eq!(answer.status(), 200);
    let whole = answer.into_body().collect().await?;
    let trailer = whole.trailers().and_then(|trailers| trailers.get("x-end")).cloned().context("trailers")?;
    assert_eq!(trailer, "from the function");
    let seen: Value = serde_json::from_slice(&whole.to_bytes())?;
    assert_eq!((&seen["version"], &seen["size"], &seen["trailer"]), (&json!("HTTP/2.0"), &json!(3), &json!("from the caller")));

    let payload = Payload::new(3_000_000, 1);
    let reference = up.put("retrievals=2", &payload).await?;
    let request = Request::post(url).header(headers::REFERENCE, &reference).body(Empty::new().boxed_unsync())?;
    let answer = tokio::time::timeout(LIMIT, sender.send_request(request)).await??;
    let seen: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    assert_eq!((&seen["version"], &seen["sha256"]), (&json!("HTTP/2.0"), &json!(payload.sha256())));

    let seen = up.send("two", Request::post("/").header(headers::REFERENCE, &reference)).await?.json()?;
    assert_eq!(seen["version"], "HTTP/2.0", "a caller of HTTP/1.1 is served by it too");
    assert_eq!((&seen["size"], &seen["sha256"]), (&json!(payload.size()), &json!(payload.sha256())));
    Ok(())
}
