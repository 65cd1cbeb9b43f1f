//! Exporting spans and the user's metrics by OpenTelemetry's protocol.
//!
//! Written by hand on the HTTP library this program has anyway, rather than with OpenTelemetry's crates
//! (`docs/decisions/`): what is exported is two metrics and spans that are complete when they get here. Both exporters run
//! beside the admin ports, on their thread, and never in a request's way: spans wait in a bounded queue and are dropped
//! when a collector does not keep up.

mod encode;
mod messages;
mod send;

pub use encode::Reporter;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use self::send::{Collector, connector};
use super::spans::SpanQueue;
use crate::config::{Export, OtelVariables};
use crate::metrics::Invocations;

/// Time between two exports of spans, unless many wait.
const SPANS_EVERY: Duration = Duration::from_secs(5);
/// Time between two exports of metrics, unless the configuration says another.
const METRICS_EVERY: Duration = Duration::from_secs(60);
/// Tries of one batch of spans before it is given up.
const TRIES_MAX: u32 = 5;
/// Where the certificates of authorities may lie.
const ROOTS: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }
}

/// Says a failure once, until an export succeeds again.
#[derive(Debug)]
struct Outcome {
    signal: Signal,
    is_failing: bool,
}

impl Outcome {
    fn is_ok(&mut self, sent: Result<(), send::SendError>) -> bool {
        let is_ok = sent.is_ok();
        match sent {
            Err(error) if !self.is_failing => {
                tracing::warn!(%error, signal = ?self.signal, "an export failed; it is tried again")
            }
            Err(error) => tracing::debug!(%error, signal = ?self.signal, "an export failed"),
            Ok(()) if self.is_failing => tracing::info!(signal = ?self.signal, "exports arrive again"),
            Ok(()) => {}
        }
        self.is_failing = !is_ok;
        is_ok
    }
}

/// Exports spans until told to finish, and then what is left.
pub(super) async fn export_spans(
    export: &Export,
    variables: &OtelVariables,
    reporter: &Reporter,
    queue: &SpanQueue,
    finish: impl Future<Output = ()>,
) {
    let collector = collector(export, variables, Signal::Traces);
    let mut outcome = Outcome { signal: Signal::Traces, is_failing: false };
    let mut finish = std::pin::pin!(finish);
    let mut is_last = false;
    let mut unsent: Option<(Bytes, u32)> = None;
    loop {
        if !is_last {
            tokio::select! {
                () = &mut finish => is_last = true,
                () = queue.is_full.notified(), if unsent.is_none() => {}
                () = tokio::time::sleep(SPANS_EVERY) => {}
            }
        }
        let dropped = queue.take_dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "spans were dropped: more ended than the collector took");
        }
        loop {
            let (batch, tries) = match unsent.take() {
                Some(unsent) => unsent,
                None => match queue.take() {
                    spans if spans.is_empty() => break,
                    spans => (encode::traces(reporter, &spans), 0),
                },
            };
            let Some(collector) = &collector else { continue };
            if !outcome.is_ok(collector.send(batch.clone()).await) {
                let again = tries + 1;
                unsent = (again < TRIES_MAX).then_some((batch, again));
                break;
            }
        }
        if is_last {
            return;
        }
    }
}

/// Exports metrics until told to finish, and then once more.
pub(super) async fn export_metrics(
    export: &Export,
    variables: &OtelVariables,
    reporter: &Reporter,
    invocations: &Invocations,
    finish: impl Future<Output = ()>,
) {
    let Some(collector) = collector(export, variables, Signal::Metrics) else { return };
    let since = SystemTime::now();
    let mut outcome = Outcome { signal: Signal::Metrics, is_failing: false };
    let mut finish = std::pin::pin!(finish);
    let mut ticks = tokio::time::interval(export.interval.unwrap_or(METRICS_EVERY));
    ticks.tick().await; // The first is immediate.
    loop {
        let is_last = tokio::select! {
            () = &mut finish => true,
            _ = ticks.tick() => false,
        };
        outcome.is_ok(collector.send(encode::metrics(reporter, invocations, since, SystemTime::now())).await);
        if is_last {
            return;
        }
    }
}

/// Where a signal goes; nothing if the collector can only be reached over TLS and no authority is known.
fn collector(export: &Export, variables: &OtelVariables, signal: Signal) -> Option<Collector> {
    let tls = match export.endpoint.is_secure {
        false => None,
        true => match roots(variables)
            .and_then(|roots| connector(&roots, export.protocol).map_err(|e| format!("{}: {e}", roots.display())))
        {
            Ok(tls) => Some(tls),
            Err(reason) => {
                tracing::error!(%reason, endpoint = %export.endpoint, ?signal, "nothing is exported: the collector's certificate can't be checked");
                return None;
            }
        },
    };
    let path = export.endpoint.path.clone().unwrap_or_else(|| signal.path().to_owned());
    Some(Collector {
        protocol: export.protocol,
        endpoint: export.endpoint.clone(),
        path,
        method: signal.method(),
        headers: headers(&variables.headers),
        tls,
    })
}

fn roots(variables: &OtelVariables) -> Result<PathBuf, String> {
    if let Some(named) = &variables.certificate {
        return Ok(named.clone());
    }
    ROOTS.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned).ok_or_else(|| {
        format!(
            "no certificates of authorities in {}; mount some, or name a file by OTEL_EXPORTER_OTLP_CERTIFICATE",
            ROOTS.join(", ")
        )
    })
}

/// `OTEL_EXPORTER_OTLP_HEADERS`: `name=value` separated by commas. What is no header is left out.
fn headers(text: &str) -> HeaderMap {
    text.split(',')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        })
        .collect()
}
