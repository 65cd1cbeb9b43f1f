//! Limits on time: slow functions and slow clients.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use super::{Bench, Case, case};
use crate::proxy::{REQUESTS, Variables};
use crate::transcript::Transcript;
use crate::wire::{Function, PATIENCE, Peer};

/// What `WHOLE`, `START` and `IDLE` allow.
const LIMIT: Duration = Duration::from_secs(1);
/// How long a streaming function takes between two pieces.
const PACE: Duration = Duration::from_millis(200);
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
        case("times/whole-streaming", |bench| slow(bench, WHOLE, HEAD, 100)),
        case("times/start-streaming", |bench| slow(bench, START, HEAD, 9)),
        case("times/idle-streaming", |bench| slow(bench, IDLE, HEAD, 9)),
        case("times/whole-slow-client", slow_client),
        case("times/whole-in-queue", in_queue),
    ]);
    cases
}

/// A function that sends a head, then so many pieces 200 ms apart. Under the limit of the start a head is all that is asked for, and the
/// function ends its response some time after the limit; under the others it says nothing more until it is left.
fn slow(bench: &Bench<'_>, variables: Variables<'static>, head: &'static str, pieces: usize) -> anyhow::Result<()> {
    let is_in_time = variables == START && !head.is_empty();
    let (told, tell) = mpsc::channel();
    let told = Mutex::new(told);
    let function = Function::with_heads(move |peer, request| {
        if request.is_again() {
            return peer.reply("again");
        }
        peer.send(head);
        for _ in 0..pieces {
            peer.send("1\r\nx\r\n");
            std::thread::sleep(PACE);
        }
        if is_in_time {
            std::thread::sleep(LIMIT + PACE);
            peer.send("0\r\n\r\n");
        }
        let end = if is_in_time { "was in time" } else { peer.exactly(1).first().map_or("was left", |_| "got more") };
        drop(told.lock().map(|told| told.send(end)));
    })?;
    let proxy = bench.proxy(function.port, variables)?;
    let mut client = Peer::connect(proxy.at(REQUESTS))?;
    let seen = Transcript::default();
    client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &seen)?;
    seen.take().into_iter().for_each(|line| bench.transcript.note(one_piece(line)));
    client.note_end(&bench.transcript)?;
    bench.transcript.note(format!("function: it {}", tell.recv_timeout(PATIENCE).unwrap_or("was not left")));
    Ok(())
}

/// A line about pieces as one about a piece: how many come through before a limit is the machine's affair.
fn one_piece(mut line: String) -> String {
    while line.contains("xx") {
        line = line.replace("xx", "x");
    }
    line
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
    client.note_end(&bench.transcript)
}

/// A request whose time is over while it waits for its slot.
fn in_queue(bench: &Bench<'_>) -> anyhow::Result<()> {
    let (came, arrived) = mpsc::channel();
    let came = Mutex::new(came);
    let function = Function::with_heads(move |peer, _| {
        drop(came.lock().map(|came| came.send(())));
        drop(peer.exactly(1)); // Until it is left.
    })?;
    let proxy = bench.proxy(function.port, &[("REVISION_TIMEOUT_SECONDS", Some("1")), ("CONTAINER_CONCURRENCY", Some("1"))])?;
    let mut runs = Peer::connect(proxy.at(REQUESTS))?;
    runs.send("GET /runs HTTP/1.1\r\nHost: a\r\n\r\n");
    arrived.recv_timeout(PATIENCE)?;
    let mut waits = Peer::connect(proxy.at(REQUESTS))?;
    waits.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n");
    runs.answer("GET", &bench.transcript)?;
    waits.answer("GET", &bench.transcript)?;
    Ok(())
}
