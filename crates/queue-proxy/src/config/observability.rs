//! `OBSERVABILITY_CONFIG`: Knative's JSON about the request log, metrics and traces; and the `OTEL_*` variables that change where
//! they go.
//!
//! What Knative's proxy ends at its start over ends this one, too: JSON that can't be parsed, a duration that is not a whole number
//! of nanoseconds, an unknown protocol, an endpoint that is no URL. Profiling is the one thing that is not there, with a warning:
//! what Knative's serves is Go's.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use zipline_contract::doors;

use super::reader::Reader;

/// What `OBSERVABILITY_CONFIG` asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observability {
    /// `enableRequestLog`; `None`: off.
    pub request_log: Option<RequestLog>,
    /// `requestMetrics`.
    pub user_metrics: UserMetrics,
    /// `tracing`; `None`: off.
    pub tracing: Option<Tracing>,
    /// `OTEL_*`.
    pub otel: OtelVariables,
}

/// A line for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLog {
    /// `requestLogTemplate`: a Go template.
    pub template: String,
    /// `enableProbeRequestLog`: probes have lines, too.
    pub with_probes: bool,
}

/// Where the user's metrics are to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UserMetrics {
    /// Nowhere.
    #[default]
    Off,
    /// They are scraped.
    Prometheus {
        /// At this address; `None`: that of the other ports.
        address: Option<IpAddr>,
        /// On this port.
        port: u16,
    },
    /// They are exported.
    Export(Export),
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// `None`: to standard output, all of them.
    pub export: Option<Export>,
    /// Share of traces that is recorded where the caller did not decide, from 0 to 1.
    pub sampling_rate: f64,
}

/// An export by OpenTelemetry's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// How.
    pub protocol: ExportProtocol,
    /// Whereto.
    pub endpoint: Endpoint,
    /// How often metrics are; `None`: as often as OpenTelemetry's own exporters do.
    pub interval: Option<Duration>,
}

/// OpenTelemetry's protocol is carried by either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportProtocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// A collector's address. Its text is a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Over TLS.
    pub is_secure: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path; `None`: the protocol's own.
    pub path: Option<String>,
}

