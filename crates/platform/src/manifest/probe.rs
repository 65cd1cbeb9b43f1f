//! Readiness probes, and their form for the queue-proxy.

use serde::Serialize;
use serde_json::{Value, json};

use super::fields::{Field, PortName};
use super::report::Report;

/// When an instance is ready, as its queue-proxy finds out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What is tried.
    pub action: ProbeAction,
    /// Seconds between two tries; 0: as often as it takes (every 50 ms).
    pub period_seconds: u32,
    /// Limit of one try.
    pub timeout_seconds: u32,
    /// Successes in a row that make ready.
    pub success_threshold: u32,
    /// Failures in a row that make unready.
    pub failure_threshold: u32,
    /// Seconds before the first try.
    pub initial_delay_seconds: u32,
}

/// What a probe tries, always at the function's own port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeAction {
    /// A connection.
    TcpSocket,
    /// `GET` with an answer of 200 to 399.
    HttpGet {
        /// Path with query.
        path: String,
        /// `HTTP` only.
        headers: Vec<(String, String)>,
    },
    /// gRPC health check, version 1.
    Grpc {
        /// Service asked about; empty: the server as a whole.
        service: String,
    },
}

impl Default for Probe {
    /// What Knative probes where nothing is said: that the port takes connections.
    fn default() -> Self {
        Self {
            action: ProbeAction::TcpSocket,
            period_seconds: 0,
            timeout_seconds: 0,
            success_threshold: 1,
            failure_threshold: 0,
            initial_delay_seconds: 0,
        }
    }
}

impl Probe {
    /// The Kubernetes `Probe` that the queue-proxy of a function at `port` is given.
    pub fn to_kubernetes(&self, port: u16) -> Value {
        let mut probe = json!({ "successThreshold": self.success_threshold });
        match &self.action {
            ProbeAction::TcpSocket => probe["tcpSocket"] = json!({ "host": "127.0.0.1", "port": port }),
            ProbeAction::HttpGet { path, headers } => {
                // Knative's controller adds it, so that a function's middleware can tell probes from requests.
                let marker = ("K-Kubelet-Probe".to_owned(), "queue".to_owned());
                let headers: Vec<Value> =
                    headers.iter().chain([&marker]).map(|(name, value)| json!({ "name": name, "value": value })).collect();
                probe["httpGet"] =
                    json!({ "host": "127.0.0.1", "port": port, "path": path, "scheme": "HTTP", "httpHeaders": headers });
            }
            ProbeAction::Grpc { service } => probe["grpc"] = json!({ "port": port, "service": service }),
        }
        let numbers = [
            ("periodSeconds", self.period_seconds),
            ("timeoutSeconds", self.timeout_seconds),
            ("failureThreshold", self.failure_threshold),
            ("initialDelaySeconds", self.initial_delay_seconds),
        ];
        for (name, value) in numbers {
            if value > 0 {
                probe[name] = value.into();
            }
        }
        probe
    }
}

/// How a probe may name the function's port.
pub(super) struct FunctionPort<'p> {
    pub(super) number: u16,
    pub(super) name: Option<&'p str>,
}

pub(super) fn read(field: Field, port: &FunctionPort<'_>, report: &mut Report) -> Option<Probe> {
    let (path, place) = (field.path.clone(), field.place);
    let mut fields = field.fields(report)?;
    let mut actions = Vec::new();
    if let Some(field) = fields.take("httpGet") {
        actions.push(read_http_get(field, port, report));
    }
    if let Some(field) = fields.take("tcpSocket") {
        actions.push(read_tcp_socket(field, port, report));
    }
    if let Some(field) = fields.take("grpc") {
        actions.push(read_grpc(field, port, report));
    }
    fields.refuse("exec", "use httpGet, tcpSocket or grpc", report);
    let mut number = |name, report: &mut Report| {
        let value = fields.take(name).and_then(|field| field.whole(0..=86_400, report));
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
    };
    let mut probe = Probe {
        action: ProbeAction::TcpSocket,
        period_seconds: number("periodSeconds", report),
        timeout_seconds: number("timeoutSeconds", report),
        success_threshold: number("successThreshold", report).max(1),
        failure_threshold: number("failureThreshold", report),
        initial_delay_seconds: number("initialDelaySeconds", report),
    };
    fields.refuse("terminationGracePeriodSeconds", "set the revision's timeoutSeconds", report);
    fields.finish(report);
    if actions.len() > 1 {
        report.error(&path, place, "must have one of httpGet, tcpSocket, grpc");
    }
    if let Some(action) = actions.pop() {
        probe.action = action?;
    }
    if probe.period_seconds > 0 {
        // Kubernetes' own defaults hold once a period is given.
        probe.timeout_seconds = probe.timeout_seconds.max(1);
        probe.failure_threshold = if probe.failure_threshold == 0 { 3 } else { probe.failure_threshold };
    } else if probe.timeout_seconds > 0 || probe.failure_threshold > 0 {
        report.error(&path, place, "timeoutSeconds and failureThreshold need a periodSeconds above 0");
    }
    Some(probe)
}

fn read_http_get(field: Field, port: &FunctionPort<'_>, report: &mut Report) -> Option<ProbeAction> {
    let mut fields = field.fields(report)?;
    let target = fields.take("path").and_then(|field| field.text(report)).unwrap_or_else(|| "/".to_owned());
    if let Some(field) = fields.take("port") {
        check_port(field, port, report);
    }
    if let Some(field) = fields.take("scheme") {
        let (path, place) = (field.path.clone(), field.place);
        if field.text(report).is_some_and(|scheme| scheme != "HTTP") {
            report.error(&path, place, "must be HTTP: functions speak without TLS to their queue-proxy");
        }
    }
    fields.refuse("host", "probes go to the function itself", report);
    let mut headers = Vec::new();
    for item in fields.take("httpHeaders").and_then(|field| field.items(report)).unwrap_or_default() {
        let Some(mut header) = item.fields(report) else { continue };
        let name = header.require("name", report).and_then(|field| field.text(report));
        let value = header.take("value").and_then(|field| field.text(report)).unwrap_or_default();
        header.finish(report);
        headers.extend(name.map(|name| (name, value)));
    }
    fields.finish(report);
    let path = if target.starts_with('/') { target } else { format!("/{target}") };
    Some(ProbeAction::HttpGet { path, headers })
}

fn read_tcp_socket(field: Field, port: &FunctionPort<'_>, report: &mut Report) -> Option<ProbeAction> {
    let mut fields = field.fields(report)?;
    if let Some(field) = fields.take("port") {
        check_port(field, port, report);
    }
    fields.refuse("host", "probes go to the function itself", report);
    fields.finish(report);
    Some(ProbeAction::TcpSocket)
}

fn read_grpc(field: Field, port: &FunctionPort<'_>, report: &mut Report) -> Option<ProbeAction> {
    let mut fields = field.fields(report)?;
    if let Some(field) = fields.take("port") {
        check_port(field, port, report);
    }
    let service = fields.take("service").and_then(|field| field.text(report)).unwrap_or_default();
    fields.finish(report);
    Some(ProbeAction::Grpc { service })
}

fn check_port(field: Field, own: &FunctionPort<'_>, report: &mut Report) {
    let (path, place) = (field.path.clone(), field.place);
    let same = match field.port(report) {
        Some(PortName::Number(number)) => number == 0 || number == i64::from(own.number),
        Some(PortName::Name(name)) => Some(name.as_str()) == own.name,
        None => return,
    };
    if !same {
        report.error_with_hint(&path, place, "must be the container's own port", "leave `port` out");
    }
}
