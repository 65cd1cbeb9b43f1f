//! `zipline install` and what it gives: keys by the webhook, and so direct transfer, in one namespace that asked for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Namespace, Service};
use zipline_e2e_cluster::driver::Plan;
use zipline_e2e_cluster::knative::{CONTROLLER, SIDECAR};
use zipline_testkit::{Program, Scratch, wait};

use crate::all_succeeded;

/// Switches Zipline on for a namespace.
pub(crate) const ENABLED: (&str, &str) = ("zipline.dev/enabled", "true");
/// The command waits for the cluster by itself; this is beyond it.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// Runs `zipline` against the cluster and returns what it printed.
pub(crate) async fn zipline(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let scratch = Scratch::new()?;
    let program = Program::built("zipline")?.args(arguments.iter().copied()).env("KUBECONFIG", cluster.kubeconfig.as_os_str());
    let ended = program.run(&scratch, COMMAND_LIMIT).await?;
    ensure!(ended.code() == Some(0), "zipline {}: {}", arguments.join(" "), ended.tail());
    Ok(ended.stdout())
}

/// Installs; installing twice is installing once.
pub(crate) async fn install(cluster: &Cluster) -> Result<String> {
    install_with(cluster, &[]).await
}

/// Installs with more arguments.
pub(crate) async fn install_with(cluster: &Cluster, more: &[&str]) -> Result<String> {
    let arguments = ["install", "--controller-image", CONTROLLER, "--queue-proxy-image", SIDECAR];
    zipline(cluster, &[&arguments[..], more].concat()).await
}

/// Whether the nodes have an image.
pub(crate) async fn has_image(cluster: &Cluster, image: &str) -> Result<bool> {
    let nodes = cluster.api.list("/api/v1/nodes").await?;
    let names = |node: &Value| node["status"]["images"].to_string();
    Ok(nodes.iter().all(|node| names(node).contains(&format!("\"{image}\""))))
}

/// A namespace in which Zipline is on, and has keys.
pub(crate) async fn enabled<'a>(cluster: &'a Cluster, name: &str) -> Result<Namespace<'a>> {
    install(cluster).await?;
    cluster.use_sidecar(SIDECAR).await?;
    namespace_with_keys(cluster, name).await
}

/// A namespace that asked for Zipline and has its keys, whatever the sidecar is.
pub(crate) async fn namespace_with_keys<'a>(cluster: &'a Cluster, name: &str) -> Result<Namespace<'a>> {
    let namespace = cluster.namespace(name, &[ENABLED]).await?;
    let keys = format!("{}/zipline-keys", namespace.core("secrets"));
    cluster.api.until("the namespace's keys", LIMIT, &keys, |secret| secret["data"]["keys.json"].is_string()).await?;
    Ok(namespace)
}

