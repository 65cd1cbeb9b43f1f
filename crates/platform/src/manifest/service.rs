//! A Knative Service, as far as one machine can carry it out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use zipline_core::kpa::{AutoscalerConfig, KpaSpec};

use super::annotations;
use super::container::{self, FunctionSpec};
use super::fields::{Field, Fields};
use super::report::Report;

/// Characters of a DNS label.
const LABEL_CHARS_MAX: usize = 63;
/// Longest `timeoutSeconds`, as Knative's `max-revision-timeout-seconds`.
const TIMEOUT_SECONDS_MAX: i64 = 600;
/// `timeoutSeconds` when none is given.
const TIMEOUT_SECONDS_DEFAULT: u32 = 300;
/// Largest `containerConcurrency`, as Knative's `container-concurrency-max-limit`.
const CONTAINER_CONCURRENCY_MAX: i64 = 1000;

/// A service's name in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ServiceName {
    /// Namespace; `default` where none is given.
    pub namespace: String,
    /// Name, a DNS label.
    pub name: String,
}

impl fmt::Display for ServiceName {
    /// `NAMESPACE/NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service as it was asked for.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The user's annotations on the service.
    pub annotations: BTreeMap<String, String>,
    /// What its instances run.
    pub template: RevisionSpec,
    /// What the template's annotations ask of the autoscaler, over the settings in force when they were read.
    pub autoscaling: KpaSpec,
}

/// What the instances of a revision run, and under which limits.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RevisionSpec {
    /// The revision's name, where the template gives one.
    pub name: Option<String>,
    /// The template's labels.
    pub labels: BTreeMap<String, String>,
    /// The template's annotations, as they stand.
    pub annotations: BTreeMap<String, String>,
    /// `ZIPLINE_*` variables of the queue-proxies, from `zipline.dev/*`.
    pub proxy_settings: BTreeMap<&'static str, String>,
    /// The process.
    pub function: FunctionSpec,
    /// The queue-proxy's limits over its requests.
    pub limits: RequestLimits,
}

/// What a queue-proxy holds requests to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RequestLimits {
    /// Requests at once in an instance; 0: no limit.
    pub container_concurrency: u32,
    /// Limit over a whole request, and over an instance's drain.
    pub timeout_seconds: u32,
    /// Limit until a response starts; 0: none.
    pub response_start_timeout_seconds: u32,
    /// Limit between two bytes of a response; 0: none.
    pub idle_timeout_seconds: u32,
}

/// Reads what stands beside `apiVersion` and `kind`.
pub(super) fn read(mut document: Fields, base_dir: &Path, config: &AutoscalerConfig, report: &mut Report) -> Option<ServiceSpec> {
    let metadata = document.require("metadata", report).and_then(|field| read_metadata(field, report));
    let spec = document.require("spec", report).and_then(|field| field.fields(report));
    document.ignore("status", "it says what was, not what shall be", report);
    document.finish(report);
    let metadata = metadata?;
    let name = ServiceName {
        name: metadata.name.filter(|name| !name.is_empty())?,
        namespace: metadata.namespace.unwrap_or_else(|| "default".to_owned()),
    };
    annotations::check_service(&metadata.annotations, report);
    let (template, autoscaling) = read_spec(spec?, &name, base_dir, config, report)?;
    let annotations = plain(metadata.annotations, report);
    Some(ServiceSpec { name, labels: metadata.labels, annotations, template, autoscaling })
}

fn read_spec(
    mut spec: Fields,
    service: &ServiceName,
    base_dir: &Path,
    config: &AutoscalerConfig,
    report: &mut Report,
) -> Option<(RevisionSpec, KpaSpec)> {
    let template = spec.require("template", report).and_then(|field| field.fields(report));
    if let Some(traffic) = spec.take("traffic") {
        check_traffic(traffic, report);
    }
    spec.finish(report);
    let mut template = template?;
    let metadata = template.take("metadata").and_then(|field| read_template_metadata(field, service, report)).unwrap_or_default();
    let pod = template.require("spec", report).and_then(|field| field.fields(report));
    template.finish(report);
    let proxy_settings = annotations::read_proxy_settings(&metadata.annotations, report);
    let pod = read_pod(pod?, base_dir, report);
    let concurrency = pod.as_ref().map_or(0, |(_, limits)| limits.container_concurrency);
    let autoscaling = annotations::read_autoscaling(&metadata.annotations, concurrency, config, report);
    let annotations = plain(metadata.annotations, report);
    let (function, limits) = pod?;
    let revision = RevisionSpec { name: metadata.name, labels: metadata.labels, annotations, proxy_settings, function, limits };
    Some((revision, autoscaling?))
}

