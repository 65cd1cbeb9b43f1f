//! Applying, awaiting and deleting Knative Services.

use std::time::Duration;

use http::StatusCode;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::services::{knative, readiness, serving};
use super::{Cluster, Refusal, pods};

/// Who applies services, for server-side apply.
const FIELD_MANAGER: &str = "zipline-cli";
/// How long Knative may take to name the revision of what was applied.
const REVISION_LIMIT: Duration = Duration::from_secs(30);
/// How long a service may take to be gone with everything in it; drains take as long as the revision's `timeoutSeconds`.
const DELETE_LIMIT: Duration = Duration::from_secs(3600);
/// Kind and version of a Knative Service.
const SERVICE: (&str, &str) = ("Service", "serving.knative.dev/v1");

impl Cluster {
    /// Applies the Services of a file. All are looked at before the first is applied; Knative's own rules are the cluster's.
    pub(super) async fn apply(&self, manifest: &[u8]) -> Result<Value, Refusal> {
        let refused = |detail: String| Refusal::new(StatusCode::BAD_REQUEST, "manifest-invalid", detail);
        let text = std::str::from_utf8(manifest).map_err(|error| refused(format!("the file is not UTF-8: {error}")))?;
        let documents = serde_saphyr::from_multiple::<Value>(text).map_err(|error| refused(error.to_string()))?;
        let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
        for (index, document) in documents.iter().enumerate() {
            let kind = (document["kind"].as_str().unwrap_or_default(), document["apiVersion"].as_str().unwrap_or_default());
            if kind != SERVICE || document["metadata"]["name"].as_str().is_none() {
                let detail = format!("document {} is not a {} of {} with a name", index + 1, SERVICE.0, SERVICE.1);
                return Err(refused(detail));
            }
        }
        let mut applied = Vec::new();
        for document in documents {
            applied.push(self.apply_service(document).await?);
        }
        Ok(json!({ "applied": applied, "config_autoscaler": false, "warnings": [] }))
    }

    async fn apply_service(&self, mut manifest: Value) -> Result<Value, Refusal> {
        let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or(&self.namespace).to_owned();
        manifest["metadata"]["namespace"] = Value::from(namespace.clone());
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let services = serving(&self.client, SERVICE.0, Some(&namespace));
        let before = services.get_opt(&name).await.map_err(knative("reading the service"))?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let after = services.patch(&name, &parameters, &Patch::Apply(&manifest)).await;
        let after = after.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 400 || status.code == 422 => {
                Refusal::new(StatusCode::BAD_REQUEST, "manifest-invalid", status.message)
            }
            error => knative(&format!("applying service {namespace}/{name}"))(error),
        })?;
        let change = match before {
            None => "created",
            Some(before) if before.metadata.generation == after.metadata.generation => "unchanged",
            Some(_) => "configured",
        };
        let generation = after.metadata.generation;
        let is_named = move |service: Option<&DynamicObject>| {
            service.is_some_and(|service| {
                let status = &service.data["status"];
                status["observedGeneration"].as_i64() >= generation && status["latestCreatedRevisionName"].is_string()
            })
        };
        let named = tokio::time::timeout(REVISION_LIMIT, await_condition(services, &name, is_named)).await;
        let named = named.ok().and_then(Result::ok).flatten();
        let revision = named.as_ref().and_then(|service| service.data["status"]["latestCreatedRevisionName"].as_str());
        Ok(json!({ "namespace": namespace, "name": name, "revision": revision.unwrap_or_default(), "change": change }))
    }

    /// Waits until a service is ready.
    pub(super) async fn wait_ready(&self, namespace: &str, name: &str, limit: Duration) -> Result<(), Refusal> {
        let services = serving(&self.client, SERVICE.0, Some(namespace));
        if services.get_opt(name).await.map_err(knative("reading the service"))?.is_none() {
            return Err(Refusal::unknown("service", namespace, name));
        }
        let is_ready = |service: Option<&DynamicObject>| service.is_none_or(|service| readiness(service).0);
        if let Ok(Ok(Some(_))) = tokio::time::timeout(limit, await_condition(services.clone(), name, is_ready)).await {
            return Ok(());
        }
        let Some(service) = services.get_opt(name).await.map_err(knative("reading the service"))? else {
            return Err(Refusal::unknown("service", namespace, name));
        };
        let reason = readiness(&service).1.unwrap_or_else(|| "ready by now".to_owned());
        let detail = format!("service `{namespace}/{name}` was not ready after {:.0} s: {reason}", limit.as_secs_f64());
        let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, "service-not-ready", detail);
        Err(Refusal { is_for_later: true, ..refusal })
    }

    /// Deletes a service; with `wait`, until its last pod is gone.
    pub(super) async fn delete(&self, namespace: &str, name: &str, wait: bool) -> Result<Value, Refusal> {
        let services: Api<DynamicObject> = serving(&self.client, SERVICE.0, Some(namespace));
        let Some(service) = services.get_opt(name).await.map_err(knative("reading the service"))? else {
            return Err(Refusal::unknown("service", namespace, name));
        };
        let deleted = services.delete(name, &DeleteParams::foreground()).await;
        deleted.map_err(knative(&format!("deleting service {namespace}/{name}")))?;
        if wait {
            let uid = service.uid().unwrap_or_default();
            let gone = await_condition(services, name, conditions::is_deleted(&uid));
            if tokio::time::timeout(DELETE_LIMIT, gone).await.is_err() {
                let detail = format!("service `{namespace}/{name}` was not gone after {} s", DELETE_LIMIT.as_secs());
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "service-not-ready", detail));
            }
        }
        let left = pods::of(&self.client, Some(namespace), Some(name)).await?.len();
        Ok(json!({ "namespace": namespace, "name": name, "instances_left": left }))
    }
}
