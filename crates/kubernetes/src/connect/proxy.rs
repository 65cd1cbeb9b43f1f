//! The client proxy of a namespace: a queue-proxy without a function, the producer of what is put from outside of the cluster.
//!
//! A Deployment of one, made when it is first needed, with the image and the settings that the controller was installed with. It
//! has the namespace's keys as every queue-proxy of it has; its local API listens on the pod's loopback only.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use zipline_contract::{doors, settings};

use crate::install::{InstallError, apply, installed, refused, unless_gone, wait};
use crate::names::{CLIENT, ENABLED, ENABLED_LABEL, KEYS_FOLDER, KEYS_SECRET, KEYS_VOLUME, MANAGED_BY, MANAGED_BY_LABEL};

/// How long a client proxy that is told to end waits for its readers.
const GRACE_SECONDS: u64 = 30;
/// Beyond that, until the kubelet kills it.
const GRACE_SLACK_SECONDS: u64 = 5;
/// The label by which its pods are found.
const NAME_LABEL: &str = "app.kubernetes.io/name";
const UID: u32 = 65532;

/// Makes it, or brings it up to date, and waits until it is ready.
pub(super) async fn ensure(client: &Client, namespace: &str, limit: Duration) -> Result<(), InstallError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_opt(namespace).await.map_err(refused(format!("reading namespace {namespace}")))?;
    let is_enabled = |found: Namespace| found.labels().get(ENABLED_LABEL).map(String::as_str) == Some(ENABLED);
    if !found.is_some_and(is_enabled) {
        return Err(InstallError::NotEnabled { namespace: namespace.to_owned() });
    }
    let (image, settings) = installed(client).await?.ok_or(InstallError::NotInstalled)?;
    wait::for_keys(client, namespace, limit).await?;
    apply::apply(client, &deployment(namespace, &image, &settings)).await?;
    wait::for_deployment(client, namespace, CLIENT, limit).await
}

/// The pod that runs now.
pub(super) async fn pod(client: &Client, namespace: &str) -> Result<String, InstallError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={CLIENT}"));
    let found = pods.list(&chosen).await.map_err(refused("looking for the client proxy"))?;
    let is_ready = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && super::control::is_ready(pod);
    let ready = found.items.iter().find(is_ready).map(ResourceExt::name_any);
    ready.ok_or_else(|| InstallError::NotReady { what: format!("the client proxy of namespace {namespace}") })
}

/// Deletes the client proxies of all namespaces.
pub(crate) async fn remove_everywhere(client: &Client) -> Result<(), InstallError> {
    let ours = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY},{NAME_LABEL}={CLIENT}"));
    let found = Api::<Deployment>::all(client.clone()).list(&ours).await.map_err(refused("listing client proxies"))?;
    for deployment in found.items {
        let namespace = deployment.namespace().unwrap_or_default();
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        let deleted = deployments.delete(CLIENT, &DeleteParams::background()).await;
        unless_gone(deleted.map(drop), format!("deleting the client proxy of namespace {namespace}"))?;
    }
    Ok(())
}

fn deployment(namespace: &str, image: &str, of_cluster: &[(String, String)]) -> Value {
    let labels = json!({ NAME_LABEL: CLIENT, MANAGED_BY_LABEL: MANAGED_BY });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let own = [
        (settings::ROLE.variable, "client".to_owned()),
        (settings::GRACE_SECONDS.variable, GRACE_SECONDS.to_string()),
        (settings::DRAIN_QUIET_SECONDS.variable, "0".to_owned()),
    ];
    let is_own = |name: &str| own.iter().any(|(known, _)| *known == name);
    let is_of_functions = |name: &str| settings::OF_STORES.iter().any(|setting| setting.variable == name);
    let mut env: Vec<Value> = of_cluster
        .iter()
        .filter(|(name, _)| !is_own(name) && !is_of_functions(name))
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    env.extend(own.iter().map(|(name, value)| json!({ "name": name, "value": value })));
    env.extend([
        field("SERVING_NAMESPACE", "metadata.namespace"),
        field("SERVING_POD", "metadata.name"),
        field("SERVING_POD_IP", "status.podIP"),
    ]);
    let container = json!({
        "name": "client-proxy", "image": image, "env": env,
        "ports": [{ "name": "pull", "containerPort": doors::PULL }],
        "readinessProbe": { "httpGet": { "path": "/zipline/status", "port": doors::ADMIN }, "periodSeconds": 1 },
        "resources": { "requests": { "cpu": "10m", "memory": "24Mi" } },
        "volumeMounts": [{ "name": KEYS_VOLUME, "mountPath": KEYS_FOLDER, "readOnly": true }],
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": UID,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let keys = json!({ "name": KEYS_VOLUME, "secret": { "secretName": KEYS_SECRET, "defaultMode": 0o444 } });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": CLIENT, "namespace": namespace, "labels": labels },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { NAME_LABEL: CLIENT } },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": GRACE_SECONDS + GRACE_SLACK_SECONDS,
                    "containers": [container], "volumes": [keys],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_proxy_has_the_clusters_settings_but_its_own_where_it_must() {
        let of_cluster = [("ZIPLINE_PULL_TLS", "require"), ("ZIPLINE_ROLE", "sidecar"), ("ZIPLINE_REDIS_URL", "redis://a")];
        let of_cluster = of_cluster.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let deployment = deployment("shop", "repo/queue-proxy:1", &of_cluster);
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let values = |wanted: &str| -> Vec<&Value> {
            let env = container["env"].as_array().expect("a list").iter();
            env.filter(|entry| entry["name"] == wanted).map(|entry| &entry["value"]).collect()
        };
        assert_eq!(values("ZIPLINE_PULL_TLS"), ["require"]);
        assert_eq!(values("ZIPLINE_ROLE"), ["client"]);
        assert!(values("ZIPLINE_REDIS_URL").is_empty(), "what functions need is not a proxy's");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
    }
}
