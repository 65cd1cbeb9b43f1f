//! Everything that can go wrong, one after the other on one platform; and then nothing is left of it.
//!
//! What each fault is answered with is tested where it belongs, with more cases. Here counts what stays behind: by the
//! metrics, the process table and the open descriptors.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use zipline_contract::{doors, headers, metrics};
use zipline_testkit::{Answer, Metrics, Payload, Program, Target, census, http as client, wait};

use crate::up::{LIMIT, Up, program};

const DESCRIPTOR: &str = include_str!("descriptor.py");
const MIB: u64 = 1024 * 1024;
/// The promise: nothing is left after so long.
const REST: Duration = Duration::from_secs(30);

/// What a platform without services has open.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    platform: Vec<String>,
    client_proxy: Vec<String>,
    processes: usize,
}

impl Open {
    fn now(up: &Up) -> Result<Self> {
        let children = census::descendants(up.process.pid())?;
        let client_proxy =
            children.iter().find(|child| child.command.contains("zipline-queue-proxy")).context("the client proxy")?;
        Ok(Self {
            platform: census::descriptors(up.process.pid())?,
            client_proxy: census::descriptors(client_proxy.pid)?,
            processes: children.len(),
        })
    }
}

/// A port of the client proxy.
fn client_port(up: &Up, port: u16) -> Result<SocketAddr> {
    let network = up.info["network"].as_str().context("network")?;
    Ok(format!("{}.2:{port}", network.rsplit_once('.').context("a network")?.0).parse()?)
}

async fn client_metrics(up: &Up) -> Result<Metrics> {
    let request = Request::get("/zipline/metrics").body(client::empty())?;
    Ok(Metrics::parse(&client::send(&Target::Tcp(client_port(up, doors::ADMIN)?), request).await?.text()))
}

async fn post(up: &Up, path: &str, reference: &str) -> Result<Answer> {
    up.send("sha", Request::post(path).header(headers::REFERENCE, reference)).await
}

async fn serves(up: &Up, payload: &Payload) -> Result<()> {
    let reference = up.put("", payload).await?;
    let served = async || Ok(post(up, "/", &reference).await?.json().unwrap_or_default()["sha256"] == payload.sha256());
    wait::until("the service to answer", LIMIT, served, |served| *served).await.map(|_| ())
}

