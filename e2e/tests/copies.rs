//! How often a payload's bytes pass through a file on their way, and in how many calls: counted by the kernel, so that a
//! copy that somebody adds is seen however fast it is.
//!
//! The bytes of a pull leave the producer by `sendfile` from the memfd they lie in, which counts once as read and once as
//! written; they reach the consumer's socket by `recv`, which is not counted, and go on to the function in one write. A
//! payload that were landed in a file on either side, or read once more to be summed, would count once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use rustix::process::Signal;
use zipline_contract::{headers, metrics};
use zipline_testkit::census::{self, Io};
use zipline_testkit::{
    Behaviour, Function, KeyRing, Keys, Payload, Program, Proxy, ProxyOptions, Scratch, Started, http as client, skip, wait,
};

const REST: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 100 * MIB;
/// Heads, logs, wake-ups of the event loop: everything that is not the payload.
const BESIDE_BYTES_MAX: u64 = MIB;
/// `sendfile` takes what the socket's buffer has room for: a few calls a MiB on loopback, more on a busy machine.
const CALLS_A_MIB_MAX: u64 = 32;

struct Pair {
    scratch: Scratch,
    function: Function,
    producer: Proxy,
    consumer: Proxy,
}

impl Pair {
    async fn new(handover: bool) -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let sockets = if handover { scratch.path().to_string_lossy().into_owned() } else { String::new() };
        let options = |name| ProxyOptions::new(name, Keys::Inherited(ring.clone())).env("ZIPLINE_HANDOVER_DIR", &sockets);
        let producer = options("producer").start(&scratch).await?;
        let consumer = options("consumer").function(function.port()).start(&scratch).await?;
        Ok(Self { scratch, function, producer, consumer })
    }

    /// What both proxies read and wrote while `work` was done: producer, consumer.
    async fn counted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, Io, Io)> {
        let pids = [self.producer.process.pid(), self.consumer.process.pid()];
        let before = [census::io(pids[0])?, census::io(pids[1])?];
        let done = work.await?;
        Ok((done, census::io(pids[0])? - before[0], census::io(pids[1])? - before[1]))
    }

    async fn post(&self, reference: &str, payload: &Payload) -> Result<()> {
        let request = Request::post("/").header(headers::REFERENCE, reference).body(client::empty())?;
        let answer = client::send(&self.consumer.requests(), request).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()));
        Ok(())
    }
}

/// The payload's bytes, once, and little beside them.
fn is_once(bytes: u64) -> bool {
    (SIZE..SIZE + BESIDE_BYTES_MAX).contains(&bytes)
}

#[tokio::test]
async fn a_payload_is_written_once_when_it_is_put_and_sent_once_when_it_is_pulled() -> Result<()> {
    let pair = Pair::new(false).await?;
    let payload = Payload::new(SIZE, 1);
    let (reference, put, _) = pair.counted(pair.producer.put("retrievals=2", payload.body())).await?;
    assert!(is_once(put.written_bytes) && put.read_bytes < BESIDE_BYTES_MAX, "a put writes the payload once: {put:?}");
    // The second pull finds every sum that the put and the first one left.
    for pull in 1..=2 {
        let ((), sent, received) = pair.counted(pair.post(&reference, &payload)).await?;
        println!("pull {pull}: producer {sent:?}, consumer {received:?}");
        assert!(is_once(sent.read_bytes) && is_once(sent.written_bytes), "sendfile, once: {sent:?}");
        assert!(received.read_bytes < BESIDE_BYTES_MAX, "what came is not read again: {received:?}");
        assert!(received.written_bytes < SIZE + BESIDE_BYTES_MAX, "what came is written once at most: {received:?}");
        for (who, io) in [("producer", sent), ("consumer", received)] {
            let calls = io.read_calls.max(io.write_calls);
            assert!(calls <= CALLS_A_MIB_MAX * (SIZE / MIB), "{who}: {calls} calls for {} MiB", SIZE / MIB);
        }
    }
    assert!(pair.function.seen().iter().all(|seen| seen.whole && seen.size == SIZE));
    pair.producer.at_rest(REST).await?;
    drop(pair.scratch);
    Ok(())
}

#[tokio::test]
async fn a_payload_that_is_handed_over_is_read_by_nobody_but_its_function() -> Result<()> {
    let pair = Pair::new(true).await?;
    let payload = Payload::new(SIZE, 2);
    let reference = pair.producer.put("", payload.body()).await?;
    let ((), given, taken) = pair.counted(pair.post(&reference, &payload)).await?;
    println!("hand-over: producer {given:?}, consumer {taken:?}");
    assert_eq!(pair.consumer.metrics().await?.labelled(metrics::HANDOVERS.name, "side", "consumer"), 1.0);
    let beside = [given.read_bytes, given.written_bytes];
    assert!(beside.iter().all(|bytes| *bytes < BESIDE_BYTES_MAX), "the producer only gives the descriptor: {given:?}");
    // A plain function needs a body: its proxy reads the memory once, and writes it once at most.
    assert!(taken.read_bytes < SIZE + BESIDE_BYTES_MAX && taken.written_bytes < SIZE + BESIDE_BYTES_MAX, "{taken:?}");
    pair.producer.at_rest(REST).await.map(|_| ())
}

