//! Annotations with a meaning.
//!
//! Autoscaling annotations are given to `zipline_core::kpa`, which knows them; here its complaints get their places.
//! Annotations of nobody we know are the user's own notes: they are kept and shown, here as in Kubernetes.

use std::collections::BTreeMap;

use zipline_contract::ANNOTATION_PREFIX;
use zipline_contract::settings::{self, Setting};
use zipline_core::kpa::{self, AutoscalerConfig, KpaSpec};
use zipline_core::settings::{annotation_name, check_value, of_annotation};

use super::fields::{Field, nearest};
use super::node::Place;
use super::report::{Report, without_name};

/// Knative's other prefixes: features that one machine does not have.
const WITHOUT_EFFECT: [&str; 6] = [
    "serving.knative.dev/",
    "networking.knative.dev/",
    "networking.internal.knative.dev/",
    "features.knative.dev/",
    "queue.sidecar.serving.knative.dev/",
    "client.knative.dev/",
];

/// The one of them that the autoscaler reads.
const PROGRESS_DEADLINE: &str = "serving.knative.dev/progress-deadline";

/// Settings that the platform itself gives every queue-proxy.
const OWNED_BY_THE_PLATFORM: [Setting; 19] = [
    settings::ROLE,
    settings::BIND,
    settings::PULL_PORT,
    settings::API_PORT,
    settings::API_TOKEN_FILE,
    settings::API_SOCKET,
    settings::API_SOCKET_MODE,
    settings::EGRESS_PORT,
    settings::KEYS_FILE,
    settings::SECRETS_FD,
    settings::SHARED_BUDGET_FD,
    settings::SHARED_BUDGET_SLOT,
    settings::PEER_CIDRS,
    settings::HANDOVER_DIR,
    settings::INGRESS,
    settings::SERVICE_DOMAIN,
    settings::PEERS_KNOWN,
    settings::API,
    settings::EGRESS_URL,
];

/// Annotations of the Service itself: those of the template have no place there.
pub(super) fn check_service(annotations: &[(String, Field)], report: &mut Report) {
    for (key, field) in annotations {
        if key.starts_with(kpa::ANNOTATION_PREFIX) || key.starts_with(ANNOTATION_PREFIX) {
            report.error_with_hint(
                &field.path,
                field.place,
                "has no meaning on the Service itself",
                "move it to spec.template.metadata.annotations",
            );
        } else {
            warn_without_effect(key, field, report);
        }
    }
}

/// The queue-proxies' settings among the annotations of the template.
pub(super) fn read_proxy_settings(annotations: &[(String, Field)], report: &mut Report) -> BTreeMap<&'static str, String> {
    let mut settings = BTreeMap::new();
    for (key, field) in annotations {
        if let Some(name) = key.strip_prefix(ANNOTATION_PREFIX) {
            settings.extend(read_setting(name, field, report));
        } else if key != PROGRESS_DEADLINE {
            warn_without_effect(key, field, report);
        }
    }
    settings
}

/// What the annotations of the template ask of the autoscaler.
pub(super) fn read_autoscaling(
    annotations: &[(String, Field)],
    container_concurrency: u32,
    config: &AutoscalerConfig,
    report: &mut Report,
) -> Option<KpaSpec> {
    let texts = annotations.iter().filter_map(|(key, field)| Some((key.as_str(), field.as_text()?)));
    let find = |name: &str| annotations.iter().find(|(key, _)| key == name).map(|(_, field)| field);
    match KpaSpec::from_annotations(texts, container_concurrency, config) {
        Ok((spec, warnings)) => {
            for warning in warnings {
                let (path, place) =
                    find(warning.name()).map_or((warning.name(), Place::default()), |f| (f.path.as_str(), f.place));
                report.warn(path, place, without_name(&warning.to_string(), warning.name()));
            }
            Some(spec)
        }
        Err(errors) => {
            for error in errors.0 {
                let (path, place) = find(error.name()).map_or((error.name(), Place::default()), |f| (f.path.as_str(), f.place));
                report.error(path, place, without_name(&error.to_string(), error.name()));
            }
            None
        }
    }
}

fn warn_without_effect(key: &str, field: &Field, report: &mut Report) {
    if WITHOUT_EFFECT.iter().any(|prefix| key.starts_with(prefix)) {
        report.warn(&field.path, field.place, "is ignored: it has no effect on the local platform");
    }
}

fn unknown(name: &str, known: &[&str], prefix: &str, field: &Field, report: &mut Report) {
    let message = "is not a known annotation";
    match nearest(name, known) {
        Some(known) => report.error_with_hint(&field.path, field.place, message, format!("did you mean `{prefix}{known}`?")),
        None => report.error(&field.path, field.place, message),
    }
}

/// `zipline.dev/inline-threshold-bytes` is `ZIPLINE_INLINE_THRESHOLD_BYTES` of the instance's queue-proxy.
fn read_setting(name: &str, field: &Field, report: &mut Report) -> Option<(&'static str, String)> {
    let Some(setting) = of_annotation(name) else {
        let names: Vec<String> = settings::ALL.iter().map(annotation_name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        unknown(name, &names, ANNOTATION_PREFIX, field, report);
        return None;
    };
    // Hand-over may be switched off for a service: its payloads then go over TCP, as between machines.
    let switched_off = setting.variable == settings::HANDOVER_DIR.variable && field.as_text() == Some("");
    if !switched_off && OWNED_BY_THE_PLATFORM.iter().any(|owned| owned.variable == setting.variable) {
        report.error(&field.path, field.place, format!("{} is set by the local platform itself", setting.variable));
        return None;
    }
    if setting.variable == settings::PULL_TLS.variable {
        let message = "is one for all services, since they pull from each other";
        report.error_with_hint(&field.path, field.place, message, format!("give {} to `zipline up`", setting.variable));
        return None;
    }
    let value = field.as_text()?;
    if let Err(rule) = check_value(setting, value) {
        report.error(&field.path, field.place, format!("`{value}` is not {rule}"));
        return None;
    }
    Some((setting.variable, value.to_owned()))
}

/// Whether an operator's value of a setting can be used; `None` for a setting that the platform itself gives.
pub(crate) fn check_setting(setting: &Setting, value: &str) -> Option<Result<(), String>> {
    let owned = OWNED_BY_THE_PLATFORM.iter().any(|owned| owned.variable == setting.variable);
    (!owned).then(|| check_value(setting, value))
}
