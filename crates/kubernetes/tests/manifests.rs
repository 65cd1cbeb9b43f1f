//! The objects of an installation, and the files that are made of them.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

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

#[test]
fn while_pods_are_rolled_from_an_earlier_image_the_controller_knows_both_and_the_new_one_first() {
    let options = Options { earlier_images: vec!["dev.local/queue-proxy:1".to_owned()], ..Options::default() };
    let objects = objects(&options);
    let arguments = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments = arguments.as_array().expect("arguments").iter().filter_map(Value::as_str);
    let images: Vec<&str> = arguments.filter_map(|argument| argument.strip_prefix("--queue-proxy-image=")).collect();
    assert_eq!(images, [options.queue_proxy_image.as_str(), "dev.local/queue-proxy:1"]);
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

/// A program of the system; without it the test says that it looked at nothing.
fn program(name: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        zipline_testkit::skip(test, &format!("`{name}` is not installed"));
    }
    found
}

/// Runs a program and returns what it printed.
fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn prometheus_understands_every_alert_rule() {
    let Some(promtool) = program("promtool", "alert rules") else { return };
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitoring/alerts.yaml");
    let said = run(&promtool, &["check", "rules", &rules.to_string_lossy()]);
    let rules = monitoring::alerts()["groups"][0]["rules"].as_array().expect("rules").len();
    assert!(said.contains(&format!("{rules} rules found")), "{said}");
}

#[test]
fn helm_renders_the_chart_to_the_objects_that_install_applies() {
    let Some(helm) = program("helm", "chart") else { return };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart");
    let chart = chart.to_string_lossy();
    // Helm sorts by kind; what is applied is the same.
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
        objects
    };
    let rendered = |values: &[&str]| {
        let text = run(&helm, &[&["template", "zipline", &chart], values].concat());
        let objects = serde_saphyr::from_multiple::<Value>(&text).expect("YAML");
        sorted(objects.into_iter().filter(|object| !object.is_null()).collect())
    };
    assert_eq!(rendered(&[]), sorted(objects(&Options::default())));
    let options = Options {
        controller_image: "registry.example/controller:2".to_owned(),
        queue_proxy_image: "registry.example/queue-proxy:2".to_owned(),
        replicas: 3,
        settings: vec![("ZIPLINE_PEER_CIDRS".to_owned(), "192.0.2.0/24".to_owned())],
        deletion_cost: true,
        ..Options::default()
    };
    let values = [
        "--set=controllerImage=registry.example/controller:2",
        "--set=queueProxyImage=registry.example/queue-proxy:2",
        "--set=replicas=3",
        "--set=settings.ZIPLINE_PEER_CIDRS=192.0.2.0/24",
        "--set=podDeletionCost=true",
    ];
    assert_eq!(rendered(&values), sorted(objects(&options)));
}
