//! What the webhook changes in a pod, as a pure function of the pod.
//!
//! Only what a replacement of Knative's sidecar may add: the queue-proxy container gets the key Secret (optional, so that a
//! pod starts without it), where the cluster has a durable tier likewise that of its credentials, and its settings; the other containers learn where their queue-proxy's doors are. A pod whose
//! sidecar is not ours is left alone: `http_proxy` without an egress behind it would cut its function off.
//!
//! A pod that was already changed is not changed again, and what a user has set stays as it is.

pub mod serve;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Value, json};
use zipline_contract::settings::{self, Setting};
use zipline_contract::{ANNOTATION_PREFIX, doors};
use zipline_core::settings::{check_value, of_annotation};

use crate::names::{KEYS_FOLDER, KEYS_SECRET, KEYS_VOLUME, QUEUE_PROXY, TIER_ENTRY, TIER_FOLDER, TIER_SECRET, TIER_VOLUME};

/// Hosts that a function calls without its egress: its own pod, and the cluster's API server.
const NO_PROXY: &str = "127.0.0.1,::1,[::1],localhost,kubernetes.default.svc,kubernetes.default";

/// Settings that a service may choose for its queue-proxies by annotation. The rest is the platform's or the pod's; so are
/// texts of which only the queue-proxy itself knows whether it can read them, since it does not start where it can't.
const BY_SERVICE: &[Setting] = &[
    settings::INLINE_THRESHOLD_BYTES,
    settings::HEAP_THRESHOLD_BYTES,
    settings::BUFFER_BYTES,
    settings::BUFFER_OBJECTS,
    settings::PUT_WAIT_SECONDS,
    settings::PUT_WAITERS,
    settings::PUT_TTL_SECONDS,
    settings::TTL_SECONDS_MAX,
    settings::ATTEMPTS_EXTRA,
    settings::LEASE_SECONDS,
    settings::PULL_IDLE_TIMEOUT_SECONDS,
    settings::CONNECT_TIMEOUT_SECONDS,
    settings::PULL_RESUMES,
    settings::PULL_CONNECTIONS,
    settings::PULL_PEER_CONNECTIONS,
    settings::PULLS,
    settings::EGRESS_PORT,
    settings::TRANSFER,
    settings::INVOKE_TIMEOUT_SECONDS,
    settings::DRAIN_QUIET_SECONDS,
    settings::GRACE_SECONDS,
    settings::WORKER_THREADS,
    settings::DURABILITY,
];

/// What the operator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Images of our queue-proxy: each a name with its tag or digest, or a repository name that any tag may follow.
    pub images: Vec<String>,
    /// Settings of every queue-proxy of the cluster; a service's annotation goes before.
    pub settings: Vec<(String, String)>,
}

impl Rules {
    fn have(&self, setting: &Setting) -> bool {
        self.settings.iter().any(|(name, value)| name == setting.variable && !value.is_empty())
    }

    fn have_tier(&self) -> bool {
        self.have(&settings::TIER)
    }

    /// Whether the tier's credentials come from the namespace's Secret: unless the operator has said where they are.
    fn mount_tier(&self) -> bool {
        self.have_tier() && !self.have(&settings::TIER_CREDENTIALS_FILE)
    }
}

/// What the webhook does with a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The changes; empty where there is nothing to change.
    pub patch: Patch,
    /// Annotations that could not be used, each as a sentence.
    pub warnings: Vec<String>,
    /// Why, in one word, for metrics.
    pub outcome: Outcome,
}

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It got keys and settings.
    Changed,
    /// It has them already.
    Unchanged,
    /// It has no queue-proxy container.
    NoQueueProxy,
    /// Its queue-proxy is not ours.
    OtherImage,
}

impl Outcome {
    /// As a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::NoQueueProxy => "no-queue-proxy",
            Self::OtherImage => "other-image",
        }
    }
}

/// What to change in a pod.
pub fn decide(pod: &Value, rules: &Rules) -> Verdict {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let leave = |outcome| Verdict { patch: Patch(Vec::new()), warnings: Vec::new(), outcome };
    let Some(proxy) = containers.iter().position(|container| container["name"] == QUEUE_PROXY) else {
        return leave(Outcome::NoQueueProxy);
    };
    if !is_ours(containers[proxy]["image"].as_str().unwrap_or_default(), &rules.images) {
        return leave(Outcome::OtherImage);
    }
    let (mut changes, mut warnings) = (Changes::default(), Vec::new());
    let of_service = chosen_by_service(pod, rules, &mut warnings);
    let chosen = |variable: &str| of_service.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str());
    let mut mounts = Mounts { pod, index: proxy, proxy: &containers[proxy], volumes: 0, mounts: 0, changes: &mut changes };
    mounts.secret(KEYS_VOLUME, KEYS_SECRET, KEYS_FOLDER);
    if rules.mount_tier() {
        mounts.secret(TIER_VOLUME, TIER_SECRET, TIER_FOLDER);
    }
    let of_cluster = rules.settings.iter().filter(|(name, _)| chosen(name).is_none());
    let is_of_stores = |name: &str| settings::OF_STORES.iter().any(|setting| setting.variable == name);
    let (of_stores, of_proxy): (Vec<_>, Vec<_>) =
        of_cluster.chain(&of_service).cloned().partition(|(name, _)| is_of_stores(name));
    let mut of_proxy = of_proxy;
    if rules.mount_tier() {
        of_proxy.push((settings::TIER_CREDENTIALS_FILE.variable.to_owned(), format!("{TIER_FOLDER}/{TIER_ENTRY}")));
    }
    changes.add_variables(proxy, &containers[proxy], &of_proxy);
    let in_force = |setting: &Setting| {
        let of_cluster = || rules.settings.iter().find(|(name, _)| name == setting.variable).map(|(_, value)| value.as_str());
        chosen(setting.variable).or_else(of_cluster).unwrap_or(setting.default).to_owned()
    };
    let mut of_function = function_variables(&in_force(&settings::EGRESS_PORT), &in_force(&settings::TRANSFER));
    of_function.extend(of_stores);
    for (index, container) in containers.iter().enumerate().filter(|(index, _)| *index != proxy) {
        changes.add_variables(index, container, &of_function);
    }
    let outcome = if changes.0.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
    Verdict { patch: Patch(changes.0), warnings, outcome }
}

