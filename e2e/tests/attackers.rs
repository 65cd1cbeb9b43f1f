//! Attackers against the real binaries, beside those of `references`, `pull_port` and `descriptors`: see `docs/security.md`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use zipline_contract::{headers, limits};
use zipline_testkit::{
    Behaviour, Function, KeyRing, Keys, Payload, Program, ProxyOptions, Scratch, Target, census, http as client, skip, wait,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;
/// A user that owns nothing here.
const NOBODY: &str = "65534";

struct Scene {
    scratch: Scratch,
    ring: KeyRing,
    function: Function,
}

impl Scene {
    async fn new() -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        Ok(Self { scratch, ring, function: Function::start(Behaviour::Echo).await? })
    }

    fn options(&self, service: &str) -> ProxyOptions {
        ProxyOptions::new(service, Keys::Inherited(self.ring.clone())).function(self.function.port())
    }

    /// Every text that is a secret of the trust domain.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec!["testtoken".to_owned()];
        let document = self.ring.document();
        for key in document["keys"].as_array().into_iter().flatten() {
            secrets.extend(key["key"].as_str().map(ToOwned::to_owned));
        }
        secrets
    }
}

/// Whether somebody without any right can run that.
fn as_nobody(program: &str) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", program]);
    Ok(command)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// What a peer answers to bytes until it closes, or `limit` bytes of it.
