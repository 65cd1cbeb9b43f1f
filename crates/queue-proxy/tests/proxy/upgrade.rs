//! `101 Switching Protocols`.

use std::time::{Duration, Instant};

use zipline_contract::doors;

use crate::support::{Function, Peer, Proxy, until_holds};

const UPGRADE: &str =
    "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

fn echo(peer: &mut Peer) {
    peer.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello",
    );
    while let Some(line) = peer.try_line() {
        peer.send(format!("{line}\n"));
    }
    peer.send("bye");
}

fn upgraded(proxy: &Proxy) -> Peer {
    let mut client = proxy.client();
    client.send(UPGRADE);
    let head = client.head();
    assert_eq!(head.status(), 101);
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!(head.get("sec-websocket-accept"), Some("y"));
    assert_eq!(client.exactly(5), b"hello");
    client
}

#[test]
fn bytes_pass_both_ways_and_the_end_of_one_way_leaves_the_other() {
    let function = Function::with_connections(|mut peer| {
        let head = peer.head();
        assert_eq!((head.get("connection"), head.get("upgrade")), (Some("Upgrade"), Some("websocket")));
        assert_eq!(head.get("sec-websocket-key"), Some("x"));
        echo(&mut peer);
    });
    let proxy = Proxy::start(function.port, &[]);
    let mut client = upgraded(&proxy);
    client.send("one\ntwo\n");
    assert_eq!(client.exactly(8), b"one\ntwo\n");
    client.finish();
    assert_eq!(client.rest(), (b"bye".to_vec(), true));
    until_holds("the request is over", || proxy.status("running") == 0);
}

#[test]
fn bytes_sent_along_with_the_request_are_not_lost() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
        echo(&mut peer);
    });
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}eager\n"));
    assert_eq!(client.head().status(), 101);
    assert_eq!(client.exactly(11), b"helloeager\n");
}

#[test]
fn a_function_that_declines_answers_as_usual() {
    let function = Function::with_requests(|peer, _| peer.reply("no"));
    let proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(UPGRADE);
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "no"));
    }
}

#[test]
fn a_protocol_that_nobody_asked_for_is_502() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
        echo(&mut peer);
    });
    let proxy = Proxy::start(function.port, &[]);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 502);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n").status(), 502);
}

#[test]
fn the_whole_limit_ends_it_and_the_start_limit_does_not() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
        echo(&mut peer);
    });
    let proxy =
        Proxy::start(function.port, &[("REVISION_TIMEOUT_SECONDS", "2"), ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "1")]);
    let mut client = upgraded(&proxy);
    let began = Instant::now();
    let mut lasted = Duration::ZERO;
    until_holds("it is cut", || {
        let echoed = client.try_send("x\n").is_ok() && client.try_line().is_some();
        lasted = if echoed { began.elapsed() } else { lasted };
        !echoed
    });
    assert!(lasted > Duration::from_secs(1), "it was cut by the start limit, after {lasted:?}");
}

#[test]
fn it_occupies_its_place_and_its_count_until_it_ends() {
    let function =
        Function::with_requests(|peer, head| if head.first.contains("/socket") { echo(peer) } else { peer.reply("ok") });
    let proxy = Proxy::start(function.port, &[("CONTAINER_CONCURRENCY", "1")]);
    let client = upgraded(&proxy);
    assert_eq!(proxy.status("running"), 1);
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until_holds("the next request waits", || proxy.status("queued") == 1);
    drop(client);
    assert_eq!(waiting.answer().status(), 200);
    assert_eq!(proxy.get(doors::ADMIN, "/zipline/status").status(), 200);
}
