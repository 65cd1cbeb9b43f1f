//! Each variable missing, empty and malformed: whether the proxy serves or ends.

use super::{Bench, Case, case};
use crate::proxy::{Proxy, Start};

/// Variables, and values that are not what they should be.
const VARIABLES: &[(&str, &[&str])] = &[
    ("CONTAINER_CONCURRENCY", &["x", "-1", "1.5", "99999999999999999999"]),
    ("QUEUE_SERVING_PORT", &["x", "0", "70000"]),
    ("QUEUE_SERVING_TLS_PORT", &["x", "0"]),
    ("USER_PORT", &["x", "0", "70000"]),
    ("REVISION_TIMEOUT_SECONDS", &["x", "-1", "1.5"]),
    ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", &["x", "-1"]),
    ("REVISION_IDLE_TIMEOUT_SECONDS", &["x", "-1"]),
    ("SERVING_NAMESPACE", &[]),
    ("SERVING_SERVICE", &[]),
    ("SERVING_CONFIGURATION", &[]),
    ("SERVING_REVISION", &[]),
    ("SERVING_POD", &[]),
    ("SERVING_POD_IP", &["x", "fd00::7"]),
    ("SERVING_LOGGING_CONFIG", &["x", "{}", r#"{"level":"info"}"#]),
    ("SERVING_LOGGING_LEVEL", &["x", "debug", "ERROR"]),
    (
        "SERVING_READINESS_PROBE",
        &[
            "x",
            "[]",
            "{}",
            "null",
            r#"{"httpGet":{"port":"a"}}"#,
            r#"{"httpGet":{"port":1.5}}"#,
            r#"{"periodSeconds":"1"}"#,
            r#"{"timeoutSeconds":-1}"#,
        ],
    ),
    ("ENABLE_HTTP2_AUTO_DETECTION", &["x", "1", "T", "True", "yes"]),
    ("ENABLE_HTTP_FULL_DUPLEX", &["x", "f"]),
    ("ENABLE_MULTI_CONTAINER_PROBES", &["x", "true"]),
    (
        "OBSERVABILITY_CONFIG",
        &[
            "x",
            "[]",
            "null",
            "{}",
            r#"{"requestMetrics":{"protocol":"statsd"}}"#,
            r#"{"requestMetrics":{"protocol":""}}"#,
            r#"{"requestMetrics":{"protocol":"prometheus","endpoint":"9091"}}"#,
            r#"{"requestMetrics":{"protocol":"prometheus","endpoint":":80"}}"#,
            r#"{"requestMetrics":{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:1","exportInterval":"30s"}}"#,
            r#"{"requestMetrics":{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:1","exportInterval":-5}}"#,
            r#"{"requestMetrics":{"protocol":"grpc","endpoint":"127.0.0.1:1"}}"#,
            r#"{"metrics":{"protocol":"odd"}}"#,
            r#"{"tracing":{"protocol":"zipkin"}}"#,
            r#"{"tracing":{"protocol":"grpc","endpoint":"127.0.0.1:4317"}}"#,
            r#"{"tracing":{"protocol":"grpc","endpoint":"http://127.0.0.1:1","samplingRate":7}}"#,
            r#"{"tracing":{"protocol":"none","endpoint":"http://127.0.0.1:1"}}"#,
            r#"{"tracing":"none"}"#,
            r#"{"enableRequestLog":"yes"}"#,
            r#"{"enableRequestLog":true,"requestLogTemplate":"{{"}"#,
            r#"{"runtime":{"profiling":"odd"}}"#,
        ],
    ),
    ("QUEUE_PROXY_TLS_MIN_VERSION", &["x"]),
    ("HOST_IP", &["x"]),
    ("ROOT_CA", &["x"]),
    ("SYSTEM_NAMESPACE", &[]),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (variable, odd) in VARIABLES {
        cases.push(case(format!("start/{variable}/missing"), move |bench| start(bench, variable, None)));
        cases.push(case(format!("start/{variable}/empty"), move |bench| start(bench, variable, Some(""))));
        for value in *odd {
            cases.push(case(format!("start/{variable}/{value}"), move |bench| start(bench, variable, Some(value))));
        }
    }
    cases
}

fn start(bench: &Bench<'_>, variable: &str, value: Option<&str>) -> anyhow::Result<()> {
    let mut variables = vec![(variable, value)];
    if variable == "ENABLE_MULTI_CONTAINER_PROBES" {
        variables.push(("SERVING_READINESS_PROBE", Some("{}")));
    }
    let port = zipline_testkit::free_port()?;
    bench.transcript.note(match Proxy::launch(bench.side, port, &variables)? {
        Start::Serving(_) => "it serves",
        Start::Ended => "it ends",
    });
    Ok(())
}
