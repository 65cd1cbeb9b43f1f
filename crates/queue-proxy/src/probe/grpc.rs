//! A gRPC probe: `grpc.health.v1.Health/Check` must answer `SERVING`.

use std::net::Ipv4Addr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::NotReady;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4096;
/// Bytes before a gRPC message: whether it is compressed, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Runs the probe once. An empty service asks about the whole server.
pub(super) async fn probe(port: u16, service: &str) -> Result<(), NotReady> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let request = Request::post(format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "kube-probe//")
        .body(Full::new(framed(&HealthCheckRequest { service: service.to_owned() })))?;
    let whole = async { judge(sender.send_request(request).await?).await };
    let (mut connection, mut whole) = (std::pin::pin!(connection), std::pin::pin!(whole));
    tokio::select! {
        biased;
        outcome = &mut whole => outcome,
        ended = &mut connection => {
            ended?;
            whole.await // The connection has passed on what it had.
        }
    }
}

fn framed(message: &impl Message) -> Bytes {
    const UNCOMPRESSED: u8 = 0;
    let mut frame = BytesMut::with_capacity(MESSAGE_HEAD_BYTES + message.encoded_len());
    frame.put_u8(UNCOMPRESSED);
    frame.put_u32(message.encoded_len() as u32);
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

async fn judge(answer: Response<Incoming>) -> Result<(), NotReady> {
    let (head, body) = answer.into_parts();
    if !head.status.is_success() {
        return Err(NotReady::Status(head.status));
    }
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| NotReady::Grpc(error.to_string()))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    if let Some(fault) = fault(&trailers).or_else(|| fault(&head.headers)) {
        return Err(NotReady::Grpc(fault));
    }
    let mut message = body.to_bytes();
    if message.len() < MESSAGE_HEAD_BYTES {
        return Err(NotReady::Grpc("not told".to_owned()));
    }
    message.advance(MESSAGE_HEAD_BYTES);
    match HealthCheckResponse::decode(message) {
        Ok(HealthCheckResponse { status: SERVING }) => Ok(()),
        Ok(HealthCheckResponse { status }) => Err(NotReady::Grpc(format!("{status}, not SERVING"))),
        Err(error) => Err(NotReady::Grpc(error.to_string())),
    }
}

/// A status other than OK.
fn fault(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status").filter(|status| status.as_bytes() != b"0")?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Some(format!("not told: gRPC status {} {message}", status.to_str().unwrap_or("?")))
}
