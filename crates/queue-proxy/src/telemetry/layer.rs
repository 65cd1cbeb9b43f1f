//! `tracing` spans of this program as spans of a trace.
//!
//! A span of ours (its target begins with `zipline`) at `info` or above becomes an exported span when it closes, with its fields
//! as attributes, under the span it was opened in. Four fields say where it stands, each with the text of a `traceparent`:
//!
//! - `otel.parent`: the span is a child of that remote one;
//! - `otel.span`: its own place, as others were told of it;
//! - `otel.link`: it has to do with that one, which may lie in another trace;
//! - `otel.context`: it *is* that one, which somebody else exports; it only gives its children their place.
//!
//! A field `error` marks it as failed. Outside of any trace the sampler decides.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use zipline_core::trace::TraceContext;

use super::sampler::{self, Sampler};
use super::spans::{Attribute, Span, SpanKind, SpanQueue};

/// Attributes of one span.
const ATTRIBUTES_MAX: usize = 32;
/// Characters of a text in one.
const TEXT_CHARS_MAX: usize = 256;

/// Turns spans into exported ones.
#[derive(Debug)]
pub struct SpanLayer {
    queue: Arc<SpanQueue>,
    sampler: Sampler,
}

impl SpanLayer {
    /// Spans go to `queue`.
    pub const fn new(queue: Arc<SpanQueue>, sampler: Sampler) -> Self {
        Self { queue, sampler }
    }

    /// Whether a span may be exported.
    pub fn concerns(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with("zipline")
    }
}

/// A span that is open.
struct Open {
    /// Its place; whether it is exported is decided by this when it closes, since fields may still say otherwise.
    context: TraceContext,
    /// `None`: somebody else exports it.
    span: Option<Box<Span>>,
}

/// What fields say.
#[derive(Default)]
struct Fields {
    attributes: Vec<(&'static str, Attribute)>,
    parent: Option<TraceContext>,
    span: Option<TraceContext>,
    link: Option<TraceContext>,
    context: Option<TraceContext>,
    error: Option<String>,
}

impl Fields {
    fn text(&mut self, name: &'static str, text: &str) {
        match name {
            "otel.parent" => self.parent = text.parse().ok(),
            "otel.span" => self.span = text.parse().ok(),
            "otel.link" => self.link = text.parse().ok(),
            "otel.context" => self.context = text.parse().ok(),
            "error" => self.error = Some(shortened(text)),
            name => self.add(name, Attribute::Text(shortened(text))),
        }
    }

    fn add(&mut self, name: &'static str, value: Attribute) {
        if self.attributes.len() < ATTRIBUTES_MAX {
            self.attributes.push((name, value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), Attribute::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), Attribute::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), Attribute::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), Attribute::Bool(value));
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let around = span.parent().and_then(|parent| parent.extensions().get::<Open>().map(|open| open.context));
        let context = match (fields.context.or(fields.span), fields.parent, around) {
            (Some(own), _, _) => own,
            (None, Some(parent), _) => self.sampler.start(Some(parent)),
            // What its surroundings decided holds.
            (None, None, Some(around)) => sampler::child(around),
            (None, None, None) => self.sampler.start(None),
        };
        let exported = fields.context.is_none().then(|| {
            Box::new(Span {
                context,
                parent_id: fields.parent.or(around).map_or(0, |parent| parent.span_id),
                trace_state: String::new(),
                name: attributes.metadata().name().to_owned(),
                kind: SpanKind::Internal,
                began: SystemTime::now(),
                ended: SystemTime::UNIX_EPOCH,
                attributes: fields.attributes,
                links: fields.link.into_iter().collect(),
                error: fields.error,
            })
        });
        span.extensions_mut().insert(Open { context, span: exported });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(Open { context, span: Some(exported) }) = extensions.get_mut::<Open>() else { return };
        let mut fields = Fields { attributes: std::mem::take(&mut exported.attributes), ..Fields::default() };
        values.record(&mut fields);
        exported.attributes = fields.attributes;
        exported.links.extend(fields.link);
        exported.error = fields.error.or(exported.error.take());
        if let Some(parent) = fields.parent {
            exported.parent_id = parent.span_id;
            *context = self.sampler.start(Some(parent));
        }
        *context = fields.span.unwrap_or(*context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        let Some(Open { context, span: Some(mut exported) }) = open else { return };
        if context.is_sampled {
            exported.context = context;
            exported.ended = SystemTime::now();
            self.queue.push(*exported);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn spans(sampler: Sampler, work: impl FnOnce()) -> Vec<Span> {
        let queue = Arc::new(SpanQueue::default());
        let layer = SpanLayer::new(Arc::clone(&queue), sampler).with_filter(filter_fn(SpanLayer::concerns));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        queue.take()
    }

    #[test]
    fn a_span_under_one_of_somebody_elses_gets_its_place_from_that() {
        let spans = spans(Sampler::Never, || {
            let request = tracing::info_span!("request", otel.context = CONTEXT).entered();
            let pull = tracing::info_span!("pull", object.bytes = 7_u64, tier = tracing::field::Empty).entered();
            pull.record("tier", "memory");
            tracing::debug_span!("detail").in_scope(|| ());
            drop((pull, request));
        });
        let [pull] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((pull.name.as_str(), pull.parent_id), ("pull", 0xb7ad_6b71_6920_3331));
        assert_eq!(pull.context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(pull.attributes, [("object.bytes", Attribute::Int(7)), ("tier", Attribute::Text("memory".to_owned()))]);
    }

    #[test]
    fn the_sampler_decides_outside_of_a_trace_and_once_for_all_within() {
        let work = || {
            tracing::info_span!("put").in_scope(|| tracing::info_span!("spill", error = "full").in_scope(|| ()));
        };
        assert!(spans(Sampler::Never, work).is_empty());
        let spans = spans(Sampler::Always, work);
        let [spill, put] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((spill.parent_id, spill.context.trace_id), (put.context.span_id, put.context.trace_id));
        assert_eq!((put.parent_id, spill.error.as_deref()), (0, Some("full")));
    }

    #[test]
    fn remote_parents_and_links_are_read_from_their_fields() {
        let spans = spans(Sampler::of_rate(0.5), || {
            tracing::info_span!("serve", otel.parent = CONTEXT).in_scope(|| ());
            tracing::info_span!("pull", otel.parent = CONTEXT, otel.link = %CONTEXT).in_scope(|| ());
            let own = tracing::info_span!("own", otel.parent = tracing::field::Empty, otel.span = tracing::field::Empty);
            own.record("otel.parent", CONTEXT);
            own.record("otel.span", CONTEXT.replace("b7ad", "c8be"));
            drop(own);
            tracing::info_span!("none", otel.parent = CONTEXT.replace("-01", "-00")).in_scope(|| ());
        });
        assert_eq!(spans.len(), 3, "{spans:?}");
        assert_eq!((spans[2].context.span_id, spans[2].parent_id), (0xc8be_6b71_6920_3331, 0xb7ad_6b71_6920_3331));
        assert_eq!(spans[1].links, [CONTEXT.parse::<TraceContext>().expect("a context")]);
    }
}
