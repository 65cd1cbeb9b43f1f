//! The environments of a queue-proxy and of its function.
//!
//! A queue-proxy gets exactly what Knative's controller would give it, and Zipline's settings over that. A function
//! gets Knative's four variables, where its own queue-proxy is, what its service asks for, and of the environment that
//! `zipline up` was started in only what programs cannot do without on a machine of their user ([`PASSED_ON`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;

use zipline_contract::{doors, settings};

use super::Host;
use crate::manifest::{Protocol, RevisionSpec, ServiceName};

/// Variables of the platform's own environment that functions and queue-proxies inherit; also all that begin with `LC_`.
pub const PASSED_ON: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// Hosts that a function calls without its egress: this machine's own addresses.
const NO_PROXY: &str = "127.0.0.1,::1,[::1]";

/// An instance as its environment describes it.
pub(super) struct Identity<'i> {
    pub(super) service: &'i ServiceName,
    pub(super) revision: &'i str,
    pub(super) instance: &'i str,
    pub(super) address: Ipv4Addr,
    pub(super) function_port: u16,
    pub(super) api_socket: &'i Path,
    pub(super) egress_token: &'i str,
}

pub(super) type Environment = Vec<(OsString, OsString)>;

/// The queue-proxy's port for requests, as the revision's protocol has it.
pub(crate) fn request_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Http1 => doors::REQUEST_HTTP1,
        Protocol::H2c => doors::REQUEST_H2C,
    }
}

/// The environment of an instance's queue-proxy, without the variables that carry descriptors.
pub(super) fn of_proxy(host: &Host, spec: &RevisionSpec, identity: &Identity<'_>) -> Environment {
    let mut env = host.proxy_environment(identity.address, identity.api_socket);
    let limits = spec.limits;
    let readiness = spec.function.readiness.to_kubernetes(identity.function_port).to_string();
    let knative = [
        ("CONTAINER_CONCURRENCY", limits.container_concurrency.to_string()),
        ("QUEUE_SERVING_PORT", request_port(spec.function.protocol).to_string()),
        ("QUEUE_SERVING_TLS_PORT", doors::REQUEST_TLS.to_string()),
        ("USER_PORT", identity.function_port.to_string()),
        ("REVISION_TIMEOUT_SECONDS", limits.timeout_seconds.to_string()),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", limits.response_start_timeout_seconds.to_string()),
        ("REVISION_IDLE_TIMEOUT_SECONDS", limits.idle_timeout_seconds.to_string()),
        ("SERVING_NAMESPACE", identity.service.namespace.clone()),
        ("SERVING_SERVICE", identity.service.name.clone()),
        ("SERVING_CONFIGURATION", identity.service.name.clone()),
        ("SERVING_REVISION", identity.revision.to_owned()),
        ("SERVING_POD", identity.instance.to_owned()),
        ("SERVING_POD_IP", identity.address.to_string()),
        ("SERVING_LOGGING_CONFIG", String::new()),
        ("SERVING_LOGGING_LEVEL", String::new()),
        ("SERVING_READINESS_PROBE", readiness),
        ("ENABLE_MULTI_CONTAINER_PROBES", "false".to_owned()),
    ];
    env.extend(knative.map(|(name, value)| (name.to_owned(), value)));
    env.extend(spec.proxy_settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    into_environment(env)
}

/// A function's environment and its command line, with every `$(NAME)` replaced.
pub(super) fn of_function(host: &Host, spec: &RevisionSpec, identity: &Identity<'_>) -> (Environment, Vec<String>) {
    let egress = format!("http://zipline:{}@{}:{}", identity.egress_token, identity.address, doors::EGRESS);
    let transfer = spec.proxy_settings.get(settings::TRANSFER.variable).map(String::as_str);
    let mut env = host.passed_on();
    let given = [
        ("PORT", identity.function_port.to_string()),
        ("K_SERVICE", identity.service.name.clone()),
        ("K_CONFIGURATION", identity.service.name.clone()),
        ("K_REVISION", identity.revision.to_owned()),
        (settings::API.variable, format!("unix:{}", identity.api_socket.display())),
        (settings::EGRESS_URL.variable, egress.clone()),
        (settings::TRANSFER.variable, transfer.unwrap_or_else(|| host.transfer()).to_owned()),
        ("http_proxy", egress),
        ("no_proxy", NO_PROXY.to_owned()),
    ];
    env.extend(given.map(|(name, value)| (name.to_owned(), value)));
    for setting in &settings::OF_STORES {
        let value = spec.proxy_settings.get(setting.variable).map(String::as_str).or_else(|| host.setting(setting));
        env.extend(value.map(|value| (setting.variable.to_owned(), value.to_owned())));
    }
    for (name, value) in &spec.function.env {
        let value = expand(value, &env);
        env.insert(name.clone(), value);
    }
    let command = spec.function.command.iter().chain(&spec.function.args).map(|word| expand(word, &env)).collect();
    (into_environment(env), command)
}

/// For processes; later entries of a map have replaced earlier ones.
pub(super) fn into_environment(variables: BTreeMap<String, String>) -> Environment {
    variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Replaces `$(NAME)` by the variable, as Kubernetes does: an unknown one stays as it stands, `$$` is one `$`.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match variables.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_kubernetes_does() {
        let variables = BTreeMap::from([("PORT".to_owned(), "20000".to_owned())]);
        let cases = [
            ("--port=$(PORT)", "--port=20000"),
            ("$(PORT)$(PORT)", "2000020000"),
            ("$$(PORT)", "$(PORT)"),
            ("$(NONE) $PORT $", "$(NONE) $PORT $"),
            ("$(PORT", "$(PORT"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
