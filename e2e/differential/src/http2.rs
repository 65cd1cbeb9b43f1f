//! A client and a function that speak HTTP/2 without TLS.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::transcript::{Transcript, header, shown};
use crate::wire::PATIENCE;

/// A body of either side; its error resets the stream.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, std::io::Error>;
/// A response in the making.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<AnyBody>> + Send>>;

pub(crate) fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body whose frames are sent one by one.
pub(crate) fn by_hand() -> (mpsc::Sender<std::io::Result<Frame<Bytes>>>, AnyBody) {
    let (sender, mut frames) = mpsc::channel(16);
    let stream = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (sender, StreamBody::new(stream.boxed()).boxed_unsync())
}

/// A function; it ends with the runtime. Answers its port.
pub(crate) async fn function(answer: impl Fn(Request<Incoming>) -> Answering + Send + Sync + 'static) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(port)
}

/// A connection to a proxy.
pub(crate) async fn client(address: SocketAddr) -> Result<SendRequest<AnyBody>> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Writes headers down, in order of their names.
pub(crate) fn note_headers(who: &str, headers: &HeaderMap, transcript: &Transcript) {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()))).collect();
    lines.sort();
    lines.into_iter().for_each(|line| transcript.note(format!("{who}: {line}")));
}

/// Reads a body to its end and writes it down.
pub(crate) async fn note_body(who: &str, mut body: Incoming, transcript: &Transcript) {
    transcript.note(format!("{who}: length {:?}", body.size_hint().exact()));
    let mut bytes = Vec::new();
    loop {
        match timeout(PATIENCE, body.frame()).await {
            Err(_) => return transcript.note(format!("{who}: body {} and no end", shown(&bytes))),
            Ok(None) => return transcript.note(format!("{who}: body {}", shown(&bytes))),
            Ok(Some(Err(error))) => {
                let reason = reset(&error).unwrap_or_else(|| "broken".to_owned());
                return transcript.note(format!("{who}: body {} and then {reason}", shown(&bytes)));
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => bytes.extend(data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        note_headers(&format!("{who}: trailer"), &trailers, transcript);
                    }
                }
            },
        }
    }
}

/// That a stream was reset: not with which code, which says how a library is built.
fn reset(error: &hyper::Error) -> Option<String> {
    let mut cause: &dyn std::error::Error = error;
    loop {
        let text = cause.to_string();
        if text.contains("reset") || text.contains("stream error") {
            return Some("the stream was reset".to_owned());
        }
        cause = cause.source()?;
    }
}

/// Sends a request and writes its answer down.
pub(crate) async fn ask(sender: &mut SendRequest<AnyBody>, request: Request<AnyBody>, transcript: &Transcript) {
    match timeout(PATIENCE, sender.send_request(request)).await {
        Err(_) => transcript.note("client: no answer"),
        Ok(Err(error)) => {
            let reason = reset(&error).unwrap_or_else(|| "the connection broke".to_owned());
            transcript.note(format!("client: no answer, {reason}"));
        }
        Ok(Ok(response)) => {
            let (head, body) = response.into_parts();
            transcript.note(format!("client: {}", head.status.as_u16()));
            note_headers("client", &head.headers, transcript);
            note_body("client", body, transcript).await;
        }
    }
}
