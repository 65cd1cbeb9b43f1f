//! What Knative's revision controller sets on the sidecar.
//!
//! The names and their meaning are Knative's; a variable that is `required` there is required here. Variables that the
//! controller sets but that have no effect here, or there, (`ROOT_CA`, `SYSTEM_NAMESPACE`) are not read.

use std::net::IpAddr;
use std::time::Duration;

use super::observability::Observability;
use super::probe::{self, Probe};
use super::reader::Reader;
use crate::logging::ZapConfig;
use crate::tls::TlsSettings;

/// Who this instance is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `SERVING_NAMESPACE`, also the trust domain in Kubernetes.
    pub namespace: String,
    /// `SERVING_SERVICE`; empty for a configuration without a service.
    pub service: String,
    /// `SERVING_CONFIGURATION`.
    pub configuration: String,
    /// `SERVING_REVISION`.
    pub revision: String,
    /// `SERVING_POD`.
    pub pod: String,
    /// `SERVING_POD_IP`; `None`: given as nothing.
    pub pod_ip: Option<IpAddr>,
    /// `HOST_IP`; `None`: not given, or no address.
    pub host_ip: Option<IpAddr>,
}

impl Identity {
    /// `NAMESPACE/SERVICE`, or `NAMESPACE/CONFIGURATION` without a service: what a reference's receiver is compared with.
    pub fn receiver(&self) -> String {
        let name = if self.service.is_empty() { &self.configuration } else { &self.service };
        format!("{}/{name}", self.namespace)
    }

    /// Whether the pod shares its node's network: loopback and abstract sockets are then everybody's on that node.
    pub fn is_on_host_network(&self) -> bool {
        self.pod_ip.is_some() && self.pod_ip == self.host_ip
    }

    pub(super) fn required(r: &mut Reader<'_>) -> Self {
        Self {
            namespace: r.required("SERVING_NAMESPACE", "the namespace of the service").to_owned(),
            service: r.text("SERVING_SERVICE").to_owned(),
            configuration: r.required("SERVING_CONFIGURATION", "the name of the configuration").to_owned(),
            revision: r.required("SERVING_REVISION", "the name of the revision").to_owned(),
            pod: r.required("SERVING_POD", "the name of the pod").to_owned(),
            pod_ip: {
                let text = r.required(POD_IP, "the address of the pod");
                pod_ip(r, text)
            },
            host_ip: r.text(HOST_IP).parse().ok(),
        }
    }

    pub(super) fn optional(r: &mut Reader<'_>) -> Self {
        Self {
            namespace: r.text("SERVING_NAMESPACE").to_owned(),
            service: r.text("SERVING_SERVICE").to_owned(),
            configuration: r.text("SERVING_CONFIGURATION").to_owned(),
            revision: r.text("SERVING_REVISION").to_owned(),
            pod: r.text("SERVING_POD").to_owned(),
            pod_ip: {
                let text = r.text(POD_IP);
                pod_ip(r, text)
            },
            host_ip: r.text(HOST_IP).parse().ok(),
        }
    }
}

/// The port requests come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// `QUEUE_SERVING_PORT`; both protocols are served on it, whichever it is named for.
    pub port: u16,
    /// `QUEUE_SERVING_TLS_PORT`; `None`: what was given is no port, which matters only where certificates are mounted.
    pub tls_port: Option<u16>,
}

/// How long a request may take. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `REVISION_TIMEOUT_SECONDS`: from the request's head to the response's last byte.
    pub whole: Duration,
    /// `REVISION_RESPONSE_START_TIMEOUT_SECONDS`: until the response's head.
    pub start: Option<Duration>,
    /// `REVISION_IDLE_TIMEOUT_SECONDS`: between two pieces of the response.
    pub idle: Option<Duration>,
}

