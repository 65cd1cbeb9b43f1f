//! Queue-proxies of two versions beside each other, as they are in every upgrade.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Namespace, Service, name_of, sidecar_of};
use zipline_e2e_cluster::driver::Plan;
use zipline_e2e_cluster::knative::{CONTROLLER, SIDECAR, SIDECAR_BEFORE};
use zipline_testkit::wait;

use crate::zipline::{has_image, install_with, namespace_with_keys, zipline};
use crate::{all_succeeded, ask};

/// The pod that stays, once it has this sidecar and is ready.
async fn with_sidecar(namespace: &Namespace<'_>, service: &str, image: &str) -> Result<String> {
    let pods = async || namespace.pods(service).await;
    let is_rolled = |pods: &Vec<Value>| {
        pods.len() == 1 && sidecar_of(&pods[0]["spec"]) == Some(image) && zipline_e2e_cluster::node::is_ready(&pods[0])
    };
    let pods = wait::until(&format!("{service} with {image}"), LIMIT, pods, is_rolled).await?;
    Ok(name_of(&pods[0]).to_owned())
}

/// One pod puts, another gets.
async fn pull(cluster: &Cluster, namespace: &Namespace<'_>, put: &Value, reader: &str) -> Result<()> {
    let got = ask(cluster, namespace, reader, "/consume", put["reference"].as_str().context("a reference")?).await?;
    ensure!(got["sha256"] == put["sha256"], "{put} was read as {got}");
    Ok(())
}

#[tokio::test]
async fn queue_proxies_of_two_versions_pull_from_each_other_during_an_upgrade() -> Result<()> {
    let Some(cluster) = Cluster::claim("mixed versions").await? else { return Ok(()) };
    if !has_image(&cluster, SIDECAR_BEFORE).await? {
        zipline_testkit::skip("mixed versions", "the nodes have no image of an earlier sidecar (zipline-queue-proxy-before.tar)");
        return Ok(());
    }
    let install = ["install", "--controller-image", CONTROLLER, "--queue-proxy-image"];
    zipline(&cluster, &[&install[..], &[SIDECAR_BEFORE]].concat()).await?;
    cluster.use_sidecar(SIDECAR_BEFORE).await?;
    let namespace = namespace_with_keys(&cluster, "versions").await?;
    // Long enough that what is told to end is still there to be asked.
    let service = |name: &str| Service::new(name).scaling("min-scale", "1").timeout_seconds(120);
    namespace.apply(&service("producer")).await?;
    namespace.apply(&service("reader")).await?;
    let driver = namespace.driver().await?;
    let old_producer = with_sidecar(&namespace, "producer", SIDECAR_BEFORE).await?;
    let old_reader = with_sidecar(&namespace, "reader", SIDECAR_BEFORE).await?;
    let of_old = ask(&cluster, &namespace, &old_producer, "/produce?bytes=3000000&ttl=300", "").await?;

    let url = namespace.url("producer", "/send?to=reader&bytes=102400&via=header");
    let load = driver.start(&Plan::post(url, 0, 500).rate(10.0)).await?;
    wait::until("load", LIMIT, async || load.report().await, |report| report.succeeded() > 10).await?;
    println!("{}", install_with(&cluster, &[]).await?);
    let new_producer = with_sidecar(&namespace, "producer", SIDECAR).await?;
    let new_reader = with_sidecar(&namespace, "reader", SIDECAR).await?;
    let of_new = ask(&cluster, &namespace, &new_producer, "/produce?bytes=3000000&ttl=300", "").await?;
    pull(&cluster, &namespace, &of_old, &new_reader).await.context("a new one from an old one")?;
    pull(&cluster, &namespace, &of_new, &old_reader).await.context("an old one from a new one")?;
    let report = load.ended().await?;
    all_succeeded(&report)?;
    ensure!(report.answers.iter().all(|answer| answer.json()["whole"] == true), "{:?}", report.answers);
    println!("{} transfers during the upgrade, slowest {:.0} ms", report.sent, report.percentile(1.0));
    namespace.settled("producer", 1, Duration::from_secs(180)).await?;
    namespace.remove().await
}
