//! Promises that only a real Kubernetes with stock Knative can hold us to: see `docs/compatibility.md` for where they were run.
//!
//! Each test claims the one cluster, makes a namespace of its own, and sends load from a pod in it. Requests take the way that every
//! caller takes: a Knative Service's name, the ingress, the activator or a pod's queue-proxy. Where a test says what stock does, it runs the
//! same steps with the stock sidecar first.

mod command;
mod holders;
mod kills;
mod policy;
mod scaling;
mod shutdown;
mod sidecar;
mod transfer;
mod versions;
mod zipline;

use anyhow::{Context, Result, ensure};
use zipline_e2e_cluster::cluster::{Cluster, Namespace};
use zipline_e2e_cluster::driver::Report;

/// Every request of a load was answered with success.
fn all_succeeded(report: &Report) -> Result<()> {
    ensure!(
        report.done && report.succeeded() == report.sent && report.failures.is_empty(),
        "{} requests, {} answered with success; by status {:?}, without an answer {:?}; answers {:?}",
        report.sent,
        report.succeeded(),
        report.statuses,
        report.failures,
        report.answers
    );
    Ok(())
}

/// One request to a pod of the test's choice: to its queue-proxy, through the API server.
async fn ask(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, path: &str, body: &str) -> Result<serde_json::Value> {
    let path = format!("{}/{pod}:8012/proxy{path}", namespace.core("pods"));
    let answer = cluster.api.request(http::Method::POST, &path, "text/plain", body.into()).await?;
    ensure!(answer.status.is_success(), "{path}: {} {} {}", answer.status, answer.error(), answer.text());
    answer.json().with_context(|| path.clone())
}
