//! One request that is told about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_LENGTH, HOST, REFERER, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version};
use zipline_core::trace::TraceContext;

use super::spans::{Attribute, Span, SpanKind};
use super::template::{Fields, Value};
use super::{TRACESTATE, Telemetry, sampler};

const USER_AGENT_PROBE: &[u8] = b"kube-probe/";
const K_NETWORK_PROBE: HeaderName = HeaderName::from_static(zipline_contract::headers::K_NETWORK_PROBE);

/// A request's head as it came.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub target: &'a Uri,
    /// Its protocol.
    pub version: Version,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who sent it.
    pub peer: SocketAddr,
}

/// A request from its arrival to its end. Dropping it tells about it.
#[derive(Debug)]
pub struct Observed {
    telemetry: Arc<Telemetry>,
    method: Method,
    target: Uri,
    /// The host that the target names, if it does.
    authority: Option<String>,
    version: Version,
    headers: HeaderMap,
    peer: SocketAddr,
    is_logged: bool,
    began: (Instant, SystemTime),
    /// When it began to wait for its slot, and when it had it.
    queued: Option<Instant>,
    admitted: Option<Instant>,
    /// When the function was asked.
    asked: Option<Instant>,
    status: Option<StatusCode>,
    response_bytes: u64,
    trace: Option<Trace>,
}

/// A request's places in its trace.
#[derive(Debug)]
struct Trace {
    parent: Option<TraceContext>,
    /// The request as a whole.
    server: TraceContext,
    /// Its time in the proxy, its wait in the breaker, the function's part.
    proxy: TraceContext,
    wait: TraceContext,
    client: TraceContext,
    state: String,
}

impl Observed {
    /// A request comes. `None`: nothing is told about it.
    pub fn arrive(telemetry: &Arc<Telemetry>, arrival: &Arrival<'_>) -> Option<Box<Self>> {
        if !telemetry.is_on() {
            return None;
        }
        let is_probe = is_probe(arrival.headers);
        let is_logged = telemetry.request_log.as_ref().is_some_and(|log| log.wants(is_probe));
        let tracer = telemetry.tracer.as_ref().filter(|_| !is_probe);
        if !is_logged && tracer.is_none() {
            return None;
        }
        let trace = tracer.map(|tracer| {
            let parent = sampler::of(arrival.headers);
            let server = tracer.sampler.start(parent);
            let proxy = sampler::child(server);
            let state = arrival.headers.get(TRACESTATE).and_then(|state| state.to_str().ok()).filter(|_| parent.is_some());
            Trace {
                parent,
                server,
                proxy,
                wait: sampler::child(proxy),
                client: sampler::child(proxy),
                state: state.unwrap_or_default().to_owned(),
            }
        });
        Some(Box::new(Self {
            telemetry: Arc::clone(telemetry),
            method: arrival.method.clone(),
            target: match (arrival.version, arrival.target.path_and_query()) {
                (Version::HTTP_2, Some(path)) => Uri::from(path.clone()),
                _ => arrival.target.clone(),
            },
            authority: arrival.target.authority().map(|authority| authority.as_str().to_owned()),
            version: arrival.version,
            headers: arrival.headers.clone(),
            peer: arrival.peer,
            is_logged,
            began: (Instant::now(), SystemTime::now()),
            queued: None,
            admitted: None,
            asked: None,
            status: None,
            response_bytes: 0,
            trace,
        }))
    }

    /// The span that other spans of this program belong under; none where the trace is not recorded.
    pub fn span(&self) -> tracing::Span {
        match &self.trace {
            Some(trace) if trace.proxy.is_sampled => tracing::info_span!("request", otel.context = %trace.proxy),
            _ => tracing::Span::none(),
        }
    }

    /// Where work on this request's behalf stands in its trace; `None`: it has none of its own.
    pub fn context(&self) -> Option<TraceContext> {
        self.trace.as_ref().map(|trace| trace.proxy)
    }

    /// It waits for its slot.
    pub fn queued(&mut self) {
        self.queued = Some(Instant::now());
    }

    /// It has its slot.
    pub fn admitted(&mut self) {
        self.admitted = Some(Instant::now());
    }

    /// The function is asked: its request says where it stands in the trace.
    pub fn asked(&mut self, headers: &mut HeaderMap) {
        self.asked = Some(Instant::now());
        if let Some(trace) = &self.trace {
            sampler::inject(trace.client, headers);
        }
    }

