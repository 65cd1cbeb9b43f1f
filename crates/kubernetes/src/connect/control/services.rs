//! Knative Services with their revisions and pods, as `GET /v1/services` shows them.

use std::collections::BTreeMap;

use http::StatusCode;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::pods::{self, Instance, created_ms};
use super::{Refusal, refused};
use crate::names::{REVISION_LABEL, SERVICE_LABEL};

/// What annotations begin with that no user wrote.
const OF_TOOLS: [&str; 3] = ["kubectl.kubernetes.io/", "serving.knative.dev/creator", "serving.knative.dev/lastModifier"];
/// Says whether a route leads to a revision.
const ROUTING_LABEL: &str = "serving.knative.dev/routingState";

/// A collection of Knative's objects.
pub(super) fn serving(client: &Client, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("serving.knative.dev", "v1", kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// A service, its revisions and their pods.
pub(super) struct Service {
    object: DynamicObject,
    revisions: Vec<(DynamicObject, Vec<Instance>)>,
}

/// The condition `Ready` of an object: whether it is true of what was applied last, and why not.
pub(super) fn readiness(object: &DynamicObject) -> (bool, Option<String>) {
    let status = &object.data["status"];
    if status["observedGeneration"].as_i64() != object.metadata.generation {
        return (false, Some("not looked at yet".to_owned()));
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(ready) if ready["status"] == "True" => (true, None),
        Some(ready) => {
            let text = |key: &str| ready[key].as_str().filter(|text| !text.is_empty());
            (false, Some(text("message").or_else(|| text("reason")).unwrap_or("not yet").to_owned()))
        }
        None => (false, Some("not yet".to_owned())),
    }
}

impl Service {
    pub(super) fn pods(&self) -> impl Iterator<Item = &Instance> {
        self.revisions.iter().flat_map(|(_, pods)| pods)
    }

    /// As `GET /v1/services` shows it.
    pub(super) fn view(&self) -> Value {
        let (object, status) = (&self.object, &self.object.data["status"]);
        let (is_ready, reason) = readiness(object);
        let waiting: u64 = self.pods().filter_map(Instance::metrics).map(|metrics| metrics.queued).sum();
        let routed = status["traffic"].as_array().into_iter().flatten().find_map(|target| target["revisionName"].as_str());
        json!({
            "namespace": object.namespace(),
            "name": object.name_any(),
            "url": status["url"].as_str().unwrap_or_default(),
            "ready": is_ready,
            "reason": reason,
            "deleting": object.metadata.deletion_timestamp.is_some(),
            "generation": object.metadata.generation.unwrap_or_default(),
            "created_ms": created_ms(object),
            "labels": object.labels(),
            "annotations": of_user(object.annotations()),
            "latest_revision": status["latestCreatedRevisionName"].as_str().unwrap_or_default(),
            "routed_revision": routed,
            "instances": pods::count(self.pods()),
            "waiting": waiting,
            "activator": pods::by_activator(self.pods()),
            "direct": pods::nothing_counted(),
            "revisions": self.revisions.iter().map(|(revision, pods)| revision_view(revision, pods)).collect::<Vec<_>>(),
        })
    }
}

/// Annotations but those that Knative and `kubectl` write for themselves.
fn of_user(annotations: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let is_of_user = |name: &str| !OF_TOOLS.iter().any(|prefix| name.starts_with(prefix));
    annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| is_of_user(name)).collect()
}

fn revision_view(revision: &DynamicObject, pods: &[Instance]) -> Value {
    let running: u64 = pods.iter().filter_map(Instance::metrics).map(|metrics| metrics.running + metrics.queued).sum();
    json!({
        "name": revision.name_any(),
        "was_ready": readiness(revision).0,
        "reachable": revision.labels().get(ROUTING_LABEL).is_some_and(|state| state == "active"),
        "instances": pods::count(pods.iter()),
        "in_flight": running,
        "container_concurrency": revision.data["spec"]["containerConcurrency"].as_u64().unwrap_or_default(),
        "scale": null,
    })
}

/// The services of one namespace, or of all.
pub(super) async fn of(client: &Client, namespace: Option<&str>) -> Result<Vec<Service>, Refusal> {
    collect(client, namespace, None).await
}

/// One service.
pub(super) async fn one(client: &Client, namespace: &str, name: &str) -> Result<Service, Refusal> {
    let found = collect(client, Some(namespace), Some(name)).await?.pop();
    found.ok_or_else(|| Refusal::unknown("service", namespace, name))
}

async fn collect(client: &Client, namespace: Option<&str>, name: Option<&str>) -> Result<Vec<Service>, Refusal> {
    let services = serving(client, "Service", namespace);
    let services = match name {
        Some(name) => services.get_opt(name).await.map_err(knative("reading the service"))?.into_iter().collect(),
        None => services.list(&ListParams::default()).await.map_err(knative("listing services"))?.items,
    };
    let mut chosen = ListParams::default();
    if let Some(name) = name {
        chosen = chosen.labels(&format!("{SERVICE_LABEL}={name}"));
    }
    let mut revisions = serving(client, "Revision", namespace).list(&chosen).await.map_err(knative("listing revisions"))?.items;
    revisions.sort_by_cached_key(|revision| (created_ms(revision), revision.name_any()));
    let mut pods = pods::of(client, namespace, name).await?;
    let mut found = Vec::new();
    for object in services {
        let (namespace, name) = (object.namespace(), object.name_any());
        let is_own =
            |revision: &&DynamicObject| revision.namespace() == namespace && revision.labels().get(SERVICE_LABEL) == Some(&name);
        let of_service: Vec<DynamicObject> = revisions.iter().filter(is_own).cloned().collect();
        let mut with_pods = Vec::new();
        for revision in of_service {
            let is_of = |pod: &Instance| pod.pod.namespace() == namespace && pod.label(REVISION_LABEL) == revision.name_any();
            let (own, others) = std::mem::take(&mut pods).into_iter().partition(is_of);
            pods = others;
            with_pods.push((revision, own));
        }
        found.push(Service { object, revisions: with_pods });
    }
    Ok(found)
}

/// As [`refused`], and in a cluster without Knative what is missing.
pub(super) fn knative(what: &str) -> impl FnOnce(kube::Error) -> Refusal {
    let what = what.to_owned();
    move |error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            Refusal::new(StatusCode::BAD_GATEWAY, "cluster-refused", format!("{what}: this cluster has no Knative Serving"))
        }
        error => refused(what)(error),
    }
}
