//! What puts, pulls and their serving leave in a trace, and how it goes with a pull.
//!
//! Every task of these tests runs on the test's own thread, so that a subscriber of that thread sees all spans.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use zipline_contract::ErrorCode;
use zipline_core::trace::TraceContext;
use zipline_testkit::{Loopback, wait};
use zipline_transfer::{FetchOptions, PutOptions, Taking};

use crate::common::*;

const PUT: &str = "00-0000000000000000000000000000000a-000000000000000b-01";
const READ: &str = "00-0000000000000000000000000000000c-000000000000000d-01";

/// A span that has ended: its name, and its fields as text.
#[derive(Clone, Debug)]
struct Ended {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Ended {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn seconds(&self, name: &str) -> Result<f64> {
        self.field(name).parse().with_context(|| format!("{name} of {self:?}"))
    }

    fn place(&self) -> Result<TraceContext> {
        self.field("otel.span").parse().with_context(|| format!("{self:?}"))
    }
}

impl Visit for Ended {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Ended>>>);

impl Spans {
    fn collect() -> (Self, DefaultGuard) {
        let spans = Self::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
        (spans, guard)
    }

    /// The one span of that name, once it has ended.
    async fn one(&self, name: &str) -> Result<Ended> {
        let named = async || {
            let ended = self.0.lock().expect("a sound lock").clone();
            Ok(ended.into_iter().filter(|span| span.name == name).collect::<Vec<_>>())
        };
        let mut spans = wait::until(&format!("a span {name} to end"), LIMIT, named, |spans| !spans.is_empty()).await?;
        anyhow::ensure!(spans.len() == 1, "{spans:?}");
        Ok(spans.remove(0))
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut ended = Ended { name: attributes.metadata().name(), fields: BTreeMap::new() };
        attributes.record(&mut ended);
        span.extensions_mut().insert(ended);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(ended) = span.extensions_mut().get_mut::<Ended>() {
            values.record(ended);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if let Some(ended) = span.extensions_mut().remove::<Ended>() {
            self.0.lock().expect("a sound lock").push(ended);
        }
    }
}

fn traced(text: &str) -> Option<TraceContext> {
    Some(text.parse().expect("a trace context"))
}

fn reading(trace: Option<TraceContext>) -> FetchOptions {
    FetchOptions { trace, ..FetchOptions::default() }
}

#[tokio::test]
async fn a_put_a_pull_and_its_serving_are_spans_that_know_of_each_other() -> Result<()> {
    let (spans, _guard) = Spans::collect();
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let size = 3 * MIB + 5;
    let put = put(&producer.node, bytes(size), PutOptions { trace: traced(PUT), ..PutOptions::default() }).await?;
    let put_span = spans.one("put").await?;
    assert_eq!((put_span.field("method"), put_span.field("tier")), ("body", "memory"));
    assert_eq!((put_span.field("object.bytes"), put_span.field("otel.parent")), (size.to_string().as_str(), PUT));
    assert_eq!(put_span.field("reference"), put.token.fingerprint().to_string());

    assert_eq!(get_with(&consumer.node, put.token.as_str(), reading(traced(READ))).await?.len(), size);
    let (pull, serve) = (spans.one("pull").await?, spans.one("serve").await?);
    for span in [&pull, &serve] {
        assert_eq!((span.field("method"), span.field("tier")), ("tcp", "memory"), "{span:?}");
        assert_eq!(span.field("object.bytes"), size.to_string(), "{span:?}");
        assert_eq!(span.field("error"), "", "{span:?}");
        assert!(span.seconds("wait_seconds")? >= 0.0 && span.seconds("transfer_seconds")? > 0.0, "{span:?}");
    }
    assert_eq!((pull.field("otel.parent"), pull.field("peer.addr")), (READ, producer.node.address().to_string().as_str()));
    assert_eq!(pull.place()?.trace_id, 0xc, "the reader's trace");
    assert_eq!(serve.field("otel.parent"), pull.field("otel.span"), "what is served is part of the pull");
    assert_eq!(serve.field("otel.link"), put_span.field("otel.span"), "the put is linked, and nobody's parent");
    Ok(())
}

#[tokio::test]
async fn a_trace_goes_with_a_hand_over_too() -> Result<()> {
    let (spans, _guard) = Spans::collect();
    let folder = tempfile::tempdir()?;
    let shared = |config: &mut zipline_transfer::NodeConfig| config.handover_dir = Some(folder.path().to_owned());
    let (producer, consumer) = (start(shared).await?, start(shared).await?);
    let put = put(&producer.node, bytes(MIB), PutOptions { trace: traced(PUT), ..PutOptions::default() }).await?;
    let whole = FetchOptions { taking: Taking::Whole, ..reading(traced(READ)) };
    let mut incoming = consumer.node.fetch(put.token.as_str(), whole).await?;
    assert_eq!(read(&incoming.receive().await?).len(), MIB);
    incoming.acknowledge().await?;
    let (pull, serve) = (spans.one("pull").await?, spans.one("serve").await?);
    for span in [&pull, &serve] {
        assert_eq!((span.field("method"), span.field("object.bytes")), ("descriptor", MIB.to_string().as_str()), "{span:?}");
    }
    assert_eq!((pull.field("otel.parent"), serve.field("otel.parent")), (READ, pull.field("otel.span")));
    assert_eq!(serve.place()?.trace_id, 0xc);
    assert_eq!(serve.field("otel.link"), spans.one("put").await?.field("otel.span"));
    Ok(())
}

#[tokio::test]
async fn what_fails_says_why_in_its_span() -> Result<()> {
    let (spans, _guard) = Spans::collect();
    let (producer, consumer) = (start(|config| config.buffer_bytes = 1000).await?, start(|_| ()).await?);
    let token = put(&producer.node, bytes(10), PutOptions::default()).await?.token;
    let put_span = spans.one("put").await?;
    assert_eq!((put_span.field("otel.parent"), put_span.field("otel.span")), ("", ""), "its caller named no trace");
    spans.0.lock().expect("a sound lock").clear();

    put(&producer.node, bytes(2000), PutOptions::default()).await.expect_err("too large");
    assert_eq!(spans.one("put").await?.field("error"), ErrorCode::PayloadTooLarge.name());
    producer.node.free(token.as_str()).await?;
    consumer.node.fetch(token.as_str(), reading(None)).await.expect_err("freed");
    for name in ["pull", "serve"] {
        let span = spans.one(name).await?;
        assert_eq!(span.field("error"), ErrorCode::ReferenceExhausted.name(), "{span:?}");
        assert_eq!((span.field("transfer_seconds"), span.field("object.bytes")), ("", "0"), "{span:?}");
    }
    Ok(())
}

/// A producer that reads heads and hangs up: what it was asked, head by head.
async fn asked(consumer: &At, trace: Option<TraceContext>) -> Result<Vec<String>> {
    let front = Loopback::claim()?;
    let producer = start(|config| config.advertised = front.ip()).await?;
    let token = put(&producer.node, bytes(10), PutOptions::default()).await?.token;
    let listener = tokio::net::TcpListener::bind(front.port(PORT)).await?;
    let heads = async {
        let mut heads = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            stream.shutdown().await.ok();
            heads.push(String::from_utf8_lossy(&head).into_owned());
            if heads.last().is_some_and(|head| head.starts_with("POST")) {
                return heads;
            }
        }
    };
    let (failed, heads) = tokio::join!(consumer.node.fetch(token.as_str(), reading(trace)), heads);
    failed.expect_err("nobody answered");
    Ok(heads)
}

#[tokio::test]
async fn every_question_of_a_pull_carries_its_trace() -> Result<()> {
    let consumer = start(|_| ()).await?;
    for trace in [traced(READ), None] {
        let heads = tokio::time::timeout(LIMIT, asked(&consumer, trace)).await??;
        assert!(heads.len() > 1 && heads[0].starts_with("GET"), "{heads:?}");
        let carried: Vec<TraceContext> = heads
            .iter()
            .map(|head| {
                let line = head.lines().find_map(|line| line.strip_prefix("traceparent: "));
                line.context("no traceparent")?.parse().context("no trace context")
            })
            .collect::<Result<_>>()?;
        assert!(carried.iter().all(|context| *context == carried[0]), "{carried:?}");
        match trace {
            Some(trace) => assert_eq!(carried[0], trace.child(carried[0].span_id)),
            None => assert!(!carried[0].is_sampled, "a trace that nobody asked for is not recorded"),
        }
    }
    Ok(())
}