/// The variables of OpenTelemetry's exporters that are heeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtelVariables {
    /// `OTEL_SERVICE_NAME`; empty: not given.
    pub service_name: String,
    /// `OTEL_RESOURCE_ATTRIBUTES`: `name=value` separated by commas.
    pub resource_attributes: String,
    /// `OTEL_EXPORTER_OTLP_HEADERS`: `name=value` separated by commas.
    pub headers: String,
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`, or else `SSL_CERT_FILE`: certificates of authorities, as PEM.
    pub certificate: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    request_metrics: WireExport,
    tracing: WireTracing,
    runtime: WireRuntime,
    enable_request_log: bool,
    request_log_template: Option<String>,
    enable_probe_request_log: bool,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireExport {
    protocol: String,
    endpoint: String,
    /// Nanoseconds.
    export_interval: i64,
}

impl Default for WireExport {
    fn default() -> Self {
        Self { protocol: NONE.to_owned(), endpoint: String::new(), export_interval: 0 }
    }
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireTracing {
    protocol: String,
    endpoint: String,
    sampling_rate: f64,
}

impl Default for WireTracing {
    fn default() -> Self {
        Self { protocol: NONE.to_owned(), endpoint: String::new(), sampling_rate: 0.0 }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireRuntime {
    profiling: String,
    /// Nanoseconds; about Go's own metrics. Read so that anything else is refused, as Knative's proxy does.
    #[serde(rename = "exportInterval")]
    _export_interval: i64,
}

const VARIABLE: &str = "OBSERVABILITY_CONFIG";
const NONE: &str = "none";

/// Knative's own template; it is in force where none is given.
pub(super) const REQUEST_LOG_TEMPLATE: &str = r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", "requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, "responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", "remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", "referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", "protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}"#;

impl Observability {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let text = match r.text(VARIABLE) {
            "" => "null",
            text => text,
        };
        // Into an object first: for this deserializer an array would do as well.
        let object: Result<Option<Map<String, Value>>, _> = serde_json::from_str(text);
        let wire = object.and_then(|object| serde_json::from_value(Value::Object(object.unwrap_or_default())));
        let wire: Wire = match wire {
            Ok(wire) => wire,
            Err(error) => {
                r.unreadable(VARIABLE, text, format!("the JSON of Knative's observability settings ({error})"));
                return Self::default();
            }
        };
        if wire.runtime.profiling == "enabled" {
            r.warn(format!(
                "{VARIABLE} asks for profiling, which this proxy does not have: port {} stays closed",
                doors::PROFILING
            ));
        }
        let template = wire.request_log_template.unwrap_or_else(|| REQUEST_LOG_TEMPLATE.to_owned());
        let is_logged = wire.enable_request_log && !template.is_empty();
        Self {
            request_log: is_logged.then_some(RequestLog { template, with_probes: wire.enable_probe_request_log }),
            user_metrics: user_metrics(r, &wire.request_metrics),
            tracing: tracing(r, &wire.tracing),
            otel: otel(r),
        }
    }
}

fn user_metrics(r: &mut Reader<'_>, wire: &WireExport) -> UserMetrics {
    let export = |protocol, r: &mut Reader<'_>| {
        let endpoint = endpoint(r, &wire.endpoint, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/v1/metrics")?;
        let nanos = u64::try_from(wire.export_interval).unwrap_or(0);
        let interval = (nanos > 0).then(|| Duration::from_nanos(nanos));
        Some(UserMetrics::Export(Export { protocol, endpoint, interval }))
    };
    let read = match wire.protocol.as_str() {
        NONE => None,
        "prometheus" => prometheus(r, &wire.endpoint),
        "grpc" => export(ExportProtocol::Grpc, r),
        "http/protobuf" => export(ExportProtocol::Http, r),
        other => {
            r.unreadable(VARIABLE, other, "a metrics protocol: `none`, `prometheus`, `grpc` or `http/protobuf`");
            None
        }
    };
    read.unwrap_or_default()
}

fn prometheus(r: &mut Reader<'_>, endpoint: &str) -> Option<UserMetrics> {
    /// Knative's limit.
    const PORT_MIN: u16 = 1024;
    if endpoint.is_empty() {
        return Some(UserMetrics::Prometheus { address: None, port: doors::USER_METRICS });
    }
    let read = endpoint.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok().filter(|port| *port >= PORT_MIN)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = if host.is_empty() { None } else { Some(host.parse().ok()?) };
        Some(UserMetrics::Prometheus { address, port })
    });
    if read.is_none() {
        r.unreadable(VARIABLE, endpoint, "a metrics endpoint `ADDRESS:PORT` with a port from 1024 on");
    }
    read
}

fn tracing(r: &mut Reader<'_>, wire: &WireTracing) -> Option<Tracing> {
    let protocol = match wire.protocol.as_str() {
        NONE => return None,
        "stdout" => return Some(Tracing { export: None, sampling_rate: 1.0 }),
        "grpc" => ExportProtocol::Grpc,
        "http/protobuf" => ExportProtocol::Http,
        other => {
            r.unreadable(VARIABLE, other, "a tracing protocol: `none`, `stdout`, `grpc` or `http/protobuf`");
            return None;
        }
    };
    let endpoint = endpoint(r, &wire.endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces")?;
    let export = Some(Export { protocol, endpoint, interval: None });
    Some(Tracing { export, sampling_rate: wire.sampling_rate })
}

/// The collector of a signal: that of OpenTelemetry's variables, or else the configuration's.
fn endpoint(r: &mut Reader<'_>, configured: &str, specific: &'static str, path: &str) -> Option<Endpoint> {
    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let (variable, text) = [specific, GENERAL]
        .into_iter()
        .map(|variable| (variable, r.text(variable)))
        .find(|(_, text)| !text.is_empty())
        .unwrap_or((VARIABLE, configured));
    let mut read = parse_endpoint(text);
    match &mut read {
        None => r.unreadable(variable, text, "the URL of a collector, such as `http://collector.observability:4318`"),
        // The general variable names a base that every signal has its own path under.
        Some(endpoint) if variable == GENERAL => {
            let base = endpoint.path.take().unwrap_or_default();
            endpoint.path = Some(format!("{}{path}", base.trim_end_matches('/')));
        }
        Some(_) => {}
    }
    read
}

/// `http://HOST[:PORT][/PATH]`, `https://…`, or `NAME:PORT`, which is taken for TLS as Knative's proxy takes it.
fn parse_endpoint(text: &str) -> Option<Endpoint> {
    let (is_secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        // Go takes what stands before the colon for a scheme, which begins with a letter.
        _ if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.contains(':') => (true, text),
        _ => return None,
    };
    let uri: http::Uri = rest.parse::<http::Uri>().or_else(|_| format!("http://{rest}").parse()).ok()?;
    let uri = if uri.authority().is_some() && uri.scheme().is_some() { uri } else { format!("http://{rest}").parse().ok()? };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let has_path = rest.contains('/');
    (!host.is_empty()).then(|| Endpoint { is_secure, host, port, path: has_path.then(|| uri.path().to_owned()) })
}

impl Endpoint {
    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path.as_deref().unwrap_or(""))
    }
}

