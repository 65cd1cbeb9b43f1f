//! Pods that hold payloads are taken away: what was promised is still there to be read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_e2e_cluster::cluster::{Cluster, Driver, LIMIT, Namespace, Service, name_of};
use zipline_e2e_cluster::driver::Plan;
use zipline_testkit::wait;

use crate::zipline::{enabled, install_with};
use crate::{all_succeeded, ask};

const HOLDERS: usize = 10;
/// What each holds.
const OBJECT_BYTES: u64 = 2_000_000;
/// The grace period: longer than everything that is read in it.
const GRACE_SECONDS: u64 = 120;
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A payload, and who holds it.
struct Held {
    pod: String,
    reference: String,
    sha256: Value,
}

/// Lets a pod put a payload.
async fn put(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, bytes: u64) -> Result<Held> {
    let seed = pod.bytes().map(u64::from).sum::<u64>();
    let put = ask(cluster, namespace, pod, &format!("/produce?bytes={bytes}&ttl=300&seed={seed}"), "").await?;
    ensure!(put["pod"] == pod, "{pod} was asked, and {put} answered");
    let reference = put["reference"].as_str().context("a reference")?.to_owned();
    Ok(Held { pod: pod.to_owned(), reference, sha256: put["sha256"].clone() })
}

/// Reads every payload by way of the service `reader`.
async fn read_all(driver: &Driver<'_>, namespace: &Namespace<'_>, held: &[Held]) -> Result<()> {
    for held in held {
        let plan = Plan::post(namespace.url("reader", "/digest"), 0, 1).header("zipline-reference", &held.reference);
        let report = driver.drive(&plan).await?;
        all_succeeded(&report).with_context(|| format!("what {} holds", held.pod))?;
        ensure!(report.answers[0].json()["sha256"] == held.sha256, "what {} holds: {:?}", held.pod, report.answers);
    }
    Ok(())
}

/// A service of at most so many pods, one request each.
fn holders(count: usize) -> Service {
    Service::new("holders")
        .concurrency(1)
        .scaling("target-utilization-percentage", "100")
        .scaling("max-scale", &count.to_string())
        .timeout_seconds(GRACE_SECONDS)
}

fn reader() -> Service {
    Service::new("reader").scaling("min-scale", "1")
}

/// Waits until so many pods stay; those on their way out may still be there.
async fn staying(namespace: &Namespace<'_>, count: usize) -> Result<Vec<Value>> {
    let pods = async || namespace.pods("holders").await;
    wait::until(&format!("{count} pods to stay"), LIMIT, pods, |pods| pods.len() == count).await
}

#[tokio::test]
async fn ten_holders_scaled_in_to_one_lose_nothing() -> Result<()> {
    let Some(cluster) = Cluster::claim("ten holders, scale-in").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "scale-in").await?;
    namespace.apply(&holders(HOLDERS)).await?;
    namespace.apply(&reader()).await?;
    let driver = namespace.driver().await?;
    let load = driver.start(&Plan::get(namespace.url("holders", "/sleep?ms=1000"), 400).at_once(HOLDERS)).await?;
    let mut held = Vec::new();
    for pod in namespace.settled("holders", HOLDERS, LIMIT).await? {
        held.push(put(&cluster, &namespace, &pod, OBJECT_BYTES).await?);
    }
    all_succeeded(&load.ended().await?)?;
    let left = staying(&namespace, 1).await?;
    println!("of {HOLDERS} holders {} stays; the others are told to end and are read", name_of(&left[0]));
    read_all(&driver, &namespace, &held).await?;
    // Nothing is held any more: they end by themselves, and the last goes for want of requests.
    namespace.settled("holders", 0, Duration::from_secs(GRACE_SECONDS + 60)).await?;
    namespace.remove().await
}

#[tokio::test]
async fn ten_holders_of_a_revision_that_is_replaced_lose_nothing() -> Result<()> {
    let Some(cluster) = Cluster::claim("ten holders, rolling update").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "update").await?;
    let before = namespace.apply(&holders(HOLDERS).scaling("min-scale", &HOLDERS.to_string())).await?;
    namespace.apply(&reader()).await?;
    let driver = namespace.driver().await?;
    let mut held = Vec::new();
    for pod in namespace.settled("holders", HOLDERS, LIMIT).await? {
        held.push(put(&cluster, &namespace, &pod, OBJECT_BYTES).await?);
    }
    let after = namespace.apply(&holders(HOLDERS).scaling("min-scale", "1").env("VERSION", "2")).await?;
    ensure!(before != after, "a change of the template is a new revision");
    let of_before = async || {
        let pods = namespace.pods("holders").await?;
        Ok(pods.iter().filter(|pod| pod["metadata"]["labels"]["serving.knative.dev/revision"] == before.as_str()).count())
    };
    let left = wait::until("the revision without a route to shrink", LIMIT, of_before, |count| *count <= 1).await?;
    println!("{before} lost its route; {left} of its {HOLDERS} pods stays");
    read_all(&driver, &namespace, &held).await?;
    wait::until("the revision to end", Duration::from_secs(GRACE_SECONDS + 60), of_before, |count| *count == 0).await?;
    namespace.remove().await
}

#[tokio::test]
async fn with_deletion_costs_the_pod_that_holds_the_most_is_the_one_that_stays() -> Result<()> {
    let Some(cluster) = Cluster::claim("pod deletion cost").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "cost").await?;
    install_with(&cluster, &["--pod-deletion-cost"]).await?;
    namespace.apply(&holders(4)).await?;
    namespace.apply(&reader()).await?;
    let driver = namespace.driver().await?;
    let load = driver.start(&Plan::get(namespace.url("holders", "/sleep?ms=1000"), 320).at_once(4)).await?;
    namespace.settled("holders", 4, LIMIT).await?;
    let mut pods = namespace.pods("holders").await?;
    // Without a cost the youngest goes first: its turn to hold.
    pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned());
    let holder = name_of(pods.last().context("pods")?).to_owned();
    let held = put(&cluster, &namespace, &holder, 4 * OBJECT_BYTES).await?;
    let path = format!("{}/{holder}", namespace.core("pods"));
    let has_cost = |pod: &Value| pod["metadata"]["annotations"][COST].is_string();
    let pod = cluster.api.until("its deletion cost", LIMIT, &path, has_cost).await?;
    println!("{holder} has the cost {}", pod["metadata"]["annotations"][COST]);
    all_succeeded(&load.ended().await?)?;
    let left = staying(&namespace, 1).await?;
    ensure!(name_of(&left[0]) == holder, "{} stays, and {holder} held", name_of(&left[0]));
    read_all(&driver, &namespace, &[held]).await?;
    install_with(&cluster, &[]).await?;
    namespace.remove().await
}
