//! What the controller tells about itself: `/metrics` in Prometheus' text format, `/healthz`.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::admission::serve::Webhook;
use crate::door;

/// Connections at once; scrapers and probes keep few.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What can fail, as a label.
const FAILURES: [&str; 4] = ["certificate", "deletion-cost", "keys", "watch"];

/// Counters of the whole controller.
#[derive(Debug)]
pub(super) struct State {
    webhook: Arc<Webhook>,
    rings_written: AtomicU64,
    namespaces: AtomicU64,
    certificate_ends_ms: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
}

impl State {
    pub(super) fn new(webhook: Arc<Webhook>) -> Self {
        Self {
            webhook,
            rings_written: AtomicU64::default(),
            namespaces: AtomicU64::default(),
            certificate_ends_ms: AtomicU64::default(),
            failures: Default::default(),
        }
    }

    pub(super) fn rotated(&self) {
        self.rings_written.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn namespaces(&self, count: usize) {
        self.namespaces.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn certificate_ends(&self, at_ms: u64) {
        self.certificate_ends_ms.store(at_ms, Ordering::Relaxed);
    }

    /// Something that will be tried again failed.
    pub(super) fn failed(&self, what: &str) {
        if let Some(index) = FAILURES.iter().position(|known| *known == what) {
            self.failures[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
            for (labels, value) in samples {
                writeln!(text, "{name}{labels} {value}").ok();
            }
        };
        let of = |counter: &AtomicU64| vec![(String::new(), counter.load(Ordering::Relaxed))];
        let reviews = self.webhook.reviews().counts().map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count));
        metric("zipline_controller_reviews_total", "counter", "Pods that the webhook saw, by what became of them", &reviews);
        let help = "Key rings written: first ones, rotations, repairs";
        metric("zipline_controller_rings_written_total", "counter", help, &of(&self.rings_written));
        metric("zipline_controller_namespaces", "gauge", "Namespaces that Zipline is switched on in", &of(&self.namespaces));
        let ends = vec![(String::new(), self.certificate_ends_ms.load(Ordering::Relaxed) / 1000)];
        metric("zipline_controller_certificate_end_seconds", "gauge", "When the webhook's certificate ends, Unix time", &ends);
        let failures = FAILURES.iter().zip(&self.failures);
        let failures: Vec<_> =
            failures.map(|(what, count)| (format!("{{what=\"{what}\"}}"), count.load(Ordering::Relaxed))).collect();
        metric("zipline_controller_failures_total", "counter", "What failed and is tried again", &failures);
        text
    }
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    door::serve(listener, CONNECTIONS_MAX, |stream| {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let answer = answer(&request, &state);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        async move {
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a scraper's connection broke");
            }
        }
    })
    .await;
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, state.text()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
