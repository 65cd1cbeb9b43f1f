//! The request log, traces and metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Bench, Case, case};
use crate::proxy::{METRICS, PROFILING, Proxy, REQUESTS};
use crate::state::{ask_unseen, statistics as report, until};
use crate::transcript::{Transcript, shown};
use crate::wire::{Function, Peer};

/// How long a log that has fewer lines than there were requests is watched.
const QUIET: Duration = Duration::from_millis(1500);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const REQUEST: &str = "POST /a%20b?c=d&e='f' HTTP/1.1\r\nHost: shop.example:80\r\nContent-Length: 3\r\nUser-Agent: t\"est\\é\r\nReferer: r\r\nX-A: 1\r\nX-A: 2\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nabc";

/// Templates, each for one line about [`REQUEST`].
const TEMPLATES: &[&str] = &[
    "{{.Request.Method}} {{.Request.RequestURI}} {{.Request.URL}} {{.Request.URL.Path}} {{.Request.URL.RawQuery}} {{.Request.Proto}} {{.Request.ProtoMajor}} {{.Request.ProtoMinor}}",
    "{{.Request.ContentLength}} {{.Request.Host}} {{.Request.TransferEncoding}} {{.Request.Close}} {{.TraceID}}",
    "{{.Response.Code}} {{.Response.Size}} {{.Revision.Name}} {{.Revision.Namespace}} {{.Revision.Service}} {{.Revision.Configuration}} {{.Revision.PodName}} {{.Revision.PodIP}}",
    "{{.Request.Header.Get \"x-a\"}} {{index .Request.Header \"X-A\"}} {{index .Request.Header \"X-A\" 1}} {{index .Request.Header \"x-a\"}} {{len .Request.Header}} {{.Request.Header.Values \"x-a\"}}",
    "{{js .Request.UserAgent}} {{html .Request.UserAgent}} {{urlquery .Request.UserAgent}} {{js .Request.RequestURI}} {{.Request.UserAgent | printf \"%q\"}} {{.Request.Referer}}",
    "{{if and (ge .Response.Code 200) (lt .Response.Code 300)}}good{{else if eq .Response.Code 404}}gone{{else}}bad{{end}} {{with .Request.Referer}}{{.}}{{else}}none{{end}} {{range $i, $v := index .Request.Header \"X-A\"}}{{$i}}={{$v}};{{end}}",
    "{{range $k, $v := .Request.Header}}{{if eq $k \"X-A\"}}{{$k}}:{{$v}}{{end}}{{end}} {{$m := .Request.Method}}{{$m}} {{print 1 2 \"a\" \"b\" 3 4}} {{println \"x\" 1}}",
    "{{printf \"%d|%5d|%-5d|%05d|%x|%s|%8s|%q|%v|%t|%.2f|%g|%e\" 1 2 3 4 255 \"s\" \"t\" \"q\" 1.5 true 1.555 1e-7 12345.678}} {{1e20}} {{1234567.0}} {{0.00001}} {{1e6}} {{123456789.5}} {{0x1F}} {{'a'}} {{-3}}",
    "{{not .Request.Referer}} {{or \"\" \"x\"}} {{and 1 0}} {{len .Request.Method}} {{index .Request.Method 0}} {{eq .Request.Method \"GET\" \"POST\"}} {{ne 1 2}} {{le 2 2}} {{gt \"b\" \"a\"}}",
    "  {{- \" trimmed \" -}}   x {{/* a comment */}}y {{- /* another */ -}} z `{{`raw \\n`}}`",
    "{{.Request.Nothing}}",
    "{{index .Request.Header \"X-None\" 0}}",
    "{{.Response.Code.More}}",
    "{{eq .Response.Code \"200\"}}",
    "{{printf \"%d %s\" \"a\" 1}} {{printf \"%d\"}} {{printf \"x\" 1 \"b\"}} {{printf \"%!\"}} {{printf \"%z\" 1}}",
    "{{.Request.ProtoAtLeast 1 1}} {{.Request.Header.Nothing}}",
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("log/default", |bench| log(bench, r#"{"enableRequestLog":true}"#, &[REQUEST])),
        case("log/off", |bench| log(bench, r#"{"enableRequestLog":false,"requestLogTemplate":"x"}"#, &[REQUEST])),
        case("log/probes", |bench| {
            log(
                bench,
                r#"{"enableRequestLog":true,"enableProbeRequestLog":true,"requestLogTemplate":"{{.Request.Method}} {{.Response.Code}} {{.Response.Size}}"}"#,
                PROBES,
            )
        }),
        case("log/no-probes", |bench| {
            log(
                bench,
                r#"{"enableRequestLog":true,"requestLogTemplate":"{{.Request.Method}} {{.Response.Code}} {{.Response.Size}}"}"#,
                PROBES,
            )
        }),
        case("trace/not-sampled", |bench| traced(bench, 0.0, &format!("Traceparent: {PARENT}\r\n"))),
        case("trace/sampled", |bench| {
            traced(bench, 0.5, &format!("Traceparent: {PARENT}\r\nTracestate: a=b\r\nBaggage: k=v\r\n"))
        }),
        case("trace/parent-not-sampled", |bench| {
            traced(bench, 0.5, &format!("Traceparent: {}\r\n", PARENT.replace("-01", "-00")))
        }),
        case("trace/always", |bench| traced(bench, 1.0, "")),
        case("trace/always-parent-not-sampled", |bench| {
            traced(bench, 1.0, &format!("Traceparent: {}\r\n", PARENT.replace("-01", "-00")))
        }),
        case("trace/later-version", |bench| {
            traced(bench, 1.0, &format!("Traceparent: {}-more\r\n", PARENT.replacen("00", "cc", 1)))
        }),
        case("trace/bad", |bench| traced(bench, 1.0, "Traceparent: 00-x-y-z\r\n")),
        case("metrics/prometheus", prometheus),
        case("metrics/statistics", statistics),
        case("metrics/profiling", profiling),
    ];
    for (number, template) in TEMPLATES.iter().enumerate() {
        cases.push(case(format!("log/template-{:02}", number + 1), move |bench| {
            let config = serde_json::json!({ "enableRequestLog": true, "requestLogTemplate": template });
            log(bench, &config.to_string(), &[REQUEST])
        }));
    }
    cases
}

const PROBES: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: a\r\nK-Network-Probe: probe\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nK-Kubelet-Probe: x\r\nContent-Length: 0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "PATCH / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 0\r\n\r\n",
];

/// Lines of the request log; those of the proxies' own logs are left out.
fn lines(proxy: &Proxy) -> Vec<String> {
    let text = proxy.stdout();
    let is_own = |line: &&str| line.starts_with(r#"{"severity""#) || line.starts_with(r#"{"level""#);
    text.lines().filter(|line| !is_own(line)).map(without_latency).collect()
}

/// Lines of a log, when a line for each request is there or none has come for a while: nothing else tells that no more will come.
pub(super) fn settled(look: impl Fn() -> Vec<String>, requests: usize) -> Vec<String> {
    let (mut last, mut since) = (look(), Instant::now());
    while last.len() < requests && since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(20));
        let next = look();
        if next.len() != last.len() {
            (last, since) = (next, Instant::now());
        }
    }
    last
}

fn without_latency(line: &str) -> String {
    let Some((before, after)) = line.split_once("atency\": \"").or_else(|| line.split_once("latency: ")) else {
        return line.to_owned();
    };
    let end = after.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | 'e' | '-'))).unwrap_or(after.len());
    format!("{before}atency: *{}", &after[end..])
}

