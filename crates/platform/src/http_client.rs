//! Small questions to queue-proxies: one connection, one GET, a short answer.
//!
//! Probes, statistics and status go this way. Requests of users do not: those stream, over pooled connections
//! (`activator::upstream`).

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A question.
#[derive(Debug)]
pub(crate) struct Ask {
    address: SocketAddr,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

impl Ask {
    pub(crate) fn get(address: SocketAddr, path: &'static str) -> Self {
        Self { address, path, headers: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("the answer is cut or longer than {ANSWER_BYTES_MAX} bytes: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Asks. Has no limit in time: callers know theirs.
pub(crate) async fn ask(ask: Ask) -> Result<Answer, AskError> {
    let stream = TcpStream::connect(ask.address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(ask.path);
    if let Ok(host) = HeaderValue::from_str(&ask.address.to_string()) {
        request.headers_mut().insert(header::HOST, host);
    }
    for (name, value) in ask.headers {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(AskError::Body)?;
        Ok(Answer { status, body: body.to_bytes() })
    });
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}