async fn release(up: &Up, reference: &str) -> Result<()> {
    let request = Request::delete("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?;
    let released = client::send(&up.client()?, request).await?;
    ensure!(released.status == StatusCode::NO_CONTENT, "{}", released.text());
    Ok(())
}

/// References that lead nowhere.
async fn bad_references(up: &Up) -> Result<()> {
    let good = up.put("retrievals=9", &Payload::new(1000, 1)).await?;
    let (truncated, oversized) = (&good[..good.len() / 2], "zl1.".to_owned() + &"A".repeat(600));
    for forged in ["nonsense", truncated, &oversized, &good.replace("zl1.", "zl1.AAAA")] {
        let answer = post(up, "/", forged).await?;
        ensure!(["reference-invalid", "reference-unknown-key"].contains(&answer.error()), "{forged}: {}", answer.text());
    }
    let two = Request::post("/").header(headers::REFERENCE, &good).header(headers::REFERENCE, &good);
    ensure!(up.send("sha", two).await?.error() == "reference-ambiguous");
    let document = json!({ "reference": good, "receiver": "default/other" }).to_string();
    let narrowed = client::send(&up.client()?, Request::post("/v1/references/narrow").body(client::full(document))?).await?;
    let narrowed = narrowed.json()?["reference"].as_str().context("a reference")?.to_owned();
    ensure!(post(up, "/", &narrowed).await?.error() == "reference-wrong-receiver");
    release(up, &good).await?;
    ensure!(post(up, "/", &good).await?.error() == "reference-exhausted");
    let short = up.put("ttl=50ms", &Payload::new(1000, 2)).await?;
    let expired = async || Ok(post(up, "/", &short).await?.error().to_owned());
    wait::until("the reference to expire", LIMIT, expired, |error| error == "reference-expired").await.map(|_| ())
}

/// The queue-proxy that has a request running.
async fn busy(up: &Up) -> Result<Option<i64>> {
    for instance in up.instances("sha").await? {
        let address = instance["address"].as_str().context("address")?;
        let admin = Target::Tcp(format!("{address}:{}", doors::ADMIN).parse()?);
        let status = client::send(&admin, Request::get("/zipline/status").body(client::empty())?).await?.json()?;
        if status["running"] == 1 {
            return Ok(instance["proxy_pid"].as_i64());
        }
    }
    Ok(None)
}

/// Functions that die, a queue-proxy that is killed under a request, a producer that is no more.
async fn deaths(up: &Up) -> Result<()> {
    let reference = up.put("retrievals=4&ttl=5m", &Payload::new(20 * MIB, 3)).await?;
    let mark = up.scratch.join("mark");
    for dies in ["before", "during", "after"] {
        std::fs::write(&mark, "")?;
        let answer = post(up, &format!("/?mark={}&dies={dies}", mark.display()), &reference).await?;
        ensure!(answer.status.is_server_error(), "dying {dies} reading was answered {}", answer.status);
        serves(up, &Payload::new(10, 1)).await?;
    }
    let held = up.send("sha", Request::get("/?put=100000&ttl=20s&wait=0")).await?.json()?;
    let orphaned = held["reference"].as_str().context("a reference")?.to_owned();
    let running = up.send("sha", Request::get("/?sleep=60"));
    let kill = async {
        let proxy = wait::until("the request to run", LIMIT, async || busy(up).await, Option::is_some).await?.context("a pid")?;
        kill_process(Pid::from_raw(i32::try_from(proxy)?).context("a pid")?, Signal::KILL)?;
        anyhow::Ok(())
    };
    let (answer, killed) = tokio::join!(running, kill);
    killed?;
    ensure!(answer?.status.is_server_error(), "its queue-proxy was killed");
    serves(up, &Payload::new(10, 2)).await?;
    let error = post(up, "/", &orphaned).await?.error().to_owned();
    ensure!(["producer-gone", "producer-unreachable"].contains(&error.as_str()), "{error}");
    release(up, &reference).await
}

/// Clients that leave, and what is no request.
async fn bad_clients(up: &Up) -> Result<()> {
    let Target::Tcp(ingress) = up.ingress()? else { anyhow::bail!("the ingress is TCP") };
    let socket = up.info["client_socket"].as_str().context("client_socket")?.to_owned();
    let mut left = UnixStream::connect(&socket).await?;
    left.write_all(b"POST /v1/objects HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n").await?;
    left.write_all(&vec![1; 1 << 20]).await?;
    drop(left);
    let reference = up.put("ttl=20s", &Payload::new(20 * MIB, 4)).await?;
    let mut gone = TcpStream::connect(ingress).await?;
    let head = format!("POST /?sleep=60 HTTP/1.1\r\nHost: sha.default.localhost\r\nZipline-Reference: {reference}\r\n\r\n");
    gone.write_all(head.as_bytes()).await?;
    drop(gone);
    for nonsense in ["\x16\x03\x01 nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
        for port in [ingress, client_port(up, doors::PULL)?] {
            let mut stream = TcpStream::connect(port).await?;
            stream.write_all(nonsense.as_bytes()).await?;
            let mut said = Vec::new();
            // Refused in words or with a closed connection, never with silence.
            tokio::time::timeout(LIMIT, stream.read_to_end(&mut said)).await.context("silence")?.ok();
            ensure!(!said.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&said));
        }
        let mut stream = UnixStream::connect(&socket).await?;
        stream.write_all(nonsense.as_bytes()).await?;
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await.context("silence")?.ok();
    }
    for kind in ["sparse", "unsealed", "half-sealed"] {
        let mut put =
            Program::at("python3", std::path::Path::new("python3")).args(["-c", DESCRIPTOR, &socket, kind]).start(&up.scratch)?;
        put.ended(LIMIT).await?;
        ensure!(put.stdout().contains("request-invalid"), "{kind}: {}", put.tail());
    }
    Ok(())
}

