//! What a manifest may say, and what is said about one that may not.

use std::path::Path;

use zipline_platform::{AutoscalerSettings, Manifest, ManifestError, ProbeAction, Protocol, parse_manifest};

const WHOLE: &str = r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: mapper
  namespace: jobs
  labels: { team: data }
spec:
  template:
    metadata:
      annotations:
        autoscaling.knative.dev/max-scale: "8"
        zipline.dev/transfer: inline
        zipline.dev/buffer-bytes: 64MiB
        example.com/note: ours
    spec:
      containerConcurrency: 2
      timeoutSeconds: 20
      idleTimeoutSeconds: 10
      containers:
        - command: [python3, mapper.py]
          args: ["--port", "$(PORT)"]
          env:
            - { name: MODE, value: fast }
          workingDir: src
          ports: [{ name: h2c, containerPort: 9000 }]
          readinessProbe:
            periodSeconds: 5
            httpGet: { path: /ready, port: 9000 }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: config-autoscaler, namespace: knative-serving }
data: { stable-window: 6s }
"#;

fn read(text: &str) -> Result<Manifest, ManifestError> {
    parse_manifest(text, Path::new("/base"), &AutoscalerSettings::default())
}

/// A Service with `spec` lines under `spec.template.spec`, each indented by six spaces.
fn with_pod(lines: &str) -> String {
    let head = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: { name: one }\nspec:\n  template:\n    spec:\n";
    let indented: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    format!("{head}{indented}")
}

fn errors(text: &str) -> Vec<String> {
    read(text).expect_err("has mistakes").findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_file_becomes_typed() {
    let manifest = read(WHOLE).expect("well formed");
    let service = &manifest.services[0];
    assert_eq!(service.name.to_string(), "jobs/mapper");
    let revision = &service.template;
    let function = &revision.function;
    assert_eq!(function.command, ["python3", "mapper.py"]);
    assert_eq!(function.args, ["--port", "$(PORT)"]);
    assert_eq!(function.env, [("MODE".to_owned(), "fast".to_owned())]);
    assert_eq!(function.working_dir, Path::new("/base/src"));
    assert_eq!(function.protocol, Protocol::H2c);
    assert_eq!(function.readiness.action, ProbeAction::HttpGet { path: "/ready".to_owned(), headers: Vec::new() });
    assert_eq!((function.readiness.timeout_seconds, function.readiness.failure_threshold), (1, 3));
    let limits = revision.limits;
    assert_eq!((limits.container_concurrency, limits.timeout_seconds, limits.idle_timeout_seconds), (2, 20, 10));
    assert_eq!(service.autoscaling.scaler.max_scale, 8);
    assert_eq!(service.autoscaling.decider.stable_window.as_secs(), 6, "the file's own ConfigMap is in force");
    assert_eq!(revision.proxy_settings["ZIPLINE_TRANSFER"], "inline");
    assert_eq!(revision.proxy_settings["ZIPLINE_BUFFER_BYTES"], "64MiB");
    assert_eq!(manifest.autoscaler.expect("given").config().stable_window.as_secs(), 6);
}

#[test]
fn what_is_ignored_is_named_in_a_warning() {
    let manifest = read(WHOLE).expect("well formed");
    let warnings: Vec<String> = manifest.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("line 26: spec.template.spec.containers[0].ports[0].containerPort: is not 9000 here"));
    assert!(warnings[1].contains("metadata.namespace"));
    let limits =
        "containers:\n- command: [x]\n  image: example.com/x\n  resources: { limits: { cpu: 1 } }\n  livenessProbe: {}\n";
    let warnings = read(&with_pod(limits)).expect("harmless").warnings;
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.rsplit('.').next().expect("a path")).collect();
    assert_eq!(paths, ["image", "resources", "livenessProbe"]);
}

