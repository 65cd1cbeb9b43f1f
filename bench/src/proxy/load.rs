//! Load for `bench proxy`: requests at a fixed rate over a fixed number of connections.
//!
//! Open loop: a request is due at its time whether or not earlier ones were answered, and one that had to wait for its
//! connection counts from when it was due, so that a stall shows in the tail instead of hiding the requests it held up
//! (coordinated omission). Requests due on one connection wait for each other there, as they do in a real client's pool.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::namespace::Namespace;

/// Bytes of a response head that the generator takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a gRPC message, each way.
pub(crate) const GRPC_MESSAGE_BYTES: usize = 64;
/// Bytes that are sent at once of a large body.
const PIECE_BYTES: usize = 256 * 1024;

/// What is spoken with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    H2c,
    Grpc,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::H2c, Self::Grpc];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::H2c => "h2c",
            Self::Grpc => "gRPC",
        }
    }

    pub(super) const fn is_http2(self) -> bool {
        !matches!(self, Self::Http1)
    }

    /// The role of the function that speaks it.
    pub(super) const fn function(self) -> &'static str {
        if self.is_http2() { "function-http2" } else { "function" }
    }
}

/// One slice of load.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) connections: usize,
    pub(crate) requests_per_second: f64,
    pub(crate) duration: Duration,
}

/// A connection kept over many slices, so that none measures connecting.
pub(crate) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Connection {
    pub(super) async fn open(protocol: Protocol, namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let stream = connect(namespace, address)?;
        if !protocol.is_http2() {
            return Ok(Self::Http1(Http1::new(stream, address)));
        }
        let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let mut driving = JoinSet::new();
        driving.spawn(driver);
        Ok(Self::Http2(Http2 { protocol, authority: address.to_string(), sender, _driving: driving }))
    }

    /// One request and its whole answer.
    pub(super) async fn round(&mut self) -> Result<()> {
        match self {
            Self::Http1(http1) => http1.round().await,
            Self::Http2(http2) => http2.round().await,
        }
    }
}

/// A connection of a slice of the target's namespace.
fn connect(namespace: &Namespace, address: SocketAddr) -> Result<TcpStream> {
    let stream =
        namespace.inside(|| std::net::TcpStream::connect(address).with_context(|| format!("connecting to {address}")))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

/// HTTP/1.1, as plain as it gets.
pub(crate) struct Http1 {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http1 {
    fn new(stream: TcpStream, address: SocketAddr) -> Self {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: zipline-bench\r\nAccept: */*\r\n\r\n").into_bytes();
        Self { stream, request, buffer: Vec::with_capacity(HEAD_BYTES_MAX) }
    }

    async fn round(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        self.answer().await
    }

    /// Reads an answer without a body.
    async fn answer(&mut self) -> Result<()> {
        self.buffer.clear();
        loop {
            let got = self.stream.read_buf(&mut self.buffer).await?;
            anyhow::ensure!(got > 0, "the connection was closed before an answer");
            if self.buffer.ends_with(b"\r\n\r\n") {
                break;
            }
            anyhow::ensure!(self.buffer.len() < HEAD_BYTES_MAX, "the answer's head is longer than {HEAD_BYTES_MAX} bytes");
        }
        anyhow::ensure!(
            self.buffer.starts_with(b"HTTP/1.1 200"),
            "answer {:?}",
            String::from_utf8_lossy(&self.buffer[..40.min(self.buffer.len())])
        );
        Ok(())
    }
}

/// A connection of HTTP/2 with prior knowledge.
pub(crate) struct Http2 {
    protocol: Protocol,
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    _driving: JoinSet<hyper::Result<()>>,
}

impl Http2 {
    async fn round(&mut self) -> Result<()> {
        let request = Request::builder().uri(format!("http://{}/bench.Bench/Call", self.authority));
        let request = match self.protocol {
            Protocol::Grpc => request
                .method(Method::POST)
                .header(http::header::CONTENT_TYPE, "application/grpc")
                .header(http::header::TE, "trailers")
                .body(Full::new(grpc_message()))?,
            _ => request.body(Full::default())?,
        };
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let collected = answer.into_body().collect().await?;
        anyhow::ensure!(status == StatusCode::OK, "answer {status}");
        if self.protocol == Protocol::Grpc {
            let told = collected.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
            anyhow::ensure!(told.as_ref().is_some_and(|told| told == "0"), "grpc-status {told:?}");
        }
        Ok(())
    }
}

/// One message with its five bytes of framing.
pub(crate) fn grpc_message() -> Bytes {
    let mut message = vec![0; 5 + GRPC_MESSAGE_BYTES];
    message[4] = GRPC_MESSAGE_BYTES as u8;
    message.into()
}

/// Sends one body of `bytes` bytes and awaits the answer.
pub(super) async fn send_large(namespace: &Namespace, address: SocketAddr, bytes: u64) -> Result<()> {
    let mut http1 = Http1::new(connect(namespace, address)?, address);
    let head = format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {bytes}\r\n\r\n");
    http1.stream.write_all(head.as_bytes()).await?;
    let piece = vec![0x5a; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)?.min(PIECE_BYTES);
        http1.stream.write_all(&piece[..now]).await?;
        left -= now as u64;
    }
    http1.answer().await
}

/// Runs one slice; the latency of each request in seconds.
pub(crate) async fn run(connections: &mut Vec<Connection>, slice: Slice) -> Result<Vec<f64>> {
    let started = Instant::now() + Duration::from_millis(5);
    let interval = Duration::from_secs_f64(slice.connections as f64 / slice.requests_per_second);
    let mut tasks = JoinSet::new();
    for (index, mut connection) in connections.drain(..).enumerate() {
        // Connections take turns: spread over one interval, so that the whole is an even stream.
        let first = started + interval.mul_f64(index as f64 / slice.connections as f64);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut due = first;
            while due < started + slice.duration {
                // The timer's own millisecond is not the proxy's: only a request that waited for its connection counts from its due time.
                let begun = if Instant::now() < due {
                    tokio::time::sleep_until(due.into()).await;
                    Instant::now()
                } else {
                    due
                };
                connection.round().await?;
                latencies.push(begun.elapsed().as_secs_f64());
                due += interval;
            }
            anyhow::Ok((connection, latencies))
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (connection, latencies) = ended??;
        connections.push(connection);
        all.extend(latencies);
    }
    Ok(all)
}
