//! Sending one message to a collector, over HTTP or gRPC, on a connection of its own.
//!
//! Exports are seconds apart, so a kept connection would mostly be one more thing that may have died.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{Endpoint, ExportProtocol};

/// How long one export may take; the default of OpenTelemetry's own exporters.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes before a gRPC message: whether it is compressed, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0} did not answer within 10 s")]
    TimedOut(String),
    #[error("{0} can't be reached: {1}")]
    Unreachable(String, io::Error),
    #[error("no TLS with {0}: {1}")]
    Tls(String, io::Error),
    #[error("{0} does not speak the protocol: {1}")]
    Protocol(String, hyper::Error),
    #[error("{0} answered {1}")]
    Refused(String, String),
    #[error("the request to {0} can't be made: {1}")]
    Request(String, http::Error),
}

/// A collector, and what of it messages go to.
pub(super) struct Collector {
    pub(super) protocol: ExportProtocol,
    pub(super) endpoint: Endpoint,
    /// Over HTTP.
    pub(super) path: String,
    /// Over gRPC.
    pub(super) method: &'static str,
    pub(super) headers: HeaderMap,
    pub(super) tls: Option<TlsConnector>,
}

impl Collector {
    /// Sends a message.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), SendError> {
        let sending = async {
            let address = (self.endpoint.host.as_str(), self.endpoint.port);
            let stream = TcpStream::connect(address).await.map_err(|error| SendError::Unreachable(self.name(), error))?;
            match &self.tls {
                None => self.exchange(stream, message).await,
                Some(tls) => {
                    let failed = |error| SendError::Tls(self.name(), error);
                    let name = ServerName::try_from(self.endpoint.host.clone()).map_err(|e| failed(io::Error::other(e)))?;
                    self.exchange(tls.connect(name, stream).await.map_err(failed)?, message).await
                }
            }
        };
        tokio::time::timeout(SEND_TIMEOUT, sending).await.unwrap_or_else(|_elapsed| Err(SendError::TimedOut(self.name())))
    }

    fn name(&self) -> String {
        self.endpoint.to_string()
    }

    async fn exchange<T>(&self, stream: T, message: Bytes) -> Result<(), SendError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let broken = |error| SendError::Protocol(self.name(), error);
        match self.protocol {
            ExportProtocol::Http => {
                let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
                let request = self.request(&self.path, "application/x-protobuf", message)?;
                let answer = async { self.judge(sender.send_request(request).await.map_err(broken)?).await };
                driven(connection, answer).await
            }
            ExportProtocol::Grpc => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
                let request = self.request(self.method, "application/grpc", framed(&message))?;
                let answer = async { self.judge_grpc(sender.send_request(request).await.map_err(broken)?).await };
                driven(connection, answer).await
            }
        }
    }

    fn request(&self, path: &str, media_type: &'static str, body: Bytes) -> Result<Request<Full<Bytes>>, SendError> {
        let malformed = |error| SendError::Request(self.name(), error);
        let authority = self.endpoint.authority();
        let is_grpc = self.protocol == ExportProtocol::Grpc;
        let target = match (is_grpc, self.endpoint.is_secure) {
            (false, _) => path.to_owned(),
            (true, true) => format!("https://{authority}{path}"),
            (true, false) => format!("http://{authority}{path}"),
        };
        let mut request = Request::post(target).body(Full::new(body)).map_err(malformed)?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("zipline-queue-proxy/", env!("CARGO_PKG_VERSION"))));
        if is_grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|error| malformed(error.into()))?);
        }
        Ok(request)
    }

    async fn judge(&self, answer: Response<Incoming>) -> Result<(), SendError> {
        let status = answer.status();
        // Only the status counts; a body that is too long or breaks off changes nothing.
        Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.ok();
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(self.name(), status.to_string())) }
    }

    async fn judge_grpc(&self, answer: Response<Incoming>) -> Result<(), SendError> {
        let refused = |reason: String| SendError::Refused(self.name(), reason);
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(refused(head.status.to_string()));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| refused(error.to_string()))?;
        let status = HeaderName::from_static("grpc-status");
        let trailers = body.trailers().cloned().unwrap_or_default();
        match trailers.get(&status).or_else(|| head.headers.get(&status)).map(HeaderValue::as_bytes) {
            Some(b"0") => Ok(()),
            Some(other) => Err(refused(format!("gRPC status {}", String::from_utf8_lossy(other)))),
            None => Err(refused("no gRPC status".to_owned())),
        }
    }
}

/// Waits for an answer while the connection is driven, in the same task.
async fn driven(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
    tokio::select! {
        biased;
        told = &mut answer => told,
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "the connection to a collector broke");
            }
            answer.await // The connection has passed on what it had.
        }
    }
}

fn framed(message: &Bytes) -> Bytes {
    const UNCOMPRESSED: u8 = 0;
    let mut frame = BytesMut::with_capacity(MESSAGE_HEAD_BYTES + message.len());
    frame.put_u8(UNCOMPRESSED);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(message);
    frame.freeze()
}

/// TLS towards a collector, with the roots in a PEM file.
///
/// # Errors
/// The file can't be read or holds no certificate.
pub(super) fn connector(roots: &std::path::Path, protocol: ExportProtocol) -> io::Result<TlsConnector> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(roots).map_err(io::Error::other)?;
    store.add_parsable_certificates(certificates.filter_map(Result::ok));
    if store.is_empty() {
        return Err(io::Error::other("there is no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = match protocol {
        ExportProtocol::Grpc => vec![b"h2".to_vec()],
        ExportProtocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
