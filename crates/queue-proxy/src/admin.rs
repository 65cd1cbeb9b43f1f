//! The doors beside the requests': admin, statistics, user metrics.
//!
//! They are served by a thread and a runtime of their own, so that they answer while the data plane is busy.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zipline_contract::metrics::{
    DRAIN_LEFT_BYTES, DRAIN_LEFT_OBJECTS, DRAIN_PHASE, PROXIED_BODY_BYTES, PROXIED_REQUESTS, REQUESTS_QUEUED, REQUESTS_RUNNING,
};
use zipline_core::drain::Phase;
use zipline_core::stats::REPORT_INTERVAL;

use crate::config::Config;
use crate::drain::Drain;
use crate::ingress::Port;
use crate::instance::Instance;
use crate::metrics::{self, TEXT_FORMAT};
use crate::telemetry::Telemetry;
use crate::zipline::Zipline;

/// Connections at once on one of these doors; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What the doors answer from.
pub struct Admin {
    /// The shutdown.
    pub drain: Arc<Drain>,
    /// References and everything behind them.
    pub zipline: Arc<Zipline>,
    /// The function's proxy; `None` in a proxy without a function.
    pub instance: Option<Arc<Instance>>,
    /// Labels of the user's metrics.
    labels: String,
}

/// The bound doors.
pub struct Doors {
    /// Port 8022.
    pub admin: Port,
    /// Port 9090.
    pub statistics: Option<Port>,
    /// Port 9091.
    pub user_metrics: Option<Port>,
}

/// Which of them.
#[derive(Clone, Copy, Debug)]
enum Door {
    Admin,
    Statistics,
    UserMetrics,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    /// Answers about these.
    pub fn new(config: &Config, drain: Arc<Drain>, zipline: Arc<Zipline>, instance: Option<Arc<Instance>>) -> Arc<Self> {
        let identity = &config.identity;
        let labels = [
            ("kn_service_name", &identity.service),
            ("kn_configuration_name", &identity.configuration),
            ("kn_revision_name", &identity.revision),
            ("k8s_namespace_name", &identity.namespace),
            ("k8s_pod_name", &identity.pod),
        ];
        let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", metrics::escaped(value)));
        Arc::new(Self { drain, zipline, instance, labels: labels.join(",") })
    }

    /// Serves the doors, and exports telemetry, from a thread of its own, which ends with the process.
    ///
    /// # Errors
    /// The system has no thread or no event queue left.
    pub fn serve(self: Arc<Self>, doors: Doors, telemetry: Arc<Telemetry>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("admin".to_owned());
        thread.spawn(move || runtime.block_on(self.run(doors, &telemetry)))?;
        Ok(())
    }

    async fn run(self: Arc<Self>, doors: Doors, telemetry: &Telemetry) {
        tokio::join!(
            self.serve_door(Door::Admin, Some(doors.admin)),
            self.serve_door(Door::Statistics, doors.statistics),
            self.serve_door(Door::UserMetrics, doors.user_metrics),
            self.cut_statistics(),
            telemetry.export(self.instance.as_ref().map(|instance| &instance.invocations)),
        );
    }

    /// Serves a door, if it is there.
    async fn serve_door(self: &Arc<Self>, door: Door, port: Option<Port>) {
        let Some(port) = port else { return };
        let listener = match port.open() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, ?door, "a port that was bound can't be served"),
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_ended) = connections.join_next() => {}
                (stream, _) = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(Arc::clone(self).connection(door, stream));
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, door: Door, stream: TcpStream) {
        let service = service_fn(|request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.answer(door, &request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .title_case_headers(true) // As Go writes them.
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, ?door, "a connection broke");
        }
    }

    /// Cuts a report each second.
    async fn cut_statistics(&self) {
        let Some(instance) = &self.instance else { return };
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.tick().await; // The first is immediate.
        loop {
            ticks.tick().await;
            instance.statistics.cut(self.zipline.held().held_objects);
        }
    }

    async fn answer(&self, door: Door, request: &Request<Incoming>) -> Answer {
        let is_get = *request.method() == Method::GET;
        match (door, request.uri().path(), &self.instance) {
            (Door::Admin, "/wait-for-drain", _) => {
                self.drain.wait().await;
                answer(StatusCode::OK, "")
            }
            (Door::Admin, "/zipline/metrics", _) if is_get => typed(TEXT_FORMAT, self.own_metrics()),
            (Door::Admin, "/zipline/status", _) if is_get => typed("application/json", self.status()),
            (Door::Statistics, "/metrics", Some(instance)) => typed("application/protobuf", instance.statistics.message()),
            (Door::UserMetrics, "/metrics", Some(instance)) => {
                let mut text = String::new();
                instance.invocations.write(&self.labels, &mut text);
                typed(TEXT_FORMAT, text + &self.own_metrics())
            }
            _ => not_found(),
        }
    }

    fn own_metrics(&self) -> String {
        let mut text = String::new();
        let (running, queued) = self.load();
        metrics::write_single(&REQUESTS_RUNNING, running as u64, &mut text);
        metrics::write_single(&REQUESTS_QUEUED, queued as u64, &mut text);
        if let Some(instance) = &self.instance {
            let (requests, bytes_in, bytes_out) = instance.statistics.by_activator().counts();
            metrics::write_single(&PROXIED_REQUESTS, requests, &mut text);
            metrics::write_family(&PROXIED_BODY_BYTES, &[("in", bytes_in), ("out", bytes_out)], &mut text);
        }
        metrics::write_single(&DRAIN_PHASE, phase_number(self.drain.phase()), &mut text);
        let left = self.drain.left(self.zipline.unread());
        metrics::write_single(&DRAIN_LEFT_OBJECTS, left.objects, &mut text);
        metrics::write_single(&DRAIN_LEFT_BYTES, left.bytes, &mut text);
        self.zipline.write_metrics(&mut text);
        text
    }

    fn status(&self) -> String {
        let held = self.zipline.held();
        let (running, queued) = self.load();
        let status = json!({
            "held_bytes": held.held_bytes,
            "held_objects": held.held_objects,
            "leases": held.leases,
            "waiters": held.waiters,
            "receiving_bytes": held.receiving_bytes,
            "queued": queued,
            "running": running,
            "drain_phase": self.drain.phase().name(),
            "pull_connections": held.pull_connections,
        });
        status.to_string()
    }

    fn load(&self) -> (usize, usize) {
        self.instance.as_ref().map_or((0, 0), |instance| instance.load())
    }
}

/// As it stands in the metric's description.
const fn phase_number(phase: Phase) -> u64 {
    match phase {
        Phase::Serving => 0,
        Phase::Announced | Phase::Quiet => 1,
        Phase::Finishing | Phase::Upgraded => 2,
        Phase::Holding => 3,
        Phase::Ended => 4,
    }
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

/// As Go's server says it.
fn not_found() -> Answer {
    let mut answer = answer(StatusCode::NOT_FOUND, "404 page not found\n");
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn typed(media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = answer(StatusCode::OK, body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
