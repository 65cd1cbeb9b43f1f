//! The yardstick of `bench proxy`: the plainest reverse proxy that hyper makes, with its client's own pool.

use std::net::SocketAddr;

use anyhow::Result;
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Forwards everything to `function`, by HTTP/2 with prior knowledge on both sides or by HTTP/1.1, printing its own address.
pub(crate) async fn serve(function: SocketAddr, is_http2: bool) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).http2_only(is_http2).build(connector);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {} // An end by the client's cut is no error here.
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let client = client.clone();
                let service = service_fn(move |request| forward(client.clone(), function, request));
                let io = TokioIo::new(stream);
                connections.spawn(async move {
                    if is_http2 {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                    }
                });
            }
        }
    }
}

async fn forward(
    client: Client<HttpConnector, Incoming>,
    function: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(function.to_string())?);
    *request.uri_mut() = Uri::from_parts(parts)?;
    Ok(client.request(request).await?)
}
