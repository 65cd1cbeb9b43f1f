//! `zipline install`, `uninstall`, `status`, `rotate-keys`: by the rights of whoever runs them.
//!
//! The order keeps every pod whole: first webhook and keys, then the one key of Knative's ConfigMap that makes it use our
//! queue-proxy; on the way back first that key, then the rest once no pod needs it.

pub(crate) mod apply;
mod keys;
mod pods;
mod status;
pub(crate) mod wait;

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::json;
use zipline_contract::settings as table;
use zipline_core::settings::check_value;

use crate::connect;
use crate::manifests::{Options, objects, title};
use crate::names::{
    CONFIG_DEPLOYMENT, CONTROLLER, ENABLED, ENABLED_LABEL, FIELD_MANAGER, IMAGE_BEFORE, KEYS_SECRET, KNATIVE_NAMESPACE,
    MANAGED_BY, MANAGED_BY_LABEL, NAMESPACE, QUEUE_PROXY_IMAGE_ARGUMENT, SETTING_ARGUMENT, SIDECAR_IMAGE,
};

pub use keys::{RotateKeys, Rotated, rotate_keys};
pub use status::{Installed, Status, status};

/// An image of our queue-proxy, and the settings of every queue-proxy.
pub(crate) type Installation = (String, Vec<(String, String)>);

/// How long to wait for the cluster unless told otherwise.
const WAIT_SECONDS: u64 = 180;

/// Why a command ended.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The cluster refused.
    #[error("{what}: {error}")]
    Cluster {
        /// What was asked of it.
        what: String,
        /// Its answer.
        error: Box<kube::Error>,
    },
    /// Knative is not there.
    #[error(
        "ConfigMap {CONFIG_DEPLOYMENT} is not in namespace {KNATIVE_NAMESPACE}: this cluster has no Knative Serving; \
         hint: install Knative first, or choose another cluster with KUBECONFIG"
    )]
    NoKnative,
    /// Something did not come about in time.
    #[error(
        "{what} did not come about within {seconds} s: {state}; hint: `zipline status` shows more, --wait-seconds waits longer"
    )]
    TooLong {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// How it stands.
        state: String,
    },
    /// Nobody knows which image stood there before.
    #[error(
        "{SIDECAR_IMAGE} is {image}, and nothing says what stood there before; \
         hint: name Knative's own with --queue-sidecar-image"
    )]
    ImageBeforeUnknown {
        /// The image that stands there.
        image: String,
    },
    /// There is no controller.
    #[error("Zipline is not installed in this cluster; hint: `zipline install`")]
    NotInstalled,
    /// The namespace has no Zipline.
    #[error(
        "Zipline is not switched on in namespace {namespace}; \
         hint: `kubectl label namespace {namespace} {ENABLED_LABEL}={ENABLED}`, or name another one"
    )]
    NotEnabled {
        /// Which.
        namespace: String,
    },
    /// It is there, but not ready.
    #[error("{what} is not ready; hint: `kubectl describe` of its pod tells why")]
    NotReady {
        /// What.
        what: String,
    },
    /// The named namespace has no keys.
    #[error(
        "namespace {namespace} has no Secret {KEYS_SECRET}; hint: label it {ENABLED_LABEL}={ENABLED} while the controller runs"
    )]
    NoKeys {
        /// Which.
        namespace: String,
    },
    /// The Secret holds something else.
    #[error("Secret {KEYS_SECRET} of namespace {namespace}: {reason}; hint: delete it, and the controller makes a new one")]
    BadKeys {
        /// Which.
        namespace: String,
        /// What is wrong.
        reason: String,
    },
}

/// A command's result.
pub trait Report: Serialize {
    /// For people.
    fn text(&self) -> String;
}

