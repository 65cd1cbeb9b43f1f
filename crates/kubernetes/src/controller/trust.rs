//! Keeps the webhook's certificate: in its Secret, in what the API server trusts, and in what is served; in this order.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::certificates::{Bundle, Served};
use super::metrics::State;
use super::{ControllerError, has_code, refused, wall_ms};
use crate::names::{FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, NAMESPACE, WEBHOOK, WEBHOOK_SECRET};

/// How often the Secret is looked at, so that another replica's renewal, or a Secret that was deleted, is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Tries to write over a Secret that somebody else changes at the same time.
const TRIES_MAX: usize = 5;

/// The certificate in force: read, or made where there is none that can be used.
pub(super) async fn current(client: &Client, now_ms: u64) -> Result<Bundle, ControllerError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..TRIES_MAX {
        let found = secrets.get_opt(WEBHOOK_SECRET).await.map_err(refused("reading the webhook's certificate"))?;
        let read = found.as_ref().map(|secret| Bundle::read(secret.data.as_ref().unwrap_or(&Default::default())));
        let before = match read {
            Some(Ok(bundle)) if now_ms < bundle.renew_at_ms() => return Ok(bundle),
            Some(Ok(bundle)) => Some(bundle),
            Some(Err(error)) => {
                tracing::warn!(%error, "a new certificate takes its place");
                None
            }
            None => None,
        };
        let made = Bundle::make(now_ms, before.as_ref())?;
        match write(&secrets, found, &made).await {
            Ok(()) => {
                tracing::info!(ends_at_ms = made.ends_at_ms(), "a certificate for the webhook was made");
                return Ok(made);
            }
            Err(error) if has_code(&error, 409) => {} // Another replica was faster: its certificate is read next.
            Err(error) => return Err(refused("writing the webhook's certificate")(error)),
        }
    }
    Err(ControllerError::Ended("writing the webhook's certificate met others' changes too often and"))
}

async fn write(secrets: &Api<Secret>, found: Option<Secret>, bundle: &Bundle) -> Result<(), kube::Error> {
    let is_new = found.is_none();
    let mut secret = found.unwrap_or_default();
    secret.metadata.name = Some(WEBHOOK_SECRET.to_owned());
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    secret.data = Some(bundle.entries());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match is_new {
        true => secrets.create(&parameters, &secret).await.map(drop),
        false => secrets.replace(WEBHOOK_SECRET, &parameters, &secret).await.map(drop),
    }
}

/// Keeps it until it is dropped. The cluster's refusals are logged and tried again; they stop nothing.
pub(super) async fn keep(client: Client, served: Arc<Served>, state: Arc<State>) -> Result<(), ControllerError> {
    loop {
        if let Err(error) = once(&client, &served, &state).await {
            state.failed("certificate");
            tracing::warn!(%error, "the webhook's certificate can't be kept; pods start without Zipline if this lasts");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn once(client: &Client, served: &Served, state: &State) -> Result<(), ControllerError> {
    let bundle = current(client, wall_ms()).await?;
    trust(client, &bundle).await?;
    served.replace(&bundle)?;
    state.certificate_ends(bundle.ends_at_ms());
    Ok(())
}

/// Tells the API server what to trust.
async fn trust(client: &Client, bundle: &Bundle) -> Result<(), ControllerError> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let found = configurations.get_opt(WEBHOOK).await.map_err(refused("reading the webhook's configuration"))?;
    let Some(found) = found else {
        tracing::info!("there is no webhook configuration: nothing is sent here");
        return Ok(());
    };
    let trusted = ByteString(bundle.trusted().into_bytes());
    let hooks = found.webhooks.unwrap_or_default();
    if hooks.iter().all(|hook| hook.client_config.ca_bundle.as_ref() == Some(&trusted)) {
        return Ok(());
    }
    let operations: Vec<_> = (0..hooks.len())
        .map(|index| json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": trusted }))
        .collect();
    // Only if it still is as it was read: another order of hooks would put the bundle elsewhere.
    let version = found.metadata.resource_version.unwrap_or_default();
    let mut patch = vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })];
    patch.extend(operations);
    let patch: json_patch::Patch =
        serde_json::from_value(patch.into()).map_err(|error| refused("the webhook's patch")(kube::Error::SerdeError(error)))?;
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    configurations
        .patch(WEBHOOK, &parameters, &Patch::<()>::Json(patch))
        .await
        .map_err(refused("telling the API server which certificate to trust"))?;
    tracing::info!("the API server trusts the webhook's certificate");
    Ok(())
}
