//! What the webhook does to pods, by the pods that Knative makes.
#![allow(missing_docs)]

use serde_json::{Value, json};
use zipline_kubernetes::admission::{Outcome, Rules, decide};

const OURS: &str = "dev.local/zipline-queue-proxy:1";

fn rules() -> Rules {
    Rules { images: vec![OURS.to_owned()], settings: vec![("ZIPLINE_PEER_CIDRS".to_owned(), "10.0.0.0/8".to_owned())] }
}

/// A pod as Knative's controller makes it, as far as it matters here.
fn pod(image: &str) -> Value {
    json!({
        "metadata": { "name": "hello-00001-deployment-x", "labels": { "serving.knative.dev/revision": "hello-00001" }, "annotations": {} },
        "spec": { "containers": [
            { "name": "user-container", "image": "app", "env": [{ "name": "PORT", "value": "8080" }] },
            { "name": "queue-proxy", "image": image, "env": [{ "name": "SERVING_POD", "value": "x" }] },
        ] },
    })
}

fn patched(pod: &Value) -> (Value, Outcome, Vec<String>) {
    let verdict = decide(pod, &rules());
    let mut changed = pod.clone();
    json_patch::patch(&mut changed, &verdict.patch).expect("the patch applies to the pod it was made for");
    (changed, verdict.outcome, verdict.warnings)
}

fn container<'p>(pod: &'p Value, name: &str) -> &'p Value {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    containers.iter().find(|container| container["name"] == name).expect("a container of that name")
}

fn variable<'p>(pod: &'p Value, container_name: &str, name: &str) -> Option<&'p str> {
    let env = container(pod, container_name)["env"].as_array()?;
    env.iter().find(|entry| entry["name"] == name)?["value"].as_str()
}

#[test]
fn the_queue_proxy_alone_gets_the_keys_and_the_function_the_doors() {
    let (pod, outcome, warnings) = patched(&pod(OURS));
    assert_eq!((outcome, warnings), (Outcome::Changed, vec![]));
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["secretName"], "zipline-keys");
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["optional"], true, "a pod starts without the Secret");
    assert_eq!(container(&pod, "queue-proxy")["volumeMounts"][0]["mountPath"], "/var/run/secrets/zipline");
    assert!(container(&pod, "user-container")["volumeMounts"].is_null(), "a function never sees a key");
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_PEER_CIDRS"), Some("10.0.0.0/8"));
    assert_eq!(variable(&pod, "user-container", "ZIPLINE_PEER_CIDRS"), None);
    assert_eq!(variable(&pod, "user-container", "ZIPLINE_API"), Some("unix:@zipline"));
    assert_eq!(variable(&pod, "user-container", "http_proxy"), Some("http://127.0.0.1:8124"));
    assert_eq!(variable(&pod, "queue-proxy", "http_proxy"), None, "the proxy's own calls don't go through itself");
    assert_eq!(variable(&pod, "user-container", "PORT"), Some("8080"), "what was there stays");
}

#[test]
fn where_there_is_a_tier_the_queue_proxy_alone_gets_its_credentials_and_a_pod_starts_without_them() {
    let tier = ("ZIPLINE_TIER".to_owned(), "payloads".to_owned());
    let with = |settings: Vec<(String, String)>| {
        let (pod, rules) = (pod(OURS), Rules { settings, ..rules() });
        let mut changed = pod.clone();
        json_patch::patch(&mut changed, &decide(&pod, &rules).patch).expect("the patch applies");
        assert!(decide(&changed, &rules).patch.is_empty(), "once is enough");
        changed
    };
    let pod = with(vec![tier.clone()]);
    let volumes: Vec<&Value> = pod["spec"]["volumes"].as_array().expect("volumes").iter().collect();
    assert_eq!(volumes.len(), 2);
    assert!(volumes.iter().all(|volume| volume["secret"]["optional"] == true));
    assert_eq!(volumes[1]["secret"]["secretName"], "zipline-tier");
    assert_eq!(container(&pod, "queue-proxy")["volumeMounts"][1]["mountPath"], "/var/run/secrets/zipline-tier");
    let file = variable(&pod, "queue-proxy", "ZIPLINE_TIER_CREDENTIALS_FILE");
    assert_eq!(file, Some("/var/run/secrets/zipline-tier/credentials.json"));
    assert!(container(&pod, "user-container")["volumeMounts"].is_null());
    let own = ("ZIPLINE_TIER_CREDENTIALS_FILE".to_owned(), "/elsewhere".to_owned());
    let pod = with(vec![tier, own]);
    assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1), "the operator has said where they are");
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_TIER_CREDENTIALS_FILE"), Some("/elsewhere"));
    let pod = with(vec![]);
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_TIER_CREDENTIALS_FILE"), None);
}

#[test]
fn a_pod_that_was_changed_is_not_changed_again() {
    let (once, ..) = patched(&pod(OURS));
    let (twice, outcome, _) = patched(&once);
    assert_eq!((outcome, &twice), (Outcome::Unchanged, &once));
}

#[test]
fn a_pod_with_another_sidecar_or_none_is_left_alone() {
    let stock = pod("gcr.io/knative-releases/queue@sha256:00");
    assert_eq!(patched(&stock).1, Outcome::OtherImage);
    assert_eq!(patched(&stock).0, stock);
    let lookalike = pod("dev.local/zipline-queue-proxy:10");
    assert_eq!(patched(&lookalike).1, Outcome::OtherImage, "a longer tag is another image");
    let mut without = pod(OURS);
    without["spec"]["containers"].as_array_mut().expect("containers").pop();
    assert_eq!(patched(&without).1, Outcome::NoQueueProxy);
    assert_eq!(decide(&json!(null), &rules()).outcome, Outcome::NoQueueProxy);
    assert_eq!(decide(&json!({ "spec": { "containers": "x" } }), &rules()).outcome, Outcome::NoQueueProxy);
}