/// Whether an image is one of ours: the same name, or the same repository where ours names no tag or digest.
fn is_ours(image: &str, ours: &[String]) -> bool {
    ours.iter().any(|known| {
        let rest = image.strip_prefix(known.as_str());
        let names_a_version = known.contains('@') || known.rsplit('/').next().is_some_and(|last| last.contains(':'));
        rest.is_some_and(|rest| rest.is_empty() || (!names_a_version && rest.starts_with([':', '@'])))
    })
}

/// A service's own settings, from its pod's annotations.
fn chosen_by_service(pod: &Value, rules: &Rules, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let annotations = pod["metadata"]["annotations"].as_object();
    let mut chosen = Vec::new();
    for (key, value) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(ANNOTATION_PREFIX) else { continue };
        let value = value.as_str().unwrap_or_default();
        let Some(setting) = of_annotation(name) else {
            warnings.push(format!("annotation {key} is not known and has no effect"));
            continue;
        };
        if !BY_SERVICE.iter().chain(&settings::OF_STORES).any(|known| known.variable == setting.variable) {
            warnings.push(format!("annotation {key} has no effect: {} is set for the whole cluster", setting.variable));
        } else if let Err(rule) = check_value(setting, value) {
            warnings.push(format!("annotation {key} has no effect: `{value}` is not {rule}"));
        } else if setting.variable == settings::DURABILITY.variable && value != setting.default && !rules.have_tier() {
            // A queue-proxy that is to promise this without a tier does not start.
            warnings.push(format!("annotation {key} has no effect: the cluster has no durable tier (ZIPLINE_TIER)"));
        } else {
            chosen.push((setting.variable.to_owned(), value.to_owned()));
        }
    }
    chosen
}

/// What a function is told about its queue-proxy.
fn function_variables(egress_port: &str, transfer: &str) -> Vec<(String, String)> {
    let mut variables = vec![
        (settings::API.variable.to_owned(), format!("unix:{}", doors::API_SOCKET_IN_POD)),
        (settings::TRANSFER.variable.to_owned(), transfer.to_owned()),
    ];
    if egress_port != "0" {
        let url = format!("http://127.0.0.1:{egress_port}");
        variables.push((settings::EGRESS_URL.variable.to_owned(), url.clone()));
        variables.push(("http_proxy".to_owned(), url));
        variables.push(("no_proxy".to_owned(), NO_PROXY.to_owned()));
    }
    variables
}

/// Mounts Secrets into the queue-proxy. What was added already is counted, since a list that was not there is made by the first.
struct Mounts<'p, 'c> {
    pod: &'p Value,
    index: usize,
    proxy: &'p Value,
    volumes: usize,
    mounts: usize,
    changes: &'c mut Changes,
}

impl Mounts<'_, '_> {
    /// Mounts a Secret that may be absent, unless its volume is there already.
    fn secret(&mut self, volume: &str, secret: &str, folder: &str) {
        let named = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|entry| entry["name"] == volume));
        let volumes = &self.pod["spec"]["volumes"];
        if !named(volumes) {
            let entry = json!({ "name": volume, "secret": { "secretName": secret, "optional": true, "defaultMode": 0o444 } });
            self.changes.append(volumes.is_array() || self.volumes > 0, &["spec", "volumes"], entry);
            self.volumes += 1;
        }
        let mounts = &self.proxy["volumeMounts"];
        if !named(mounts) {
            let entry = json!({ "name": volume, "mountPath": folder, "readOnly": true });
            let path = ["spec", "containers", &self.index.to_string(), "volumeMounts"];
            self.changes.append(mounts.is_array() || self.mounts > 0, &path, entry);
            self.mounts += 1;
        }
    }
}

/// Operations of a patch, in order.
#[derive(Default)]
struct Changes(Vec<PatchOperation>);

impl Changes {
    /// Adds an entry at the end of a list, which is made where it is not there yet.
    fn append(&mut self, is_there: bool, path: &[&str], entry: Value) {
        let is_new = !is_there;
        let mut tokens = path.to_vec();
        if !is_new {
            tokens.push("-");
        }
        let value = if is_new { json!([entry]) } else { entry };
        self.0.push(PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(tokens), value }));
    }

    /// Adds variables that the container does not have yet.
    fn add_variables(&mut self, index: usize, container: &Value, variables: &[(String, String)]) {
        let present = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
        // A program may look for HTTP_PROXY as well: whoever has set either has decided.
        let is_set =
            |name: &str| present.iter().any(|entry| entry["name"].as_str().is_some_and(|is| is.eq_ignore_ascii_case(name)));
        let added: Vec<Value> = variables
            .iter()
            .filter(|(name, _)| !is_set(name))
            .filter(|(name, _)| name != "no_proxy" || !is_set("http_proxy"))
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let index = index.to_string();
        let path = ["spec", "containers", &index, "env"];
        if container["env"].is_array() {
            for entry in added {
                self.append(true, &path, entry);
            }
        } else if !added.is_empty() {
            let path = PointerBuf::from_tokens(path);
            self.0.push(PatchOperation::Add(AddOperation { path, value: Value::Array(added) }));
        }
    }
}