#[test]
fn every_mistake_is_reported_with_its_path_and_line_and_a_way_out() {
    let found = errors(&with_pod(
        "containerConcurency: 1\ntimeoutSeconds: 900\nvolumes: []\ncontainers:\n- image: example.com/x\n  env: [{ name: PORT, value: \"1\" }, { name: COUNT, value: 3 }]\n",
    ));
    let expected = [
        "line 8: spec.template.spec.timeoutSeconds: 900 lies outside 0 to 600",
        "line 9: spec.template.spec.volumes: is not supported on the local platform (hint: functions see",
        "line 7: spec.template.spec.containerConcurency: is not a known field (hint: did you mean `containerConcurrency`?)",
        "line 11: spec.template.spec.containers[0].command: is missing: the local platform runs programs",
        "spec.template.spec.containers[0].env[1].value: must be text, not a number (hint: put it in quotation marks)",
        "spec.template.spec.containers[0].env[0].name: `PORT` is set by the platform",
    ];
    for expected in expected {
        assert!(found.iter().any(|message| message.contains(expected)), "{expected:?} is missing from {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn annotations_are_known_placed_and_in_range_or_refused() {
    let with = |annotation: &str| {
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{ name: one }}\nspec:\n  template:\n    metadata:\n      \
             annotations: {{ {annotation} }}\n    spec: {{ containers: [{{ command: [x] }}] }}\n"
        )
    };
    let refused = [
        ("autoscaling.knative.dev/max-scale: many", "\"many\" is not a whole number"),
        ("autoscaling.knative.dev/min-scale: 1", "put it in quotation marks"),
        ("autoscaling.knative.dev/class: hpa.autoscaling.knative.dev", "class \"hpa.autoscaling.knative.dev\" is not supported"),
        ("zipline.dev/trasnfer: inline", "did you mean `zipline.dev/transfer`?"),
        ("zipline.dev/transfer: pigeon", "`pigeon` is not one of zipline, inline, s3, redis"),
        ("zipline.dev/bind: 0.0.0.0", "ZIPLINE_BIND is set by the local platform itself"),
        ("zipline.dev/pull-tls: require", "is one for all services, since they pull from each other"),
        ("zipline.dev/pull-tls: \"off\"", "is one for all services, since they pull from each other"),
        ("zipline.dev/lease-seconds: \"0\"", "`0` is not seconds from 0.1 to 3600"),
    ];
    for (annotation, expected) in refused {
        let found = errors(&with(annotation));
        assert!(found.len() == 1 && found[0].contains(expected), "{annotation}: {found:#?}");
    }
    let unknown = read(&with("autoscaling.knative.dev/min-scala: \"1\"")).expect("harmless").warnings;
    assert!(unknown[0].to_string().contains("autoscaling.knative.dev/min-scala]: no such annotation"), "{unknown:?}");
    let misplaced = with("").replace("{ name: one }", "{ name: one, annotations: { zipline.dev/transfer: inline } }");
    assert!(errors(&misplaced)[0].contains("move it to spec.template.metadata.annotations"));
}

#[test]
fn malformed_yaml_and_other_kinds_are_refused_by_name() {
    assert!(errors("a: [1, 2")[0].starts_with("line "));
    assert!(errors("")[0].contains("no document"));
    assert!(errors("- 1\n")[0].contains("must be a mapping, not a list"));
    assert!(errors("kind: Service\n")[0].contains("apiVersion: is missing"));
    assert!(errors("apiVersion: apps/v1\nkind: Deployment\n")[0].contains("apps/v1 Deployment is not supported"));
    assert!(errors("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: other }\n")[0].contains("ConfigMap other"));
    assert!(errors("a: &a [*a, *a]\n").len() == 1);
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(errors(&deep).len(), 1, "depth is bounded");
}

#[test]
fn names_and_traffic_that_one_machine_cannot_serve_are_refused() {
    let named = |name: &str| with_pod("containers: [{ command: [x] }]").replace("{ name: one }", name);
    assert!(errors(&named("{ name: One }"))[0].contains("`One` is not a name"));
    assert!(errors(&named("{ name: a.b }"))[0].contains("`a.b` is not a name"));
    assert!(errors(&named("{ generateName: a- }")).iter().any(|message| message.contains("generateName")));
    let split = "  traffic: [{ revisionName: a, percent: 50 }, { latestRevision: true, percent: 50 }]\n";
    let split = format!("{}{split}", with_pod("containers: [{ command: [x] }]"));
    assert_eq!(errors(&split).len(), 2);
    let all = format!("{}  traffic: [{{ latestRevision: true, percent: 100 }}]\n", with_pod("containers: [{ command: [x] }]"));
    assert!(read(&all).is_ok());
    let twice = with_pod("containers: [{ command: [x] }]");
    assert!(errors(&format!("{twice}---\n{twice}"))[0].contains("default/one stands in the file twice"));
}

#[test]
fn a_probe_becomes_what_the_queue_proxy_reads() {
    let probe = "containers:\n- command: [x]\n  readinessProbe: { grpc: { service: health } }\n";
    let manifest = read(&with_pod(probe)).expect("well formed");
    let expected = serde_json::json!({ "grpc": { "port": 4000, "service": "health" }, "successThreshold": 1 });
    assert_eq!(manifest.services[0].template.function.readiness.to_kubernetes(4000), expected);
    let absent = read(&with_pod("containers: [{ command: [x] }]")).expect("well formed");
    let expected = serde_json::json!({ "tcpSocket": { "host": "127.0.0.1", "port": 4000 }, "successThreshold": 1 });
    assert_eq!(absent.services[0].template.function.readiness.to_kubernetes(4000), expected);
    let exec = "containers:\n- command: [x]\n  readinessProbe: { exec: { command: [true] } }\n";
    assert!(errors(&with_pod(exec))[0].contains("use httpGet, tcpSocket or grpc"));
}