#[test]
fn a_repository_name_without_a_tag_stands_for_every_version() {
    let rules = Rules { images: vec!["registry:5000/zipline/queue".to_owned()], settings: vec![] };
    let outcome = |image: &str| decide(&pod(image), &rules).outcome;
    assert_eq!(outcome("registry:5000/zipline/queue:1.2"), Outcome::Changed);
    assert_eq!(outcome("registry:5000/zipline/queue@sha256:ab"), Outcome::Changed);
    assert_eq!(outcome("registry:5000/zipline/queue-other:1"), Outcome::OtherImage);
}

#[test]
fn a_services_annotations_become_settings_and_bad_ones_never_stop_its_pods() {
    let mut pod = pod(OURS);
    pod["metadata"]["annotations"] = json!({
        "zipline.dev/inline-threshold-bytes": "1MiB",
        "zipline.dev/transfer": "pigeon",
        "zipline.dev/keys-file": "/etc/passwd",
        "zipline.dev/nonsense": "1",
        "zipline.dev/durability": "mostly",
        "zipline.dev/log": "=[",
        "zipline.dev/s3-bucket": "payloads",
        "other.dev/x": "y",
    });
    let (pod, outcome, warnings) = patched(&pod);
    assert_eq!(outcome, Outcome::Changed);
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_INLINE_THRESHOLD_BYTES"), Some("1MiB"));
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_TRANSFER"), None);
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_KEYS_FILE"), None);
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_DURABILITY"), None);
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_LOG"), None, "a queue-proxy that can't read it would not start");
    assert_eq!(variable(&pod, "user-container", "ZIPLINE_S3_BUCKET"), Some("payloads"), "stores are the function's");
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_S3_BUCKET"), None);
    assert_eq!(warnings.len(), 5, "{warnings:?}");
}

/// One proxy that took plain pulls would let whoever listens choose.
#[test]
fn no_annotation_of_a_service_changes_whether_pulls_are_encrypted() {
    let mut asking = pod(OURS);
    let encrypted = Rules { settings: vec![("ZIPLINE_PULL_TLS".to_owned(), "require".to_owned())], ..rules() };
    for (rules, wanted, given) in [(encrypted, "off", Some("require")), (rules(), "require", None)] {
        asking["metadata"]["annotations"] = json!({ "zipline.dev/pull-tls": wanted });
        let verdict = decide(&asking, &rules);
        let mut changed = asking.clone();
        json_patch::patch(&mut changed, &verdict.patch).expect("the patch applies to the pod it was made for");
        assert_eq!(variable(&changed, "queue-proxy", "ZIPLINE_PULL_TLS"), given, "{wanted}");
        assert_eq!(verdict.warnings.len(), 1, "{:?}", verdict.warnings);
        assert!(verdict.warnings[0].contains("ZIPLINE_PULL_TLS is set for the whole cluster"), "{:?}", verdict.warnings);
    }
}

#[test]
fn an_egress_that_is_off_is_not_offered_and_a_users_own_proxy_stays() {
    let mut off = pod(OURS);
    off["metadata"]["annotations"] = json!({ "zipline.dev/egress-port": "0" });
    let (off, ..) = patched(&off);
    assert_eq!(variable(&off, "user-container", "http_proxy"), None);
    assert_eq!(variable(&off, "user-container", "ZIPLINE_EGRESS_URL"), None);
    assert_eq!(variable(&off, "queue-proxy", "ZIPLINE_EGRESS_PORT"), Some("0"));
    let mut own = pod(OURS);
    own["spec"]["containers"][0]["env"] = json!([{ "name": "HTTP_PROXY", "value": "http://corporate:3128" }]);
    let (own, ..) = patched(&own);
    assert_eq!(variable(&own, "user-container", "http_proxy"), None);
    assert_eq!(variable(&own, "user-container", "no_proxy"), None);
    assert_eq!(variable(&own, "user-container", "ZIPLINE_EGRESS_URL"), Some("http://127.0.0.1:8124"));
}

#[test]
fn a_container_without_variables_gets_a_list() {
    let mut bare = pod(OURS);
    bare["spec"]["containers"][0] = json!({ "name": "user-container", "image": "app" });
    let (bare, ..) = patched(&bare);
    assert_eq!(variable(&bare, "user-container", "ZIPLINE_API"), Some("unix:@zipline"));
}

#[test]
fn a_durability_is_promised_only_where_there_is_a_tier() {
    let mut pod = pod(OURS);
    pod["metadata"]["annotations"] = json!({ "zipline.dev/durability": "always" });
    let (without, _, warnings) = patched(&pod);
    assert_eq!((variable(&without, "queue-proxy", "ZIPLINE_DURABILITY"), warnings.len()), (None, 1));
    let mut rules = rules();
    rules.settings.push(("ZIPLINE_TIER".to_owned(), "payloads".to_owned()));
    let verdict = decide(&pod, &rules);
    json_patch::patch(&mut pod, &verdict.patch).expect("the patch applies");
    assert_eq!(variable(&pod, "queue-proxy", "ZIPLINE_DURABILITY"), Some("always"));
}
