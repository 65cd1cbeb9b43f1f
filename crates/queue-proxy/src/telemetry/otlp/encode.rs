//! Our spans and metrics as OTLP's messages.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;

use super::messages::{
    AnyKind, AnyValue, Gauge, Histogram, HistogramPoint, KeyValue, Link, Metric, Metrics, NumberPoint, Resource, ResourceMetrics,
    ResourceSpans, Scope, ScopeMetrics, ScopeSpans, SpanMessage, Status, Traces,
};
use crate::metrics::{Invocations, Measured};
use crate::telemetry::spans::{Attribute, Span};

/// Knative's name of the scope that spans and metrics of its queue-proxy belong to.
const SCOPE: &str = "knative.dev/serving/pkg/queue";

/// Who reports: attributes that everything exported carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reporter(pub Vec<(String, String)>);

impl Reporter {
    fn resource(&self) -> Option<Resource> {
        Some(Resource { attributes: self.0.iter().map(|(key, value)| pair(key, AnyKind::Text(value.clone()))).collect() })
    }
}

fn scope() -> Option<Scope> {
    Some(Scope { name: SCOPE.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) fn traces(reporter: &Reporter, spans: &[Span]) -> Bytes {
    let spans = spans.iter().map(span).collect();
    let scope_spans = vec![ScopeSpans { scope: scope(), spans }];
    Traces { resource_spans: vec![ResourceSpans { resource: reporter.resource(), scope_spans }] }.encode_to_vec().into()
}

fn span(span: &Span) -> SpanMessage {
    /// The flags of a trace are in the lowest byte; this one says it is recorded.
    const SAMPLED: u32 = 1;
    const ERROR: i32 = 2;
    let parent = if span.parent_id == 0 { Vec::new() } else { span.parent_id.to_be_bytes().to_vec() };
    SpanMessage {
        trace_id: span.context.trace_id.to_be_bytes().to_vec(),
        span_id: span.context.span_id.to_be_bytes().to_vec(),
        trace_state: span.trace_state.clone(),
        parent_span_id: parent,
        name: span.name.clone(),
        kind: span.kind as i32,
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes: span.attributes.iter().map(|(key, value)| pair(key, value.into())).collect(),
        links: span
            .links
            .iter()
            .map(|to| Link { trace_id: to.trace_id.to_be_bytes().to_vec(), span_id: to.span_id.to_be_bytes().to_vec() })
            .collect(),
        status: span.error.clone().map(|message| Status { message, code: ERROR }),
        flags: SAMPLED,
    }
}

/// The user's metrics since `since`.
pub(super) fn metrics(reporter: &Reporter, invocations: &Invocations, since: SystemTime, now: SystemTime) -> Bytes {
    const CUMULATIVE: i32 = 2;
    let point = |measured: Measured| HistogramPoint {
        start_time_unix_nano: nanos(since),
        time_unix_nano: nanos(now),
        count: measured.buckets.iter().sum(),
        sum: Some(measured.seconds),
        bucket_counts: measured.buckets,
        explicit_bounds: Invocations::bounds_seconds(),
        attributes: vec![pair("http.response.status_code", AnyKind::Int(measured.status.into()))],
    };
    let points: Vec<_> = invocations.measured().map(point).collect();
    let duration = (!points.is_empty()).then(|| Metric {
        name: "kn.serving.invocation.duration".to_owned(),
        description: "The duration of task execution".to_owned(),
        unit: "s".to_owned(),
        gauge: None,
        histogram: Some(Histogram { data_points: points, aggregation_temporality: CUMULATIVE }),
    });
    let depth = invocations.queue_depth().map(|depth| Metric {
        name: "kn.serving.queue.depth".to_owned(),
        description: "Number of current requests in the queue".to_owned(),
        unit: "{request}".to_owned(),
        gauge: Some(Gauge {
            data_points: vec![NumberPoint {
                time_unix_nano: nanos(now),
                as_int: i64::try_from(depth).unwrap_or(i64::MAX),
                attributes: Vec::new(),
            }],
        }),
        histogram: None,
    });
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics: duration.into_iter().chain(depth).collect() }];
    Metrics { resource_metrics: vec![ResourceMetrics { resource: reporter.resource(), scope_metrics }] }.encode_to_vec().into()
}

fn pair(key: &str, kind: AnyKind) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { kind: Some(kind) }) }
}

impl From<&Attribute> for AnyKind {
    fn from(value: &Attribute) -> Self {
        match value {
            Attribute::Text(text) => Self::Text(text.clone()),
            Attribute::Int(number) => Self::Int(*number),
            Attribute::Float(number) => Self::Float(*number),
            Attribute::Bool(is) => Self::Bool(*is),
        }
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
