//! What test functions do. All answers are JSON and name the pod.
//!
//! ```text
//! GET  /                     the pod, the requests in flight, the headers that arrived
//! ANY  /sleep?ms=N           the same after a while
//! POST /digest[?pause_ms=N]  size and SHA-256 of the body, read with a pause after each piece
//! POST /produce?bytes=N&seed=S&retrievals=R&ttl=SECONDS[&via=http][&count=N]   puts an object, as memory or over HTTP: its reference, size and SHA-256
//! POST /consume              the body is a reference: size and SHA-256 of the object
//! POST /send?to=NAME&bytes=N&seed=S&via=egress|invoke|sdk|header   sends a payload to NAME's /digest: its answer beside what was sent
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zipline_sdk::{Call, Client, Failure, PayloadWriter, PutOptions, Reference};
use zipline_testkit::{Payload, Target, http as client};

/// Requests that are being answered.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);
/// Puts of many objects under way.
const PUTS_AT_ONCE: usize = 16;
/// Longest reference.
const REFERENCE_BYTES_MAX: usize = 4096;

/// Serves `$PORT` on all addresses, HTTP/1.1 and h2c.
pub(crate) async fn serve<F>(answer: fn(Request<Incoming>) -> F) -> Result<()>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.context("the function's port")?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(async move {
                    let service = service_fn(|request| async move { Ok::<_, Infallible>(respond(answer(request).await)) });
                    // A connection that breaks is its client's business.
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The same function on the SDK: payloads arrive as memory that is mapped, not copied, where they came by reference.
pub(crate) async fn serve_by_sdk() -> Result<()> {
    let handler = |request: zipline_sdk::Request| async move {
        let counted = Counted::new();
        let answer = match request.path() {
            "/digest" => {
                let mut answer = about(&request.headers, &counted);
                answer["size"] = request.payload.len().into();
                answer["sha256"] = hex(&Sha256::digest(&request.payload)).into();
                answer["mapped"] = request.payload.is_mapped().into();
                Ok(answer)
            }
            _ => {
                let target = request.uri.to_string();
                perform(&request.method, &target, &request.headers, request.payload.into_bytes(), &counted).await
            }
        };
        let answer = answer.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
        Ok(zipline_sdk::Response::ok(answer.to_string()))
    };
    Ok(zipline_sdk::serve(handler).await?)
}

fn respond(answer: Result<Value>) -> Response<Full<Bytes>> {
    let (status, body) = match answer {
        Ok(value) => (StatusCode::OK, value.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": format!("{error:#}"), "pod": pod() }).to_string()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Answers one request.
pub(crate) async fn answer(request: Request<Incoming>) -> Result<Value> {
    let counted = Counted::new();
    let (head, body) = request.into_parts();
    if head.uri.path() == "/digest" {
        let mut answer = about(&head.headers, &counted);
        let pause = Duration::from_millis(Query::of(&head.uri).number("pause_ms").unwrap_or_default());
        let (size, sha256) = digest(body, pause).await?;
        answer["size"] = size.into();
        answer["sha256"] = sha256.into();
        return Ok(answer);
    }
    let body = http_body_util::Limited::new(body, REFERENCE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the body: {error}"))?.to_bytes();
    perform(&head.method, &head.uri.to_string(), &head.headers, body, &counted).await
}

async fn perform(method: &Method, target: &str, headers: &HeaderMap, body: Bytes, counted: &Counted) -> Result<Value> {
    let uri: Uri = target.parse()?;
    let query = Query::of(&uri);
    match uri.path() {
        "/" => Ok(about(headers, counted)),
        "/sleep" => {
            tokio::time::sleep(Duration::from_millis(query.number("ms")?)).await;
            Ok(about(headers, counted))
        }
        "/produce" => produce(&query).await,
        "/consume" => {
            let reference = Reference::from_token(std::str::from_utf8(&body)?.trim());
            let payload = Client::from_env()?.get(&reference).await?;
            Ok(
                json!({ "pod": pod(), "size": payload.len(), "sha256": hex(&Sha256::digest(&payload)), "mapped": payload.is_mapped() }),
            )
        }
        "/send" => send(&query).await,
        path => bail!("{method} {path}: not known"),
    }
}

async fn produce(query: &Query<'_>) -> Result<Value> {
    let payload = Payload::new(query.number("bytes")?, query.number("seed").unwrap_or(1));
    if query.text("via").is_ok_and(|via| via == "http") {
        let ttl = query.number("ttl").unwrap_or(300);
        let mut put = local_api(Request::post(format!("/v1/objects?ttl={ttl}s")), payload.body()).await?;
        put["sha256"] = payload.sha256().into();
        put["pod"] = pod().into();
        return Ok(put);
    }
    let mut writer = PayloadWriter::new()?;
    for chunk in payload.chunks() {
        std::io::Write::write_all(&mut writer, &chunk)?;
    }
    let mut options = PutOptions::default();
    if let Ok(retrievals) = query.number("retrievals") {
        options.retrievals = u32::try_from(retrievals)?.try_into()?;
    }
    if let Ok(seconds) = query.number("ttl") {
        options.ttl = Some(Duration::from_secs(seconds));
    }
    let client = Client::from_env()?;
    let memory = writer.finish()?;
    // Those before the last go as bytes: as memory, each would take a descriptor, of which there are few.
    let bytes = memory.to_vec();
    let more = 1..query.number("count").unwrap_or(1);
    let puts = futures_util::stream::iter(more).map(|_| client.put(zipline_sdk::Payload::from(bytes.clone()), options));
    puts.buffer_unordered(PUTS_AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?;
    let reference = client.put(memory, options).await?;
    Ok(json!({ "pod": pod(), "reference": reference.as_str(), "size": payload.size(), "sha256": payload.sha256() }))
}

/// Sends a payload in one of the four ways, and says what was sent and what came back.
async fn send(query: &Query<'_>) -> Result<Value> {
    let payload = Payload::new(query.number("bytes")?, query.number("seed").unwrap_or(1));
    let to = query.text("to")?;
    let host = format!("{to}.{}.svc.cluster.local", namespace()?);
    let begun = tokio::time::Instant::now();
    let answer = match query.text("via")? {
        "egress" => {
            let proxy = std::env::var("http_proxy").context("no egress: http_proxy is not set")?;
            let request = Request::post(format!("http://{host}/digest")).header("host", &host);
            exchange(&proxy, request, payload.body()).await?
        }
        "invoke" => {
            let base = std::env::var("ZIPLINE_EGRESS_URL").context("no egress: ZIPLINE_EGRESS_URL is not set")?;
            exchange(&base, Request::post(format!("/v1/invoke/{to}/digest")), payload.body()).await?
        }
        "header" => {
            let put = local_api(Request::post("/v1/objects"), payload.body()).await?;
            let reference = put["reference"].as_str().with_context(|| format!("no reference: {put}"))?.to_owned();
            let request = Request::post("/digest").header("host", &host).header("zipline-reference", reference);
            exchange(&format!("http://{host}:80"), request, client::empty()).await?
        }
        "inline" => {
            exchange(&format!("http://{host}:80"), Request::post("/digest").header("host", &host), payload.body()).await?
        }
        "sdk" => {
            let mut writer = PayloadWriter::new()?;
            for chunk in payload.chunks() {
                std::io::Write::write_all(&mut writer, &chunk)?;
            }
            let call = Call::new(to).path("/digest").payload(writer.finish()?);
            let response = Client::from_env()?.call(call).await?;
            ensure!(response.status.is_success(), "{} {:?}", response.status, response.payload);
            serde_json::from_slice(&response.payload)?
        }
        other => bail!("{other}: none of egress, invoke, header, inline, sdk"),
    };
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    let is_whole = answer["sha256"] == payload.sha256().as_str() && answer["size"] == payload.size();
    Ok(json!({ "pod": pod(), "whole": is_whole, "ms": milliseconds, "answer": answer }))
}

/// One request to the local API over its socket.
async fn local_api<B>(request: http::request::Builder, body: B) -> Result<Value>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let port = zipline_contract::doors::API;
    let answer = client::send(&Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), request.body(body)?).await?;
    ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    answer.json()
}

/// One request to `http://[USER:PASSWORD@]HOST:PORT`, which may be a proxy.
async fn exchange<B>(base: &str, mut request: http::request::Builder, body: B) -> Result<Value>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let base: Uri = base.parse()?;
    let authority = base.authority().context("a host")?;
    let (user, host) = match authority.as_str().rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host.to_owned()),
        None => (None, authority.to_string()),
    };
    if let Some(user) = user {
        request = request.header("proxy-authorization", format!("Basic {}", STANDARD.encode(user)));
    }
    let address = resolve(&host).await?;
    let answer = client::send(&Target::Tcp(address), request.body(body)?).await?;
    ensure!(answer.status.is_success(), "{} {} {}", answer.status, answer.error(), answer.text());
    answer.json()
}

/// The first address of `HOST[:PORT]`.
pub(crate) async fn resolve(host: &str) -> Result<SocketAddr> {
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut found = tokio::net::lookup_host(&with_port).await.with_context(|| format!("looking up {with_port}"))?;
    found.next().with_context(|| format!("{with_port} has no address"))
}

async fn digest(mut body: Incoming, pause: Duration) -> Result<(u64, String)> {
    let (mut sum, mut size) = (Sha256::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.with_context(|| format!("the body, after {size} bytes"))?.into_data() {
            sum.update(&data);
            size += data.len() as u64;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }
    Ok((size, hex(&sum.finalize())))
}

fn about(headers: &HeaderMap, counted: &Counted) -> Value {
    let headers: BTreeMap<&str, &str> =
        headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    json!({ "pod": pod(), "in_flight": counted.0, "headers": headers })
}

/// Counts a request for as long as it lives, and knows how many there were when it came.
struct Counted(u64);

impl Counted {
    fn new() -> Self {
        Self(IN_FLIGHT.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
    }
}

fn pod() -> String {
    std::env::var("HOSTNAME").unwrap_or_default()
}

fn namespace() -> Result<String> {
    std::env::var("POD_NAMESPACE").context("POD_NAMESPACE is not set")
}

/// The query of a URI: names and numbers without escapes.
struct Query<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect())
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.0.get(name).copied().with_context(|| format!("`{name}` is missing"))
    }

    fn number(&self, name: &str) -> Result<u64> {
        self.text(name)?.parse().with_context(|| format!("`{name}` is no number"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
