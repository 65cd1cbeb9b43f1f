//! Where log lines go and what they look like.
//!
//! Without `SERVING_LOGGING_CONFIG` they are text on standard error. With it, which is how Knative starts its pods, they are what the
//! zap configuration in it asks for: JSON with its names for time, level, logger and message, on standard output, so that whatever
//! collects Knative's logs finds ours in the same shape. Of the configuration, `encoding`, `outputPaths`, `level` and the keys in
//! `encoderConfig` are heeded. A configuration that can't be read is as good as none, and a warning.

use std::fmt;
use std::io;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use zipline_core::time::WallTime;

use crate::config::{Config, Identity};
use crate::telemetry::{SpanLayer, Telemetry};
use crate::zipline::rfc3339;

/// What a zap configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZapConfig {
    /// `json` or `console`.
    pub encoding: String,
    /// The least severe level that is logged.
    pub level: String,
    /// The first says where lines go.
    pub output_paths: Vec<String>,
    /// Names of what stands in a line.
    pub encoder_config: ZapKeys,
}

/// Names of what stands in a line; empty: it is left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct ZapKeys {
    pub time_key: String,
    pub level_key: String,
    pub name_key: String,
    pub message_key: String,
    pub caller_key: String,
}

impl Default for ZapKeys {
    fn default() -> Self {
        let own = str::to_owned;
        Self {
            time_key: own("timestamp"),
            level_key: own("severity"),
            name_key: own("logger"),
            message_key: own("message"),
            caller_key: own("caller"),
        }
    }
}

impl ZapConfig {
    /// Reads a configuration. `None`: there is none.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Option<Self>, serde_json::Error> {
        if text.trim().is_empty() { Ok(None) } else { serde_json::from_str(text).map(Some) }
    }

    fn is_json(&self) -> bool {
        self.encoding != "console"
    }
}

/// Logs from here on; spans go where telemetry wants them. Without an export of spans, what is not logged is not even made.
pub fn init(config: &Config, telemetry: &Telemetry) {
    // That it parses was checked when the configuration was read.
    let filter: Targets = config.log_filter().parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    // Lines at `info` come from no span. Where nobody else wants them either, spans then cost nothing.
    let wants_spans = Filter::<Registry>::max_level_hint(&filter).is_none_or(|level| level >= LevelFilter::DEBUG);
    let filter = filter.and(filter_fn(move |metadata| wants_spans || !metadata.is_span()));
    let lines = lines(config).with_filter(filter);
    match telemetry.layer() {
        None => tracing_subscriber::registry().with(lines).init(),
        Some(spans) => {
            let spans = spans.with_filter(filter_fn(SpanLayer::concerns));
            tracing_subscriber::registry().with(lines).with(spans).init();
        }
    }
}

fn lines<S>(config: &Config) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let zap = config.sidecar.as_ref().and_then(|sidecar| sidecar.logging.clone());
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    match zap {
        None => layer.with_writer(io::stderr).boxed(),
        Some(zap) => {
            let writer = Standard { is_error: zap.output_paths.first().is_some_and(|path| path == "stderr") };
            if zap.is_json() {
                layer.with_writer(writer).event_format(Json::new(zap.encoder_config, &config.identity)).boxed()
            } else {
                layer.with_writer(writer).boxed()
            }
        }
    }
}

/// One of the two standard outputs.
#[derive(Clone, Copy, Debug)]
struct Standard {
    is_error: bool,
}

impl<'a> MakeWriter<'a> for Standard {
    type Writer = Box<dyn io::Write>;

    fn make_writer(&'a self) -> Self::Writer {
        if self.is_error { Box::new(io::stderr()) } else { Box::new(io::stdout()) }
    }
}

/// Lines as zap writes them for Knative.
struct Json {
    keys: ZapKeys,
    /// `NAMESPACE/REVISION`, and the pod.
    key: String,
    pod: String,
}

impl Json {
    fn new(keys: ZapKeys, identity: &Identity) -> Self {
        Self { keys, key: format!("{}/{}", identity.namespace, identity.revision), pod: identity.pod.clone() }
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = WallTime::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let caller = format!("{}:{}", metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        let mut line = Map::new();
        let keys = &self.keys;
        for (key, value) in [
            (keys.level_key.as_str(), severity),
            (&keys.time_key, &rfc3339::format(time)),
            (&keys.name_key, "queueproxy"),
            (&keys.caller_key, &caller),
            (&keys.message_key, &fields.message),
            ("knative.dev/key", &self.key),
            ("knative.dev/pod", &self.pod),
        ] {
            if !key.is_empty() {
                line.insert(key.to_owned(), value.into());
            }
        }
        line.extend(fields.others);
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.insert(field.name().to_owned(), text.into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}
