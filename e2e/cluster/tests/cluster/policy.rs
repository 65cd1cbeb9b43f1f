//! A NetworkPolicy that cuts the pull port: a named error where payloads go by reference, and none where they are set to go inline.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zipline_e2e_cluster::cluster::{Cluster, Driver, LIMIT, Namespace, Origin, Service};
use zipline_e2e_cluster::driver::Plan;
use zipline_testkit::wait;

use crate::transfer::{pod_of, send, sized};
use crate::zipline::{enabled, metric};
use crate::{all_succeeded, ask};

const MIB: u64 = 1024 * 1024;
/// All that Knative needs of a pod; not the pull port.
const KNATIVE_PORTS: [u16; 6] = [8012, 8013, 8022, 8112, 9090, 9091];
/// What the driver listens on.
const DRIVER_PORT: u16 = 8080;

async fn cut(cluster: &Cluster, namespace: &Namespace<'_>) -> Result<String> {
    let ports: Vec<Value> =
        KNATIVE_PORTS.iter().chain([&DRIVER_PORT]).map(|port| json!({ "protocol": "TCP", "port": port })).collect();
    let collection = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", namespace.name);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "no-pulls" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "ports": ports }] },
    });
    cluster.api.create(&collection, &policy).await?;
    Ok(format!("{collection}/no-pulls"))
}

/// Whether anything answers at a pod's pull port.
async fn is_open(driver: &Driver<'_>, address: &str) -> Result<bool> {
    let mut plan = Plan::get(format!("http://{address}:8122/"), 1);
    plan.limit_seconds = 1.0;
    let report = driver.drive(&plan).await?;
    Ok(!report.statuses.is_empty())
}

async fn address_of(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str) -> Result<String> {
    let pod = cluster.api.get(&format!("{}/{pod}", namespace.core("pods"))).await?;
    Ok(pod["status"]["podIP"].as_str().context("an address")?.to_owned())
}

#[tokio::test]
async fn a_policy_that_cuts_the_pull_port_is_a_named_error_and_inline_goes_on() -> Result<()> {
    let Some(cluster) = Cluster::claim("network policy").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "policy").await?;
    namespace.apply(&sized("producer")).await?;
    namespace.apply(&sized("consumer")).await?;
    namespace.apply(&Service::new("inliner").scaling("min-scale", "1").annotation("zipline.dev/transfer", "inline")).await?;
    let driver = namespace.driver().await?;
    let (producer, consumer) = (pod_of(&namespace, "producer").await?, pod_of(&namespace, "consumer").await?);
    let address = address_of(&cluster, &namespace, &producer).await?;
    ensure!(is_open(&driver, &address).await?, "the pull port answers before the policy");
    // Before any pull: a connection that is open already is cut by no policy.
    let policy = cut(&cluster, &namespace).await?;
    let looks = async || is_open(&driver, &address).await;
    let closed = wait::until("the policy to hold", LIMIT, looks, |is_open| !is_open).await;
    if closed.is_err() && cluster.origin == Origin::Kubeconfig {
        zipline_testkit::skip("network policy", "this cluster's network plugin enforces none");
        return namespace.remove().await;
    }
    closed?;

    let put = ask(&cluster, &namespace, &producer, "/produce?bytes=3000000&retrievals=1", "").await?;
    let reference = put["reference"].as_str().context("a reference")?;
    let plan = Plan::post(namespace.url("consumer", "/digest"), 0, 1).header("zipline-reference", reference);
    let report = driver.drive(&plan).await?;
    let answer = report.answers.first().with_context(|| format!("an answer; {:?}", report.failures))?;
    ensure!(answer.status == 502 && answer.headers["zipline-error"] == "producer-unreachable", "{answer:?}");
    println!("after {:.0} ms: {}", report.percentile(1.0), answer.body);

    let before = metric(&cluster, &namespace, &consumer, "zipline_pull_bytes_total", "received").await?;
    for _ in 0..3 {
        send(&driver, &namespace, "inliner", "consumer", MIB, "egress").await.context("a service that is set to send inline")?;
    }
    let pulled = metric(&cluster, &namespace, &consumer, "zipline_pull_bytes_total", "received").await? - before;
    ensure!(pulled == 0.0, "{pulled} bytes were pulled");

    // Nothing was lost: the same reference is read once the policy is gone.
    cluster.api.delete(&policy).await?;
    wait::until("the policy to be gone", LIMIT, looks, |is_open| *is_open).await?;
    let report = driver.drive(&plan).await?;
    all_succeeded(&report)?;
    ensure!(report.answers[0].json()["sha256"] == put["sha256"], "{:?}", report.answers);
    namespace.remove().await
}
