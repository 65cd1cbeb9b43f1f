//! The webhook's door: HTTPS, one path, bounded in connections, bytes and time.
//!
//! Whatever goes wrong here, the answer lets the pod through: a webhook that can't read a review must not stop a pod.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Outcome, Rules, decide};
use crate::door;
use crate::names::WEBHOOK_PATH;

/// Connections at once; the API server keeps few.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a review: an object of the API server's 1.5 MiB limit, twice.
const REVIEW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a handshake, a head, or a body may take; the API server itself waits 2 s.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Warnings in one answer, and characters of each: the API server truncates longer ones.
const WARNINGS_MAX: usize = 8;
const WARNING_CHARS_MAX: usize = 250;

/// Answers reviews.
#[derive(Debug)]
pub struct Webhook {
    rules: Rules,
    reviews: Reviews,
}

/// How many pods were seen, by what became of them.
#[derive(Debug, Default)]
pub struct Reviews {
    changed: AtomicU64,
    unchanged: AtomicU64,
    no_queue_proxy: AtomicU64,
    other_image: AtomicU64,
    unreadable: AtomicU64,
}

impl Reviews {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Changed => &self.changed,
            Outcome::Unchanged => &self.unchanged,
            Outcome::NoQueueProxy => &self.no_queue_proxy,
            Outcome::OtherImage => &self.other_image,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Each outcome's name and count.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (Outcome::Changed.name(), of(&self.changed)),
            (Outcome::Unchanged.name(), of(&self.unchanged)),
            (Outcome::NoQueueProxy.name(), of(&self.no_queue_proxy)),
            (Outcome::OtherImage.name(), of(&self.other_image)),
            ("unreadable", of(&self.unreadable)),
        ]
    }
}

impl Webhook {
    /// Answers by these rules.
    pub fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self { rules, reviews: Reviews::default() })
    }

    /// What it has seen so far.
    pub fn reviews(&self) -> &Reviews {
        &self.reviews
    }

    /// The answer to one review, as the API server sent it.
    pub fn review(&self, body: &[u8]) -> AdmissionReview<DynamicObject> {
        let request = serde_json::from_slice::<AdmissionReview<DynamicObject>>(body).map_err(|error| error.to_string());
        let request = request.and_then(|review| {
            let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
            request.map_err(|error| error.to_string())
        });
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                self.reviews.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error, "a review can't be read; without an answer the pod starts unchanged");
                return AdmissionResponse::invalid(error).into_review();
            }
        };
        let mut response = AdmissionResponse::from(&request);
        let pod = request.object.as_ref().and_then(|pod| serde_json::to_value(pod).ok()).unwrap_or_default();
        let verdict = decide(&pod, &self.rules);
        self.reviews.count(verdict.outcome);
        let namespace = request.namespace.as_deref().unwrap_or_default();
        for warning in &verdict.warnings {
            tracing::warn!(namespace, warning, "an annotation of a pod has no effect");
        }
        tracing::debug!(namespace, outcome = verdict.outcome.name(), changes = verdict.patch.0.len(), "a pod was seen");
        if !verdict.warnings.is_empty() {
            let cut = |warning: &String| warning.chars().take(WARNING_CHARS_MAX).collect();
            response.warnings = Some(verdict.warnings.iter().take(WARNINGS_MAX).map(cut).collect());
        }
        if !verdict.patch.0.is_empty() {
            response = match response.clone().with_patch(verdict.patch) {
                Ok(patched) => patched,
                Err(error) => {
                    tracing::error!(%error, "a patch can't be written; the pod starts unchanged");
                    response
                }
            };
        }
        response.into_review()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/healthz" {
            return text(StatusCode::OK, "ok\n");
        }
        if request.uri().path() != WEBHOOK_PATH || request.method() != Method::POST {
            return text(StatusCode::NOT_FOUND, "reviews are POSTed to /mutate\n");
        }
        let body = Limited::new(request.into_body(), REVIEW_BYTES_MAX).collect();
        let body = match tokio::time::timeout(READ_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, &format!("the review: {error}\n")),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n"),
        };
        match serde_json::to_vec(&self.review(&body)) {
            Ok(answer) => {
                let mut response = Response::new(Full::new(Bytes::from(answer)));
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}

/// Serves reviews until it is dropped. The configuration's certificate may change at any time.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, webhook: Arc<Webhook>) {
    let acceptor = TlsAcceptor::from(tls);
    door::serve(listener, CONNECTIONS_MAX, |stream| connection(acceptor.clone(), stream, Arc::clone(&webhook))).await;
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, webhook: Arc<Webhook>) {
    let stream = match tokio::time::timeout(READ_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a handshake did not come in time"),
    };
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(webhook.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection broke");
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
