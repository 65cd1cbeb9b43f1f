//! Probes that come while the proxy is busy. What probes mean is in the suite.

use std::sync::{Arc, Condvar, Mutex};

use crate::support::{Function, Proxy, until_holds};

#[test]
fn probes_are_answered_while_the_breaker_is_full_and_streams_run() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let function = Function::with_requests(move |peer, head| {
        if head.first.contains("/healthz") {
            return peer.reply("");
        }
        let (open, opened) = &*held;
        drop(opened.wait_while(open.lock().expect("a sound lock"), |open| !*open));
        peer.reply("ok");
    });
    let probe = format!(r#"{{"httpGet":{{"path":"/healthz","port":{}}},"periodSeconds":1,"timeoutSeconds":5}}"#, function.port);
    let proxy = Proxy::start(function.port, &[("CONTAINER_CONCURRENCY", "2"), ("SERVING_READINESS_PROBE", &probe)]);
    let mut clients: Vec<_> = (0..22).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until_holds("the queue is full", || proxy.status("queued") == 20);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 503);
    for _ in 0..20 {
        let answer = proxy.probe();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "queue"));
    }
    *gate.0.lock().expect("a sound lock") = true;
    gate.1.notify_all();
    assert!(clients.iter_mut().all(|client| client.answer().status() == 200));
}

#[test]
fn a_probe_whose_caller_leaves_does_not_spoil_the_next() {
    let function = Function::ok();
    let silent = crate::support::silent_port();
    let aggressive = format!(r#"{{"tcpSocket":{{"port":{silent}}},"periodSeconds":0}}"#);
    let proxy = Proxy::start(function.port, &[("SERVING_READINESS_PROBE", &aggressive)]);
    let mut impatient = proxy.client();
    impatient.send("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n\r\n");
    drop(impatient);
    let _listening = std::net::TcpListener::bind(("127.0.0.1", silent)).expect("a free port");
    assert_eq!(proxy.probe().status(), 200);
}
