//! What the containers of a service's pods wrote.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{AsyncBufReadExt, Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::services::{knative, serving};
use super::{Body, Cluster, Query, Refusal, invalid, refused};
use crate::names::{QUEUE_PROXY, SERVICE_LABEL};

/// Containers whose logs are followed at once.
const FOLLOWED_MAX: usize = 64;
/// Lines of one container that are gathered without `follow`; the last ones.
const LINES_MAX: i64 = 100_000;

impl Cluster {
    /// The lines of a service's pods, in the order of their time; with `follow` as they come, of the pods that are there now.
    pub(super) async fn logs(&self, namespace: &str, name: &str, query: &Query) -> Result<Response<Body>, Refusal> {
        if serving(&self.client, "Service", Some(namespace))
            .get_opt(name)
            .await
            .map_err(knative("reading the service"))?
            .is_none()
        {
            return Err(Refusal::unknown("service", namespace, name));
        }
        let tail: Option<i64> = match query.text("tail") {
            Some(text) => Some(text.parse().ok().filter(|lines| *lines >= 0).ok_or_else(|| invalid("tail", text))?),
            None => None,
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let chosen = ListParams::default().labels(&format!("{SERVICE_LABEL}={name}"));
        let mut found = pods.list(&chosen).await.map_err(refused("listing pods"))?.items;
        if let Some(instance) = query.text("instance") {
            found.retain(|pod| pod.name_any() == instance);
            if found.is_empty() {
                return Err(Refusal::unknown("instance", namespace, instance));
            }
        }
        let follow = query.has("follow");
        let mut sources = Vec::new();
        for pod in &found {
            let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
            for container in containers {
                let lines = lines(pods.clone(), pod.name_any(), container.name.clone(), follow, tail);
                sources.push(lines.boxed());
            }
        }
        let lines = stream::iter(sources).flatten_unordered(FOLLOWED_MAX);
        let text = |line: Value| Bytes::from(format!("{line}\n"));
        let body = if follow {
            StreamBody::new(lines.map(move |line| Ok::<_, Infallible>(Frame::data(text(line))))).boxed_unsync()
        } else {
            let mut all: Vec<Value> = lines.collect().await;
            all.sort_by_key(|line| line["time_ms"].as_u64());
            let from = tail.map_or(0, |tail| all.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
            let all = all.split_off(from);
            StreamBody::new(stream::iter(all).map(move |line| Ok::<_, Infallible>(Frame::data(text(line))))).boxed_unsync()
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }
}

/// The lines of one container; none where it has not begun.
fn lines(pods: Api<Pod>, pod: String, container: String, follow: bool, tail: Option<i64>) -> impl Stream<Item = Value> + Send {
    let parameters = LogParams {
        container: Some(container.clone()),
        follow,
        tail_lines: Some(tail.unwrap_or(LINES_MAX)),
        timestamps: true,
        ..LogParams::default()
    };
    let source = if container == QUEUE_PROXY { "proxy" } else { "stdout" };
    let opened = async move {
        let opened = pods.log_stream(&pod, &parameters).await;
        let opened = opened.inspect_err(|error| tracing::debug!(pod, container, %error, "no log")).ok();
        stream::iter(opened).flat_map(move |text| {
            let pod = pod.clone();
            text.lines().filter_map(move |line| std::future::ready(line.ok().map(|line| record(&line, &pod, source))))
        })
    };
    stream::once(opened).flatten()
}

/// A line of the log: the time that the kubelet wrote before it, and the rest.
fn record(line: &str, instance: &str, source: &str) -> Value {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    let (time_ms, text) = match time.parse::<Timestamp>() {
        Ok(time) => (u64::try_from(time.as_millisecond()).unwrap_or_default(), text),
        Err(_) => (0, line),
    };
    json!({ "time_ms": time_ms, "instance": instance, "stream": source, "text": text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_and_one_without_stays_whole() {
        let line = record("2026-11-25T00:00:01.500000000Z hello there", "pod-1", "stdout");
        assert_eq!(
            (&line["text"], &line["instance"], &line["stream"]),
            (&json!("hello there"), &json!("pod-1"), &json!("stdout"))
        );
        assert_eq!(line["time_ms"].as_u64().map(|time| time % 60_000), Some(1500));
        assert_eq!(record("no time here", "pod-1", "proxy")["text"], "no time here");
    }
}