/// `--controller-image` and its like.
#[derive(Clone, Debug, Args)]
pub struct OptionArguments {
    /// Image of the controller
    #[arg(long, value_name = "IMAGE", default_value_t = Options::default().controller_image)]
    pub controller_image: String,
    /// Image of the queue-proxy
    #[arg(long, value_name = "IMAGE", default_value_t = Options::default().queue_proxy_image)]
    pub queue_proxy_image: String,
    /// Controllers at once
    #[arg(long, default_value_t = Options::default().replicas, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub replicas: u32,
    /// A setting of every queue-proxy, `ZIPLINE_NAME=VALUE`; may stand several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Give pods a deletion cost by what they hold
    #[arg(long)]
    pub pod_deletion_cost: bool,
}

impl From<OptionArguments> for Options {
    fn from(arguments: OptionArguments) -> Self {
        Self {
            controller_image: arguments.controller_image,
            queue_proxy_image: arguments.queue_proxy_image,
            earlier_images: Vec::new(),
            replicas: arguments.replicas,
            settings: arguments.settings,
            deletion_cost: arguments.pod_deletion_cost,
        }
    }
}

/// Arguments of `zipline install`.
#[derive(Clone, Debug, Args)]
pub struct Install {
    #[command(flatten)]
    options: OptionArguments,
    /// Switch Zipline on for this namespace; may stand several times
    #[arg(long = "enable", value_name = "NAMESPACE")]
    enable: Vec<String>,
    /// Leave Knative's queue-proxy in place; switch later with the command that is printed
    #[arg(long)]
    keep_sidecar: bool,
    /// How long to wait for the controller, in seconds
    #[arg(long, default_value_t = WAIT_SECONDS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait_seconds: u64,
}

/// Arguments of `zipline uninstall`.
#[derive(Clone, Debug, Args)]
pub struct Uninstall {
    /// Knative's own queue-proxy image, where no annotation tells which stood there before
    #[arg(long, value_name = "IMAGE")]
    queue_sidecar_image: Option<String>,
    /// How long to wait until no pod has our queue-proxy, in seconds
    #[arg(long, default_value_t = WAIT_SECONDS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait_seconds: u64,
}

/// What `zipline install` did.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    schema: u32,
    /// Objects applied or deleted, `kind/name`.
    objects: Vec<String>,
    /// The image that Knative gives new pods now.
    queue_sidecar_image: String,
    /// The one before.
    queue_sidecar_image_before: Option<String>,
    /// Namespaces that Zipline was switched on or off in.
    namespaces: Vec<String>,
    #[serde(skip)]
    next: String,
}

impl Report for Done {
    fn text(&self) -> String {
        let mut text: String = self.objects.iter().map(|object| format!("  {object}\n")).collect();
        let before = self.queue_sidecar_image_before.as_deref().unwrap_or("nothing");
        text += &format!("{SIDECAR_IMAGE}: {before} -> {}\n", self.queue_sidecar_image);
        if !self.namespaces.is_empty() {
            text += &format!("namespaces: {}\n", self.namespaces.join(", "));
        }
        text + &self.next + "\n"
    }
}

