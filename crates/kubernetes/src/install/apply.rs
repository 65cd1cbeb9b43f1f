//! Applying and deleting objects of any kind.

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::{InstallError, refused, unless_gone};
use crate::manifests::title;
use crate::names::FIELD_MANAGER;

/// Server-side apply. Fields that somebody else has set are taken over, as these objects are ours.
pub(crate) async fn apply(client: &Client, object: &Value) -> Result<(), InstallError> {
    let (api, name) = api(client, object);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await;
    applied.map(drop).map_err(refused(format!("applying {}", title(object))))
}

/// Deletes, unless it is gone already.
pub(super) async fn delete(client: &Client, object: &Value) -> Result<(), InstallError> {
    let (api, name) = api(client, object);
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    unless_gone(deleted.map(drop), format!("deleting {}", title(object)))
}

fn api(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = text(&object["kind"]);
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    resource.plural = plural(&kind);
    let api = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    (api, text(&object["metadata"]["name"]))
}

/// Of the kinds that an installation has.
fn plural(kind: &str) -> String {
    kind.to_ascii_lowercase() + "s"
}