    /// It is answered with this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.status.get_or_insert(status);
    }

    /// So many bytes of the response's body were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// Nothing is told about it: it goes on as another.
    pub fn forget(mut self: Box<Self>) {
        self.is_logged = false;
        self.trace = None;
    }

    fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
    }

    fn content_length(&self) -> i64 {
        let is_open = match self.version {
            Version::HTTP_2 => !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS),
            _ => self.headers.contains_key(TRANSFER_ENCODING),
        };
        let length = self.header(&CONTENT_LENGTH).parse().ok();
        if self.headers.contains_key(TRANSFER_ENCODING) { -1 } else { length.unwrap_or(if is_open { -1 } else { 0 }) }
    }

    const fn proto(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    fn host(&self) -> &str {
        self.authority.as_deref().unwrap_or_else(|| self.header(&HOST))
    }

    fn request_uri(&self) -> String {
        self.target.to_string()
    }

    /// What the client was answered with; where it was not, because it left, what it would have been.
    fn code(&self) -> StatusCode {
        self.status.unwrap_or(StatusCode::BAD_GATEWAY)
    }

    fn log(&self) {
        let Some(log) = self.telemetry.request_log.as_ref().filter(|_| self.is_logged) else { return };
        let latency = self.began.0.elapsed().as_secs_f64();
        let root = Root { request: Request(self), response: Response { of: self, latency }, revision: Revision(&self.telemetry) };
        log.write(&root, || {
            format!(
                "Invalid request log template: method: {}, response code: {}, latency: {}, url: {}\n",
                self.method,
                self.code().as_u16(),
                Value::Float(latency).print(),
                self.request_uri()
            )
        });
    }

    fn trace(&self) {
        let (Some(trace), Some(tracer)) = (&self.trace, &self.telemetry.tracer) else { return };
        if !trace.server.is_sampled {
            return;
        }
        let at = |instant: Instant| self.began.1 + instant.saturating_duration_since(self.began.0);
        let now = at(Instant::now());
        let span = |context: TraceContext, parent_id, name: &str, kind, began, ended| Span {
            context,
            parent_id,
            trace_state: trace.state.clone(),
            name: name.to_owned(),
            kind,
            began,
            ended,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        let failed = (self.code().is_server_error() && self.status.is_some()).then(String::new);
        let parent_id = trace.parent.map_or(0, |parent| parent.span_id);
        let server = span(trace.server, parent_id, self.method_name(), SpanKind::Server, self.began.1, now);
        tracer.queue.push(Span { attributes: self.server_attributes(), error: failed.clone(), ..server });
        let proxy = span(trace.proxy, trace.server.span_id, "kn.queueproxy.proxy", SpanKind::Internal, self.began.1, now);
        tracer.queue.push(proxy);
        if let Some(queued) = self.queued {
            let until = self.admitted.map_or(now, at);
            tracer.queue.push(span(trace.wait, trace.proxy.span_id, "kn.queueproxy.wait", SpanKind::Internal, at(queued), until));
        }
        if let Some(asked) = self.asked {
            let name = format!("HTTP {}", self.method);
            let client = span(trace.client, trace.proxy.span_id, &name, SpanKind::Client, at(asked), now);
            let attributes = vec![
                ("http.request.method", Attribute::Text(self.method_name().to_owned())),
                ("http.response.status_code", Attribute::Int(self.code().as_u16().into())),
            ];
            tracer.queue.push(Span { attributes, error: failed, ..client });
        }
    }

    fn method_name(&self) -> &str {
        match self.method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::TRACE
            | Method::CONNECT => self.method.as_str(),
            _ => "HTTP",
        }
    }

    /// Named as OpenTelemetry's conventions for HTTP servers name them.
    fn server_attributes(&self) -> Vec<(&'static str, Attribute)> {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let host = self.host();
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !name.ends_with(':') => (name, port.parse::<u16>().ok()),
            _ => (host, None),
        };
        let mut attributes = vec![
            ("server.address", text(name)),
            ("http.request.method", text(if self.method_name() == "HTTP" { "_OTHER" } else { self.method.as_str() })),
            ("url.scheme", text("http")),
            ("network.peer.address", Attribute::Text(self.peer.ip().to_canonical().to_string())),
            ("network.peer.port", Attribute::Int(self.peer.port().into())),
            ("url.path", text(self.target.path())),
            ("network.protocol.version", text(self.proto().trim_start_matches("HTTP/").trim_end_matches(".0"))),
            ("http.response.status_code", Attribute::Int(self.code().as_u16().into())),
            ("kn.route.tag", text(self.route_tag())),
        ];
        let forwarded = self.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        let client = forwarded.and_then(|value| value.split(',').next()).map(str::trim).filter(|client| !client.is_empty());
        let client = client.map_or_else(|| self.peer.ip().to_canonical().to_string(), str::to_owned);
        attributes.push(("client.address", Attribute::Text(client)));
        attributes.extend(port.filter(|port| *port != 80).map(|port| ("server.port", Attribute::Int(port.into()))));
        let agent = self.header(&USER_AGENT);
        attributes.extend((!agent.is_empty()).then(|| ("user_agent.original", text(agent))));
        let size = |bytes: u64| Attribute::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
        let announced = u64::try_from(self.content_length()).unwrap_or(0);
        attributes.extend((announced > 0).then(|| ("http.request.body.size", size(announced))));
        attributes.extend((self.response_bytes > 0).then(|| ("http.response.body.size", size(self.response_bytes))));
        attributes
    }

    /// The tag of the route, as Knative's names it.
    fn route_tag(&self) -> &str {
        let (tag, is_default) = (self.header(&TAG), self.header(&DEFAULT_ROUTE));
        match (tag, is_default) {
            ("", "") => "kn:disabled",
            ("", _) => "kn:default",
            (_, "true") => "kn:undefined",
            (tag, _) => tag,
        }
    }
}

const TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
const DEFAULT_ROUTE: HeaderName = HeaderName::from_static("knative-serving-default-route");

impl Drop for Observed {
    fn drop(&mut self) {
        self.log();
        self.trace();
    }
}

/// Whether Knative takes a request for a probe.
fn is_probe(headers: &HeaderMap) -> bool {
    let is_set = |name: &HeaderName| headers.get(name).is_some_and(|value| !value.is_empty());
    headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(USER_AGENT_PROBE))
        || is_set(&HeaderName::from_static(zipline_contract::headers::K_KUBELET_PROBE))
        || is_set(&K_NETWORK_PROBE)
}

/// The dot of a request log template.
struct Root<'a> {
    request: Request<'a>,
    response: Response<'a>,
    revision: Revision<'a>,
}

impl Fields for Root<'_> {
    fn field(&self, name: &str) -> Option<Value<'_>> {
        Some(match name {
            "Request" => Value::Fields(&self.request),
            "Response" => Value::Fields(&self.response),
            "Revision" => Value::Fields(&self.revision),
            "TraceID" => Value::text(trace_id(self.request.0)),
            _ => return None,
        })
    }

    fn method<'a>(&'a self, _: &str, _: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        None
    }
}

/// The number of the trace that the request came with, in W3C's header or in Zipkin's.
fn trace_id(of: &Observed) -> &str {
    let parent = of.header(&super::TRACEPARENT);
    match parent.split_once('-') {
        Some((_version, rest)) => rest.split('-').next().unwrap_or_default(),
        None => of.header(&HeaderName::from_static("x-b3-traceid")),
    }
}

/// Go's `http.Request`, as far as a log line has a use for it.
struct Request<'a>(&'a Observed);