/// A buffer that is full, payloads that are too large or empty, many small ones.
async fn capacity(up: &Up) -> Result<()> {
    let put = async |size| {
        let request = Request::post("/v1/objects").body(Payload::new(size, size).body())?;
        client::send(&up.client()?, request).await
    };
    ensure!(put(200 * MIB).await?.error() == "payload-too-large");
    let most = put(40 * MIB).await?;
    ensure!(most.status == StatusCode::CREATED, "{}", most.text());
    ensure!(put(40 * MIB).await?.error() == "buffer-full");
    release(up, most.header(headers::REFERENCE)).await?;
    for size in (0..100).chain([0]) {
        serves(up, &Payload::new(size, size)).await?;
    }
    Ok(())
}

/// What the command line and a second platform are refused.
async fn bad_commands(up: &Up) -> Result<()> {
    let mut second = program(&up.state, 0)?.start(&up.scratch)?;
    ensure!(!second.ended(LIMIT).await?.success() && second.stdout().contains("state-in-use"), "{}", second.tail());
    for yaml in
        [": : :\n- {", "apiVersion: v1\nkind: Pod\n", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n"]
    {
        let file = up.scratch.write("bad.yaml", yaml)?;
        let command = Program::built("zipline")?.args(["--json", "--state"]).arg(&up.state);
        let mut applied = command.args(["service", "apply", "-f"]).arg(file).start(&up.scratch)?;
        ensure!(!applied.ended(LIMIT).await?.success() && applied.stdout().contains("manifest-invalid"), "{}", applied.tail());
    }
    let unknown = up.send("nobody", Request::get("/")).await?;
    ensure!(unknown.status == StatusCode::NOT_FOUND, "{}", unknown.text());
    Ok(())
}

#[tokio::test]
async fn after_every_fault_nothing_is_held_nobody_runs_and_no_descriptor_is_open() -> Result<()> {
    let limits = ["ZIPLINE_BUFFER_BYTES=64MiB", "ZIPLINE_PUT_WAIT_SECONDS=0.1", "ZIPLINE_LEASE_SECONDS=2"];
    let up = Up::start_with(["--set", limits[0], "--set", limits[1], "--set", limits[2]]).await?;
    let before = Open::now(&up)?;
    up.apply("sha", &[], 0).await?;
    serves(&up, &Payload::new(MIB, 1)).await?;
    bad_references(&up).await.context("bad references")?;
    deaths(&up).await.context("deaths")?;
    bad_clients(&up).await.context("bad clients")?;
    capacity(&up).await.context("capacity")?;
    bad_commands(&up).await.context("bad commands")?;
    serves(&up, &Payload::new(10 * MIB, 9)).await.context("after all of it")?;

    up.at_rest(REST).await?;
    let gauges = [
        metrics::HELD_BYTES,
        metrics::HELD_OBJECTS,
        metrics::RECEIVING_BYTES,
        metrics::LEASES,
        metrics::PUT_WAITERS,
        metrics::REQUESTS_QUEUED,
        metrics::REQUESTS_RUNNING,
    ];
    let now = client_metrics(&up).await?;
    for gauge in gauges {
        assert_eq!(now.sum(gauge.name), 0.0, "{}", gauge.name);
    }
    let left = wait::until("everything to be closed", REST, async || Open::now(&up), |open| *open == before).await;
    left.map(|_| ()).with_context(|| format!("at the start: {before:?}"))
}
