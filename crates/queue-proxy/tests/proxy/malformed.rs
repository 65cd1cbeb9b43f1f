//! Requests that are not what they should be: each costs its own connection, and nothing reaches the function.

use std::sync::{Arc, Mutex};

use crate::support::{Function, Head, Peer, Proxy};

fn recording() -> (Function, Arc<Mutex<Vec<Head>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let function = Function::with_requests(move |peer, head| {
        let body = peer.body(&head);
        record.lock().expect("a sound lock").push(head);
        peer.reply(&String::from_utf8_lossy(&body));
    });
    (function, seen)
}

#[test]
fn malformed_heads_are_refused_with_the_status_that_says_why() {
    let (function, seen) = recording();
    let proxy = Proxy::start(function.port, &[]);
    for (request, status) in [
        ("garbage\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("CONNECT somewhere:443 HTTP/1.1\r\nHost: somewhere:443\r\n\r\n", 405),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505),
    ] {
        let mut client = proxy.client();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{request:?}: {}", answer.text());
        assert_eq!(answer.head.get("connection"), Some("close"), "{request:?}");
        assert!(client.is_ended(), "{request:?}");
    }
    assert!(seen.lock().expect("a sound lock").is_empty());
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
}

#[test]
fn a_request_with_two_framings_goes_on_with_one_and_ends_its_connection() {
    let (function, seen) = recording();
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ab"));
    assert!(client.is_ended());
    let seen = seen.lock().expect("a sound lock");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].get("content-length"), None);
}

#[test]
fn a_malformed_chunk_is_refused_and_the_function_is_cut_off() {
    let cut = Arc::new(Mutex::new(false));
    let noted = Arc::clone(&cut);
    let function = Function::with_connections(move |mut peer| {
        peer.head();
        assert_eq!(peer.exactly(5), b"2\r\nab");
        *noted.lock().expect("a sound lock") = peer.is_ended();
    });
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnonsense\r\n");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (400, "malformed chunked encoding\n"));
    assert!(client.is_ended());
    crate::support::until_holds("the function sees its connection end", || *cut.lock().expect("a sound lock"));
}

#[test]
fn a_body_that_ends_early_never_reaches_the_function_as_a_whole() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    let function = Function::with_connections(move |mut peer| {
        peer.head();
        let tell = tell.lock().expect("a sound lock");
        tell.send(peer.exactly(10)).ok();
        tell.send(peer.rest().0).ok();
    });
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let patience = crate::support::PATIENCE;
    assert_eq!(told.recv_timeout(patience).expect("the function sees the beginning"), b"5\r\nhello\r\n");
    drop(client);
    assert_eq!(told.recv_timeout(patience).expect("the function sees the end"), b"", "no last chunk");
}

#[test]
fn heads_that_come_byte_by_byte_or_all_at_once_are_the_same() {
    let (function, _) = recording();
    let proxy = Proxy::start(function.port, &[]);
    let request = "\r\nPOST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut client = proxy.client();
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "abc");
    client.send(request.repeat(3));
    for _ in 0..3 {
        assert_eq!(client.answer().text(), "abc");
    }
}

#[test]
fn an_http10_client_may_ask_to_keep_its_connection() {
    let (function, seen) = recording();
    let proxy = Proxy::start(function.port, &[]);
    let mut client: Peer = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.head.get("connection"), Some("keep-alive"));
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.answer();
    assert!(client.is_ended());
    assert!(seen.lock().expect("a sound lock").iter().all(|head| head.first == "GET / HTTP/1.1"));
}