impl Fields for Request<'_> {
    fn field(&self, name: &str) -> Option<Value<'_>> {
        let of = self.0;
        Some(match name {
            "Method" => Value::text(of.method.as_str()),
            "RequestURI" => Value::text(of.request_uri()),
            "URL" => Value::Fields(self.url()),
            "Proto" => Value::text(of.proto()),
            "ProtoMajor" => Value::Int(if of.version == Version::HTTP_2 { 2 } else { 1 }),
            "ProtoMinor" => Value::Int(i64::from(of.version == Version::HTTP_11)),
            "Header" => Value::Map(headers(&of.headers)),
            "ContentLength" => Value::Int(of.content_length()),
            "Close" => {
                let options = of.header(&http::header::CONNECTION);
                let has = |option: &str| options.split(',').any(|one| one.trim().eq_ignore_ascii_case(option));
                Value::Bool(has("close") || of.version == Version::HTTP_10 && !has("keep-alive"))
            }
            "TransferEncoding" => {
                let is_chunked = of.headers.contains_key(TRANSFER_ENCODING);
                Value::List(is_chunked.then(|| Value::text("chunked")).into_iter().collect())
            }
            "Host" => Value::text(of.host()),
            "RemoteAddr" => Value::text(SocketAddr::new(of.peer.ip().to_canonical(), of.peer.port()).to_string()),
            "Pattern" => Value::text(""),
            _ => return None,
        })
    }

    fn method<'a>(&'a self, name: &str, arguments: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        Some(match (name, arguments) {
            ("UserAgent", []) => Ok(Value::text(self.0.header(&USER_AGENT))),
            ("Referer", []) => Ok(Value::text(self.0.header(&REFERER))),
            ("ProtoAtLeast", [Value::Int(major), Value::Int(minor)]) => {
                let own = match self.0.version {
                    Version::HTTP_2 => (2, 0),
                    Version::HTTP_10 => (1, 0),
                    _ => (1, 1),
                };
                Ok(Value::Bool(own >= (*major, *minor)))
            }
            ("UserAgent" | "Referer" | "ProtoAtLeast", _) => Err("wrong number or kind of arguments".to_owned()),
            _ => return None,
        })
    }
}

impl Request<'_> {
    fn url(&self) -> &Uri {
        &self.0.target
    }
}

/// A path with its escapes resolved.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Go's `url.URL`.
impl Fields for Uri {
    fn field(&self, name: &str) -> Option<Value<'_>> {
        Some(match name {
            "Path" => Value::text(unescaped(self.path())),
            "RawQuery" => Value::text(self.query().unwrap_or_default()),
            "Host" => Value::text(self.authority().map_or("", |authority| authority.as_str())),
            "Scheme" => Value::text(self.scheme_str().unwrap_or_default()),
            _ => return None,
        })
    }

    fn method<'a>(&'a self, name: &str, arguments: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        match (name, arguments) {
            ("String", []) => Some(Ok(Value::text(self.to_string()))),
            ("RequestURI" | "EscapedPath", []) => {
                let path = self.path_and_query().map_or("/", |path| path.as_str());
                Some(Ok(Value::text(if name == "EscapedPath" { self.path() } else { path })))
            }
            _ => None,
        }
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// Headers under the names that Go gives them, sorted.
fn headers(headers: &HeaderMap) -> Vec<(std::borrow::Cow<'_, str>, Value<'_>)> {
    let mut entries: Vec<_> = headers
        .keys()
        .filter(|name| *name != HOST && *name != TRANSFER_ENCODING)
        .map(|name| {
            let values = headers.get_all(name).iter().map(|value| Value::text(String::from_utf8_lossy(value.as_bytes())));
            (canonical(name).into(), Value::List(values.collect()))
        })
        .collect();
    entries.sort_by(|(a, _): &(std::borrow::Cow<'_, str>, _), (b, _)| a.cmp(b));
    entries
}

fn canonical(name: &HeaderName) -> String {
    let mut first = true;
    let upper = |c: char| {
        let c = if first { c.to_ascii_uppercase() } else { c };
        first = c == '-';
        c
    };
    name.as_str().chars().map(upper).collect()
}

/// Knative's `RequestLogResponse`.
struct Response<'a> {
    of: &'a Observed,
    latency: f64,
}

impl Fields for Response<'_> {
    fn field(&self, name: &str) -> Option<Value<'_>> {
        Some(match name {
            "Code" => Value::Int(self.of.code().as_u16().into()),
            "Size" => Value::Int(i64::try_from(self.of.response_bytes).unwrap_or(i64::MAX)),
            "Latency" => Value::Float(self.latency),
            _ => return None,
        })
    }

    fn method<'a>(&'a self, _: &str, _: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        None
    }
}

/// Knative's `RequestLogRevision`.
struct Revision<'a>(&'a Telemetry);

impl Fields for Revision<'_> {
    fn field(&self, name: &str) -> Option<Value<'_>> {
        let identity = &self.0.identity;
        Some(Value::text(match name {
            "Name" => identity.revision.as_str(),
            "Namespace" => &identity.namespace,
            "Service" => &identity.service,
            "Configuration" => &identity.configuration,
            "PodName" => &identity.pod,
            "PodIP" => &self.0.pod_ip,
            _ => return None,
        }))
    }

    fn method<'a>(&'a self, _: &str, _: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        None
    }
}
