//! Waiting for what the cluster makes of it: by watching, not by asking again and again.

use std::future::Future;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::runtime::wait::{Condition, await_condition};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};

use super::{InstallError, pods, refused};
use crate::names::{CONTROLLER, KEYS_SECRET, NAMESPACE, REVISION_LABEL, WEBHOOK};

/// The controller answers, and the API server trusts it.
pub(super) async fn for_controller(client: &Client, limit: Duration) -> Result<(), InstallError> {
    for_deployment(client, NAMESPACE, CONTROLLER, limit).await?;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let is_trusted = |webhook: Option<&MutatingWebhookConfiguration>| {
        let hooks = webhook.and_then(|webhook| webhook.webhooks.as_deref()).unwrap_or_default();
        !hooks.is_empty() && hooks.iter().all(|hook| hook.client_config.ca_bundle.is_some())
    };
    condition(webhooks, WEBHOOK, is_trusted, "the API server's trust in the webhook", limit).await
}

/// The deployment runs as it says.
pub(crate) async fn for_deployment(client: &Client, namespace: &str, name: &str, limit: Duration) -> Result<(), InstallError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let is_rolled_out = |deployment: Option<&Deployment>| {
        let Some(deployment) = deployment else { return false };
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation) >= deployment.metadata.generation;
        let of = |count: Option<i32>| count.unwrap_or_default() >= wanted;
        observed && status.is_some_and(|status| of(status.updated_replicas) && of(status.available_replicas))
    };
    condition(deployments, name, is_rolled_out, "the deployment", limit).await
}

/// The namespace has its keys.
pub(crate) async fn for_keys(client: &Client, namespace: &str, limit: Duration) -> Result<(), InstallError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    condition(secrets, KEYS_SECRET, |secret: Option<&Secret>| secret.is_some(), "the namespace's keys", limit).await
}

/// The controller's namespace is gone.
pub(super) async fn for_namespace_gone(client: &Client, limit: Duration) -> Result<(), InstallError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    condition(namespaces, NAMESPACE, |namespace: Option<&Namespace>| namespace.is_none(), "the end of its namespace", limit).await
}

/// No pod of a revision has this sidecar any more.
pub(super) async fn for_no_pod_with(client: &Client, image: &str, limit: Duration) -> Result<(), InstallError> {
    let pods: Api<Pod> = Api::all(client.clone());
    let waiting = async {
        let changes = watcher(pods.clone(), watcher::Config::default().labels(REVISION_LABEL)).default_backoff();
        pin_mut!(changes);
        let mut with = std::collections::BTreeSet::new();
        let mut is_complete = false;
        while let Some(change) = changes.next().await {
            use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
            let key = |pod: &Pod| (pod.namespace().unwrap_or_default(), pod.name_any());
            match change {
                Ok(Init) => with.clear(),
                Ok(Apply(pod) | InitApply(pod)) if pods::sidecar(&pod) == Some(image) => drop(with.insert(key(&pod))),
                Ok(Apply(_) | InitApply(_)) => {}
                Ok(Delete(pod)) => drop(with.remove(&key(&pod))),
                Ok(InitDone) => is_complete = true,
                Err(error) => tracing::warn!(%error, "pods can't be watched just now"),
            }
            if is_complete && with.is_empty() {
                return;
            }
        }
    };
    within(waiting, limit).await.map_err(|()| InstallError::TooLong {
        what: format!("the end of every pod with {image}"),
        seconds: limit.as_secs(),
        state: "some are left; Knative rolls pods only as their replacements become ready".to_owned(),
    })
}

async fn condition<K>(api: Api<K>, name: &str, holds: impl Condition<K>, what: &str, limit: Duration) -> Result<(), InstallError>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    match within(await_condition(api, name, holds), limit).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(refused(format!("waiting for {what}"))(kube::Error::Service(Box::new(error)))),
        Err(()) => Err(InstallError::TooLong {
            what: format!("{what} ({name})"),
            seconds: limit.as_secs(),
            state: "see `kubectl describe` of it and its events".to_owned(),
        }),
    }
}

async fn within<T>(future: impl Future<Output = T>, limit: Duration) -> Result<T, ()> {
    tokio::time::timeout(limit, future).await.map_err(|_| ())
}