/// What the revision controller says about the function.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Where requests come in.
    pub door: Door,
    /// `USER_PORT`: the function listens on it at 127.0.0.1.
    pub user_port: u16,
    /// `CONTAINER_CONCURRENCY`: requests the function works on at once; 0: no limit, no queue.
    pub concurrency: u32,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// `SERVING_READINESS_PROBE`; empty: always ready. All must succeed.
    pub probes: Vec<Probe>,
    /// `ENABLE_HTTP2_AUTO_DETECTION`: HTTP probes try h2c first.
    pub detect_http2: bool,
    /// `ENABLE_HTTP_FULL_DUPLEX`: a response that begins before the request's end does not end the connection.
    pub full_duplex: bool,
    /// `QUEUE_PROXY_TLS_*`; without effect where no certificate is mounted.
    pub tls: TlsSettings,
    /// `OBSERVABILITY_CONFIG`.
    pub observability: Observability,
    /// `SERVING_LOGGING_CONFIG`; `None`: empty, or nothing that can be read.
    pub logging: Option<ZapConfig>,
    /// `SERVING_LOGGING_LEVEL`, as zap names it; empty: not given.
    pub logging_level: String,
}

impl Sidecar {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let multiple = r.flag("ENABLE_MULTI_CONTAINER_PROBES");
        let logging = logging(r);
        Self {
            door: Door {
                port: port(r, "QUEUE_SERVING_PORT", "the port requests come in by"),
                tls_port: {
                    let text = r.required("QUEUE_SERVING_TLS_PORT", "the port requests come in by over TLS");
                    text.parse().ok().filter(|port| *port != 0)
                },
            },
            user_port: port(r, "USER_PORT", "the port the function listens on"),
            concurrency: {
                let number: i64 = r.required_as(
                    "CONTAINER_CONCURRENCY",
                    "how many requests the function works on at once, 0 for no limit",
                    "a whole number",
                );
                u32::try_from(number.max(0)).unwrap_or(u32::MAX) // As for Knative's proxy, what is below 1 is no limit.
            },
            timeouts: Timeouts {
                whole: Duration::from_secs(
                    r.required_as::<u32>("REVISION_TIMEOUT_SECONDS", "how long a request may take", "a number of seconds").into(),
                ),
                start: seconds(r, "REVISION_RESPONSE_START_TIMEOUT_SECONDS"),
                idle: seconds(r, "REVISION_IDLE_TIMEOUT_SECONDS"),
            },
            probes: probe::read(r, multiple),
            detect_http2: r.flag("ENABLE_HTTP2_AUTO_DETECTION"),
            full_duplex: r.flag("ENABLE_HTTP_FULL_DUPLEX"),
            tls: TlsSettings {
                version_min: r.text("QUEUE_PROXY_TLS_MIN_VERSION").to_owned(),
                version_max: r.text("QUEUE_PROXY_TLS_MAX_VERSION").to_owned(),
                cipher_suites: r.text("QUEUE_PROXY_TLS_CIPHER_SUITES").to_owned(),
                curve_preferences: r.text("QUEUE_PROXY_TLS_CURVE_PREFERENCES").to_owned(),
            },
            observability: Observability::read(r),
            logging,
            logging_level: r.required("SERVING_LOGGING_LEVEL", "the logging level, possibly empty").to_owned(),
        }
    }
}

fn port(r: &mut Reader<'_>, variable: &'static str, meaning: &'static str) -> u16 {
    let port: u16 = r.required_as(variable, meaning, "a port from 1 to 65535");
    if port == 0 && r.text(variable) == "0" {
        r.unreadable(variable, "0", "a port from 1 to 65535");
    }
    port
}

/// As Knative's proxy does, this one starts with logs of its own kind where it can't read what they should be like.
fn logging(r: &mut Reader<'_>) -> Option<ZapConfig> {
    const VARIABLE: &str = "SERVING_LOGGING_CONFIG";
    let text = r.required(VARIABLE, "the logging configuration, possibly empty");
    ZapConfig::parse(text).unwrap_or_else(|error| {
        r.warn(format!("{VARIABLE} is no zap configuration ({error}); lines are text on standard error"));
        None
    })
}

const POD_IP: &str = "SERVING_POD_IP";
const HOST_IP: &str = "HOST_IP";

fn pod_ip(r: &mut Reader<'_>, text: &str) -> Option<IpAddr> {
    if text.is_empty() {
        return None; // The stock proxy starts without one, too.
    }
    let address = text.parse().ok();
    if address.is_none() {
        r.warn(format!("{POD_IP}: `{text}` is not an IP address; nothing can be pulled from here"));
    }
    address
}

fn seconds(r: &mut Reader<'_>, variable: &'static str) -> Option<Duration> {
    let seconds: u32 = r.optional(variable, "a number of seconds", |text| text.parse().ok())?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}
