//! The same objects as a Helm chart.
//!
//! The templates are made from [`objects`](fn@super::objects) with marks where a value goes, and the marks replaced: so chart
//! and manifests can't drift apart. With its default values the chart renders to exactly the plain manifests.

use serde_json::Value;

use super::{Options, objects, title, yaml};

/// Marks that no manifest holds otherwise. A number, where a number must stand.
const CONTROLLER_IMAGE: &str = "MARK-CONTROLLER-IMAGE";
const QUEUE_PROXY_IMAGE: &str = "MARK-QUEUE-PROXY-IMAGE";
const REPLICAS: u32 = 987_654_321;
const SETTING: (&str, &str) = ("MARK", "SETTING");

/// A chart's files, by their path in its folder.
pub fn files() -> Vec<(&'static str, String)> {
    vec![("Chart.yaml", chart()), ("values.yaml", values()), ("templates/zipline.yaml", templates())]
}

fn chart() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "apiVersion: v2\nname: zipline\ndescription: Direct memory-to-memory payload transfer for Knative\ntype: application\n\
         version: {version}\nappVersion: \"{version}\"\n"
    )
}

fn values() -> String {
    let options = Options::default();
    format!(
        "# Image of the controller (webhook and keys).\ncontrollerImage: {}\n\
         # Image of the queue-proxy; the same must stand in knative-serving's config-deployment, key queue-sidecar-image.\n\
         queueProxyImage: {}\n\
         # Controllers at once.\nreplicas: {}\n\
         # Settings of every queue-proxy, such as ZIPLINE_PEER_CIDRS: 10.0.0.0/8\nsettings: {{}}\n\
         # Whether a pod that holds payloads gets a higher pod-deletion-cost.\npodDeletionCost: false\n",
        options.controller_image, options.queue_proxy_image, options.replicas
    )
}

fn templates() -> String {
    let options = |deletion_cost| Options {
        controller_image: CONTROLLER_IMAGE.to_owned(),
        queue_proxy_image: QUEUE_PROXY_IMAGE.to_owned(),
        earlier_images: Vec::new(),
        replicas: REPLICAS,
        settings: vec![(SETTING.0.to_owned(), SETTING.1.to_owned())],
        deletion_cost,
    };
    let (with, without) = (objects(&options(true)), objects(&options(false)));
    let documents: Vec<String> = with.iter().zip(&without).map(|(with, without)| either(with, without)).collect();
    documents.join("---\n")
}

/// A document, or one of two where pod deletion costs make a difference.
fn either(with: &Value, without: &Value) -> String {
    debug_assert_eq!(title(with), title(without));
    let text = |object: &Value| marks_replaced(&yaml::documents(std::slice::from_ref(object)));
    match with == without {
        true => text(with),
        false => {
            format!("{{{{- if .Values.podDeletionCost }}}}\n{}{{{{- else }}}}\n{}{{{{- end }}}}\n", text(with), text(without))
        }
    }
}

fn marks_replaced(text: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "---") {
        if line.contains(&format!("--set={}={}", SETTING.0, SETTING.1)) {
            let indent = " ".repeat(line.len() - line.trim_start().len());
            replaced.push_str("{{- range $name, $value := .Values.settings }}\n");
            replaced.push_str(&format!("{indent}- {{{{ printf \"--set=%s=%v\" $name $value | quote }}}}\n"));
            replaced.push_str("{{- end }}\n");
            continue;
        }
        let line = line
            .replace(CONTROLLER_IMAGE, "{{ .Values.controllerImage }}")
            .replace(QUEUE_PROXY_IMAGE, "{{ .Values.queueProxyImage }}")
            .replace(&REPLICAS.to_string(), "{{ .Values.replicas }}");
        replaced.push_str(&line);
        replaced.push('\n');
    }
    replaced
}