/// The calls that one process makes while it is watched by `strace`.
struct Watched {
    tracer: Started,
    calls: PathBuf,
}

/// What was seen: how many calls in all, and by name how many there were and the sum of what they returned.
struct Calls {
    all: u64,
    by_name: BTreeMap<String, (u64, u64)>,
}

impl Watched {
    /// `None` where there is no `strace`, or it may not watch.
    async fn attach(proxy: &Proxy, scratch: &Scratch, name: &str) -> Result<Option<Self>> {
        let calls = scratch.join(name);
        let pid = proxy.process.pid().to_string();
        let program = Program::at("strace", Path::new("strace"));
        let mut tracer = program.args(["-f", "-s", "0", "-p", &pid, "-o"]).arg(&calls).start(scratch)?;
        let attached = wait::until(
            "strace to attach or to give up",
            REST,
            async || Ok((tracer.stderr().contains("attached"), tracer.try_ended()?.is_some())),
            |seen| seen.0 || seen.1,
        );
        Ok((attached.await? == (true, false)).then_some(Self { tracer, calls }))
    }

    async fn detach(mut self) -> Result<Calls> {
        self.tracer.signal(Signal::INT)?;
        self.tracer.ended(REST).await?;
        Ok(Calls::read(&std::fs::read_to_string(self.calls)?))
    }
}

impl Calls {
    /// Reads lines such as `12 recvfrom(9, ""..., 65536, 0, NULL, NULL) = 65536`; a call that slept ends on a line of its own.
    fn read(text: &str) -> Self {
        let mut calls = Self { all: 0, by_name: BTreeMap::new() };
        for line in text.lines() {
            let Some((call, returned)) = line.rsplit_once(" = ") else { continue };
            let call = call.split_once(' ').map_or(call, |(_pid, call)| call.trim_start());
            let name = call.trim_start_matches("<... ").split([' ', '(']).next().unwrap_or_default();
            let returned = returned.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            let seen = calls.by_name.entry(name.to_owned()).or_default();
            *seen = (seen.0 + 1, seen.1 + returned);
            calls.all += 1;
        }
        calls
    }

    /// What all calls of these names returned together: bytes.
    fn bytes(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.by_name.get(*name)).map(|(_, bytes)| bytes).sum()
    }
}

#[tokio::test]
async fn every_byte_crosses_into_the_kernel_and_out_of_it_once_on_each_side_in_few_calls() -> Result<()> {
    const NAME: &str = "every_byte_crosses_into_the_kernel_and_out_of_it_once_on_each_side_in_few_calls";
    let pair = Pair::new(false).await?;
    let payload = Payload::new(SIZE, 3);
    let reference = pair.producer.put("", payload.body()).await?;
    let watched = [(&pair.producer, "producer.calls"), (&pair.consumer, "consumer.calls")];
    let mut tracers = Vec::new();
    for (proxy, name) in watched {
        match Watched::attach(proxy, &pair.scratch, name).await? {
            Some(tracer) => tracers.push(tracer),
            None => {
                skip(NAME, "strace is not there or may not watch a process");
                return Ok(());
            }
        }
    }
    pair.post(&reference, &payload).await?;
    let (consumer, producer) = (tracers.pop().context("two")?.detach().await?, tracers.pop().context("two")?.detach().await?);
    println!("producer: {} calls {:?}\nconsumer: {} calls {:?}", producer.all, producer.by_name, consumer.all, consumer.by_name);

    let out = ["sendto", "sendmsg", "write", "writev", "pwrite64", "sendfile", "splice", "vmsplice"];
    let into = ["recvfrom", "recvmsg", "read", "readv", "pread64"];
    assert!(is_once(producer.bytes(&["sendfile"])), "the producer sends its memory itself: {:?}", producer.by_name);
    assert!(is_once(producer.bytes(&out)) && producer.bytes(&into) < BESIDE_BYTES_MAX, "{:?}", producer.by_name);
    assert!(is_once(consumer.bytes(&into)) && is_once(consumer.bytes(&out)), "{:?}", consumer.by_name);
    for (who, calls) in [("producer", &producer), ("consumer", &consumer)] {
        let most = CALLS_A_MIB_MAX * (SIZE / MIB);
        assert!(calls.all <= most, "{who} made {} calls for {} MiB: {:?}", calls.all, SIZE / MIB, calls.by_name);
    }
    Ok(())
}

#[test]
fn calls_are_read_from_what_strace_writes() {
    let text = "7 recvfrom(9, \"\"..., 65536, 0, NULL, NULL) = 100\n7 epoll_wait(5,  <unfinished ...>\n8 sendfile(1, 2, [0] => [9], 9) = 9\n\
                7 <... epoll_wait resumed>[{}], 1024, -1) = 1\n7 recvfrom(9, 0x1, 5, 0, NULL, NULL) = -1 EAGAIN (Resource)\n7 +++ exited +++\n";
    let calls = Calls::read(text);
    assert_eq!((calls.all, calls.bytes(&["recvfrom"]), calls.bytes(&["sendfile", "epoll_wait"])), (4, 100, 10));
}