/// Reads `ZIPLINE_NAME=VALUE` by the settings table.
///
/// # Errors
/// What is wrong with it, in words.
pub fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    let known = table::ALL.iter().find(|setting| setting.variable == name);
    let known = known.ok_or_else(|| format!("`{name}` is not a setting; docs/reference/settings.md lists them"))?;
    check_value(known, value).map_err(|rule| format!("`{value}` of {name} is not {rule}"))?;
    // No queue-proxy would start that can't read it, and this one goes to all of them.
    if name == table::LOG.variable && value.parse::<tracing_subscriber::filter::Targets>().is_err() {
        return Err(format!("`{value}` of {name} is not a log filter such as `info`"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Installs, or brings an installation up to date.
///
/// # Errors
/// When the cluster refuses, has no Knative, or the controller does not come up in time. Everything can be run again.
pub async fn install(client: Client, arguments: Install) -> Result<Done, InstallError> {
    let image = arguments.options.queue_proxy_image.clone();
    sidecar_config(&client).await?; // Knative must be there before anything is made.
    let mut options = Options::from(arguments.options);
    // Until they are rolled, a revision's new pods come with the image that was ours before, and want their keys too.
    let ours_before = our_image(&client).await?.filter(|before| *before != image);
    options.earlier_images.extend(ours_before.clone());
    let objects = objects(&options);
    for object in &objects {
        apply::apply(&client, object).await?;
    }
    let limit = Duration::from_secs(arguments.wait_seconds);
    wait::for_controller(&client, limit).await?;
    for namespace in &arguments.enable {
        label(&client, namespace, Some(ENABLED)).await?;
        wait::for_keys(&client, namespace, limit).await?;
    }
    let config = sidecar_config(&client).await?;
    let present = config.data.as_ref().and_then(|data| data.get(SIDECAR_IMAGE)).cloned();
    let (before, next) = match arguments.keep_sidecar {
        true => (present.clone(), format!("next: {}", switch_command(&image))),
        false => {
            set_image(&client, &image, before_ours(&config, &[Some(&image), ours_before.as_ref()], present.as_deref())).await?;
            (present.clone(), "next: Knative rolls every revision's pods now; `zipline status` shows how far it is".to_owned())
        }
    };
    Ok(Done {
        schema: 1,
        objects: objects.iter().map(title).collect(),
        queue_sidecar_image: if arguments.keep_sidecar { present.unwrap_or_default() } else { image },
        queue_sidecar_image_before: before,
        namespaces: arguments.enable,
        next,
    })
}

fn switch_command(image: &str) -> String {
    format!(
        "kubectl patch configmap {CONFIG_DEPLOYMENT} -n {KNATIVE_NAMESPACE} --type merge -p '{{\"data\":{{\"{SIDECAR_IMAGE}\":\"{image}\"}}}}'"
    )
}

/// Which image to go back to: what an earlier install noted, else what stands there now.
fn before_ours(config: &ConfigMap, ours: &[Option<&String>], present: Option<&str>) -> Option<String> {
    let noted = config.annotations().get(IMAGE_BEFORE).cloned();
    noted.or_else(|| present.filter(|present| !ours.iter().flatten().any(|ours| ours == present)).map(str::to_owned))
}

/// Removes everything.
///
/// # Errors
/// When the cluster refuses, the image before is not known, or pods keep our queue-proxy for too long. It can be run again.
pub async fn uninstall(client: Client, arguments: Uninstall) -> Result<Done, InstallError> {
    let config = sidecar_config(&client).await?;
    let present = config.data.as_ref().and_then(|data| data.get(SIDECAR_IMAGE)).cloned().unwrap_or_default();
    let noted = config.annotations().get(IMAGE_BEFORE).cloned();
    let image = match arguments.queue_sidecar_image.or(noted) {
        Some(image) => image,
        None if our_image(&client).await?.as_ref() == Some(&present) => {
            return Err(InstallError::ImageBeforeUnknown { image: present });
        }
        None => present.clone(),
    };
    set_image(&client, &image, None).await?;
    let limit = Duration::from_secs(arguments.wait_seconds);
    if present != image {
        wait::for_no_pod_with(&client, &present, limit).await?;
    }
    connect::remove_everywhere(&client).await?;
    let namespaces = switch_off(&client).await?;
    let mut objects = objects(&Options::default());
    objects.reverse();
    for object in &objects {
        apply::delete(&client, object).await?;
    }
    wait::for_namespace_gone(&client, limit).await?;
    Ok(Done {
        schema: 1,
        objects: objects.iter().map(title).collect(),
        queue_sidecar_image: image,
        queue_sidecar_image_before: Some(present),
        namespaces,
        next: "nothing of Zipline is left in the cluster".to_owned(),
    })
}

/// The queue-proxy's image that the controller was installed with.
async fn our_image(client: &Client) -> Result<Option<String>, InstallError> {
    Ok(installed(client).await?.map(|(image, _)| image))
}

/// The image and the settings of queue-proxies that the controller was installed with; none where there is no controller.
pub(crate) async fn installed(client: &Client) -> Result<Option<Installation>, InstallError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let found = deployments.get_opt(CONTROLLER).await.map_err(refused("reading the controller's deployment"))?;
    let pod = found.and_then(|deployment| deployment.spec).and_then(|spec| spec.template.spec);
    let arguments = pod.into_iter().flat_map(|pod| pod.containers).flat_map(|container| container.args.unwrap_or_default());
    let (mut image, mut settings) = (None, Vec::new());
    for argument in arguments {
        if let Some(named) = argument.strip_prefix(QUEUE_PROXY_IMAGE_ARGUMENT) {
            image.get_or_insert_with(|| named.to_owned());
        } else if let Some((name, value)) = argument.strip_prefix(SETTING_ARGUMENT).and_then(|set| set.split_once('=')) {
            settings.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(image.map(|image| (image, settings)))
}

/// Takes label and keys from every namespace.
async fn switch_off(client: &Client) -> Result<Vec<String>, InstallError> {
    let enabled = ListParams::default().labels(ENABLED_LABEL);
    let found = Api::<Namespace>::all(client.clone()).list(&enabled).await.map_err(refused("listing namespaces"))?;
    let mut namespaces: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
    for namespace in &namespaces {
        label(client, namespace, None).await?;
    }
    let managed = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
    let secrets = Api::<Secret>::all(client.clone()).list(&managed).await.map_err(refused("listing Secrets of Zipline"))?;
    for secret in secrets.items.iter().filter(|secret| secret.name_any() == KEYS_SECRET) {
        let namespace = secret.namespace().unwrap_or_default();
        let deleted = Api::<Secret>::namespaced(client.clone(), &namespace).delete(KEYS_SECRET, &DeleteParams::default()).await;
        unless_gone(deleted.map(drop), format!("deleting the keys of namespace {namespace}"))?;
        namespaces.push(namespace);
    }
    namespaces.sort();
    namespaces.dedup();
    Ok(namespaces)
}

async fn sidecar_config(client: &Client) -> Result<ConfigMap, InstallError> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), KNATIVE_NAMESPACE);
    let found = configs.get_opt(CONFIG_DEPLOYMENT).await.map_err(refused("reading Knative's configuration"))?;
    found.ok_or(InstallError::NoKnative)
}

/// Changes the one key, and notes the image before it (or removes the note).
async fn set_image(client: &Client, image: &str, before: Option<String>) -> Result<(), InstallError> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), KNATIVE_NAMESPACE);
    let patch = json!({ "metadata": { "annotations": { IMAGE_BEFORE: before } }, "data": { SIDECAR_IMAGE: image } });
    let changed = configs.patch(CONFIG_DEPLOYMENT, &parameters(), &Patch::Merge(patch)).await;
    changed.map(drop).map_err(refused(format!("setting {SIDECAR_IMAGE} to {image}")))
}

/// Sets or removes the label that switches Zipline on.
async fn label(client: &Client, namespace: &str, value: Option<&str>) -> Result<(), InstallError> {
    let patch = json!({ "metadata": { "labels": { ENABLED_LABEL: value } } });
    let changed = Api::<Namespace>::all(client.clone()).patch(namespace, &parameters(), &Patch::Merge(patch)).await;
    changed.map(drop).map_err(refused(format!("labelling namespace {namespace}")))
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// For `map_err`: the cluster refused `what`.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> InstallError {
    let what = what.into();
    move |error| InstallError::Cluster { what, error: Box::new(error) }
}

/// What was to be deleted and is not there is deleted.
pub(crate) fn unless_gone(result: Result<(), kube::Error>, what: String) -> Result<(), InstallError> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map_err(refused(what)),
    }
}
