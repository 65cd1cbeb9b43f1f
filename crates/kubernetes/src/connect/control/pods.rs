//! Pods as instances, and what their queue-proxies count.

use futures_util::StreamExt;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use zipline_contract::doors::ADMIN;
use zipline_contract::metrics;

use super::{Refusal, refused};
use crate::names::{QUEUE_PROXY, REVISION_LABEL, SERVICE_LABEL};

/// Queue-proxies asked at once.
const ASKED_AT_ONCE: usize = 16;
/// The port that Knative gives a function that names none.
const FUNCTION_PORT: i32 = 8080;

/// What a queue-proxy of ours counts, as far as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Metrics {
    pub(super) held_bytes: u64,
    pub(super) held_objects: u64,
    pub(super) receiving_bytes: u64,
    pub(super) leases: u64,
    pub(super) running: u64,
    pub(super) queued: u64,
    pub(super) by_activator: u64,
    pub(super) by_activator_bytes: (u64, u64),
}

impl Metrics {
    /// Reads Prometheus' text form; none where it is not ours.
    fn read(text: &str) -> Option<Self> {
        let sum = |name: &str, label: &str| -> Option<u64> {
            let samples = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']));
            let values =
                samples.filter(|rest| rest.contains(label)).filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok());
            values.reduce(|a, b| a + b).map(|sum| sum as u64)
        };
        let of = |metric: &metrics::Metric| sum(metric.name, "").unwrap_or_default();
        let moved = |direction: &str| sum(metrics::PROXIED_BODY_BYTES.name, direction).unwrap_or_default();
        Some(Self {
            held_bytes: sum(metrics::HELD_BYTES.name, "")?,
            held_objects: of(&metrics::HELD_OBJECTS),
            receiving_bytes: of(&metrics::RECEIVING_BYTES),
            leases: of(&metrics::LEASES),
            running: of(&metrics::REQUESTS_RUNNING),
            queued: of(&metrics::REQUESTS_QUEUED),
            by_activator: of(&metrics::PROXIED_REQUESTS),
            by_activator_bytes: (moved("\"in\""), moved("\"out\"")),
        })
    }
}

/// A pod of a revision, and what its queue-proxy says.
pub(super) struct Instance {
    pub(super) pod: Pod,
    metrics: Option<Metrics>,
}

impl Instance {
    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    pub(super) fn label(&self, name: &str) -> &str {
        self.pod.labels().get(name).map_or("", String::as_str)
    }

    pub(super) fn restarts(&self) -> u64 {
        let statuses = self.pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        statuses.iter().map(|status| u64::try_from(status.restart_count).unwrap_or_default()).sum()
    }

    fn state(&self) -> &'static str {
        match (self.pod.metadata.deletion_timestamp.is_some(), is_ready(&self.pod)) {
            (true, _) => "stopping",
            (false, true) => "ready",
            (false, false) => "starting",
        }
    }

    /// As `GET /v1/instances` shows it.
    pub(super) fn view(&self) -> Value {
        let status = self.pod.status.as_ref();
        let held = self.metrics.map(
            |metrics| json!({ "held_bytes": metrics.held_bytes, "held_objects": metrics.held_objects, "leases": metrics.leases }),
        );
        let containers = self.pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let function = containers.iter().filter(|container| container.name != QUEUE_PROXY);
        let port = function.flat_map(|container| container.ports.as_deref().unwrap_or_default()).next();
        json!({
            "name": self.pod.name_any(),
            "namespace": self.pod.namespace(),
            "service": self.label(SERVICE_LABEL),
            "revision": self.label(REVISION_LABEL),
            "state": self.state(),
            "reason": status.and_then(|status| status.phase.clone()).unwrap_or_default(),
            "address": status.and_then(|status| status.pod_ip.clone()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            "function_port": port.map_or(FUNCTION_PORT, |port| port.container_port),
            "proxy_pid": null, "function_pid": null,
            "restarts": self.restarts(),
            "started_ms": created_ms(&self.pod),
            "held": held,
        })
    }
}

