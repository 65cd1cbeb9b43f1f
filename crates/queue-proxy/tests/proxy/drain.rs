//! The way out.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zipline_contract::doors;

use crate::support::{Function, Peer, Proxy, until_holds};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const QUIET: (&str, &str) = ("ZIPLINE_DRAIN_QUIET_SECONDS", "2");

/// A function that answers `/hold` once it is told to.
fn held() -> (Function, impl Fn()) {
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let inside = Arc::clone(&gate);
    let function = Function::with_requests(move |peer, head| {
        if head.first.contains("/hold") {
            let (open, opened) = &*inside;
            drop(opened.wait_while(open.lock().expect("a sound lock"), |open| !*open));
        }
        peer.reply("ok");
    });
    let open = move || {
        *gate.0.lock().expect("a sound lock") = true;
        gate.1.notify_all();
    };
    (function, open)
}

/// Asks to wait for the drain and answers when that is granted.
fn waiter(proxy: &Proxy) -> std::thread::JoinHandle<u16> {
    let mut peer = Peer::connect(proxy.at(doors::ADMIN));
    peer.send("GET /wait-for-drain HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::spawn(move || peer.answer().status())
}

#[test]
fn after_sigterm_probes_fail_requests_are_served_and_the_process_ends_when_it_is_quiet() {
    let function = Function::ok();
    let mut proxy = Proxy::start(function.port, &[QUIET]);
    assert_eq!(proxy.probe().status(), 200);
    proxy.signal("-TERM");
    until_holds("the probe fails", || proxy.probe().status() == 503);
    let answer = proxy.probe();
    assert_eq!(answer.text(), "shutting down\n");
    let network = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nK-Network-Probe: probe\r\nK-Network-Hash: x\r\n\r\n");
    assert_eq!(network.status(), 503);
    assert_eq!(proxy.status("drain_phase"), "quiet");
    let answer = proxy.ask(GET);
    assert_eq!((answer.status(), answer.head.get("connection")), (200, None));
    assert!(proxy.ended().success(), "{}", proxy.stderr());
}

#[test]
fn each_request_begins_the_quiet_period_anew_and_probes_do_not() {
    let function = Function::ok();
    let mut proxy = Proxy::start(function.port, &[QUIET]);
    proxy.signal("-TERM");
    let began = Instant::now();
    until_holds("twice the quiet period has gone by, full of requests", || {
        assert_eq!(proxy.ask(GET).status(), 200);
        began.elapsed() > Duration::from_secs(4)
    });
    assert!(proxy.runs());
    until_holds("probes alone do not keep it", || {
        let Ok(stream) = TcpStream::connect(proxy.requests()) else { return true };
        drop(stream);
        !proxy.runs()
    });
    assert!(proxy.ended().success());
}

#[test]
fn a_request_in_flight_is_finished_and_nothing_new_is_accepted() {
    let (function, open) = held();
    let mut proxy = Proxy::start(function.port, &[]);
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    idle.send(GET);
    assert_eq!(idle.answer().status(), 200);
    // A client has its answer a moment before the request is over.
    until_holds("no request runs", || proxy.status("running") == 0);
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    until_holds("the request runs", || proxy.status("running") == 1);
    proxy.signal("-TERM");
    assert!(idle.is_ended(), "an idle connection is closed");
    until_holds("the port is closed", || {
        TcpStream::connect(proxy.requests()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert_eq!(proxy.status("drain_phase"), "finishing");
    assert!(proxy.runs());
    open();
    let answer = busy.answer();
    assert_eq!((answer.status(), answer.head.get("connection")), (200, Some("close")));
    assert!(proxy.ended().success());
}

#[test]
fn who_waits_for_the_drain_is_answered_after_the_quiet_period() {
    let function = Function::ok();
    let mut proxy = Proxy::start(function.port, &[QUIET]);
    let waiters = [waiter(&proxy), waiter(&proxy)];
    until_holds("the drain is announced", || proxy.status("drain_phase") == "announced");
    assert_eq!(proxy.probe().status(), 503);
    proxy.signal("-TERM");
    until_holds("the drain has begun", || proxy.status("drain_phase") == "quiet");
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    for waiter in waiters {
        assert_eq!(waiter.join().expect("an answer"), 200);
    }
    assert!(proxy.ended().success());
}

#[test]
fn a_wait_without_sigterm_is_called_off_and_the_probe_succeeds_again() {
    let function = Function::ok();
    let mut proxy = Proxy::start(function.port, &[("ZIPLINE_DRAIN_QUIET_SECONDS", "30")]);
    let waiter = waiter(&proxy);
    until_holds("the drain is announced", || proxy.probe().status() == 503);
    assert_eq!(waiter.join().expect("an answer"), 200);
    assert_eq!(proxy.probe().status(), 200);
    assert_eq!((proxy.status("drain_phase"), proxy.ask(GET).status()), ("serving".into(), 200));
    assert!(proxy.runs());
}

#[test]
fn an_upgraded_connection_outlives_the_requests_and_ends_the_drain_with_its_end() {
    let function = Function::with_connections(|mut peer| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        while let Some(line) = peer.try_line() {
            peer.send(format!("{line}\n"));
        }
    });
    let mut proxy = Proxy::start(function.port, &[]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.head().status(), 101);
    proxy.signal("-TERM");
    until_holds("only it is left", || proxy.status("drain_phase") == "upgraded");
    client.send("still here\n");
    assert_eq!(client.line(), "still here");
    drop(client);
    assert!(proxy.ended().success());
}

#[test]
fn the_grace_limit_ends_what_does_not_end() {
    let (function, _open) = held();
    let mut proxy = Proxy::start(function.port, &[("ZIPLINE_GRACE_SECONDS", "1")]);
    let mut busy = proxy.client();
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    until_holds("the request runs", || proxy.status("running") == 1);
    proxy.signal("-TERM");
    assert!(proxy.ended().success());
    assert!(busy.is_ended());
    assert!(proxy.stderr().contains("something left"), "{}", proxy.stderr());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let function = Function::ok();
    let mut proxy = Proxy::start(function.port, &[("ZIPLINE_DRAIN_QUIET_SECONDS", "300")]);
    proxy.signal("-TERM");
    until_holds("the drain has begun", || proxy.status("drain_phase") == "quiet");
    proxy.signal("-INT");
    assert_eq!(proxy.ended().code(), Some(1));
}

#[test]
fn an_interrupt_finishes_what_runs_and_waits_for_nothing_that_may_come() {
    let (function, open) = held();
    let mut proxy = Proxy::start(function.port, &[("ZIPLINE_DRAIN_QUIET_SECONDS", "300")]);
    let mut busy = proxy.client();
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    until_holds("the request runs", || proxy.status("running") == 1);
    proxy.signal("-INT");
    until_holds("nothing new is accepted", || proxy.status("drain_phase") == "finishing");
    open();
    assert_eq!(busy.answer().status(), 200);
    assert!(proxy.ended().success(), "{}", proxy.stderr());
}
