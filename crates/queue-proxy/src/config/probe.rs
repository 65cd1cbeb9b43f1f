//! `SERVING_READINESS_PROBE`: a Kubernetes `Probe`, or an array of them, as JSON.

use std::time::Duration;

use serde::Deserialize;

use super::reader::Reader;

/// One readiness probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is tried.
    pub action: ProbeAction,
    /// `periodSeconds` is 0: tried every 50 ms, 100 ms each, until it succeeds [`Probe::successes`] times running.
    pub aggressive: bool,
    /// Limit of one try; without effect on an aggressive probe.
    pub timeout: Duration,
    /// Consecutive successes an aggressive probe needs.
    pub successes: u32,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// A `GET` that answers 200 to 399.
    Http(HttpProbe),
    /// A TCP connection.
    Tcp {
        /// Host to connect to.
        host: String,
        /// Its port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check` answers `SERVING`.
    Grpc {
        /// Port at 127.0.0.1.
        port: u16,
        /// The service asked for; empty: the whole server.
        service: String,
    },
    /// Nothing this proxy can try (`exec`, or no action): never ready.
    Impossible,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Host to connect to; empty: 127.0.0.1.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query, with a leading `/`.
    pub path: String,
    /// Headers added to the request.
    pub headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    http_get: Option<WireHttp>,
    tcp_socket: Option<WireTcp>,
    grpc: Option<WireGrpc>,
    #[serde(default)]
    period_seconds: i32,
    #[serde(default)]
    timeout_seconds: i32,
    #[serde(default)]
    success_threshold: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHttp {
    #[serde(default)]
    path: String,
    port: WirePort,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<WireHeader>,
}

#[derive(Deserialize)]
struct WireHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct WireTcp {
    port: WirePort,
    #[serde(default)]
    host: String,
}

#[derive(Deserialize)]
struct WireGrpc {
    port: WirePort,
    service: Option<String>,
}

/// Kubernetes' `IntOrString`.
#[derive(Deserialize)]
#[serde(untagged)]
enum WirePort {
    Number(u16),
    Text(String),
}

impl WirePort {
    fn number(&self) -> Option<u16> {
        match self {
            Self::Number(port) => Some(*port),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

const VARIABLE: &str = "SERVING_READINESS_PROBE";

pub(super) fn read(r: &mut Reader<'_>, multiple: bool) -> Vec<Probe> {
    let text = r.text(VARIABLE);
    if text.is_empty() {
        return Vec::new();
    }
    // `null` stands for a container without a probe.
    let wires: Result<Vec<Option<Wire>>, _> =
        if multiple { serde_json::from_str(text) } else { serde_json::from_str(text).map(|wire| vec![wire]) };
    match wires {
        Ok(wires) => wires.into_iter().flatten().map(Probe::from).collect(),
        Err(error) => {
            let what = if multiple { "a JSON array of Kubernetes probes" } else { "a Kubernetes probe as JSON" };
            r.unreadable(VARIABLE, text, format!("{what} ({error})"));
            Vec::new()
        }
    }
}

impl From<Wire> for Probe {
    fn from(wire: Wire) -> Self {
        /// Kubernetes' own default.
        const TIMEOUT_SECONDS: u32 = 1;
        let positive = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
        let timeout = positive(wire.timeout_seconds).unwrap_or(TIMEOUT_SECONDS);
        Self {
            aggressive: wire.period_seconds == 0,
            timeout: Duration::from_secs(timeout.into()),
            successes: positive(wire.success_threshold).unwrap_or(1),
            action: action(wire).unwrap_or(ProbeAction::Impossible),
        }
    }
}

fn action(wire: Wire) -> Option<ProbeAction> {
    if let Some(http) = wire.http_get {
        let plain = http.scheme.is_empty() || http.scheme.eq_ignore_ascii_case("http");
        return plain.then_some(ProbeAction::Http(HttpProbe {
            port: http.port.number()?,
            path: format!("/{}", http.path.trim_start_matches('/')),
            headers: http.http_headers.into_iter().map(|header| (header.name, header.value)).collect(),
            host: local_if_empty(http.host),
        }));
    }
    if let Some(tcp) = wire.tcp_socket {
        return Some(ProbeAction::Tcp { port: tcp.port.number()?, host: local_if_empty(tcp.host) });
    }
    let grpc = wire.grpc?;
    Some(ProbeAction::Grpc { port: grpc.port.number()?, service: grpc.service.unwrap_or_default() })
}

fn local_if_empty(host: String) -> String {
    if host.is_empty() { "127.0.0.1".to_owned() } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: &str) -> Probe {
        Probe::from(serde_json::from_str::<Wire>(json).expect("a probe"))
    }

    #[test]
    fn a_path_gets_its_slash_and_a_port_may_be_text() {
        let probe = one(r#"{"httpGet":{"path":"healthz","port":"8080","scheme":"HTTP"},"periodSeconds":1,"timeoutSeconds":2}"#);
        let ProbeAction::Http(http) = &probe.action else { panic!("{probe:?}") };
        assert_eq!((http.path.as_str(), http.port, http.host.as_str()), ("/healthz", 8080, "127.0.0.1"));
        assert_eq!((probe.aggressive, probe.timeout), (false, Duration::from_secs(2)));
    }

    #[test]
    fn what_cannot_be_tried_is_never_ready_rather_than_fatal() {
        for json in ["{}", r#"{"exec":{"command":["true"]}}"#, r#"{"httpGet":{"port":"http"}}"#] {
            assert_eq!(one(json).action, ProbeAction::Impossible, "{json}");
        }
    }
}
