//! Writes what it would cost to remove a pod: the bytes that it holds for others.
//!
//! A ReplicaSet that shrinks removes ready pods of a lower `controller.kubernetes.io/pod-deletion-cost` first. Each write
//! is an update of the pod, so the cost is coarse (a power of two of MiB) and looked at only every 15 s: it is a
//! preference, while the drain is the promise.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::net::TcpStream;
use zipline_contract::doors::ADMIN;
use zipline_contract::metrics::HELD_BYTES;

use super::metrics::State;
use super::{ControllerError, refused};
use crate::names::{FIELD_MANAGER, KEYS_VOLUME, REVISION_LABEL};

/// How often pods are asked.
const INTERVAL: Duration = Duration::from_secs(15);
/// Pods asked at once.
const ASKED_AT_ONCE: usize = 16;
/// How long one may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of its answer that are read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Pods read from the API server at a time.
const PAGE_PODS: u32 = 500;
const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
const MIB: u64 = 1024 * 1024;

/// Keeps the costs until it is dropped.
pub(super) async fn keep(client: Client, state: Arc<State>) -> Result<(), ControllerError> {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&client).await {
            state.failed("deletion-cost");
            tracing::warn!(%error, "pod deletion costs can't be written just now");
        }
    }
}

async fn once(client: &Client) -> Result<(), ControllerError> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut page = ListParams::default().labels(REVISION_LABEL).limit(PAGE_PODS);
    loop {
        let found = pods.list(&page).await.map_err(refused("listing pods"))?;
        let next = found.metadata.continue_.clone().filter(|token| !token.is_empty());
        let ours = found.items.into_iter().filter(is_ours);
        let updates = futures_util::stream::iter(ours).map(|pod| update(client, pod)).buffer_unordered(ASKED_AT_ONCE);
        updates.for_each(|()| std::future::ready(())).await;
        match next {
            Some(token) => page.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

fn is_ours(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let is_running = pod.metadata.deletion_timestamp.is_none();
    is_running && volumes.iter().any(|volume| volume.name == KEYS_VOLUME)
}

/// A pod that can't be asked keeps the cost it has.
async fn update(client: &Client, pod: Pod) {
    let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) else { return };
    let held = match tokio::time::timeout(ASK_TIMEOUT, held_bytes(&address)).await {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => return tracing::debug!(pod = pod.name_any(), error, "a pod can't be asked what it holds"),
        Err(_) => return tracing::debug!(pod = pod.name_any(), "a pod did not say in time what it holds"),
    };
    let cost = cost(held);
    let present: i32 = pod.annotations().get(ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or_default();
    if cost == present {
        return;
    }
    // A cost of 0 is no annotation at all.
    let value = (cost != 0).then(|| cost.to_string());
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: value } } });
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    if let Err(error) = pods.patch(&pod.name_any(), &parameters, &Patch::Merge(patch)).await {
        tracing::debug!(pod = pod.name_any(), %error, "a pod's deletion cost can't be written");
    }
}

/// 0 for nothing, else 1 + log2 of the MiB: few values, so that pods are written seldom.
fn cost(held_bytes: u64) -> i32 {
    match held_bytes {
        0 => 0,
        held => 1 + (held.div_ceil(MIB)).ilog2().cast_signed(),
    }
}

async fn held_bytes(address: &str) -> Result<u64, String> {
    let host = if address.contains(':') { format!("[{address}]:{ADMIN}") } else { format!("{address}:{ADMIN}") };
    let stream = TcpStream::connect(&host).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get("/zipline/metrics").header(HOST, &host).body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(body.to_bytes())
    };
    // The connection is driven only as long as the answer is awaited.
    tokio::pin!(connection);
    let body = tokio::select! {
        answer = answer => answer?,
        ended = &mut connection => return Err(format!("the connection ended: {ended:?}")),
    };
    read_held(&String::from_utf8_lossy(&body)).ok_or_else(|| format!("no {} in its answer", HELD_BYTES.name))
}

/// The sum over the metric's samples; a pod may tell its tiers apart by label.
fn read_held(text: &str) -> Option<u64> {
    let samples = text.lines().filter_map(|line| line.strip_prefix(HELD_BYTES.name));
    let values = samples.filter_map(|rest| {
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.split_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.reduce(|a, b| a + b).map(|sum| sum as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_grows_with_the_power_of_two_and_nothing_costs_nothing() {
        let costs = [(0, 0), (1, 1), (MIB, 1), (MIB + 1, 2), (3 * MIB, 2), (4 * MIB, 3), (1024 * MIB, 11)];
        for (held, expected) in costs {
            assert_eq!(cost(held), expected, "{held}");
        }
        assert!(cost(u64::MAX) > 0);
    }

    #[test]
    fn the_held_bytes_are_found_among_other_metrics() {
        let text =
            "# HELP zipline_held_bytes x\n# TYPE zipline_held_bytes gauge\nzipline_held_bytes 1048576\nzipline_held_objects 3\n";
        assert_eq!(read_held(text), Some(1_048_576));
        assert_eq!(read_held("zipline_held_bytes{tier=\"memory\"} 10\nzipline_held_bytes{tier=\"disk\"} 5\n"), Some(15));
        assert_eq!(read_held("zipline_held_bytes_limit 7\n"), None);
    }
}
