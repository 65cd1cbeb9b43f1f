//! `OBSERVABILITY_CONFIG`: Knative's JSON about logs, metrics and traces, as far as it has an effect here.
//!
//! Prometheus metrics and the request log are served; exporting metrics or traces by OpenTelemetry and profiling are not
//! (trace headers pass through unchanged).

use serde::Deserialize;

use super::reader::Reader;

/// How the user's metrics leave this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsProtocol {
    /// Not at all.
    #[default]
    None,
    /// Scraped from port 9091, or the port of the endpoint.
    Prometheus,
    /// By OpenTelemetry: not supported, nothing is exported.
    OpenTelemetry,
}

/// What `OBSERVABILITY_CONFIG` asks for.
#[derive(Clone, Debug, Default)]
pub struct Observability {
    /// `requestMetrics.protocol`.
    pub request_metrics: MetricsProtocol,
    /// Port of `requestMetrics.endpoint`, where one is given.
    pub request_metrics_port: Option<u16>,
    /// `requestLogTemplate`, if `enableRequestLog` is set.
    pub request_log: Option<String>,
    /// `enableProbeRequestLog`.
    pub log_probes: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    request_metrics: WireMetrics,
    enable_request_log: bool,
    request_log_template: Option<String>,
    enable_probe_request_log: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMetrics {
    protocol: String,
    endpoint: String,
}

/// Knative's own default.
const REQUEST_LOG_TEMPLATE: &str = r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", "requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, "responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", "remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", "referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", "protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}"#;

const VARIABLE: &str = "OBSERVABILITY_CONFIG";

impl Observability {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let text = r.text(VARIABLE);
        if text.is_empty() {
            return Self::default();
        }
        let wire: Wire = match serde_json::from_str(text) {
            Ok(wire) => wire,
            Err(error) => {
                r.unreadable(VARIABLE, text, format!("the JSON of Knative's observability settings ({error})"));
                return Self::default();
            }
        };
        let request_metrics = match wire.request_metrics.protocol.as_str() {
            "" | "none" => MetricsProtocol::None,
            "prometheus" => MetricsProtocol::Prometheus,
            "grpc" | "http/protobuf" => MetricsProtocol::OpenTelemetry,
            other => {
                r.unreadable(VARIABLE, other, "a metrics protocol: `none`, `prometheus`, `grpc` or `http/protobuf`");
                MetricsProtocol::None
            }
        };
        let endpoint = wire.request_metrics.endpoint.as_str();
        let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        if request_metrics == MetricsProtocol::Prometheus && !endpoint.is_empty() && port.is_none() {
            r.unreadable(VARIABLE, endpoint, "a metrics endpoint `HOST:PORT`");
        }
        Self {
            request_metrics,
            request_metrics_port: port.filter(|_| request_metrics == MetricsProtocol::Prometheus),
            request_log: wire
                .enable_request_log
                .then(|| wire.request_log_template.unwrap_or_else(|| REQUEST_LOG_TEMPLATE.to_owned()))
                .filter(|template| !template.is_empty()),
            log_probes: wire.enable_probe_request_log,
        }
    }
}
