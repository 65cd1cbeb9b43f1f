//! Names of the objects in a cluster; each stands only here.

/// Namespace of the controller.
pub const NAMESPACE: &str = "zipline-system";
/// The controller: deployment, service, service account, roles.
pub const CONTROLLER: &str = "zipline-controller";
/// The client proxy of a namespace.
pub const CLIENT: &str = "zipline-client";
/// The webhook's configuration.
pub const WEBHOOK: &str = "zipline";
/// Secret with the webhook's own certificate, in [`NAMESPACE`].
pub const WEBHOOK_SECRET: &str = "zipline-webhook-certificate";
/// Secret with the key ring of a namespace.
pub const KEYS_SECRET: &str = "zipline-keys";
/// Its one entry.
pub const KEYS_ENTRY: &str = "keys.json";
/// Where a queue-proxy finds it.
pub const KEYS_FOLDER: &str = "/var/run/secrets/zipline";
/// Secret of a namespace with the credentials of the durable tier, made by whoever runs the store.
pub const TIER_SECRET: &str = "zipline-tier";
/// Name of its volume.
pub const TIER_VOLUME: &str = "zipline-tier";
/// Where a queue-proxy finds it.
pub const TIER_FOLDER: &str = "/var/run/secrets/zipline-tier";
/// Its one entry.
pub const TIER_ENTRY: &str = "credentials.json";
/// Label that switches Zipline on, for a namespace or for a revision's pods.
pub const ENABLED_LABEL: &str = "zipline.dev/enabled";
/// The label's value; any other is off.
pub const ENABLED: &str = "true";
/// Annotation on `config-deployment`: the image that stood there before ours.
pub const IMAGE_BEFORE: &str = "zipline.dev/queue-sidecar-image-before";
/// Who applies our objects, for server-side apply.
pub const FIELD_MANAGER: &str = "zipline";
/// Label of every object of ours.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "zipline";
/// Knative's own namespace.
pub const KNATIVE_NAMESPACE: &str = "knative-serving";
/// Knative's ConfigMap with the sidecar's image.
pub const CONFIG_DEPLOYMENT: &str = "config-deployment";
/// Its key for that.
pub const SIDECAR_IMAGE: &str = "queue-sidecar-image";
/// Label that Knative gives every pod of a revision.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// Label that Knative gives every pod of a service.
pub const SERVICE_LABEL: &str = "serving.knative.dev/service";
/// Knative's sidecar.
pub const QUEUE_PROXY: &str = "queue-proxy";
/// Port of the webhook.
pub const WEBHOOK_PORT: u16 = 8443;
/// Port of the controller's metrics and health.
pub const METRICS_PORT: u16 = 9090;
/// Path of the webhook.
pub const WEBHOOK_PATH: &str = "/mutate";
/// Name of the volume of a pod that its key Secret is mounted from; a pod with it has our queue-proxy.
pub const KEYS_VOLUME: &str = "zipline-keys";
/// What the controller's argument with the queue-proxy's image begins with.
pub const QUEUE_PROXY_IMAGE_ARGUMENT: &str = "--queue-proxy-image=";
/// What the controller's arguments with a setting begin with.
pub const SETTING_ARGUMENT: &str = "--set=";
