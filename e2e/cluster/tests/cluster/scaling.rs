//! Knative's autoscaler and activator make of our sidecar what they make of the stock one.

use std::time::Duration;

use anyhow::{Result, ensure};
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Service};
use zipline_e2e_cluster::driver::Plan;
use zipline_e2e_cluster::knative::SIDECAR;

use zipline_testkit::wait;

use crate::all_succeeded;

/// Stable window 6 s, grace 1 s, ticks of 2 s, and a machine that does other things.
const TO_ZERO: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_service_goes_from_zero_to_many_and_back_under_load_without_a_failed_request() -> Result<()> {
    let Some(cluster) = Cluster::claim("scale from zero and back").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("scale", &[]).await?;
    let service = Service::new("wave").scaling("target", "2").scaling("max-scale", "4");
    namespace.apply(&service).await?;
    let driver = namespace.driver().await?;
    for round in 1..=2 {
        namespace.at_zero("wave", TO_ZERO).await?;
        let report = driver.drive(&Plan::get(namespace.url("wave", "/sleep?ms=400"), 200).rate(15.0)).await?;
        all_succeeded(&report)?;
        ensure!(report.pods.len() > 1, "6 requests at once at a target of 2 need more than one pod: {:?}", report.pods);
        println!("round {round}: first answer after {:.0} ms at most, pods {:?}", report.percentile(1.0), report.pods);
    }
    namespace.at_zero("wave", TO_ZERO).await?;
    namespace.remove().await
}

#[tokio::test]
async fn the_activator_is_in_the_path_and_out_of_it_and_both_ways_answer() -> Result<()> {
    let Some(cluster) = Cluster::claim("activator in and out of the path").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("modes", &[]).await?;
    let driver = namespace.driver().await?;
    for (name, burst, mode) in [("through", "-1", "Proxy"), ("straight", "0", "Serve")] {
        let service = Service::new(name).scaling("target-burst-capacity", burst).scaling("min-scale", "2");
        let revision = namespace.apply(&service).await?;
        namespace.mode(&revision, mode, LIMIT).await?;
        let report = driver.drive(&Plan::post(namespace.url(name, "/digest"), 1_000_000, 20).at_once(4)).await?;
        all_succeeded(&report)?;
        let by_activator =
            report.answers.iter().filter(|answer| answer.json()["headers"]["k-proxy-request"] == "activator").count();
        let expected = if mode == "Proxy" { report.answers.len() } else { 0 };
        ensure!(by_activator == expected, "in mode {mode}, {by_activator} of {} came by the activator", report.answers.len());
        // The ingress keeps its connections, each of which leads to one pod: many at once lead to both.
        let at_once = Plan::get(namespace.url(name, "/sleep?ms=100"), 32).at_once(32);
        let again = async || driver.drive(&at_once).await;
        wait::until(&format!("both pods to answer in mode {mode}"), LIMIT, again, |report| report.pods.len() == 2).await?;
    }
    namespace.remove().await
}

#[tokio::test]
async fn with_a_concurrency_of_one_a_burst_waits_its_turn_and_brings_more_pods() -> Result<()> {
    let Some(cluster) = Cluster::claim("concurrency of one").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("single", &[]).await?;
    namespace.apply(&Service::new("single").concurrency(1).scaling("max-scale", "3")).await?;
    let driver = namespace.driver().await?;
    let report = driver.drive(&Plan::get(namespace.url("single", "/sleep?ms=300"), 60).at_once(20)).await?;
    all_succeeded(&report)?;
    ensure!(report.in_flight_max == 1, "a function with a concurrency of 1 had {} requests at once", report.in_flight_max);
    ensure!(report.pods.len() > 1, "a burst of 20 brings more pods: {:?}", report.pods);
    println!("a burst of 20 on concurrency 1: p50 {:.0} ms, pods {:?}", report.percentile(0.5), report.pods);
    namespace.remove().await
}
