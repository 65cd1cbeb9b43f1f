//! `OBSERVABILITY_CONFIG`: Knative's JSON about logs, metrics and traces, as far as it has an effect here.
//!
//! Prometheus metrics are served. What else it may ask for (exports by OpenTelemetry, a request log, profiling) is not there: each
//! is a warning, since an operator who switched it on would miss it.

use serde::Deserialize;
use zipline_contract::doors;

use super::reader::Reader;

/// What `OBSERVABILITY_CONFIG` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observability {
    /// Port on which the user's metrics are scraped: that of `requestMetrics.endpoint`, or else 9091, if
    /// `requestMetrics.protocol` is `prometheus`.
    pub user_metrics_port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    request_metrics: WireExport,
    tracing: WireExport,
    runtime: WireRuntime,
    enable_request_log: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireExport {
    protocol: String,
    endpoint: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireRuntime {
    profiling: String,
}

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
        let ignored = [
            (wire.enable_request_log, "a request log"),
            (wire.runtime.profiling == "enabled", "profiling"),
            (!matches!(wire.tracing.protocol.as_str(), "" | "none"), "an export of traces; trace headers pass through unchanged"),
        ];
        for (_, what) in ignored.iter().filter(|(is_asked, _)| *is_asked) {
            r.warn(format!("{VARIABLE} asks for what this proxy does not have: {what}"));
        }
        Self { user_metrics_port: user_metrics_port(r, &wire.request_metrics) }
    }
}

fn user_metrics_port(r: &mut Reader<'_>, export: &WireExport) -> Option<u16> {
    match export.protocol.as_str() {
        "" | "none" => None,
        "prometheus" if export.endpoint.is_empty() => Some(doors::USER_METRICS),
        "prometheus" => {
            let port = export.endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            if port.is_none() {
                r.unreadable(VARIABLE, &export.endpoint, "a metrics endpoint `HOST:PORT`");
            }
            port
        }
        "grpc" | "http/protobuf" => {
            r.warn(format!("{VARIABLE} asks for what this proxy does not have: an export of metrics by OpenTelemetry"));
            None
        }
        other => {
            r.unreadable(VARIABLE, other, "a metrics protocol: `none`, `prometheus`, `grpc` or `http/protobuf`");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    fn read(json: &str) -> (Observability, usize) {
        let variables: Variables = [(VARIABLE, json)].into_iter().collect();
        let mut reader = Reader::new(&variables);
        let observability = Observability::read(&mut reader);
        let warnings = reader.warnings();
        reader.finish().expect("no problem");
        (observability, warnings.len())
    }

    #[test]
    fn prometheus_has_knatives_port_or_the_endpoints() {
        let port = |json| read(json).0.user_metrics_port;
        assert_eq!(port(r#"{"requestMetrics":{"protocol":"prometheus"}}"#), Some(9091));
        assert_eq!(port(r#"{"requestMetrics":{"protocol":"prometheus","endpoint":":9999"}}"#), Some(9999));
        assert_eq!(port("{}"), None);
    }

    #[test]
    fn what_is_asked_for_and_not_there_is_a_warning_each() {
        let all = r#"{"enableRequestLog":true,"runtime":{"profiling":"enabled"},"tracing":{"protocol":"grpc"},"requestMetrics":{"protocol":"grpc"}}"#;
        assert_eq!(read(all).1, 4);
        assert_eq!(read(r#"{"runtime":{"profiling":"disabled"},"tracing":{"protocol":"none"}}"#).1, 0);
    }
}