fn read_pod(mut pod: Fields, base_dir: &Path, report: &mut Report) -> Option<(FunctionSpec, RequestLimits)> {
    let containers = pod.require("containers", report).and_then(|field| {
        let (path, place) = (field.path.clone(), field.place);
        let mut items = field.items(report)?;
        match items.len() {
            1 => items.pop(),
            n => {
                report.error(&path, place, format!("must have one container, not {n}: an instance is one process here"));
                None
            }
        }
    });
    let whole = |pod: &mut Fields, name, max, report: &mut Report| {
        let value = pod.take(name).and_then(|field| field.whole(0..=max, report))?;
        u32::try_from(value).ok()
    };
    let container_concurrency = whole(&mut pod, "containerConcurrency", CONTAINER_CONCURRENCY_MAX, report).unwrap_or(0);
    let timeout_seconds =
        whole(&mut pod, "timeoutSeconds", TIMEOUT_SECONDS_MAX, report).filter(|n| *n > 0).unwrap_or(TIMEOUT_SECONDS_DEFAULT);
    let timeout = i64::from(timeout_seconds);
    let response_start_timeout_seconds = whole(&mut pod, "responseStartTimeoutSeconds", timeout, report).unwrap_or(0);
    let idle_timeout_seconds = whole(&mut pod, "idleTimeoutSeconds", timeout, report).unwrap_or(0);
    ignore_what_one_machine_has_no_use_for(&mut pod, report);
    pod.finish(report);
    let limits = RequestLimits { container_concurrency, timeout_seconds, response_start_timeout_seconds, idle_timeout_seconds };
    Some((container::read(containers?, base_dir, report)?, limits))
}

fn ignore_what_one_machine_has_no_use_for(pod: &mut Fields, report: &mut Report) {
    for name in ["nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "schedulerName", "priorityClassName"] {
        pod.ignore(name, "there is one machine", report);
    }
    for name in ["serviceAccountName", "automountServiceAccountToken"] {
        pod.ignore(name, "functions run as your own user", report);
    }
    pod.ignore("enableServiceLinks", "there are no service links", report);
    pod.ignore("imagePullSecrets", "no image is pulled", report);
    pod.ignore("runtimeClassName", "functions run as plain processes", report);
    pod.ignore("securityContext", "functions run as plain processes of your own user, with its rights", report);
    pod.refuse("initContainers", "run what they do before `zipline up`", report);
    pod.refuse("volumes", "functions see this machine's files; name them by path", report);
    for name in ["dnsPolicy", "dnsConfig", "hostAliases", "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        pod.refuse(name, "functions share this machine's own", report);
    }
}

fn check_traffic(traffic: Field, report: &mut Report) {
    let Some(targets) = traffic.items(report) else { return };
    let only = targets.len() == 1;
    for target in targets {
        let (path, place) = (target.path.clone(), target.place);
        let Some(mut fields) = target.fields(report) else { continue };
        let latest = fields.take("latestRevision").and_then(|field| field.boolean(report)).unwrap_or(false);
        let percent = fields.take("percent").and_then(|field| field.whole(0..=100, report));
        let revision = fields.take("revisionName").is_some();
        let tag = fields.take("tag").is_some();
        fields.finish(report);
        if !(only && latest && percent == Some(100)) || revision || tag {
            report.error_with_hint(
                &path,
                place,
                "splitting or tagging traffic is not supported on the local platform",
                "leave `traffic` out: all of it goes to the latest revision that is ready",
            );
        }
    }
}

#[derive(Debug, Default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: Vec<(String, Field)>,
}

fn read_metadata(field: Field, report: &mut Report) -> Option<Metadata> {
    let mut fields = field.fields(report)?;
    let name = fields.require("name", report).and_then(|field| label(field, report));
    let namespace = fields.take("namespace").and_then(|field| label(field, report));
    let metadata = Metadata { name, namespace, ..read_labels(&mut fields, report) };
    fields.refuse("generateName", "give it a `name`", report);
    fields.refuse("ownerReferences", "there is nothing that could own it", report);
    for name in ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "generation", "selfLink"] {
        fields.ignore(name, "it belongs to another cluster's copy", report);
    }
    for name in ["finalizers", "managedFields"] {
        fields.ignore(name, "no other controller works on it", report);
    }
    fields.finish(report);
    Some(metadata)
}

fn read_template_metadata(field: Field, service: &ServiceName, report: &mut Report) -> Option<Metadata> {
    let mut fields = field.fields(report)?;
    let name = fields.take("name").and_then(|field| {
        let (path, place) = (field.path.clone(), field.place);
        let name = label(field, report)?;
        let prefix = format!("{}-", service.name);
        if name.len() > prefix.len() && name.starts_with(&prefix) {
            Some(name)
        } else {
            report.error(&path, place, format!("a revision's name must begin with `{prefix}`, not be `{name}`"));
            None
        }
    });
    let metadata = Metadata { name, ..read_labels(&mut fields, report) };
    fields.ignore("creationTimestamp", "it belongs to another cluster's copy", report);
    fields.finish(report);
    Some(metadata)
}

fn read_labels(fields: &mut Fields, report: &mut Report) -> Metadata {
    let mut entries = |name| {
        let map = fields.take(name).and_then(|field| field.fields(report));
        map.map(Fields::into_entries).unwrap_or_default()
    };
    let (labels, annotations) = (entries("labels"), entries("annotations"));
    Metadata { labels: plain(labels, report), annotations, ..Metadata::default() }
}

fn plain(entries: Vec<(String, Field)>, report: &mut Report) -> BTreeMap<String, String> {
    entries.into_iter().filter_map(|(key, field)| Some((key, field.text(report)?))).collect()
}

fn label(field: Field, report: &mut Report) -> Option<String> {
    let (path, place) = (field.path.clone(), field.place);
    let name = field.text(report)?;
    if is_dns_label(&name) {
        return Some(name);
    }
    let message = format!("`{name}` is not a name");
    let rule = format!("1 to {LABEL_CHARS_MAX} lower-case letters, digits and hyphens; a letter first, no hyphen last");
    report.error_with_hint(&path, place, message, rule);
    None
}

fn is_dns_label(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LABEL_CHARS_MAX).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}
