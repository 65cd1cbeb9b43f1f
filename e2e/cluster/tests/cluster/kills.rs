//! Queue-proxies that end without a word: what they had is named to whoever wants it, and nothing is taken for whole.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Namespace, Origin, Service};
use zipline_e2e_cluster::driver::{Answer, Plan};
use zipline_testkit::wait;

use crate::transfer::{kill_queue_proxy, pod_of, send, sized};
use crate::zipline::{enabled, metric};
use crate::{all_succeeded, ask};

const MIB: u64 = 1024 * 1024;
/// Long enough to be interrupted, read slowly.
const LONG_BYTES: u64 = 256 * MIB;
/// So much of it has arrived when somebody is killed.
const BEGUN_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
/// Limits of the sidecar's memory.
const TIGHT_LIMIT: &str = "64Mi";
const TOO_TIGHT_LIMIT: &str = "32Mi";
/// Objects of a byte, which cost about 500 bytes each beside it: more than the limit, whatever the budget for payloads is.
const OBJECTS: u64 = 190_000;

/// Waits until a pod's queue-proxy was started anew after an end with this reason.
async fn restarted(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, reason: &str) -> Result<Value> {
    let holds = |pod: &Value| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        let mut of_proxy = statuses.into_iter().flatten().filter(|status| status["name"] == "queue-proxy");
        of_proxy.any(|status| status["ready"] == true && status["lastState"]["terminated"]["reason"] == reason)
    };
    let path = format!("{}/{pod}", namespace.core("pods"));
    cluster.api.until(&format!("the queue-proxy of {pod} to be back after {reason}"), LIMIT, &path, holds).await
}

fn is_error(answer: &Answer, names: &[&str]) -> bool {
    answer.status >= 400 && answer.headers.get("zipline-error").is_some_and(|name| names.contains(&name.as_str()))
}

fn tight(limit: &str) -> Service {
    let service = Service::new("tight").by_sdk().scaling("min-scale", "1").scaling("max-scale", "1").timeout_seconds(300);
    service.annotation("queue.sidecar.serving.knative.dev/memory-resource-limit", limit)
}

#[tokio::test]
async fn a_queue_proxy_that_keeps_to_its_budget_is_not_killed_for_it() -> Result<()> {
    let Some(cluster) = Cluster::claim("budget within the limit").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "budget").await?;
    namespace.apply(&tight(TIGHT_LIMIT)).await?;
    namespace.apply(&sized("source")).await?;
    let driver = namespace.driver().await?;
    let (tight, source) = (pod_of(&namespace, "tight").await?, pod_of(&namespace, "source").await?);
    let budget = metric(&cluster, &namespace, &tight, "zipline_buffer_limit_bytes", "").await?;
    ensure!(budget > MIB as f64, "a budget of {budget} bytes");
    // As much as may be held, and then as much as may be received, as memory for a function on the SDK.
    let bytes = budget as u64 * 19 / 20;
    ask(&cluster, &namespace, &tight, &format!("/produce?bytes={bytes}&via=http"), "").await?;
    for round in 1..=3 {
        let put = ask(&cluster, &namespace, &source, &format!("/produce?bytes={bytes}"), "").await?;
        let reference = put["reference"].as_str().context("a reference")?;
        let plan = Plan::post(namespace.url("tight", "/digest"), 0, 1).header("zipline-reference", reference);
        let report = driver.drive(&plan).await?;
        all_succeeded(&report).with_context(|| format!("round {round}"))?;
        ensure!(report.answers[0].json()["sha256"] == put["sha256"], "{:?}", report.answers);
    }
    let pod = cluster.api.get(&format!("{}/{tight}", namespace.core("pods"))).await?;
    let statuses = pod["status"]["containerStatuses"].as_array().context("statuses")?;
    ensure!(statuses.iter().all(|status| status["restartCount"] == 0), "{statuses:?}");
    println!("with a limit of {} it held {bytes} bytes and received as much", TIGHT_LIMIT);
    namespace.remove().await
}

