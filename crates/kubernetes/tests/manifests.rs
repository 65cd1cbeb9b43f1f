//! The objects of an installation, and the files that are made of them.
#![allow(missing_docs)]

use std::path::Path;

use serde_json::Value;
use zipline_contract::metrics;
use zipline_kubernetes::manifests::{Options, chart, files, monitoring, objects, yaml};

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).expect("an object of that kind")
}

#[test]
fn the_files_under_deploy_are_those_that_install_applies() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for (path, expected) in files::all() {
        let found = std::fs::read_to_string(deploy.join(&path)).unwrap_or_default();
        assert!(
            found == expected,
            "deploy/{path} is stale; `cargo run -p zipline-kubernetes -- manifests --write deploy` writes it"
        );
    }
}

#[test]
fn a_broken_webhook_never_stops_a_pod() {
    let objects = objects(&Options::default());
    for hook in of_kind(&objects, "MutatingWebhookConfiguration")["webhooks"].as_array().expect("hooks") {
        assert_eq!(hook["failurePolicy"], "Ignore");
        assert_eq!(hook["timeoutSeconds"], 2);
        assert_eq!(hook["sideEffects"], "None");
    }
}

#[test]
fn the_controller_can_read_no_secret_but_its_own_and_the_key_rings() {
    for deletion_cost in [false, true] {
        let objects = objects(&Options { deletion_cost, ..Options::default() });
        let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role");
        for rule in roles.flat_map(|role| role["rules"].as_array().expect("rules")) {
            let has = |list: &str, word: &str| rule[list].as_array().is_some_and(|list| list.iter().any(|entry| entry == word));
            assert!(!has("verbs", "*") && !has("resources", "*") && !has("apiGroups", "*"));
            if has("resources", "secrets") && !has("verbs", "create") {
                assert!(rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty()), "{rule}");
                assert!(!has("verbs", "list") && !has("verbs", "watch"), "{rule}");
            }
            assert!(!has("verbs", "patch") || !has("resources", "pods") || deletion_cost);
        }
    }
}

#[test]
fn the_controller_runs_without_any_right_on_its_node() {
    let objects = objects(&Options::default());
    let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"][0], "ALL");
}

/// What Helm would do with the few expressions that the chart has; `helm template` itself is run where it is at hand.
#[test]
fn the_chart_with_its_default_values_is_the_plain_manifests() {
    let files = chart::files();
    let templates = &files.iter().find(|(path, _)| path.starts_with("templates/")).expect("templates").1;
    let options = Options::default();
    let (mut rendered, mut skips) = (String::new(), Vec::new());
    for line in templates.lines() {
        match line.trim() {
            "{{- if .Values.podDeletionCost }}" => skips.push(true),
            "{{- else }}" => *skips.last_mut().expect("inside an if") = false,
            line if line.starts_with("{{- range") => skips.push(true),
            "{{- end }}" => drop(skips.pop()),
            _ if skips.contains(&true) => {}
            _ => {
                rendered += line;
                rendered.push('\n');
            }
        }
    }
    let rendered = rendered
        .replace("{{ .Values.controllerImage }}", &options.controller_image)
        .replace("{{ .Values.queueProxyImage }}", &options.queue_proxy_image)
        .replace("{{ .Values.replicas }}", &options.replicas.to_string());
    assert!(!rendered.contains("{{"), "an expression is left");
    let read = |text: &str| serde_saphyr::from_multiple::<Value>(text).expect("YAML");
    assert_eq!(read(&rendered), read(&yaml::documents(&objects(&options))));
}

#[test]
fn the_dashboard_shows_only_metrics_of_the_table_and_every_metric_of_a_queue_proxy() {
    let dashboard = monitoring::dashboard().to_string();
    let of_the_platform = ["zipline_activator", "zipline_direct", "zipline_instance"];
    for metric in metrics::ALL.iter().filter(|metric| !of_the_platform.iter().any(|prefix| metric.name.starts_with(prefix))) {
        assert!(dashboard.contains(metric.name), "{} is not shown", metric.name);
    }
    for word in dashboard.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.starts_with("zipline_")) {
        let word = word.trim_end_matches("_bucket");
        assert!(metrics::ALL.iter().any(|metric| metric.name == word), "{word} is not in the table");
    }
}
