//! Pods end as Kubernetes wants them to, and the requests in them end well.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Service};
use zipline_e2e_cluster::driver::Plan;
use zipline_e2e_cluster::knative::SIDECAR;
use zipline_testkit::wait;

use crate::all_succeeded;
use crate::transfer::sized;
use crate::zipline::enabled;

/// How long the request works that is in flight when its pod is deleted.
const WORK: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_request_in_flight_is_answered_by_a_pod_that_is_deleted_meanwhile() -> Result<()> {
    let Some(cluster) = Cluster::claim("drain").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("drain", &[]).await?;
    let service = Service::new("worker").scaling("min-scale", "1").scaling("target-burst-capacity", "0").timeout_seconds(60);
    let revision = namespace.apply(&service).await?;
    namespace.mode(&revision, "Serve", LIMIT).await?;
    let driver = namespace.driver().await?;
    let pod = namespace.settled("worker", 1, LIMIT).await?.remove(0);
    let plan = Plan::get(namespace.url("worker", &format!("/sleep?ms={}", WORK.as_millis())), 1);
    let load = driver.start(&plan).await?;
    wait::until("the request to be sent", LIMIT, async || load.report().await, |report| report.sent == 1).await?;
    cluster.api.delete_with(&format!("{}/{pod}", namespace.core("pods")), &json!({})).await?;
    let report = load.ended().await?;
    all_succeeded(&report)?;
    ensure!(report.pods.contains_key(&pod), "{:?} answered, not {pod}", report.pods);
    // Drain and /wait-for-drain end it by themselves, before the grace period does.
    let path = format!("{}/{pod}", namespace.core("pods"));
    cluster.api.until("the pod to be gone", Duration::from_secs(58), &path, serde_json::Value::is_null).await?;
    namespace.remove().await
}

#[tokio::test]
async fn pods_deleted_one_after_the_other_under_load_fail_no_request() -> Result<()> {
    let Some(cluster) = Cluster::claim("deletions under load").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("deleted", &[]).await?;
    namespace.apply(&Service::new("herd").scaling("min-scale", "2")).await?;
    let driver = namespace.driver().await?;
    let load = driver.start(&Plan::get(namespace.url("herd", "/sleep?ms=50"), 400).rate(20.0)).await?;
    for pod in namespace.settled("herd", 2, LIMIT).await? {
        let path = format!("{}/{pod}", namespace.core("pods"));
        cluster.api.delete_with(&path, &json!({})).await?;
        let ready =
            async || Ok(namespace.pods("herd").await?.iter().filter(|pod| zipline_e2e_cluster::node::is_ready(pod)).count());
        wait::until("another pod in its place", LIMIT, ready, |ready| *ready >= 2).await.context(pod)?;
    }
    all_succeeded(&load.ended().await?)?;
    namespace.remove().await
}

#[tokio::test]
async fn producers_and_consumers_deleted_under_load_fail_no_transfer() -> Result<()> {
    let Some(cluster) = Cluster::claim("drain under transfers").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "drained").await?;
    for name in ["producer", "consumer"] {
        namespace.apply(&sized(name).scaling("min-scale", "2").timeout_seconds(60)).await?;
    }
    let driver = namespace.driver().await?;
    let url = namespace.url("producer", "/send?to=consumer&bytes=1048576&via=header");
    let load = driver.start(&Plan::post(url, 0, 400).rate(8.0)).await?;
    for name in ["producer", "consumer"] {
        for pod in namespace.settled(name, 2, LIMIT).await? {
            cluster.api.delete_with(&format!("{}/{pod}", namespace.core("pods")), &json!({})).await?;
            let ready =
                async || Ok(namespace.pods(name).await?.iter().filter(|pod| zipline_e2e_cluster::node::is_ready(pod)).count());
            wait::until("another pod in its place", LIMIT, ready, |ready| *ready >= 2).await.context(pod)?;
        }
    }
    let report = load.ended().await?;
    all_succeeded(&report)?;
    ensure!(report.answers.iter().all(|answer| answer.json()["whole"] == true), "{:?}", report.answers);
    println!("{} transfers, p50 {:.0} ms, slowest {:.0} ms", report.sent, report.percentile(0.5), report.percentile(1.0));
    namespace.remove().await
}