async fn said(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> Result<String> {
    // It may have closed before everything was sent, which is an answer too.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(REST, stream.read_to_end(&mut answer)).await.context("the connection stays open")?;
    match read {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// No secret in a log, a metric, an error, a command line or an environment, whatever was done.
#[tokio::test]
async fn no_secret_and_no_reference_shows_in_logs_metrics_errors_or_the_environment() -> Result<()> {
    let scene = Scene::new().await?;
    let producer = scene.options("producer").env("ZIPLINE_LOG", "trace").start(&scene.scratch).await?;
    let consumer = scene.options("consumer").env("ZIPLINE_LOG", "trace").start(&scene.scratch).await?;
    let payload = Payload::new(MIB, 1);
    let reference = producer.put("retrievals=2", payload.body()).await?;
    let mut shown = String::new();
    ensure!(consumer.get(&reference).await?.body == payload.bytes());
    let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
    ensure!(client::send(&consumer.requests(), request).await?.status == StatusCode::OK);
    let forged = format!("{}AAAA", &reference[..reference.len() - 4]);
    for wrong in [reference.as_str(), &forged, "zl1.", "nonsense"] {
        let answer = consumer.get(wrong).await?;
        ensure!(!answer.error().is_empty(), "{wrong} is not to be had: {}", answer.status);
        shown += &format!("{:?} {}", answer.headers, answer.text());
    }
    for proxy in [&producer, &consumer] {
        let metrics = client::send(&proxy.port(9090), Request::get("/metrics").body(client::empty())?).await;
        shown += &metrics.map(|answer| answer.text()).unwrap_or_default();
        shown += &format!("{:?}", proxy.metrics().await?);
        shown += &format!("{}{}", proxy.process.stdout(), proxy.process.stderr());
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{}/{file}", proxy.process.pid()))?;
            shown += &String::from_utf8_lossy(&bytes);
        }
    }
    for secret in scene.secrets() {
        ensure!(!secret.is_empty() && !shown.contains(&secret), "a secret is shown");
    }
    ensure!(!shown.contains(&reference[4..]), "the reference, which is a bearer token, is shown");
    ensure!(shown.contains("zipline_held_bytes") && shown.len() > 4000, "something was looked at: {} bytes", shown.len());
    Ok(())
}

/// A process of another uid that runs as its user does: the same uid can't look into its memory, and it leaves no core.
#[tokio::test]
async fn a_proxys_memory_is_closed_to_processes_of_its_own_uid() -> Result<()> {
    if !is_root() {
        skip("a_proxys_memory_is_closed_to_processes_of_its_own_uid", "starting a program as another user takes root");
        return Ok(());
    }
    let scene = Scene::new().await?;
    // Nobody must reach the program, and write its socket beside it.
    std::fs::set_permissions(scene.scratch.path(), std::fs::Permissions::from_mode(0o777))?;
    let program = scene.scratch.join("queue-proxy");
    std::fs::copy(zipline_testkit::binary("zipline-queue-proxy")?, &program)?;
    for (dumps, readable) in [("off", false), ("on", true)] {
        let own = zipline_testkit::Loopback::claim()?;
        let environment = [
            ("CONTAINER_CONCURRENCY", "0".to_owned()),
            ("QUEUE_SERVING_PORT", "8012".to_owned()),
            ("QUEUE_SERVING_TLS_PORT", "8112".to_owned()),
            ("REVISION_TIMEOUT_SECONDS", "300".to_owned()),
            ("USER_PORT", scene.function.port().to_string()),
            ("SERVING_NAMESPACE", "default".to_owned()),
            ("SERVING_SERVICE", "own".to_owned()),
            ("SERVING_CONFIGURATION", "own".to_owned()),
            ("SERVING_REVISION", "own-00001".to_owned()),
            ("SERVING_POD", format!("own-{dumps}")),
            ("SERVING_POD_IP", own.ip().to_string()),
            ("SERVING_LOGGING_CONFIG", String::new()),
            ("SERVING_LOGGING_LEVEL", String::new()),
            ("ZIPLINE_BIND", own.ip().to_string()),
            ("ZIPLINE_API_PORT", "0".to_owned()),
            ("ZIPLINE_EGRESS_PORT", "0".to_owned()),
            ("ZIPLINE_API_SOCKET", scene.scratch.join(format!("{dumps}.api")).to_string_lossy().into_owned()),
            ("ZIPLINE_CORE_DUMPS", dumps.to_owned()),
        ];
        let mut started = Program::at("nobodys", Path::new("/usr/bin/setpriv"))
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .arg(program.as_os_str());
        for (variable, value) in environment {
            started = started.env(variable, value);
        }
        let started = started.start(&scene.scratch)?;
        let admin = Target::Tcp(own.port(zipline_contract::doors::ADMIN));
        let look = async || client::send(&admin, Request::get("/metrics").body(client::empty())?).await;
        wait::until("the proxy to answer", REST, look, |_| true).await.with_context(|| started.tail())?;
        let memory = format!("/proc/{}/mem", started.pid());
        let opened = as_nobody("/usr/bin/head")?.args(["-c", "0", &memory]).output()?.status.success();
        ensure!(opened == readable, "core dumps {dumps}: its memory opens: {opened}");
    }
    Ok(())
}

/// Another uid gets neither into a socket in a folder of ours nor through an abstract one.
#[tokio::test]
async fn another_uid_gets_into_no_local_api_that_is_ours_alone() -> Result<()> {
    if !is_root() {
        skip("another_uid_gets_into_no_local_api_that_is_ours_alone", "speaking as another user takes root");
        return Ok(());
    }
    let scene = Scene::new().await?;
    let name = format!("zipline-attackers-{}", std::process::id());
    let proxy = scene
        .options("own")
        .env("ZIPLINE_API_SOCKET", format!("@{name}"))
        .env("ZIPLINE_API_SOCKET_MODE", "uid")
        .program(&scene.scratch)?;
    let started = proxy.0.start(&scene.scratch)?;
    let curl = |mut command: Command| -> Result<String> {
        let asked = command.args(["-s", "-m", "5", "--abstract-unix-socket", &name, "http://localhost/v1"]).output()?;
        Ok(String::from_utf8_lossy(&asked.stdout).into_owned())
    };
    let ours = async || {
        let answer = curl(Command::new("/usr/bin/curl"))?;
        ensure!(answer.contains("zipline-queue-proxy"), "{answer:?}");
        Ok(())
    };
    wait::until("our own uid to be served", REST, ours, |()| true).await.with_context(|| started.tail())?;
    let theirs = curl(as_nobody("/usr/bin/curl")?)?;
    ensure!(theirs.is_empty(), "another uid was answered: {theirs}");
    Ok(())
}

/// Nothing that steers Zipline reaches a function, nor comes through from a client in a way that the next hop would obey.
#[tokio::test]
async fn control_headers_are_not_smuggled_between_hops() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = scene.options("own").start(&scene.scratch).await?;
    let smuggled = [
        ("zipline-ticket", "1"),
        ("zipline-accept", "1"),
        ("zipline-capable", "1"),
        ("zipline-receiver", "default/other"),
        ("zipline-mac", "00"),
        ("zipline-lease", "00"),
        ("zipline-anything-new", "1"),
    ];
    let mut request = Request::post("/").header("connection", "close, zipline-accept, x-hop").header("x-hop", "1");
    for (name, value) in smuggled {
        request = request.header(name, value);
    }
    let answer = client::send(&proxy.requests(), request.body(client::full("x"))?).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.text());
    let seen = scene.function.seen();
    let names: Vec<_> = seen[0].headers.keys().map(|name| name.as_str().to_owned()).collect();
    ensure!(names.iter().all(|name| !name.starts_with("zipline-") && name != "x-hop"), "the function saw {names:?}");
    // Two framings: at most one request reaches the function, and the connection ends with it.
    let smuggling = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n";
    said(TcpStream::connect(proxy.request_address()).await?, smuggling.as_bytes()).await?;
    let paths: Vec<_> = scene.function.seen().into_iter().map(|seen| seen.path).collect();
    ensure!(!paths.contains(&"/two".to_owned()), "a request in another's body was taken for one: {paths:?}");
    Ok(())
}