fn log(bench: &Bench<'_>, config: &str, requests: &[&str]) -> anyhow::Result<()> {
    let function = Function::with_requests(&Transcript::default(), |peer, head| {
        if head.first.starts_with("HEAD") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        } else {
            peer.reply("hello");
        }
    })?;
    let proxy = bench.proxy(function.port, &[("OBSERVABILITY_CONFIG", Some(config))])?;
    for request in requests {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.ask(request, &Transcript::default())?;
    }
    settled(|| lines(&proxy), requests.len()).into_iter().for_each(|line| bench.transcript.note(format!("log: {line}")));
    Ok(())
}

/// What the function is told of the trace, and which spans a collector gets.
fn traced(bench: &Bench<'_>, rate: f64, headers: &str) -> anyhow::Result<()> {
    let received = Arc::new(Mutex::new(Vec::<u8>::new()));
    let collected = Arc::clone(&received);
    let collector = Function::with_heads(move |peer, head| {
        let length = head.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let body = peer.exactly(length);
        collected.lock().unwrap_or_else(PoisonError::into_inner).extend(body);
        peer.reply("");
    })?;
    let transcript = bench.transcript.clone();
    let function = Function::with_heads(move |peer, head| {
        let parent = head.get("traceparent").unwrap_or_default().to_owned();
        let parts: Vec<&str> = parent.split('-').collect();
        let known = |part: &str| match part {
            "0af7651916cd43dd8448eb211c80319c" => "the caller's",
            "b7ad6b7169203331" => "the caller's span",
            "" => "none",
            _ => "its own",
        };
        let shape = match parts[..] {
            [version, trace, span, flags, ..] => format!("{version} {} {} {flags}", known(trace), known(span)),
            _ => parent.clone(),
        };
        transcript.note(format!("function: traceparent {shape}"));
        for name in ["tracestate", "baggage"] {
            transcript.note(format!("function: {name} {:?}", head.get(name)));
        }
        peer.reply("ok");
    })?;
    let config = format!(
        r#"{{"tracing":{{"protocol":"http/protobuf","endpoint":"http://127.0.0.1:{}","samplingRate":{rate}}}}}"#,
        collector.port
    );
    let variables = [("OBSERVABILITY_CONFIG", Some(config.as_str())), ("CONTAINER_CONCURRENCY", Some("1"))];
    let proxy = bench.proxy(function.port, &variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"), &Transcript::default())?;
    let is_expected = rate >= 1.0 || headers.contains("-01");
    if is_expected && rate > 0.0 {
        until("spans come", || Ok(!received.lock().unwrap_or_else(PoisonError::into_inner).is_empty()))?;
    }
    let bytes = received.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for name in [
        "HTTP GET",
        "kn.queueproxy.proxy",
        "kn.queueproxy.wait",
        "kn.route.tag",
        "url.path",
        "service.name",
        "k8s.pod.name",
        "kn.revision.name",
        "http.response.status_code",
    ] {
        let is_there = bytes.windows(name.len()).any(|window| window == name.as_bytes());
        bench.transcript.note(format!("collector: {name} {is_there}"));
    }
    Ok(())
}

/// Which series of Knative's own there are, with which labels.
fn prometheus(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| peer.reply("ok"))?;
    let config = r#"{"requestMetrics":{"protocol":"prometheus"}}"#;
    let variables = [("OBSERVABILITY_CONFIG", Some(config)), ("CONTAINER_CONCURRENCY", Some("2"))];
    let proxy = bench.proxy(function.port, &variables)?;
    ask_unseen(&proxy, PROBES[2])?;
    for _ in 0..3 {
        ask_unseen(&proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    }
    // A request is counted when it is over, which its client may learn first; the port is opened beside the others.
    let mut lines = Vec::new();
    until("all requests are counted", || {
        lines = series(&proxy).unwrap_or_default();
        Ok(lines.iter().any(|line| line.starts_with("kn_serving_invocation_duration_seconds_count") && line.ends_with(" 3")))
    })?;
    let mut names = std::collections::BTreeSet::new();
    for line in lines {
        let family = line.strip_prefix("# TYPE ").unwrap_or(&line).split(['{', ' ', '_']).next().unwrap_or_default().to_owned();
        if line.starts_with("# TYPE ") {
            names.insert(family);
        }
        let is_kn = line.starts_with("kn_") || line.starts_with("# HELP kn_") || line.starts_with("# TYPE kn_");
        if is_kn && !line.contains("_sum") && !line.contains("_bucket")
            || line.starts_with("kn_serving_invocation_duration_seconds_bucket") && line.contains("+Inf")
        {
            bench.transcript.note(format!("metrics: {line}"));
        }
    }
    names.into_iter().for_each(|family| bench.transcript.note(format!("metrics: there are some of {family}")));
    Ok(())
}

/// The lines of the user's metrics.
fn series(proxy: &Proxy) -> anyhow::Result<Vec<String>> {
    let mut client = Peer::connect(proxy.at(METRICS))?;
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut lines = Vec::new();
    while let Some(line) = client.line()? {
        lines.push(line);
    }
    Ok(lines)
}

/// What the autoscaler is told: two requests at once, one of them through an activator.
fn statistics(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| drop(peer.exactly(1)))?; // It holds them until it is left.
    let proxy = bench.proxy(function.port, &[])?;
    let mut clients = Vec::new();
    for mark in ["", "K-Proxy-Request: activator\r\n"] {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{mark}\r\n"));
        clients.push(client);
    }
    crate::state::until_in_flight(&proxy, 2.0)?;
    let (head, stat) = report(&proxy)?;
    bench.transcript.note(format!("statistics: {} {:?}", head.first, head.get("content-type")));
    bench.transcript.note(format!("statistics: {} {:.1} {:.1}", stat.pod_name, stat.concurrent, stat.proxied));
    bench.transcript.note(format!("statistics: uptime {} timestamp {}", stat.uptime > 1.0, stat.timestamp != 0));
    Ok(())
}

fn profiling(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| peer.reply("ok"))?;
    for config in [r#"{"runtime":{"profiling":"enabled"}}"#, r#"{"runtime":{"profiling":"disabled"}}"#] {
        let proxy = bench.proxy(function.port, &[("OBSERVABILITY_CONFIG", Some(config))])?;
        let answer = std::net::TcpStream::connect(proxy.at(PROFILING)).is_ok();
        bench.transcript.note(format!("{} port open {answer}", shown(config.as_bytes())));
    }
    Ok(())
}
