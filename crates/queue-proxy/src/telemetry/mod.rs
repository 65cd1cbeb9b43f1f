//! What is said about each request beside the metrics: a line of the request log, spans of its trace.
//!
//! Both are off unless `OBSERVABILITY_CONFIG` asks for them, and then cost nothing. A request that is to be told about gets an
//! [`Observed`] when it comes; the ingress tells it what happens, and when it is dropped it writes the line and the spans:
//! one for the request, one for its time in the proxy, one for its wait in the breaker, one for the function's part.
//! Other spans of this program (puts, pulls, calls) find their place below the request's by [`SpanLayer`].

mod layer;
mod observed;
mod otlp;
mod request_log;
mod sampler;
mod spans;
mod template;

pub use layer::SpanLayer;
pub use observed::{Arrival, Observed};
pub use otlp::Reporter;
pub use request_log::{Lines, RequestLog};
pub use sampler::{Sampler, TRACEPARENT, TRACESTATE};
pub use spans::{Attribute, Span, SpanKind, SpanQueue};
pub use template::{ParseError, Template};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, Export, Identity, Observability, OtelVariables, UserMetrics};
use crate::metrics::Invocations;

/// How long the end of the process waits for the last exports; Knative's proxy waits as long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What is told about requests, and to whom.
#[derive(Debug)]
pub struct Telemetry {
    identity: Identity,
    /// The pod's address as it was given.
    pod_ip: String,
    request_log: Option<RequestLog>,
    /// Why there is no request log although one was asked for.
    refused: Option<ParseError>,
    tracer: Option<Tracer>,
    metrics: Option<Export>,
    otel: OtelVariables,
    lines: Option<Arc<Lines>>,
    /// Becomes true when the last exports are due.
    is_finishing: watch::Sender<bool>,
    /// Becomes true when they were made.
    is_finished: watch::Sender<bool>,
}

/// Where spans come from and go.
#[derive(Debug)]
struct Tracer {
    sampler: Sampler,
    queue: Arc<SpanQueue>,
    /// `None`: to standard output.
    export: Option<Export>,
}

impl Telemetry {
    /// What the configuration asks for. A request log whose template can't be read is left out, as Knative's proxy does; see
    /// [`Telemetry::complain`].
    ///
    /// # Errors
    /// The system has no thread left for the log.
    pub fn new(config: &Config) -> io::Result<Arc<Self>> {
        let observability = config.sidecar.as_ref().map(|sidecar| sidecar.observability.clone()).unwrap_or_default();
        let Observability { request_log, user_metrics, tracing, otel } = observability;
        let to_stdout = tracing.as_ref().is_some_and(|tracing| tracing.export.is_none());
        let lines = (request_log.is_some() || to_stdout).then(Lines::to_stdout).transpose()?;
        let made = request_log.zip(lines.clone()).map(|(log, lines)| RequestLog::new(&log.template, log.with_probes, lines));
        let (request_log, refused) = match made {
            Some(Ok(log)) => (Some(log), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        let tracer = tracing.map(|tracing| Tracer {
            sampler: Sampler::of_rate(tracing.sampling_rate),
            queue: Arc::default(),
            export: tracing.export,
        });
        let metrics = match user_metrics {
            UserMetrics::Export(export) => Some(export),
            UserMetrics::Off | UserMetrics::Prometheus { .. } => None,
        };
        Ok(Arc::new(Self {
            pod_ip: config.identity.pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            identity: config.identity.clone(),
            request_log,
            refused,
            tracer,
            metrics,
            otel,
            lines,
            is_finishing: watch::Sender::new(false),
            is_finished: watch::Sender::new(false),
        }))
    }

    /// What turns this program's spans into exported ones, if any are.
    pub fn layer(&self) -> Option<SpanLayer> {
        self.tracer.as_ref().map(|tracer| SpanLayer::new(Arc::clone(&tracer.queue), tracer.sampler))
    }

    /// Says what was asked for and can't be had. It needs a log to say it in, which needs the telemetry first.
    pub fn complain(&self) {
        if let Some(error) = &self.refused {
            tracing::error!(%error, "there is no request log: its template can't be read");
        }
    }

    /// Whether anything is told about requests.
    pub const fn is_on(&self) -> bool {
        self.request_log.is_some() || self.tracer.is_some()
    }

    /// Exports until [`Telemetry::finish`] is called, and then what is left. `invocations` are the metrics of the function, if
    /// there is one.
    pub async fn export(&self, invocations: Option<&Invocations>) {
        let reporter = self.reporter();
        let finishing = || async {
            // If the telemetry itself is gone, so is the process.
            drop(self.is_finishing.subscribe().wait_for(|is| *is).await);
        };
        let spans = async {
            match &self.tracer {
                Some(Tracer { queue, export: Some(export), .. }) => {
                    otlp::export_spans(export, &self.otel, &reporter, queue, finishing()).await;
                }
                Some(Tracer { queue, export: None, .. }) => self.print_spans(queue, finishing()).await,
                None => {}
            }
        };
        let metrics = async {
            if let (Some(export), Some(invocations)) = (&self.metrics, invocations) {
                otlp::export_metrics(export, &self.otel, &reporter, invocations, finishing()).await;
            }
        };
        tokio::join!(spans, metrics);
        self.is_finished.send_replace(true);
    }

    /// Waits for the last exports and lines, for a bounded time.
    pub async fn finish(&self) {
        if self.tracer.is_some() || self.metrics.is_some() {
            self.is_finishing.send_replace(true);
            let mut is_finished = self.is_finished.subscribe();
            if tokio::time::timeout(FINISH_TIMEOUT, is_finished.wait_for(|is| *is)).await.is_err() {
                tracing::warn!("the last exports did not arrive in time");
            }
        }
        if let Some(lines) = &self.lines {
            lines.flush(FLUSH_TIMEOUT);
        }
    }

    /// Who this is, in the names that Knative's proxy gives itself.
    fn reporter(&self) -> Reporter {
        let identity = &self.identity;
        let named = [&self.otel.service_name, &identity.service, &identity.configuration, &identity.revision, &identity.pod];
        let name = named.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        let mut attributes: Vec<(String, String)> = [
            ("k8s.container.name", "queue-proxy"),
            ("k8s.namespace.name", &identity.namespace),
            ("k8s.pod.name", &identity.pod),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.name", &name),
            ("service.instance.id", &identity.pod),
            ("telemetry.sdk.name", "zipline"),
            ("telemetry.sdk.language", "rust"),
            ("kn.service.name", &identity.service),
            ("kn.configuration.name", &identity.configuration),
            ("kn.revision.name", &identity.revision),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        for (key, value) in self.otel.resource_attributes.split(',').filter_map(|pair| pair.split_once('=')) {
            if attributes.iter().all(|(known, _)| known != key.trim()) {
                attributes.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        Reporter(attributes)
    }

    /// Spans as lines of JSON on standard output.
    async fn print_spans(&self, queue: &SpanQueue, finish: impl Future<Output = ()>) {
        const EVERY: Duration = Duration::from_secs(1);
        let mut finish = std::pin::pin!(finish);
        loop {
            let is_last = tokio::select! {
                () = &mut finish => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            let spans = std::iter::repeat_with(|| queue.take()).take_while(|spans| !spans.is_empty()).flatten();
            if let Some(lines) = &self.lines {
                spans.for_each(|span| lines.push(format!("{}\n", span.to_json()).as_bytes()));
            }
            if is_last {
                return;
            }
        }
    }
}