/// When an object was made, in Unix milliseconds.
pub(super) fn created_ms<K: ResourceExt>(object: &K) -> u64 {
    object.creation_timestamp().map_or(0, |time| u64::try_from(time.0.as_millisecond()).unwrap_or_default())
}

/// Whether a pod takes requests.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Instances by what they do.
pub(super) fn count<'i>(instances: impl Iterator<Item = &'i Instance>) -> Value {
    let (mut starting, mut ready, mut stopping) = (0, 0, 0);
    for instance in instances {
        match instance.state() {
            "ready" => ready += 1,
            "starting" => starting += 1,
            _ => stopping += 1,
        }
    }
    json!({ "starting": starting, "ready": ready, "stopping": stopping })
}

/// What came by the activator, as the queue-proxies of these pods count it. How a request ended there is not known: all are `ok`.
pub(super) fn by_activator<'i>(instances: impl Iterator<Item = &'i Instance>) -> Value {
    let counted = instances.filter_map(Instance::metrics).fold((0, 0, 0), |(requests, into, out), metrics| {
        let (bytes_in, bytes_out) = metrics.by_activator_bytes;
        (requests + metrics.by_activator, into + bytes_in, out + bytes_out)
    });
    path_count(counted)
}

/// What nobody counts on a cluster.
pub(super) fn nothing_counted() -> Value {
    path_count((0, 0, 0))
}

fn path_count((ok, bytes_in, bytes_out): (u64, u64, u64)) -> Value {
    json!({ "ok": ok, "overload": 0, "timeout": 0, "error": 0, "body_bytes_in": bytes_in, "body_bytes_out": bytes_out })
}

/// The pods of revisions, of one namespace or all and of one service or all, oldest first within a revision.
pub(super) async fn of(client: &Client, namespace: Option<&str>, service: Option<&str>) -> Result<Vec<Instance>, Refusal> {
    let pods: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut chosen = REVISION_LABEL.to_owned();
    if let Some(service) = service {
        chosen.push_str(&format!(",{SERVICE_LABEL}={service}"));
    }
    let mut found = pods.list(&ListParams::default().labels(&chosen)).await.map_err(refused("listing pods"))?.items;
    let key = |pod: &Pod| (pod.namespace(), pod.labels().get(REVISION_LABEL).cloned(), created_ms(pod), pod.name_any());
    found.sort_by_cached_key(key);
    let asked = futures_util::stream::iter(found).map(|pod| async {
        let metrics = ask(client, &pod).await;
        Instance { pod, metrics }
    });
    Ok(asked.buffered(ASKED_AT_ONCE).collect().await)
}

/// What a pod's queue-proxy counts, through the API server; none where it does not say, or is not ours.
async fn ask(client: &Client, pod: &Pod) -> Option<Metrics> {
    pod.status.as_ref()?.pod_ip.as_ref()?;
    let (namespace, name) = (pod.namespace()?, pod.name_any());
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{ADMIN}/proxy/zipline/metrics");
    let text = client.request_text(Request::get(path).body(Vec::new()).ok()?).await;
    text.ok().and_then(|text| Metrics::read(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_proxy_counts_is_read_and_another_page_is_none() {
        let text = "# HELP zipline_held_bytes x\nzipline_held_bytes 10\nzipline_held_objects 2\nzipline_leases 1\n\
                    zipline_proxied_requests_total 7\nzipline_proxied_body_bytes_total{direction=\"in\"} 5\n\
                    zipline_proxied_body_bytes_total{direction=\"out\"} 6\n";
        let read = Metrics::read(text).expect("a page of ours");
        assert_eq!((read.held_bytes, read.held_objects, read.leases, read.by_activator), (10, 2, 1, 7));
        assert_eq!(read.by_activator_bytes, (5, 6));
        assert_eq!(Metrics::read("zipline_held_bytes_other 1\n"), None);
    }
}
