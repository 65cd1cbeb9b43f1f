//! One key of one ConfigMap changes the sidecar, and changes it back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Service, sidecar_of};
use zipline_e2e_cluster::driver::{Answer, Plan};
use zipline_e2e_cluster::knative::{SIDECAR, STOCK_SIDECAR};

use crate::all_succeeded;

/// What of an answer must not depend on the sidecar: everything but the date, the pod's name and what names the pod's address.
fn comparable(answer: &Answer) -> serde_json::Value {
    let mut body = answer.json();
    body["pod"] = "".into();
    if let Some(headers) = body["headers"].as_object_mut() {
        for (name, value) in headers.iter_mut() {
            // Addresses, ids of traces and timestamps differ from pod to pod and from request to request.
            if matches!(name.as_str(), "forwarded" | "x-forwarded-for" | "traceparent" | "x-request-id") {
                *value = "present".into();
            }
        }
    }
    let mut headers = answer.headers.clone();
    headers.remove("date");
    // The function's body repeats what was replaced above.
    headers.entry("content-length".into()).and_modify(|value| *value = "present".into());
    serde_json::json!({ "status": answer.status, "headers": headers, "body": body })
}

#[tokio::test]
async fn a_stock_service_answers_the_same_before_and_after_the_one_key_changes_and_changes_back() -> Result<()> {
    let Some(cluster) = Cluster::claim("sidecar swap").await? else { return Ok(()) };
    cluster.use_sidecar(STOCK_SIDECAR).await?;
    let namespace = cluster.namespace("swap", &[]).await?;
    namespace.apply(&Service::new("steady").scaling("min-scale", "1")).await?;
    // Knative may have made it by the key as it stood before; now there is something to wait for.
    cluster.use_sidecar(STOCK_SIDECAR).await?;
    let driver = namespace.driver().await?;
    let plans = [
        Plan::get(namespace.url("steady", "/?a=b"), 3),
        Plan::post(namespace.url("steady", "/digest"), 300_000, 2).header("content-type", "application/x-test"),
        Plan::get(namespace.url("steady", "/nothing-here"), 1),
    ];
    let mut before = Vec::new();
    for plan in &plans {
        before.push(driver.drive(plan).await?.answers.iter().map(comparable).collect::<Vec<_>>());
    }

    for image in [SIDECAR, STOCK_SIDECAR] {
        cluster.use_sidecar(image).await?;
        let pods = namespace.settled("steady", 1, LIMIT).await?;
        let pod = cluster.api.get(&format!("{}/{}", namespace.core("pods"), pods[0])).await?;
        ensure!(sidecar_of(&pod["spec"]) == Some(image), "{pod}");
        for (plan, expected) in plans.iter().zip(&before) {
            let answers: Vec<_> = driver.drive(plan).await?.answers.iter().map(comparable).collect();
            ensure!(&answers == expected, "with {image}:\n{answers:#?}\nwith the stock sidecar before:\n{expected:#?}");
        }
    }
    namespace.remove().await
}

#[tokio::test]
async fn our_sidecar_runs_with_no_right_that_the_stock_one_has_not() -> Result<()> {
    let Some(cluster) = Cluster::claim("sidecar rights").await? else { return Ok(()) };
    cluster.use_sidecar(SIDECAR).await?;
    let namespace = cluster.namespace("rights", &[]).await?;
    namespace.apply(&Service::new("modest").scaling("min-scale", "1")).await?;
    let pods = namespace.settled("modest", 1, LIMIT).await?;
    let pod = cluster.api.get(&format!("{}/{}", namespace.core("pods"), pods[0])).await?;
    let containers = pod["spec"]["containers"].as_array().context("containers")?;
    let sidecar = containers.iter().find(|container| container["name"] == "queue-proxy").context("a queue-proxy")?;
    let context = &sidecar["securityContext"];
    ensure!(context["readOnlyRootFilesystem"] == true && context["runAsNonRoot"] == true, "{context}");
    ensure!(context["allowPrivilegeEscalation"] == false && context["capabilities"]["drop"][0] == "ALL", "{context}");
    ensure!(context["seccompProfile"]["type"] == "RuntimeDefault", "{context}");
    let statuses = pod["status"]["containerStatuses"].as_array().context("statuses")?;
    ensure!(statuses.iter().all(|status| status["restartCount"] == 0 && status["ready"] == true), "{statuses:?}");
    namespace.remove().await
}

#[tokio::test]
async fn changing_the_key_and_changing_it_back_under_load_fails_no_request() -> Result<()> {
    let Some(cluster) = Cluster::claim("sidecar swap under load").await? else { return Ok(()) };
    cluster.use_sidecar(STOCK_SIDECAR).await?;
    let namespace = cluster.namespace("rollback", &[]).await?;
    namespace.apply(&Service::new("busy").scaling("min-scale", "2").timeout_seconds(60)).await?;
    // Knative may have made it by the key as it stood before; now there is something to wait for.
    cluster.use_sidecar(STOCK_SIDECAR).await?;
    let driver = namespace.driver().await?;
    // Longer than both rolls take on a machine that is busy with other things; ended early once they are over.
    let mut plan = Plan::post(namespace.url("busy", "/digest"), 10_000, 3_000).rate(25.0);
    plan.keep_alive = true;
    let load = driver.start(&plan).await?;
    for image in [SIDECAR, STOCK_SIDECAR] {
        let sent = load.report().await?.sent;
        cluster.use_sidecar(image).await.with_context(|| format!("rolling to {image}"))?;
        let report = load.report().await?;
        ensure!(report.sent > sent, "no request was sent during the roll");
        ensure!(report.failures.is_empty(), "during the roll to {image}: {:?}", report.failures);
    }
    let report = load.ended().await?;
    all_succeeded(&report)?;
    // A pod is named after its ReplicaSet, and each sidecar has one: both served the one service.
    let sets: BTreeSet<&str> = report.pods.keys().filter_map(|pod| Some(pod.rsplit_once('-')?.0)).collect();
    ensure!(sets.len() == 2, "pods with each sidecar answered: {:?}", report.pods);
    println!(
        "rolled there and back under {} requests: p50 {:.1} ms, p99 {:.1} ms, pods {:?}",
        report.sent,
        report.percentile(0.5),
        report.percentile(0.99),
        report.pods
    );
    namespace.remove().await
}
