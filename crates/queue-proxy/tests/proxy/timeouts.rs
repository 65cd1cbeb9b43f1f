//! The three limits on a request's time.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Function, Proxy, until_holds};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const WHOLE: (&str, &str) = ("REVISION_TIMEOUT_SECONDS", "1");
const START: (&str, &str) = ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1");
const IDLE: (&str, &str) = ("REVISION_IDLE_TIMEOUT_SECONDS", "1");

/// A function that does something and then waits until its connection ends, which the second part waits for.
fn stalling(begun: &'static str) -> (Function, mpsc::Receiver<()>) {
    let (ended, seen) = mpsc::channel();
    let ended = Mutex::new(ended);
    let function = Function::with_connections(move |mut peer| {
        if peer.try_head().is_some() {
            peer.send(begun);
            peer.rest();
            ended.lock().expect("a sound lock").send(()).ok();
        }
    });
    (function, seen)
}

#[test]
fn each_limit_ends_a_request_without_an_answer_with_504() {
    for limit in [WHOLE, START, IDLE] {
        let (function, ended) = stalling("");
        let proxy = Proxy::start(function.port, &[limit]);
        let mut client = proxy.client();
        client.send(GET);
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text().as_str()), (504, "request timeout"), "{limit:?}");
        ended.recv_timeout(crate::support::PATIENCE).expect("the function is cut off");
    }
}

#[test]
fn after_504_the_clients_connection_goes_on() {
    let function = Function::with_requests(|peer, head| {
        if head.first.contains("/fast") {
            peer.reply("ok");
        }
    });
    let proxy = Proxy::start(function.port, &[START]);
    let mut client = proxy.client();
    client.send(GET);
    assert_eq!(client.answer().status(), 504);
    client.send("GET /fast HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_response_that_has_begun_is_cut_by_the_whole_and_the_idle_limit() {
    for limit in [WHOLE, IDLE] {
        let (function, ended) = stalling("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
        let proxy = Proxy::start(function.port, &[limit]);
        let mut client = proxy.client();
        client.send(GET);
        assert_eq!(client.head().status(), 200);
        assert_eq!(client.rest().0, b"2\r\nab\r\n", "{limit:?}: no last chunk, no text");
        ended.recv_timeout(crate::support::PATIENCE).expect("the function is cut off");
    }
}

#[test]
fn a_response_that_keeps_coming_outlives_the_start_and_the_idle_limit() {
    let (go, going) = mpsc::channel::<()>();
    let going = Arc::new(Mutex::new(going));
    let function = Function::with_requests(move |peer, _| {
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let going = going.lock().expect("a sound lock");
        while going.recv().is_ok() {
            peer.send("1\r\nx\r\n");
        }
        peer.send("0\r\n\r\n");
    });
    let proxy = Proxy::start(function.port, &[START, IDLE]);
    let mut client = proxy.client();
    client.send(GET);
    assert_eq!(client.head().status(), 200);
    let began = Instant::now();
    until_holds("thrice either limit has gone by, full of chunks", || {
        go.send(()).expect("a function that listens");
        assert_eq!(client.chunk(), b"x");
        began.elapsed() > Duration::from_secs(3)
    });
    drop(go);
    assert_eq!(client.chunk(), b"");
}

#[test]
fn a_function_that_can_not_be_connected_in_time_is_504() {
    // A listener whose queue is full answers nothing at all.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        if waiting.len() > 10_000 {
            return; // A kernel that queues this many can't be made to fall silent.
        }
    }
    let proxy = Proxy::start(address.port(), &[WHOLE]);
    let answer = proxy.ask(GET);
    assert_eq!((answer.status(), answer.text().as_str()), (504, "request timeout"));
}