/// A value of a pod's Zipline metrics, summed over what the labels leave open; 0 where there is none.
pub(crate) async fn metric(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, name: &str, label: &str) -> Result<f64> {
    let path = format!("{}/{pod}:8022/proxy/zipline/metrics", namespace.core("pods"));
    let answer = cluster.api.request(http::Method::GET, &path, "text/plain", Vec::new()).await?;
    ensure!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
    let text = answer.text();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

#[tokio::test]
async fn install_gives_keys_to_who_asked_and_uninstall_leaves_nothing() -> Result<()> {
    let Some(cluster) = Cluster::claim("install and uninstall").await? else { return Ok(()) };
    let stock = zipline_e2e_cluster::knative::STOCK_SIDECAR;
    cluster.use_sidecar(stock).await?;
    println!("{}", install(&cluster).await?);
    ensure!(cluster.sidecar().await? == SIDECAR, "{}", cluster.sidecar().await?);

    let asked = enabled(&cluster, "asked").await?;
    let silent = cluster.namespace("silent", &[]).await?;
    for namespace in [&asked, &silent] {
        namespace.apply(&Service::new("plain").scaling("min-scale", "1")).await?;
    }
    let mount = |pod: &Value| {
        let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
        let has = |name: &str| {
            let mut of_name = containers.iter().filter(|container| container["name"] == name);
            of_name.any(|container| container["volumeMounts"].to_string().contains("/var/run/secrets/zipline"))
        };
        (has("queue-proxy"), has("user-container"))
    };
    let pod = asked.pods("plain").await?.pop().context("a pod")?;
    ensure!(mount(&pod) == (true, false), "keys are the queue-proxy's alone: {pod}");
    let pod = silent.pods("plain").await?.pop().context("a pod")?;
    ensure!(mount(&pod) == (false, false), "a namespace that did not ask: {pod}");
    println!("{}", zipline(&cluster, &["status"]).await?);

    // What the command made there goes, too.
    zipline(&cluster, &[&format!("--cluster={}", asked.name), "service", "list"]).await?;
    let client = format!("/apis/apps/v1/namespaces/{}/deployments/zipline-client", asked.name);
    cluster.api.until("the client proxy", LIMIT, &client, Value::is_object).await?;
    println!("{}", zipline(&cluster, &["uninstall"]).await?);
    ensure!(cluster.sidecar().await? == stock, "the key stands as it stood before: {}", cluster.sidecar().await?);
    for path in [
        "/api/v1/namespaces/zipline-system".to_owned(),
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/zipline".to_owned(),
        format!("{}/zipline-keys", asked.core("secrets")),
        client,
    ] {
        cluster.api.until("nothing to be left", LIMIT, &path, Value::is_null).await?;
    }
    asked.remove().await?;
    silent.remove().await
}

#[tokio::test]
async fn with_the_webhook_down_pods_start_and_serve_and_only_references_are_refused() -> Result<()> {
    let Some(cluster) = Cluster::claim("webhook down").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "no-webhook").await?;
    let controller = "/apis/apps/v1/namespaces/zipline-system/deployments/zipline-controller";
    let scale = async |replicas: u64| {
        cluster.api.patch(controller, &json!({ "spec": { "replicas": replicas } })).await?;
        let path = "/api/v1/namespaces/zipline-system/pods";
        let holds = |list: &Value| list["items"].as_array().map(Vec::len) == usize::try_from(replicas).ok();
        cluster.api.until("the controllers", LIMIT, path, holds).await?;
        cluster.api.until("the controllers to be ready", LIMIT, controller, zipline_e2e_cluster::knative::is_available).await
    };
    scale(0).await?;
    for name in ["producer", "consumer"] {
        namespace.apply(&Service::new(name).scaling("min-scale", "1")).await?;
    }
    let driver = namespace.driver().await?;
    let report = driver.drive(&Plan::post(namespace.url("consumer", "/digest"), 1_000_000, 20)).await?;
    all_succeeded(&report).context("requests without a reference")?;
    let url = namespace.url("producer", "/send?to=consumer&bytes=1000000&via=header");
    let report = driver.drive(&Plan::post(url, 0, 1)).await?;
    let answer = report.answers.first().context("an answer")?;
    ensure!(answer.status >= 400 && answer.body.contains("reference-unknown-key"), "{answer:?}");
    scale(2).await?;
    namespace.remove().await
}

#[tokio::test]
async fn keys_that_are_deleted_or_spoilt_are_made_anew_and_requests_go_on() -> Result<()> {
    let Some(cluster) = Cluster::claim("keys spoilt").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "spoilt").await?;
    for name in ["producer", "consumer"] {
        namespace.apply(&Service::new(name).scaling("min-scale", "1")).await?;
    }
    let driver = namespace.driver().await?;
    let keys = format!("{}/zipline-keys", namespace.core("secrets"));
    let first = cluster.api.get(&keys).await?["data"]["keys.json"].clone();
    let load = driver.start(&Plan::post(namespace.url("consumer", "/digest"), 100_000, 300).rate(10.0)).await?;
    // `bm9uZQ==` is no ring.
    cluster.api.patch(&keys, &json!({ "data": { "keys.json": "bm9uZQ==" } })).await?;
    let is_anew = |secret: &Value| {
        let ring = &secret["data"]["keys.json"];
        ring.is_string() && *ring != first && *ring != "bm9uZQ=="
    };
    cluster.api.until("keys after they were spoilt", LIMIT, &keys, is_anew).await?;
    cluster.api.delete(&keys).await?;
    cluster.api.until("keys after they were deleted", LIMIT, &keys, is_anew).await?;
    all_succeeded(&load.ended().await?).context("requests without a reference")?;
    // Once both have read the new ring, references pass again.
    let url = namespace.url("producer", "/send?to=consumer&bytes=1000000&via=header");
    let plan = Plan::post(url, 0, 1);
    let sends = async || driver.drive(&plan).await;
    wait::until("references to pass again", LIMIT, sends, |report| report.succeeded() == 1).await?;
    namespace.remove().await
}
