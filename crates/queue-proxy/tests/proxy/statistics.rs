//! What the autoscaler and the user are told.

use zipline_contract::doors;
use zipline_core::stats::Stat;

use crate::support::{Function, Peer, Proxy, until, until_holds};

fn stat(proxy: &Proxy) -> Stat {
    let answer = proxy.get(doors::STATISTICS, "/metrics");
    assert_eq!(answer.head.get("content-type"), Some("application/protobuf"));
    Stat::from_bytes(&answer.body).expect("a Stat message")
}

/// An average is a quotient of sums of floating-point numbers.
fn is_near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 1e-6
}

fn holding() -> Function {
    Function::with_requests(|peer, head| {
        if head.first.contains("/hold") {
            peer.rest();
        } else {
            peer.reply("ok");
        }
    })
}

fn hold(proxy: &Proxy, headers: &str) -> Peer {
    let mut client = proxy.client();
    client.send(format!("GET /hold HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    client
}

#[test]
fn requests_in_flight_are_reported_with_the_proxied_ones_apart() {
    let function = holding();
    let proxy = Proxy::start(function.port, &[]);
    let own: Vec<_> = (0..2).map(|_| hold(&proxy, "")).collect();
    let proxied: Vec<_> = (0..3).map(|_| hold(&proxy, "K-Proxy-Request: activator\r\n")).collect();
    // A full second with all of them in flight.
    let seen = until("five requests in flight for a whole period", || {
        let stat = stat(&proxy);
        is_near(stat.average_concurrent_requests, 5.0).then_some(stat)
    });
    assert_eq!(seen.pod_name, "shop-00001-abc");
    assert!(is_near(seen.average_proxied_concurrent_requests, 3.0), "{seen:?}");
    assert_eq!((seen.request_count, seen.timestamp), (0.0, 0));
    assert!(seen.process_uptime > 1.0, "{seen:?}");
    drop((own, proxied));
    until_holds("none is in flight", || stat(&proxy).average_concurrent_requests == 0.0);
}

#[test]
fn requests_are_counted_once_however_they_end_and_probes_never() {
    let proxy = Proxy::start(crate::support::silent_port(), &[]);
    for _ in 0..7 {
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 502);
        assert_eq!(proxy.probe().status(), 200);
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nK-Kubelet-Probe: x\r\n\r\n").status(), 502);
    }
    let mut counted = 0.0;
    let mut uptime = 0.0;
    until_holds("seven requests", || {
        let stat = stat(&proxy);
        if stat.process_uptime != uptime {
            uptime = stat.process_uptime;
            counted += stat.request_count;
        }
        counted == 7.0
    });
}

#[test]
fn requests_that_wait_in_the_breaker_count() {
    let function = holding();
    let proxy = Proxy::start(function.port, &[("CONTAINER_CONCURRENCY", "1")]);
    let _clients: Vec<_> = (0..4).map(|_| hold(&proxy, "")).collect();
    until_holds("one runs and three wait", || proxy.status("running") == 1 && proxy.status("queued") == 3);
    until_holds("four are reported", || is_near(stat(&proxy).average_concurrent_requests, 4.0));
}

#[test]
fn the_users_metrics_tell_durations_by_status_and_the_depth_of_the_queue() {
    let function = holding();
    let proxy = Proxy::start(
        function.port,
        &[("CONTAINER_CONCURRENCY", "2"), ("OBSERVABILITY_CONFIG", r#"{"requestMetrics":{"protocol":"prometheus"}}"#)],
    );
    for _ in 0..3 {
        proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nK-Network-Probe: x\r\n\r\n"); // A probe of some kind: not in the metrics.
    // A client has its answer a moment before the request is over.
    until_holds("no request runs", || proxy.status("running") == 0);
    let answer = proxy.get(doors::USER_METRICS, "/metrics");
    assert!(answer.head.get("content-type").is_some_and(|media_type| media_type.starts_with("text/plain")));
    let text = answer.text();
    let sample = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
        assert!(line.contains("kn_revision_name=\"shop-00001\""), "{line}");
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert_eq!(sample("kn_serving_invocation_duration_seconds_count{http_response_status_code=\"200\""), 3.0);
    assert_eq!(sample("kn_serving_queue_depth{"), 1.0);
    assert!(text.lines().any(|line| line == "zipline_requests_running 0"), "{text}");
}

#[test]
fn without_prometheus_there_is_no_port_for_the_user() {
    let proxy = Proxy::start(crate::support::silent_port(), &[]);
    assert!(std::net::TcpStream::connect(proxy.at(doors::USER_METRICS)).is_err());
    let metrics = proxy.get(doors::ADMIN, "/zipline/metrics").text();
    for name in ["zipline_requests_running", "zipline_requests_queued", "zipline_drain_phase"] {
        assert!(metrics.contains(&format!("\n{name} 0\n")), "{name} in\n{metrics}");
    }
}

#[test]
fn bodies_that_came_by_the_activator_are_counted_and_others_are_not() {
    let function = holding();
    let proxy = Proxy::start(function.port, &[]);
    let by_activator = "K-Proxy-Request: activator\r\n";
    let asked = [
        format!("POST / HTTP/1.1\r\nHost: a\r\n{by_activator}Content-Length: 5\r\n\r\nhello"),
        format!("PUT / HTTP/1.1\r\nHost: a\r\n{by_activator}Content-Length: 3\r\n\r\nabc"),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nmore".to_owned(),
    ];
    for request in asked {
        assert_eq!(proxy.ask(&request).status(), 200);
    }
    until_holds("no request runs", || proxy.status("running") == 0);
    let metrics = proxy.get(doors::ADMIN, "/zipline/metrics").text();
    for line in [
        "zipline_proxied_requests_total 2",
        "zipline_proxied_body_bytes_total{direction=\"in\"} 8",
        "zipline_proxied_body_bytes_total{direction=\"out\"} 4", // `ok`, twice.
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[test]
fn the_status_has_every_field() {
    let proxy = Proxy::start(crate::support::silent_port(), &[]);
    for field in ["held_bytes", "held_objects", "leases", "waiters", "receiving_bytes", "queued", "running", "pull_connections"] {
        assert_eq!(proxy.status(field), 0, "{field}");
    }
    assert_eq!(proxy.status("drain_phase"), "serving");
}
