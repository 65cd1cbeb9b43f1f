//! `zipline status`.

use std::collections::BTreeMap;

use clap::Args;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

use super::{InstallError, Report, pods, refused, sidecar_config};
use crate::controller::read_ring;
use crate::names::{CONTROLLER, ENABLED, ENABLED_LABEL, KEYS_SECRET, NAMESPACE, REVISION_LABEL, SIDECAR_IMAGE, WEBHOOK};
use crate::rotation::KeySummary;

/// Pods read from the API server at a time.
const PAGE_PODS: u32 = 500;

/// Arguments of `zipline status`.
#[derive(Clone, Debug, Args)]
pub struct Status {}

/// How an installation stands.
#[derive(Clone, Debug, Serialize)]
pub struct Installed {
    schema: u32,
    /// The image that Knative gives new pods.
    queue_sidecar_image: Option<String>,
    /// Ready and wanted controllers; nothing where there is none.
    controller: Option<(i32, i32)>,
    /// Whether the API server sends pods to the webhook and trusts it.
    webhook_trusted: bool,
    /// Namespaces that Zipline is switched on in.
    namespaces: Vec<EnabledNamespace>,
    /// Pods of revisions by the image of their queue-proxy.
    pods_by_sidecar: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, Serialize)]
struct EnabledNamespace {
    name: String,
    keys: Vec<KeySummary>,
    /// What is wrong with its keys.
    problem: Option<String>,
}

impl Report for Installed {
    fn text(&self) -> String {
        let image = self.queue_sidecar_image.as_deref().unwrap_or("not set");
        let mut text = format!("{SIDECAR_IMAGE}: {image}\n");
        text += &match self.controller {
            Some((ready, wanted)) => format!("controller: {ready} of {wanted} ready\n"),
            None => "controller: not installed\n".to_owned(),
        };
        text += &format!("webhook: {}\n", if self.webhook_trusted { "trusted" } else { "not in use" });
        for namespace in &self.namespaces {
            let keys = namespace.problem.clone().unwrap_or_else(|| format!("{} keys", namespace.keys.len()));
            text += &format!("namespace {}: {keys}\n", namespace.name);
        }
        if self.namespaces.is_empty() {
            text += &format!("namespaces: none; `kubectl label namespace NAME {ENABLED_LABEL}={ENABLED}` switches one on\n");
        }
        for (image, count) in &self.pods_by_sidecar {
            text += &format!("pods with {image}: {count}\n");
        }
        text
    }
}

/// Tells how it stands.
///
/// # Errors
/// When the cluster refuses or has no Knative.
pub async fn status(client: Client, _: Status) -> Result<Installed, InstallError> {
    let config = sidecar_config(&client).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = deployments.get_opt(CONTROLLER).await.map_err(refused("reading the controller's deployment"))?;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = webhooks.get_opt(WEBHOOK).await.map_err(refused("reading the webhook's configuration"))?;
    let hooks = webhook.and_then(|webhook| webhook.webhooks).unwrap_or_default();
    Ok(Installed {
        schema: 1,
        queue_sidecar_image: config.data.and_then(|data| data.get(SIDECAR_IMAGE).cloned()),
        controller: deployment.map(|deployment| {
            let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            (deployment.status.and_then(|status| status.ready_replicas).unwrap_or_default(), wanted)
        }),
        webhook_trusted: !hooks.is_empty() && hooks.iter().all(|hook| hook.client_config.ca_bundle.is_some()),
        namespaces: namespaces(&client).await?,
        pods_by_sidecar: pods_by_sidecar(&client).await?,
    })
}

async fn namespaces(client: &Client) -> Result<Vec<EnabledNamespace>, InstallError> {
    let enabled = ListParams::default().labels(&format!("{ENABLED_LABEL}={ENABLED}"));
    let found = Api::<Namespace>::all(client.clone()).list(&enabled).await.map_err(refused("listing namespaces"))?;
    let mut namespaces = Vec::new();
    for namespace in found.items {
        let name = namespace.name_any();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &name);
        let secret = secrets.get_opt(KEYS_SECRET).await.map_err(refused("reading a namespace's keys"))?;
        let ring = secret.as_ref().map_or_else(|| Err("no keys yet".to_owned()), read_ring);
        let (keys, problem) = match ring {
            Ok(ring) => (ring.summary(), None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        namespaces.push(EnabledNamespace { name, keys, problem });
    }
    Ok(namespaces)
}

async fn pods_by_sidecar(client: &Client) -> Result<BTreeMap<String, usize>, InstallError> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().labels(REVISION_LABEL).limit(PAGE_PODS);
    let mut counts = BTreeMap::new();
    loop {
        let found = pods.list(&page).await.map_err(refused("listing pods"))?;
        for pod in &found.items {
            *counts.entry(pods::sidecar(pod).unwrap_or("none").to_owned()).or_default() += 1;
        }
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page.continue_token = Some(token),
            None => return Ok(counts),
        }
    }
}
