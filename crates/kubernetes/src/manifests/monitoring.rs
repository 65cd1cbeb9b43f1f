//! A Grafana dashboard and Prometheus alert rules, made from the contract's metric table: a metric that is renamed there
//! changes here, and one that goes breaks the build.

use serde_json::{Value, json};
use zipline_contract::metrics::{self, Kind, Metric};

/// Panels a row of the dashboard; Grafana's grid is 24 wide.
const PANELS_A_ROW: u64 = 3;
const PANEL_WIDTH: u64 = 24 / PANELS_A_ROW;
const PANEL_HEIGHT: u64 = 7;
/// Groups of panels, each with the metrics it shows.
const ROWS: [(&str, &[Metric]); 6] = [
    (
        "What is held",
        &[
            metrics::HELD_BYTES,
            metrics::HELD_OBJECTS,
            metrics::BUFFER_LIMIT_BYTES,
            metrics::RECEIVING_BYTES,
            metrics::PUT_WAITERS,
            metrics::LEASES,
        ],
    ),
    (
        "What moves",
        &[
            metrics::PULL_BYTES,
            metrics::PULLS,
            metrics::PULL_SECONDS,
            metrics::PULL_CONNECTIONS,
            metrics::HANDOVERS,
            metrics::SWAPS,
        ],
    ),
    (
        "Disk and store",
        &[
            metrics::SPILLED_BYTES,
            metrics::SPILLED_OBJECTS,
            metrics::SPILLS,
            metrics::STORED_BYTES,
            metrics::STORED_OBJECTS,
            metrics::TIER_COPIES,
            metrics::TIER_BYTES,
            metrics::TIER_UP,
        ],
    ),
    ("Lives of objects", &[metrics::OBJECT_TRANSITIONS, metrics::ATTEMPTS, metrics::ACKNOWLEDGEMENTS, metrics::LEASES_LOST]),
    (
        "What goes wrong",
        &[
            metrics::ERRORS,
            metrics::PULL_RESUMES,
            metrics::PULL_TLS_FAILURES,
            metrics::DRAIN_LEFT_BYTES,
            metrics::DRAIN_LEFT_OBJECTS,
            metrics::DRAIN_PHASE,
        ],
    ),
    ("Requests", &[metrics::REQUESTS_RUNNING, metrics::REQUESTS_QUEUED, metrics::PROXIED_REQUESTS, metrics::PROXIED_BODY_BYTES]),
];

