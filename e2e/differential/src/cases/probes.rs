//! Probes in every state, the breaker, and the drain.

use std::net::TcpListener;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::{Bench, Case, case};
use crate::proxy::{ADMIN, Proxy, REQUESTS, STATISTICS};
use crate::state::{until_draining, until_in_flight};
use crate::transcript::Transcript;
use crate::wire::{Function, PATIENCE, Peer};

const KUBELET: &str = "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\n";
const ACTIVATOR: &str = "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: Knative-Activator-Probe\r\n";

/// Who probes, and what is said.
const PROBES: &[(&str, &str)] = &[
    ("kubelet, no header", "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\n\r\n"),
    ("kubelet, queue", "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n\r\n"),
    ("kubelet, other", "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: odd\r\n\r\n"),
    ("activator, queue", "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: Knative-Activator-Probe\r\nK-Network-Probe: queue\r\n\r\n"),
    (
        "autoscaling, queue",
        "POST /p HTTP/1.1\r\nHost: a\r\nUser-Agent: Knative-Autoscaling-Probe/2\r\nK-Network-Probe: queue\r\nContent-Length: 1\r\n\r\nx",
    ),
    ("ingress, queue", "GET /p HTTP/1.1\r\nHost: a\r\nUser-Agent: Knative-Ingress-Probe\r\nK-Network-Probe: queue\r\n\r\n"),
    ("nobody, queue", "GET /p HTTP/1.1\r\nHost: a\r\nK-Network-Probe: queue\r\n\r\n"),
    ("network, hash", "GET /p HTTP/1.1\r\nHost: a\r\nK-Network-Probe: probe\r\nK-Network-Hash: h\r\n\r\n"),
    ("network, no hash", "GET /p HTTP/1.1\r\nHost: a\r\nK-Network-Probe: probe\r\n\r\n"),
    ("old kubelet", "GET /p HTTP/1.1\r\nHost: a\r\nK-Kubelet-Probe: queue\r\n\r\n"),
    (
        "old kubelet, from the activator",
        "GET /p HTTP/1.1\r\nHost: pod\r\nK-Kubelet-Probe: x\r\nK-Proxy-Request: activator\r\nK-Original-Host: shop\r\n\r\n",
    ),
    ("head", "HEAD /p HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n\r\n"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("probe/always-ready", |bench| all(bench, "", |_| Ok(()))),
        case("probe/draining", |bench| {
            all(bench, "", |proxy| {
                proxy.terminate()?;
                until_draining(proxy)
            })
        }),
        case("probe/tcp-refused", |bench| {
            ready(bench, r#"{"tcpSocket":{"port":1,"host":"127.0.0.1"},"periodSeconds":1,"timeoutSeconds":1}"#)
        }),
        case("probe/http-refused", |bench| {
            ready(bench, r#"{"httpGet":{"port":1,"host":"127.0.0.1","scheme":"HTTP"},"periodSeconds":1,"timeoutSeconds":1}"#)
        }),
        case("probe/grpc-refused", |bench| ready(bench, r#"{"grpc":{"port":1},"periodSeconds":1,"timeoutSeconds":1}"#)),
        case("probe/exec", |bench| ready(bench, r#"{"exec":{"command":["true"]},"periodSeconds":1}"#)),
        case("probe/none-inside", |bench| ready(bench, "{}")),
        case("probe/https", https),
        case("probe/named-port", |bench| {
            ready(bench, r#"{"httpGet":{"port":"http","host":"127.0.0.1","scheme":"HTTP"},"periodSeconds":1,"timeoutSeconds":1}"#)
        }),
        case("probe/negative-threshold", |bench| {
            ready(bench, r#"{"tcpSocket":{"port":PORT,"host":"127.0.0.1"},"successThreshold":-1}"#)
        }),
        case("probe/negative-period", |bench| {
            ready(bench, r#"{"tcpSocket":{"port":PORT,"host":"127.0.0.1"},"periodSeconds":-1,"timeoutSeconds":1}"#)
        }),
        case("probe/tcp", |bench| {
            ready(bench, r#"{"tcpSocket":{"port":PORT,"host":"127.0.0.1"},"periodSeconds":1,"timeoutSeconds":1}"#)
        }),
        case("probe/http-headers", |bench| {
            ready(
                bench,
                r#"{"httpGet":{"path":"x?y","port":PORT,"host":"127.0.0.1","scheme":"HTTP","httpHeaders":[{"name":"X-A","value":"1"},{"name":"x-a","value":"2"},{"name":"Host","value":"other"}]},"periodSeconds":1,"timeoutSeconds":1}"#,
            )
        }),
        case("probe/aggressive", |bench| {
            ready(bench, r#"{"httpGet":{"path":"/","port":PORT,"host":"127.0.0.1","scheme":"HTTP"},"successThreshold":3}"#)
        }),
        case("probe/detect", |bench| {
            with_variables(
                bench,
                r#"{"httpGet":{"path":"/","port":PORT,"host":"127.0.0.1","scheme":"HTTP"},"periodSeconds":1,"timeoutSeconds":1}"#,
                &[("ENABLE_HTTP2_AUTO_DETECTION", Some("true"))],
            )
        }),
        case("probe/many", |bench| {
            with_variables(
                bench,
                r#"[{"tcpSocket":{"port":PORT,"host":"127.0.0.1"},"periodSeconds":1,"timeoutSeconds":1},{"tcpSocket":{"port":1,"host":"127.0.0.1"},"periodSeconds":1,"timeoutSeconds":1}]"#,
                &[("ENABLE_MULTI_CONTAINER_PROBES", Some("true"))],
            )
        }),
        case("probe/many-none", |bench| with_variables(bench, "[]", &[("ENABLE_MULTI_CONTAINER_PROBES", Some("true"))])),
        case("breaker/overload", overload),
        case("breaker/leaver", leaver),
        case("drain/requests-go-on", drain_serves),
        case("drain/wait-without-a-signal", wait_without_a_signal),
        case("drain/under-load", drain_under_load),
        case("admin/other-paths", admin_paths),
    ];
    for status in [199_u16, 200, 302, 399, 400, 404, 500] {
        cases.push(case(format!("probe/http-{status}"), move |bench| answered(bench, status)));
    }
    cases
}

/// Every probe, in the state that `prepare` brings about.
fn all(bench: &Bench<'_>, probe: &str, prepare: impl FnOnce(&Proxy) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[("SERVING_READINESS_PROBE", Some(probe))])?;
    prepare(&proxy)?;
    for (name, request) in PROBES {
        bench.transcript.note(format!("-- {name}"));
        Peer::connect(proxy.at(REQUESTS))?.ask(request, &bench.transcript)?;
    }
    Ok(())
}

/// The health check of a function that writes down and answers what it is asked.
fn ready(bench: &Bench<'_>, probe: &str) -> anyhow::Result<()> {
    with_variables(bench, probe, &[])
}

fn with_variables(bench: &Bench<'_>, probe: &str, more: &[(&str, Option<&str>)]) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let probe = probe.replace("PORT", &function.port.to_string());
    let mut variables = vec![("SERVING_READINESS_PROBE", Some(probe.as_str()))];
    variables.extend(more);
    let proxy = bench.proxy(function.port, &variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.ask(&format!("{ACTIVATOR}K-Network-Probe: queue\r\n\r\n"), &bench.transcript)?;
    Ok(())
}

/// A probe over TLS of a function that speaks none. What it is sent is random, so it writes nothing down.
fn https(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_connections(|mut peer| {
        drop(peer.exactly(1));
        peer.cut();
    })?;
    let probe = format!(
        r#"{{"httpGet":{{"port":{},"host":"127.0.0.1","scheme":"HTTPS"}},"periodSeconds":1,"timeoutSeconds":1}}"#,
        function.port
    );
    let proxy = bench.proxy(function.port, &[("SERVING_READINESS_PROBE", Some(&probe))])?;
    Peer::connect(proxy.at(REQUESTS))?.ask(&format!("{ACTIVATOR}K-Network-Probe: queue\r\n\r\n"), &bench.transcript)?;
    Ok(())
}

/// The health check of a function that answers its probe with this status.
fn answered(bench: &Bench<'_>, status: u16) -> anyhow::Result<()> {
    let function = Function::with_heads(move |peer, _| {
        let location = if (300..400).contains(&status) { "Location: http://elsewhere.invalid/\r\n" } else { "" };
        peer.send(format!("HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\n\r\n"));
    })?;
    let probe = format!(
        r#"{{"httpGet":{{"path":"/","port":{},"host":"127.0.0.1","scheme":"HTTP"}},"periodSeconds":1,"timeoutSeconds":1}}"#,
        function.port
    );
    let proxy = bench.proxy(function.port, &[("SERVING_READINESS_PROBE", Some(&probe))])?;
    Peer::connect(proxy.at(REQUESTS))?.ask(&format!("{KUBELET}K-Network-Probe: queue\r\n\r\n"), &bench.transcript)?;
    Ok(())
}

/// A function that holds every request until it is let go.
struct Holding {
    function: Function,
    arrived: mpsc::Receiver<String>,
    go: mpsc::Sender<()>,
}

impl Holding {
    fn new() -> anyhow::Result<Self> {
        let (came, arrived) = mpsc::channel();
        let (go, release) = mpsc::channel::<()>();
        let (came, release) = (Mutex::new(came), Mutex::new(release));
        let function = Function::with_heads(move |peer, head| {
            drop(came.lock().map(|came| came.send(head.first.clone())));
            drop(release.lock().map(|release| release.recv_timeout(PATIENCE)));
            peer.reply("ok");
        })?;
        Ok(Self { function, arrived, go })
    }
}

/// One request runs, ten wait, the others are refused, whichever they are.
fn overload(bench: &Bench<'_>) -> anyhow::Result<()> {
    const CLIENTS: usize = 13;
    const REFUSED: usize = CLIENTS - 11;
    let Holding { function, go, .. } = Holding::new()?;
    let proxy = bench.proxy(function.port, &[("CONTAINER_CONCURRENCY", Some("1"))])?;
    let (tell, told) = mpsc::channel();
    for _ in 0..CLIENTS {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        let tell = tell.clone();
        std::thread::spawn(move || {
            let seen = Transcript::default();
            let outcome = client.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n", &seen);
            drop(tell.send(outcome.map(|_| seen.take())));
        });
    }
    let answered = || -> anyhow::Result<()> {
        told.recv_timeout(PATIENCE)??.into_iter().for_each(|line| bench.transcript.note(line));
        Ok(())
    };
    // Who is answered before the function answers anybody was refused; as many say that the queue is full.
    for _ in 0..REFUSED {
        answered()?;
    }
    Peer::connect(proxy.at(REQUESTS))?
        .ask("POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", &bench.transcript)?;
    Peer::connect(proxy.at(REQUESTS))?.ask(&format!("{KUBELET}K-Network-Probe: queue\r\n\r\n"), &bench.transcript)?;
    for _ in REFUSED..CLIENTS {
        go.send(())?;
    }
    for _ in REFUSED..CLIENTS {
        answered()?;
    }
    Ok(())
}

/// A client that leaves while it waits gives its place up.
fn leaver(bench: &Bench<'_>) -> anyhow::Result<()> {
    let Holding { function, arrived, go } = Holding::new()?;
    let proxy = bench.proxy(function.port, &[("CONTAINER_CONCURRENCY", Some("1"))])?;
    let mut first = Peer::connect(proxy.at(REQUESTS))?;
    first.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    arrived.recv_timeout(PATIENCE)?;
    let mut leaver = Peer::connect(proxy.at(REQUESTS))?;
    leaver.send("GET /leaver HTTP/1.1\r\nHost: a\r\n\r\n");
    until_in_flight(&proxy, 2.0)?;
    leaver.cut();
    until_in_flight(&proxy, 1.0)?;
    let mut last = Peer::connect(proxy.at(REQUESTS))?;
    last.send("GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
    go.send(())?;
    go.send(())?;
    first.answer("GET", &bench.transcript)?;
    last.answer("GET", &bench.transcript)?;
    while let Ok(first) = arrived.try_recv() {
        bench.transcript.note(format!("function: then {first}"));
    }
    Ok(())
}

fn drain_serves(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[])?;
    let mut kept = Peer::connect(proxy.at(REQUESTS))?;
    kept.ask("GET /before HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    proxy.terminate()?;
    until_draining(&proxy)?;
    kept.ask("GET /kept HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    Peer::connect(proxy.at(REQUESTS))?.ask("GET /new HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    Peer::connect(proxy.at(STATISTICS))?.ask("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    Ok(())
}

/// The preStop hook of a function that is restarted by a liveness probe.
fn wait_without_a_signal(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::echo(&bench.transcript)?;
    let proxy = bench.proxy(function.port, &[])?;
    let began = Instant::now();
    let mut hook = Peer::connect(proxy.at(ADMIN))?;
    hook.send("GET /wait-for-drain HTTP/1.1\r\nHost: a\r\n\r\n");
    until_draining(&proxy)?;
    hook.answer("GET", &bench.transcript)?;
    bench.transcript.note(format!("it waited for a second: {}", began.elapsed() >= Duration::from_millis(900)));
    Peer::connect(proxy.at(REQUESTS))?.ask(&format!("{KUBELET}K-Network-Probe: queue\r\n\r\n"), &bench.transcript)?;
    Ok(())
}

/// Requests that are in flight when the signal comes are answered.
fn drain_under_load(bench: &Bench<'_>) -> anyhow::Result<()> {
    let Holding { function, arrived, go } = Holding::new()?;
    let proxy = bench.proxy(function.port, &[("CONTAINER_CONCURRENCY", Some("2"))])?;
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        clients.push(client);
    }
    arrived.recv_timeout(PATIENCE)?;
    proxy.terminate()?;
    until_draining(&proxy)?;
    for _ in 0..clients.len() {
        go.send(()).ok();
    }
    for mut client in clients {
        client.answer("GET", &bench.transcript)?;
    }
    Ok(())
}

fn admin_paths(bench: &Bench<'_>) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxy = bench.proxy(listener.local_addr()?.port(), &[])?;
    for (port, path) in [(ADMIN, "/"), (ADMIN, "/drain"), (STATISTICS, "/"), (STATISTICS, "/metrics/")] {
        bench.transcript.note(format!("-- {port} {path}"));
        Peer::connect(proxy.at(port))?.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), &bench.transcript)?;
    }
    Ok(())
}