fn otel(r: &Reader<'_>) -> OtelVariables {
    let certificate = ["OTEL_EXPORTER_OTLP_CERTIFICATE", "SSL_CERT_FILE"].into_iter().map(|name| r.text(name));
    OtelVariables {
        service_name: r.text("OTEL_SERVICE_NAME").to_owned(),
        resource_attributes: r.text("OTEL_RESOURCE_ATTRIBUTES").to_owned(),
        headers: r.text("OTEL_EXPORTER_OTLP_HEADERS").to_owned(),
        certificate: certificate.filter(|path| !path.is_empty()).map(PathBuf::from).next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    fn with(json: &str, more: &[(&str, &str)]) -> (Observability, Vec<String>, Option<String>) {
        let variables: Variables = [(VARIABLE, json)].iter().chain(more).copied().collect();
        let mut reader = Reader::new(&variables);
        let observability = Observability::read(&mut reader);
        let warnings = reader.warnings();
        (observability, warnings, reader.finish().err().map(|error| error.to_string()))
    }

    fn read(json: &str) -> Observability {
        let (observability, _, error) = with(json, &[]);
        assert_eq!(error, None, "{json}");
        observability
    }

    #[test]
    fn prometheus_has_knatives_port_or_the_endpoints() {
        let metrics = |json| read(json).user_metrics;
        let prometheus = |address: Option<&str>, port| UserMetrics::Prometheus {
            address: address.map(|address| address.parse().expect("an address")),
            port,
        };
        assert_eq!(metrics(r#"{"requestMetrics":{"protocol":"prometheus"}}"#), prometheus(None, 9091));
        assert_eq!(metrics(r#"{"requestMetrics":{"protocol":"prometheus","endpoint":":9999"}}"#), prometheus(None, 9999));
        assert_eq!(
            metrics(r#"{"requestMetrics":{"protocol":"prometheus","endpoint":"[::1]:9999"}}"#),
            prometheus(Some("::1"), 9999)
        );
        assert_eq!(metrics("{}"), UserMetrics::Off);
        assert_eq!(read(""), Observability::default());
    }

    #[test]
    fn exports_are_read_with_their_interval_in_nanoseconds() {
        let all = r#"{"requestMetrics":{"protocol":"http/protobuf","endpoint":"http://c:4318/v1/metrics","exportInterval":30000000000},
            "tracing":{"protocol":"grpc","endpoint":"collector.ns:4317","samplingRate":0.25},"runtime":{"exportInterval":15000000000}}"#;
        let observability = read(all);
        let UserMetrics::Export(export) = observability.user_metrics else { panic!("no export") };
        assert_eq!((export.protocol, export.interval), (ExportProtocol::Http, Some(Duration::from_secs(30))));
        assert_eq!(export.endpoint.to_string(), "http://c:4318/v1/metrics");
        let tracing = observability.tracing.expect("traces");
        assert_eq!(tracing.sampling_rate, 0.25);
        assert_eq!(tracing.export.expect("an export").endpoint.to_string(), "https://collector.ns:4317");
    }

    #[test]
    fn opentelemetrys_variables_come_before_the_configuration() {
        let json = r#"{"tracing":{"protocol":"http/protobuf","endpoint":"http://a:4318"}}"#;
        let of = |more: &[(&str, &str)]| {
            let (observability, _, _) = with(json, more);
            observability.tracing.and_then(|tracing| tracing.export).map(|export| export.endpoint.to_string())
        };
        assert_eq!(of(&[]).as_deref(), Some("http://a:4318"));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://b:1/x/")]).as_deref(), Some("http://b:1/x/v1/traces"));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]:2/y")]).as_deref(), Some("http://[::1]:2/y"));
    }

    #[test]
    fn a_request_log_has_knatives_template_unless_it_has_its_own() {
        assert_eq!(read(r#"{"requestLogTemplate":"x"}"#).request_log, None);
        assert_eq!(read(r#"{"enableRequestLog":true,"requestLogTemplate":""}"#).request_log, None);
        let default = read(r#"{"enableRequestLog":true}"#).request_log.expect("a log");
        assert_eq!((default.template.as_str(), default.with_probes), (REQUEST_LOG_TEMPLATE, false));
        let own = read(r#"{"enableRequestLog":true,"requestLogTemplate":"x","enableProbeRequestLog":true}"#).request_log;
        assert_eq!(own, Some(RequestLog { template: "x".to_owned(), with_probes: true }));
    }

    #[test]
    fn what_cannot_be_meant_ends_the_start_and_profiling_is_a_warning() {
        for json in [
            "no",
            "[]",
            r#"{"requestMetrics":{"protocol":"statsd"}}"#,
            r#"{"requestMetrics":{"protocol":""}}"#,
            r#"{"requestMetrics":{"protocol":"grpc","endpoint":"http://a:1","exportInterval":"30s"}}"#,
            r#"{"requestMetrics":{"protocol":"prometheus","endpoint":"9091"}}"#,
            r#"{"requestMetrics":{"protocol":"prometheus","endpoint":":80"}}"#,
            r#"{"tracing":{"protocol":"zipkin"}}"#,
            r#"{"tracing":{"protocol":"grpc","endpoint":"10.0.0.1:4317"}}"#,
            r#"{"runtime":{"exportInterval":"15s"}}"#,
        ] {
            assert!(with(json, &[]).2.is_some_and(|error| error.contains(VARIABLE)), "{json}");
        }
        assert_eq!(with(r#"{"runtime":{"profiling":"enabled"}}"#, &[]).1.len(), 1);
        assert_eq!(with(r#"{"runtime":{"profiling":"disabled"},"tracing":{"protocol":"none"}}"#, &[]).1.len(), 0);
    }
}
