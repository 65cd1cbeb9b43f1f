//! An HTTP probe: a `GET` that must be answered with 200 to 399, redirects on the same host followed.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::NotReady;
use crate::config::HttpProbe;

/// The user agent of the stock proxy, which knows no Kubernetes version either.
const AGENT: &str = "kube-probe//";
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an answer that are read, so that the function is not cut off while it writes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Runs the probe once. With `detect_http2`, h2c is tried first, without the probe's own headers; a function that answers it is
/// then probed over it. `limit` holds for each request.
pub(super) async fn probe(probe: &HttpProbe, detect_http2: bool, limit: Duration) -> Result<(), NotReady> {
    if !detect_http2 {
        return get(probe, Version::HTTP_11, true, limit).await;
    }
    if get(probe, Version::HTTP_2, false, limit).await.is_ok() {
        return get(probe, Version::HTTP_2, true, limit).await;
    }
    get(probe, Version::HTTP_11, false, limit).await
}

async fn get(probe: &HttpProbe, version: Version, with_headers: bool, limit: Duration) -> Result<(), NotReady> {
    let following = async {
        let mut path = probe.path.clone();
        for _ in 0..=REDIRECTS_MAX {
            let request = request(probe, &path, version, with_headers)?;
            let (status, location) = ask(probe, request, version).await?;
            match location.filter(|_| status.is_redirection()).and_then(|location| same_host(probe, &location)) {
                Some(next) => path = next,
                None if (200..400).contains(&status.as_u16()) => return Ok(()),
                None => return Err(NotReady::Status(status)),
            }
        }
        Err(NotReady::Status(StatusCode::LOOP_DETECTED))
    };
    timeout(limit, following).await.unwrap_or(Err(NotReady::TimedOut))
}

fn request(probe: &HttpProbe, path: &str, version: Version, with_headers: bool) -> Result<Request<Empty<Bytes>>, NotReady> {
    let authority = if probe.host.contains(':') {
        format!("[{}]:{}", probe.host, probe.port)
    } else {
        format!("{}:{}", probe.host, probe.port)
    };
    let builder = Request::get(match version {
        Version::HTTP_2 => format!("http://{authority}{path}"),
        _ => path.to_owned(),
    });
    let mut request = builder.body(Empty::new())?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if with_headers {
        for (name, value) in &probe.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(http::Error::from)?;
            // The stock proxy's HTTP library ignores a host given as a header.
            if name != HOST {
                headers.append(name, HeaderValue::from_str(value).map_err(http::Error::from)?);
            }
        }
    }
    if version != Version::HTTP_2 {
        headers.insert(HOST, HeaderValue::from_str(&authority).map_err(http::Error::from)?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(request)
}

/// Sends a request on a connection of its own. Answers status and redirection.
async fn ask(
    probe: &HttpProbe,
    request: Request<Empty<Bytes>>,
    version: Version,
) -> Result<(StatusCode, Option<HeaderValue>), NotReady> {
    let stream = TcpStream::connect((probe.host.as_str(), probe.port)).await?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
    if version == Version::HTTP_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        driven(connection, async { sender.send_request(request).await }).await
    } else {
        let (mut sender, connection) = http1::Builder::new().title_case_headers(true).handshake(io).await?;
        driven(connection, async { sender.send_request(request).await }).await
    }
}

/// Waits for an answer and reads it while the connection is driven, in the same task.
async fn driven(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<(StatusCode, Option<HeaderValue>), NotReady> {
    let whole = async {
        let answer = answer.await?;
        let told = (answer.status(), answer.headers().get(LOCATION).cloned());
        // Only the status counts: a body that is too long or breaks off changes nothing.
        Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.ok();
        Ok(told)
    };
    let (mut connection, mut whole) = (std::pin::pin!(connection), std::pin::pin!(whole));
    tokio::select! {
        biased;
        told = &mut whole => told,
        ended = &mut connection => {
            ended?;
            whole.await // The connection has passed on what it had.
        }
    }
}

/// The path of a redirection that stays with the function.
fn same_host(probe: &HttpProbe, location: &HeaderValue) -> Option<String> {
    let target = Uri::try_from(location.as_bytes()).ok()?;
    let stays = target.authority().is_none_or(|to| to.host() == probe.host && to.port_u16().unwrap_or(80) == probe.port);
    let path = target.path_and_query()?.as_str();
    (stays && path.starts_with('/')).then(|| path.to_owned())
}