#[tokio::test]
async fn a_queue_proxy_out_of_memory_is_killed_alone_and_its_pod_goes_on() -> Result<()> {
    let Some(cluster) = Cluster::claim("out of memory").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "memory").await?;
    namespace.apply(&tight(TOO_TIGHT_LIMIT)).await?;
    namespace.apply(&sized("reader")).await?;
    let driver = namespace.driver().await?;
    let tight = pod_of(&namespace, "tight").await?;
    let held = ask(&cluster, &namespace, &tight, "/produce?bytes=1000000", "").await?;
    let held = held["reference"].as_str().context("a reference")?.to_owned();
    let mut plan = Plan::post(namespace.url("tight", &format!("/produce?bytes=1&count={OBJECTS}")), 0, 1);
    plan.limit_seconds = 200.0;
    let report = driver.drive(&plan).await?;
    restarted(&cluster, &namespace, &tight, "OOMKilled").await?;
    println!("the request in flight: {:?} {:?}", report.statuses, report.failures);
    ensure!(report.succeeded() == 0, "its queue-proxy was killed: {:?}", report.answers);
    // What it held is gone, and called so; its function is the same process, and produces again.
    let read = driver.drive(&Plan::post(namespace.url("reader", "/digest"), 0, 1).header("zipline-reference", held)).await?;
    let answer = read.answers.first().context("an answer")?;
    ensure!(answer.status == 410 && is_error(answer, &["producer-gone"]), "{answer:?}");
    let path = format!("{}/{tight}", namespace.core("pods"));
    let pod = cluster.api.get(&path).await?;
    let statuses = pod["status"]["containerStatuses"].as_array().context("statuses")?;
    let others = statuses.iter().filter(|status| status["name"] != "queue-proxy");
    ensure!(others.into_iter().all(|status| status["restartCount"] == 0), "{statuses:?}");
    send(&driver, &namespace, "tight", "reader", MIB, "header").await?;
    namespace.remove().await
}

#[tokio::test]
async fn a_producer_killed_in_the_middle_of_a_pull_is_named_and_the_reader_goes_on() -> Result<()> {
    let Some(cluster) = Cluster::claim("producer killed in a pull").await? else { return Ok(()) };
    if cluster.origin == Origin::Kubeconfig {
        zipline_testkit::skip("producer killed in a pull", "its process can only be killed on a cluster of this machine");
        return Ok(());
    }
    let namespace = enabled(&cluster, "cut-producer").await?;
    namespace.apply(&sized("holder")).await?;
    namespace.apply(&sized("reader")).await?;
    let driver = namespace.driver().await?;
    let (holder, reader) = (pod_of(&namespace, "holder").await?, pod_of(&namespace, "reader").await?);
    let put = ask(&cluster, &namespace, &holder, &format!("/produce?bytes={LONG_BYTES}"), "").await?;
    let plan = Plan::post(namespace.url("reader", "/digest?pause_ms=20"), 0, 1);
    let load = driver.start(&plan.header("zipline-reference", put["reference"].as_str().context("a reference")?)).await?;
    let received = async || metric(&cluster, &namespace, &reader, "zipline_pull_bytes_total", "received").await;
    wait::until("the pull to be under way", LIMIT, received, |bytes| *bytes > BEGUN_BYTES).await?;
    kill_queue_proxy(&holder)?;
    let report = load.ended().await?;
    let answer = report.answers.first().with_context(|| format!("an answer; {:?}", report.failures))?;
    println!("the reader's answer: {} {:?}", answer.status, answer.headers.get("zipline-error"));
    ensure!(is_error(answer, &["producer-gone", "producer-unreachable"]), "{answer:?}");
    restarted(&cluster, &namespace, &holder, "Error").await?;
    send(&driver, &namespace, "holder", "reader", MIB, "header").await?;
    namespace.remove().await
}

#[tokio::test]
async fn a_reader_killed_in_the_middle_of_a_pull_leaves_the_payload_to_the_next() -> Result<()> {
    let Some(cluster) = Cluster::claim("reader killed in a pull").await? else { return Ok(()) };
    if cluster.origin == Origin::Kubeconfig {
        zipline_testkit::skip("reader killed in a pull", "its process can only be killed on a cluster of this machine");
        return Ok(());
    }
    let namespace = enabled(&cluster, "cut-reader").await?;
    for name in ["holder", "first", "second"] {
        namespace.apply(&sized(name)).await?;
    }
    let driver = namespace.driver().await?;
    let (holder, first) = (pod_of(&namespace, "holder").await?, pod_of(&namespace, "first").await?);
    let put = ask(&cluster, &namespace, &holder, &format!("/produce?bytes={LONG_BYTES}&retrievals=1"), "").await?;
    let reference = put["reference"].as_str().context("a reference")?.to_owned();
    let plan = Plan::post(namespace.url("first", "/digest?pause_ms=20"), 0, 1).header("zipline-reference", &reference);
    let load = driver.start(&plan).await?;
    let received = async || metric(&cluster, &namespace, &first, "zipline_pull_bytes_total", "received").await;
    wait::until("the pull to be under way", LIMIT, received, |bytes| *bytes > BEGUN_BYTES).await?;
    kill_queue_proxy(&first)?;
    let report = load.ended().await?;
    ensure!(report.succeeded() == 0, "{:?}", report.answers);
    let read = driver.drive(&Plan::post(namespace.url("second", "/digest"), 0, 1).header("zipline-reference", reference)).await?;
    all_succeeded(&read).context("a lost lease is no retrieval")?;
    ensure!(read.answers[0].json()["sha256"] == put["sha256"], "{:?}", read.answers);
    namespace.remove().await
}
