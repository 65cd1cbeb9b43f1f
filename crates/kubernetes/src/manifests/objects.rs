//! The objects themselves.

use serde_json::{Value, json};

use super::Options;
use crate::names::{
    CONTROLLER, ENABLED, ENABLED_LABEL, KEYS_SECRET, MANAGED_BY, MANAGED_BY_LABEL, METRICS_PORT, NAMESPACE,
    QUEUE_PROXY_IMAGE_ARGUMENT, REVISION_LABEL, SETTING_ARGUMENT, WEBHOOK, WEBHOOK_PATH, WEBHOOK_PORT, WEBHOOK_SECRET,
};

/// How long the API server waits for the webhook, in seconds; then the pod starts unchanged.
const WEBHOOK_TIMEOUT_SECONDS: u32 = 2;
/// User of the controller; no name stands behind it.
const UID: u32 = 65532;

/// Labels of every object.
pub fn labels() -> Value {
    json!({ MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "zipline", "app.kubernetes.io/name": CONTROLLER })
}

/// All objects, in the order in which they are applied.
pub fn objects(options: &Options) -> Vec<Value> {
    let mut objects = vec![namespace(), service_account()];
    objects.extend(rights(options));
    objects.extend([service(), deployment(options), disruption_budget(), webhook()]);
    objects
}

fn meta(name: &str) -> Value {
    json!({ "name": name, "labels": labels() })
}

fn meta_here(name: &str) -> Value {
    json!({ "name": name, "namespace": NAMESPACE, "labels": labels() })
}

fn namespace() -> Value {
    let mut labels = labels();
    labels["pod-security.kubernetes.io/enforce"] = json!("restricted");
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE, "labels": labels } })
}

fn service_account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta_here(CONTROLLER) })
}

/// As small as it can be: no Secret can be listed or watched, and only those of our names be read or changed. (Creating
/// can't be restricted to a name in Kubernetes.)
fn rights(options: &Options) -> Vec<Value> {
    let rule = |group: &str, resources: &[&str], names: &[&str], verbs: &[&str]| {
        let mut rule = json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let mut everywhere = vec![
        rule("", &["namespaces"], &[], &["get", "list", "watch"]),
        rule("", &["pods"], &[], &["get", "list", "watch"]),
        rule("", &["secrets"], &[KEYS_SECRET], &["get", "update"]),
        rule("", &["secrets"], &[], &["create"]),
        rule("admissionregistration.k8s.io", &["mutatingwebhookconfigurations"], &[WEBHOOK], &["get", "patch"]),
    ];
    if options.deletion_cost {
        everywhere.push(rule("", &["pods"], &[], &["patch"]));
    }
    let here = [rule("", &["secrets"], &[WEBHOOK_SECRET], &["get", "update"])];
    let rbac = "rbac.authorization.k8s.io";
    let subject = json!([{ "kind": "ServiceAccount", "name": CONTROLLER, "namespace": NAMESPACE }]);
    let version = format!("{rbac}/v1");
    let role = |kind: &str| json!({ "apiGroup": rbac, "kind": kind, "name": CONTROLLER });
    vec![
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": meta(CONTROLLER), "rules": everywhere }),
        json!({ "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": meta(CONTROLLER),
                "roleRef": role("ClusterRole"), "subjects": subject }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": meta_here(CONTROLLER), "rules": here }),
        json!({ "apiVersion": version, "kind": "RoleBinding", "metadata": meta_here(CONTROLLER),
                "roleRef": role("Role"), "subjects": subject }),
    ]
}

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": CONTROLLER })
}

fn service() -> Value {
    let port = json!({ "name": "https-webhook", "port": 443, "targetPort": WEBHOOK_PORT });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": meta_here(CONTROLLER),
            "spec": { "selector": selector(), "ports": [port] } })
}

fn deployment(options: &Options) -> Value {
    let mut arguments = vec!["controller".to_owned(), format!("{QUEUE_PROXY_IMAGE_ARGUMENT}{}", options.queue_proxy_image)];
    let earlier = options.earlier_images.iter();
    arguments.extend(earlier.map(|image| format!("{QUEUE_PROXY_IMAGE_ARGUMENT}{image}")));
    arguments.extend(options.settings.iter().map(|(name, value)| format!("{SETTING_ARGUMENT}{name}={value}")));
    if options.deletion_cost {
        arguments.push("--pod-deletion-cost".to_owned());
    }
    let container = json!({
        "name": "controller",
        "image": options.controller_image,
        "args": arguments,
        "ports": [{ "name": "https-webhook", "containerPort": WEBHOOK_PORT }, { "name": "http-metrics", "containerPort": METRICS_PORT }],
        "readinessProbe": { "httpGet": { "path": "/healthz", "port": WEBHOOK_PORT, "scheme": "HTTPS" }, "periodSeconds": 5 },
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": METRICS_PORT }, "periodSeconds": 20, "failureThreshold": 6 },
        "resources": { "requests": { "cpu": "10m", "memory": "24Mi" }, "limits": { "memory": "128Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": UID,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                          "labelSelector": { "matchLabels": selector() } }]);
    let template = json!({
        "metadata": { "labels": labels() },
        "spec": { "serviceAccountName": CONTROLLER, "containers": [container], "topologySpreadConstraints": spread },
    });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta_here(CONTROLLER),
            "spec": { "replicas": options.replicas, "selector": { "matchLabels": selector() }, "template": template } })
}

fn disruption_budget() -> Value {
    json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta_here(CONTROLLER),
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } } })
}

/// Two hooks, since a pod may be asked for by its namespace or by its own label. A pod that both select is changed once:
/// the second finds nothing to do.
fn webhook() -> Value {
    let is_enabled = json!({ "key": ENABLED_LABEL, "operator": "In", "values": [ENABLED] });
    let is_not_switched_off = json!({ "key": ENABLED_LABEL, "operator": "NotIn", "values": ["false"] });
    let is_of_a_revision = json!({ "key": REVISION_LABEL, "operator": "Exists" });
    // Never in the way of the controller itself.
    let is_elsewhere = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE] });
    let hook = |name: &str, namespaces: Vec<Value>, pods: Vec<Value>| {
        json!({
            "name": format!("{name}.zipline.dev"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "name": CONTROLLER, "namespace": NAMESPACE, "path": WEBHOOK_PATH, "port": 443 } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced" }],
            "namespaceSelector": { "matchExpressions": namespaces },
            "objectSelector": { "matchExpressions": pods },
            "failurePolicy": "Ignore", "matchPolicy": "Equivalent", "reinvocationPolicy": "Never",
            "sideEffects": "None", "timeoutSeconds": WEBHOOK_TIMEOUT_SECONDS,
        })
    };
    let by_namespace =
        hook("namespace", vec![is_enabled.clone(), is_elsewhere.clone()], vec![is_of_a_revision.clone(), is_not_switched_off]);
    let by_pod = hook("pod", vec![is_elsewhere], vec![is_of_a_revision, is_enabled]);
    json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": meta(WEBHOOK), "webhooks": [by_namespace, by_pod] })
}
