//! The functions that stand behind a proxy while it is measured: nothing of Zipline, and small enough that what is measured in
//! front of them is not the function.
//!
//! Plain HTTP/1.1 with one thread a connection: a body of known length is read into a reused buffer and answered `200` with an
//! empty body. HTTP/2 with prior knowledge: the same, and a gRPC call gets one message and its status.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use crate::raw::{self, CHUNK_BYTES};

/// Bytes of a request head that the function takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves on `port` (0: any), printing the address.
pub(crate) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} of 127.0.0.1"))?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection of a bench ends with its client; the thread's error is that client's cut.
        std::thread::Builder::new().stack_size(256 * 1024).spawn(move || connection(stream))?;
    }
    Ok(())
}

fn connection(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut buffer = Vec::new();
    let mut line = Vec::new();
    loop {
        let mut length = 0u64;
        let mut head_bytes = 0;
        loop {
            line.clear();
            let got = reader.read_until(b'\n', &mut line)?;
            if got == 0 {
                return Ok(());
            }
            head_bytes += got;
            anyhow::ensure!(head_bytes <= HEAD_BYTES_MAX, "the request's head is longer than {HEAD_BYTES_MAX} bytes");
            let text = line.trim_ascii();
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_at_checked(15)
                && name.eq_ignore_ascii_case(b"content-length:")
            {
                length = std::str::from_utf8(value.trim_ascii())?.parse()?;
            }
        }
        if length > 0 && buffer.is_empty() {
            buffer.resize(CHUNK_BYTES, 0);
        }
        raw::drain(&mut reader, length, &mut buffer)?;
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// Serves HTTP/2 with prior knowledge on any port, printing the address.
pub(crate) async fn serve_http2() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {} // An end by the client's cut is no error here.
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>> {
    const GRPC: &str = "application/grpc";
    let is_grpc = request.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind == GRPC);
    request.into_body().collect().await?; // Small: the bench sends nothing large this way.
    if !is_grpc {
        return Ok(Response::new(Empty::new().boxed()));
    }
    let trailers =
        async { Some(Ok(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]))) };
    let body = Full::new(crate::proxy::grpc_message()).with_trailers(trailers).boxed();
    Ok(Response::builder().header(http::header::CONTENT_TYPE, GRPC).body(body)?)
}
