//! What is told about requests: the request log, and traces and metrics at a collector.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;

use crate::support::{Function, Proxy, until, until_holds};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What a span says, as far as these tests look at it.
#[derive(Clone, PartialEq, Message)]
struct Traces {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    began: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
}

fn spans(message: &[u8]) -> Vec<Span> {
    let traces = Traces::decode(message).expect("traces");
    traces.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
}

type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector over HTTP that keeps what it is sent: path and body.
fn collector() -> (Function, Received) {
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&received);
    let function = Function::with_requests(move |peer, head| {
        let body = peer.body(&head);
        assert_eq!(head.get("content-type"), Some("application/x-protobuf"));
        let path = head.first.split(' ').nth(1).expect("a target").to_owned();
        kept.lock().expect("sound").push((path, body));
        peer.reply("");
    });
    (function, received)
}

/// Answers with the `traceparent` that it was asked with.
fn tracing_function() -> Function {
    Function::with_requests(|peer, head| {
        peer.body(&head);
        peer.reply(head.get("traceparent").unwrap_or("none"));
    })
}

fn observability(json: &str) -> Vec<(&'static str, String)> {
    vec![("OBSERVABILITY_CONFIG", json.to_owned())]
}

fn start(function: &Function, variables: &[(&'static str, String)]) -> Proxy {
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Proxy::start(function.port, &variables)
}

#[test]
fn a_request_has_a_line_in_knatives_format_and_a_probe_has_none() {
    let function = Function::ok();
    let proxy = start(&function, &observability(r#"{"enableRequestLog":true}"#));
    assert_eq!(proxy.probe().status(), 200);
    let request = format!(
        "POST /a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nUser-Agent: t\"est\r\nReferer: r\r\nTraceparent: {PARENT}\r\n\r\nabc"
    );
    assert_eq!(proxy.ask(&request).text(), "ok");
    let line = until("the line", || proxy.stdout().lines().next().map(str::to_owned));
    let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let said = &line["httpRequest"];
    for (name, expected) in [
        ("requestMethod", "POST"),
        ("requestUrl", "/a%20b?c\\u003Dd"),
        ("requestSize", "3"),
        ("responseSize", "2"),
        ("userAgent", "t\"est"),
        ("referer", "r"),
        ("protocol", "HTTP/1.1"),
    ] {
        let expected = expected.replace("\\u003D", "=");
        assert_eq!(said[name], expected, "{name} in {line}");
    }
    assert_eq!(said["status"], 200);
    assert_eq!(line["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert!(said["latency"].as_str().is_some_and(|latency| latency.ends_with('s')), "{line}");
    assert_eq!(proxy.stdout().lines().count(), 1);
}

#[test]
fn a_template_of_ones_own_is_used_for_probes_and_refusals_too() {
    let function = Function::with_connections(drop);
    let json = r#"{"enableRequestLog":true,"enableProbeRequestLog":true,"requestLogTemplate":
        "{{if ge .Response.Code 500}}BAD{{else}}good{{end}} {{.Request.Method}} {{.Response.Code}} {{.Request.Header.Get \"x-a\"}} {{index .Request.Header \"X-A\" 0}} {{.Revision.Name}} {{.Revision.PodName}}"}"#;
    let proxy = start(&function, &observability(json));
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n").status(), 502);
    until_holds("the line", || proxy.stdout() == "BAD GET 502 1 1 shop-00001 shop-00001-abc\n");
    proxy.probe(); // It has no X-A: the template fails, and the line says so.
    until_holds("the fallback", || {
        proxy.stdout().lines().nth(1).is_some_and(|line| {
            line.starts_with("Invalid request log template: method: GET, response code: 200, latency: ")
                && line.ends_with(", url: /")
        })
    });
}

#[test]
fn a_template_that_cannot_be_read_costs_the_log_and_nothing_else() {
    let function = Function::ok();
    let proxy = start(&function, &observability(r#"{"enableRequestLog":true,"requestLogTemplate":"{{.Request.Method"}"#));
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    until_holds("the reason is told", || proxy.stderr().contains("unclosed action"));
    assert_eq!(proxy.stdout(), "");
}

#[test]
fn traces_reach_a_collector_and_the_function_stands_below_the_proxy() {
    let ((collector, received), function) = (collector(), tracing_function());
    let json = format!(
        r#"{{"tracing":{{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:{}","samplingRate":0.5}}}}"#,
        collector.port
    );
    let mut variables = observability(&json);
    variables.push(("CONTAINER_CONCURRENCY", "1".into()));
    let mut proxy = start(&function, &variables);
    let told = proxy.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\nTraceparent: {PARENT}\r\n\r\n")).text();
    proxy.signal("-TERM"); // What waits is exported before the end.
    assert!(proxy.ended().success());
    let all: Vec<Span> = received
        .lock()
        .expect("sound")
        .iter()
        .flat_map(|(path, body)| {
            assert_eq!(path, "/v1/traces");
            spans(body)
        })
        .collect();
    let named = |name: &str| all.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {all:?}"));
    let (server, proxied, wait, client) =
        (named("GET"), named("kn.queueproxy.proxy"), named("kn.queueproxy.wait"), named("HTTP GET"));
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(server.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((&proxied.parent_span_id, &wait.parent_span_id), (&server.span_id, &proxied.span_id));
    assert_eq!((server.kind, client.kind), (2, 3));
    assert!(all.iter().all(|span| span.trace_id == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()));
    assert!(all.iter().all(|span| span.began >= server.began && span.ended >= span.began), "{all:?}");
    let client_id: String = client.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(told, format!("00-0af7651916cd43dd8448eb211c80319c-{client_id}-01"));
}

#[test]
fn without_an_export_trace_headers_pass_as_they_came() {
    let function = tracing_function();
    let proxy = Proxy::start(function.port, &[]);
    assert_eq!(proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nTraceparent: {PARENT}\r\n\r\n")).text(), PARENT);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nTraceparent: odd\r\n\r\n").text(), "odd");
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "none");
}

#[test]
fn a_collector_that_is_gone_costs_a_warning_and_no_request() {
    let function = tracing_function();
    let json = r#"{"tracing":{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:1","samplingRate":1}}"#;
    let mut proxy = start(&function, &observability(json));
    let told = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text();
    assert!(told.starts_with("00-") && told.ends_with("-01"), "{told}");
    proxy.signal("-TERM");
    assert!(proxy.ended().success());
    assert!(proxy.stderr().contains("can't be reached"), "{}", proxy.stderr());
}

#[test]
fn metrics_reach_a_collector_in_the_interval_that_is_asked_for() {
    let ((collector, received), function) = (collector(), Function::ok());
    let json = format!(
        r#"{{"requestMetrics":{{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:{}/own/path","exportInterval":50000000}}}}"#,
        collector.port
    );
    let proxy = start(&function, &observability(&json));
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    until_holds("the metric is exported", || {
        let received = received.lock().expect("sound");
        received.iter().any(|(path, body)| path == "/own/path" && contains(body, b"kn.serving.invocation.duration"))
    });
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn traces_reach_a_collector_that_speaks_grpc() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, mut received) = tokio::sync::mpsc::channel(8);
    let collector = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sender = sender.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    sender.send((path, body)).await.expect("a test that waits");
                    let answer = http::Response::builder().header("grpc-status", "0").body(Full::new(Bytes::new()));
                    Ok::<_, std::convert::Infallible>(answer.expect("a response"))
                }
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(served.serve_connection(TokioIo::new(stream), service));
        }
    });
    let asked = tokio::task::spawn_blocking(move || {
        let function = Function::ok();
        let json = format!(r#"{{"tracing":{{"protocol":"grpc","endpoint":"http://localhost:{port}","samplingRate":1}}}}"#);
        let mut proxy = start(&function, &observability(&json));
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
        proxy.signal("-TERM");
        assert!(proxy.ended().success());
    });
    let (path, body) = received.recv().await.expect("an export");
    asked.await.expect("a proxy");
    collector.abort();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let (head, message) = body.split_at(5);
    assert_eq!((head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize), (0, message.len()));
    assert!(spans(message).iter().any(|span| span.name == "HTTP GET"));
}

#[test]
fn spans_can_be_had_on_standard_output() {
    let function = tracing_function();
    let proxy = start(&function, &observability(r#"{"tracing":{"protocol":"stdout"}}"#));
    proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let line = until("a span", || proxy.stdout().lines().next().map(str::to_owned));
    let span: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(span["Name"], "GET");
}

#[test]
fn log_lines_have_the_shape_that_knatives_logging_configuration_asks_for() {
    let function = Function::ok();
    let zap = r#"{"level":"info","outputPaths":["stdout"],"encoding":"json","encoderConfig":{"timeKey":"ts","levelKey":"severity","nameKey":"logger","messageKey":"message"}}"#;
    let proxy = Proxy::start(function.port, &[("SERVING_LOGGING_CONFIG", zap)]);
    let line = until("a line", || proxy.stdout().lines().find(|line| line.contains("serving")).map(str::to_owned));
    let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&line["severity"], &line["logger"], &line["message"]), (&"INFO".into(), &"queueproxy".into(), &"serving".into()));
    assert_eq!(line["knative.dev/key"], "default/shop-00001");
    assert!(line["ts"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let proxy = Proxy::start(function.port, &[("SERVING_LOGGING_CONFIG", "no"), ("SERVING_LOGGING_LEVEL", "loud")]);
    assert!(proxy.stderr().contains("SERVING_LOGGING_CONFIG is no zap configuration"), "{}", proxy.stderr());
}