/// Connections that say nothing or half of something cost their own place only, and do not keep it.
#[tokio::test]
async fn slow_clients_keep_nobody_else_from_being_served() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = scene.options("own").env("ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS", "0.3").start(&scene.scratch).await?;
    let mut slow = Vec::new();
    for number in 0..200 {
        let half = if number % 2 == 0 { "" } else { "POST /v1/objects HTTP/1.1\r\nHost: a\r\nX: " };
        let mut request = TcpStream::connect(proxy.request_address()).await?;
        request.write_all(half.as_bytes()).await?;
        let mut api = UnixStream::connect(proxy.api_path()).await?;
        api.write_all(half.as_bytes()).await?;
        slow.push((request, api));
    }
    let mut pulls = Vec::new();
    for _ in 0..50 {
        let mut pull = TcpStream::connect(proxy.pull_address()).await?;
        pull.write_all(b"GET /v1/obj").await?;
        pulls.push(pull);
    }
    let payload = Payload::new(MIB, 2);
    let reference = proxy.put("", payload.body()).await?;
    let reader = scene.options("reader").start(&scene.scratch).await?;
    ensure!(reader.get(&reference).await?.body == payload.bytes(), "an honest reader is served meanwhile");
    let answer = client::send(&proxy.requests(), Request::post("/").body(client::full("x"))?).await?;
    ensure!(answer.status == StatusCode::OK);
    // The pull port, which other pods reach, closes who says half a head.
    for pull in pulls {
        said(pull, b"").await.context("a half request at the pull port is closed")?;
    }
    drop(slow);
    proxy.at_rest(REST).await.map(|_| ())
}

/// What claims to be huge is refused by its claim, and what is packed is passed on packed.
#[tokio::test]
async fn length_and_decompression_bombs_cost_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = scene.options("own").start(&scene.scratch).await?;
    let pid = proxy.process.pid();
    let before = census::memory(pid)?.total_bytes();
    let claims = "POST /v1/objects HTTP/1.1\r\nHost: a\r\nContent-Length: 1152921504606846976\r\nConnection: close\r\n\r\n";
    let answer = said(UnixStream::connect(proxy.api_path()).await?, claims.as_bytes()).await?;
    ensure!(answer.starts_with("HTTP/1.1 4") && answer.contains("zipline-error"), "{answer}");
    let head = format!("GET /v1/objects HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(4 * 1024 * 1024));
    let api = said(UnixStream::connect(proxy.api_path()).await?, head.as_bytes()).await?;
    ensure!(api.is_empty() || api.starts_with("HTTP/1.1 4"), "{api}");
    let pull = said(TcpStream::connect(proxy.pull_address()).await?, head.as_bytes()).await?;
    ensure!(!pull.contains("200 OK") && head.len() > limits::PULL_HEAD_BYTES_MAX, "{pull}");
    // Ten MiB of zeros, packed: the function gets the packed bytes.
    let packed = include_bytes!("attackers/zeros.gz");
    let request = Request::post("/").header("content-encoding", "gzip").header("accept-encoding", "identity");
    let answer = client::send(&proxy.requests(), request.body(client::full(packed.as_slice()))?).await?;
    ensure!(answer.body == packed.as_slice(), "{} bytes came back of {}", answer.body.len(), packed.len());
    let reference = proxy.put("", client::full(packed.as_slice())).await?;
    ensure!(proxy.get(&reference).await?.body == packed.as_slice());
    let grown = census::memory(pid)?.total_bytes().saturating_sub(before);
    ensure!(grown < 16 * MIB, "the proxy grew by {grown} bytes");
    proxy.at_rest(REST).await.map(|_| ())
}

/// What a stranger sends can't begin a line of the log, nor move a terminal.
#[tokio::test]
async fn a_log_line_is_a_line_whatever_was_sent() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = scene.options("own").env("ZIPLINE_LOG", "trace").start(&scene.scratch).await?;
    let evil = "/%0a%1b[2J{\"severity\":\"ERROR\"}\u{fffd}?x=%0d%0aforged";
    let _answer = client::send(&proxy.requests(), Request::post(evil.replace('\u{fffd}', "")).body(client::full("x"))?).await;
    let raw: &[u8] = b"GET /\x1b[2J\x07 HTTP/1.1\r\nHost: a\r\nZipline-Reference: zl1.\x1b[31m\xff\r\nConnection: close\r\n\r\n";
    said(TcpStream::connect(proxy.request_address()).await?, raw).await?;
    said(UnixStream::connect(proxy.api_path()).await?, raw).await?;
    said(TcpStream::connect(proxy.pull_address()).await?, raw).await?;
    let log = format!("{}{}", proxy.process.stdout(), proxy.process.stderr());
    let wild = log.chars().find(|character| character.is_control() && *character != '\n' && *character != '\t');
    ensure!(wild.is_none(), "a control character {wild:?} stands in the log");
    ensure!(!log.lines().any(|line| line.starts_with("forged") || line.starts_with("{\"severity\":\"ERROR\"}")), "{log}");
    ensure!(!log.is_empty(), "something was logged");
    Ok(())
}