/// The dashboard, for Grafana's import. Queue-proxies are scraped on their admin port, path `/zipline/metrics`.
pub fn dashboard() -> Value {
    let mut panels = Vec::new();
    let (mut y, mut id) = (0, 0);
    for (title, shown) in ROWS {
        id += 1;
        panels.push(json!({ "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
                            "gridPos": { "x": 0, "y": y, "w": 24, "h": 1 } }));
        y += 1;
        for (index, metric) in (0..).zip(shown) {
            id += 1;
            panels.push(panel(id, metric, (index % PANELS_A_ROW) * PANEL_WIDTH, y + index / PANELS_A_ROW * PANEL_HEIGHT));
        }
        y += (shown.len() as u64).div_ceil(PANELS_A_ROW) * PANEL_HEIGHT;
    }
    let variable = |name: &str, query: &str, label: &str| {
        json!({ "name": name, "label": label, "type": "query", "datasource": source(), "query": query, "refresh": 2,
                "includeAll": true, "multi": true, "allValue": ".*", "current": { "text": "All", "value": "$__all" } })
    };
    let held = metrics::HELD_BYTES.name;
    json!({
        "title": "Zipline", "uid": "zipline", "schemaVersion": 39, "editable": true, "tags": ["zipline"],
        "time": { "from": "now-1h", "to": "now" }, "refresh": "30s", "panels": panels,
        "templating": { "list": [
            { "name": "source", "label": "Data source", "type": "datasource", "query": "prometheus" },
            variable("namespace", &format!("label_values({held}, namespace)"), "Namespace"),
            variable("pod", &format!("label_values({held}{{namespace=~\"$namespace\"}}, pod)"), "Pod"),
        ] },
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${source}" })
}

fn panel(id: u64, metric: &Metric, x: u64, y: u64) -> Value {
    let unit = match () {
        () if metric.name.contains("_bytes") && metric.kind == Kind::Counter => "binBps",
        () if metric.name.ends_with("_bytes") => "bytes",
        () if metric.name.ends_with("_seconds") => "s",
        () if metric.kind == Kind::Counter => "cps",
        () => "short",
    };
    json!({
        "id": id, "type": "timeseries", "title": metric.help, "description": metric.name, "datasource": source(),
        "gridPos": { "x": x, "y": y, "w": PANEL_WIDTH, "h": PANEL_HEIGHT },
        "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
        "targets": [{ "refId": "A", "datasource": source(), "expr": expression(metric), "legendFormat": legend(metric) }],
    })
}

/// The sum over the chosen pods, by the metric's own labels; counters as a rate, histograms as their 99th percentile.
fn expression(metric: &Metric) -> String {
    let (name, chosen) = (metric.name, "{namespace=~\"$namespace\", pod=~\"$pod\"}");
    let by = |labels: &[&str]| if labels.is_empty() { String::new() } else { format!(" by ({})", labels.join(", ")) };
    match metric.kind {
        Kind::Gauge => format!("sum{}({name}{chosen})", by(metric.labels)),
        Kind::Counter => format!("sum{}(rate({name}{chosen}[$__rate_interval]))", by(metric.labels)),
        Kind::Histogram => {
            let labels: Vec<&str> = ["le"].iter().chain(metric.labels).copied().collect();
            format!("histogram_quantile(0.99, sum{}(rate({name}_bucket{chosen}[$__rate_interval])))", by(&labels))
        }
    }
}

fn legend(metric: &Metric) -> String {
    metric.labels.iter().map(|label| format!("{{{{{label}}}}}")).collect::<Vec<_>>().join(" ")
}

/// Alert rules, as a file of Prometheus. Each says what to do in `docs/operations.md`, by its name.
pub fn alerts() -> Value {
    let rule = |name: &str, expression: String, lasting: &str, severity: &str, summary: &str| {
        json!({ "alert": name, "expr": expression, "for": lasting, "labels": { "severity": severity },
                "annotations": { "summary": summary, "description": format!("docs/operations.md, {name}") } })
    };
    let (held, limit) = (metrics::HELD_BYTES.name, metrics::BUFFER_LIMIT_BYTES.name);
    let errors = |names: &str| format!("sum by (namespace, error) (rate({}{{error=~\"{names}\"}}[5m]))", metrics::ERRORS.name);
    json!({ "groups": [{ "name": "zipline", "rules": [
        rule("ZiplineBufferNearlyFull", format!("{held} / {limit} > 0.9"), "2m", "warning",
             "A queue-proxy's buffer is more than 90 % full: puts are about to wait"),
        rule("ZiplinePutsRefused", format!("{} > 0", errors("buffer-full")), "2m", "warning",
             "Puts are refused because buffers are full"),
        rule("ZiplinePayloadsLost", format!("{} > 0", errors("producer-gone|producer-unreachable")), "5m", "warning",
             "Consumers find their producers gone"),
        rule("ZiplineKeysMissing", format!("{} > 0", errors("reference-unknown-key")), "2m", "critical",
             "Queue-proxies lack the keys of their namespace"),
        rule("ZiplinePayloadsCorrupt", format!("{} > 0", errors("payload-corrupt|pull-unauthenticated")), "0m", "critical",
             "Payloads or pulls do not verify: a broken network, or an attacker on it"),
        rule("ZiplineUnreadAtTheEnd", format!("max by (namespace) (max_over_time({}[10m])) > 0", metrics::DRAIN_LEFT_BYTES.name),
             "0m", "warning", "An instance ended while it held payloads that nobody had read"),
        rule("ZiplineControllerFailing", "sum by (what) (rate(zipline_controller_failures_total[10m])) > 0".to_owned(), "10m", "warning",
             "The controller can't keep certificates or keys"),
        rule("ZiplineWebhookCertificateEnds", "zipline_controller_certificate_end_seconds - time() < 14 * 24 * 3600".to_owned(), "1h",
             "warning", "The webhook's certificate was not renewed: it ends within two weeks"),
    ] }] })
}
