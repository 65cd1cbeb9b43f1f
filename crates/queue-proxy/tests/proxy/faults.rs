//! Functions that fail: each gets its client a clear answer, or a cut where an answer had begun, and costs nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Function, Proxy, silent_port, until_holds};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_function_that_does_not_listen_is_502_with_the_reason_at_once() {
    let port = silent_port();
    let proxy = Proxy::start(port, &[]);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(GET);
        let answer = client.answer();
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.text(), format!("dial tcp 127.0.0.1:{port}: connect: connection refused\n"));
        assert_eq!(answer.head.get("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.head.get("x-content-type-options"), Some("nosniff"));
    }
}

#[test]
fn a_function_that_closes_without_an_answer_is_502() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
    });
    let proxy = Proxy::start(function.port, &[]);
    let answer = proxy.ask(GET);
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("EOF"), "{}", answer.text());
}

#[test]
fn a_function_that_answers_nonsense_is_502() {
    for nonsense in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let function = Function::with_requests(move |peer, _| peer.send(nonsense));
        let proxy = Proxy::start(function.port, &[]);
        let mut client = proxy.client();
        client.send(GET);
        assert_eq!(client.answer().status(), 502, "{nonsense:?}");
        client.send(GET);
        assert_eq!(client.answer().status(), 502, "{nonsense:?}: the client's connection goes on");
    }
}

#[test]
fn a_response_that_breaks_off_never_looks_whole() {
    for (begun, rest) in
        [("Content-Length: 10\r\n\r\n12345", "12345"), ("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "5\r\n12345\r\n")]
    {
        let function = Function::with_connections(move |mut peer| {
            peer.head();
            peer.send(format!("HTTP/1.1 200 OK\r\n{begun}"));
        });
        let proxy = Proxy::start(function.port, &[]);
        let mut client = proxy.client();
        client.send(GET);
        assert_eq!(client.head().status(), 200);
        assert_eq!(client.rest().0, rest.as_bytes());
    }
}

#[test]
fn a_connection_that_the_function_closed_is_not_used_again() {
    // It says nothing of its intention to close.
    let function = Function::with_connections(|mut peer| {
        peer.head();
        peer.reply("ok");
    });
    let proxy = Proxy::start(function.port, &[]);
    for n in 1..=20 {
        assert_eq!(proxy.ask(GET).status(), 200);
        until_holds("the function has closed", || function.ended() == n);
    }
}

#[test]
fn a_request_is_never_sent_twice() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    // The second request on a connection is read and not answered.
    let function = Function::with_connections(move |mut peer| {
        for n in 0..2 {
            peer.head();
            count.fetch_add(1, Ordering::SeqCst);
            if n == 0 {
                peer.reply("ok");
            }
        }
    });
    let proxy = Proxy::start(function.port, &[]);
    assert_eq!(proxy.ask(GET).status(), 200);
    assert_eq!(proxy.ask(GET).status(), 502);
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[test]
fn an_answer_before_the_end_of_the_request_wins_over_the_broken_pipe() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        peer.finish();
        peer.rest(); // So that the kernel does not reset the connection over unread bytes.
    });
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let piece = vec![0; 1 << 20];
    while client.try_send(&piece).is_ok() {}
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str(), answer.head.get("connection")), (413, "big", Some("close")));
}

#[test]
fn connections_are_kept_and_shared_between_clients() {
    let function = Function::ok();
    let proxy = Proxy::start(function.port, &[]);
    for _ in 0..20 {
        assert_eq!(proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").status(), 200);
    }
    assert_eq!(function.connections(), 1);
}
