//! Limits on time: slow functions and slow clients.

use std::time::{Duration, Instant};

use super::{Bench, Case, case};
use crate::proxy::{REQUESTS, Variables};
use crate::wire::{Function, Peer};

const WHOLE: Variables<'static> = &[("REVISION_TIMEOUT_SECONDS", Some("1"))];
const START: Variables<'static> = &[("REVISION_RESPONSE_START_TIMEOUT_SECONDS", Some("1"))];
const IDLE: Variables<'static> = &[("REVISION_IDLE_TIMEOUT_SECONDS", Some("1"))];
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, variables) in [("whole", WHOLE), ("start", START), ("idle", IDLE)] {
        cases.push(case(format!("times/{name}-silent"), move |bench| slow(bench, variables, "", 0)));
        cases.push(case(format!("times/{name}-head-only"), move |bench| slow(bench, variables, HEAD, 0)));
    }
    cases.extend([
        case("times/whole-streaming", |bench| slow(bench, WHOLE, HEAD, 9)),
        case("times/start-streaming", |bench| slow(bench, START, HEAD, 9)),
        case("times/idle-streaming", |bench| slow(bench, IDLE, HEAD, 9)),
        case("times/whole-slow-client", slow_client),
        case("times/whole-in-queue", in_queue),
    ]);
    cases
}

/// A function that sends a head, then so many pieces 200 ms apart, and then nothing for a while.
fn slow(bench: &Bench<'_>, variables: Variables<'_>, head: &'static str, pieces: usize) -> anyhow::Result<()> {
    let function = Function::with_heads(move |peer, _| {
        peer.send(head);
        for _ in 0..pieces {
            peer.send("1\r\nx\r\n");
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(Duration::from_millis(1800));
        if head.is_empty() {
            peer.reply("late");
        } else {
            peer.send("0\r\n\r\n");
        }
    })?;
    let proxy = bench.proxy(function.port, variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    let began = Instant::now();
    client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &bench.transcript)?;
    bench
        .transcript
        .note(format!("it took less than the function: {}", began.elapsed() < Duration::from_millis(1700 + 200 * pieces as u64)));
    client.note_end(Duration::from_millis(700), &bench.transcript)
}

/// A client that does not send its body.
fn slow_client(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| {
        drop(peer.exactly(5));
        peer.reply("ok");
    })?;
    let proxy = bench.proxy(function.port, WHOLE)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    client.answer("POST", &bench.transcript)?;
    client.note_end(Duration::from_millis(700), &bench.transcript)
}

/// A request whose time is over while it waits for its slot.
fn in_queue(bench: &Bench<'_>) -> anyhow::Result<()> {
    let function = Function::with_heads(|peer, _| {
        std::thread::sleep(Duration::from_millis(2500));
        peer.reply("late");
    })?;
    let proxy = bench.proxy(function.port, &[("REVISION_TIMEOUT_SECONDS", Some("1")), ("CONTAINER_CONCURRENCY", Some("1"))])?;
    let mut clients = Vec::new();
    for path in ["/runs", "/waits"] {
        let mut client = Peer::connect(proxy.at(REQUESTS))?;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        clients.push(client);
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut client in clients {
        client.answer("GET", &bench.transcript)?;
    }
    Ok(())
}
