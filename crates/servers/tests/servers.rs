//! Servers that are started, used at their own protocol, and gone afterwards.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zipline_servers::{Redis, S3, Server, install};
use zipline_testkit::{skip, wait};

const GONE_WITHIN: Duration = Duration::from_secs(20);
/// Makes the second start of this test program the victim.
const VICTIM: &str = "ZIPLINE_TEST_SERVERS_VICTIM";

/// Installs the server if it has to be; false, and said, where that is not possible.
fn there(server: Server, test: &str) -> bool {
    let installed = install(server, &mut |step| eprintln!("{step}"));
    if let Err(error) = &installed {
        skip(test, &error.to_string());
    }
    installed.is_ok()
}

fn runs(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn a_redis_serves_with_its_password_and_is_gone_when_it_is_dropped() {
    if !there(Server::Redis, "a_redis_serves_with_its_password_and_is_gone_when_it_is_dropped") {
        return;
    }
    let redis = Redis::start().await.expect("started");
    let mut stream = TcpStream::connect(redis.address()).await.expect("connected");
    stream.write_all(b"PING\r\n").await.expect("written");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"-NOAUTH", "nobody else on this machine reads what it holds");
    assert!(redis.version().starts_with(|first: char| first.is_ascii_digit()), "{}", redis.version());
    let shown = format!("{redis:?}");
    let url = redis.url();
    let password = url.trim_start_matches("redis://:").split('@').next().expect("a URL has a beginning");
    assert!(password.len() == 32 && !shown.contains(password), "{shown}");
    let pid = redis.pid();
    drop(redis);
    assert!(!runs(pid));
}

#[tokio::test]
async fn an_s3_server_asks_for_signatures_and_leaves_nothing_when_it_is_dropped() {
    if !there(Server::S3, "an_s3_server_asks_for_signatures_and_leaves_nothing_when_it_is_dropped") {
        return;
    }
    let sockets = || {
        let names = std::fs::read_dir("/tmp").expect("read").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("seaweedfs-")).collect::<BTreeSet<_>>()
    };
    let s3 = S3::start().await.expect("started");
    let mut stream = TcpStream::connect(s3.address()).await.expect("connected");
    stream.write_all(b"GET /zipline/none HTTP/1.0\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.contains(" 403 "), "{answer}");
    assert!(s3.version().starts_with("SeaweedFS "), "{}", s3.version());
    assert!(!format!("{s3:?}").contains(s3.secret_key()));
    let (pid, with_it) = (s3.pid(), sockets());
    drop(s3);
    assert!(!runs(pid));
    assert!(with_it.difference(&sockets()).count() >= 4, "its sockets are removed");
}

#[tokio::test]
async fn a_server_dies_with_whoever_started_it_even_if_that_is_killed() {
    let name = "a_server_dies_with_whoever_started_it_even_if_that_is_killed";
    if let Some(file) = std::env::var_os(VICTIM) {
        let redis = Redis::start().await.expect("started");
        let part = Path::new(&file).with_extension("part");
        std::fs::write(&part, redis.pid().to_string()).expect("written");
        std::fs::rename(&part, &file).expect("moved");
        return std::future::pending().await;
    }
    if !there(Server::Redis, name) {
        return;
    }
    let folder = zipline_testkit::Scratch::new().expect("a folder");
    let file = folder.join("pid");
    let own = std::env::current_exe().expect("a path");
    let mut victim = Command::new(own).args(["--exact", name]).env(VICTIM, &file).stdout(Stdio::null()).spawn().expect("started");
    let pid: u32 = wait::until(
        "the server of the other process",
        GONE_WITHIN,
        async || Ok(std::fs::read_to_string(&file)?.parse()?),
        |_| true,
    )
    .await
    .expect("a pid");
    assert!(runs(pid));
    victim.kill().expect("killed");
    victim.wait().expect("ended");
    wait::until("the server's end", GONE_WITHIN, async || Ok(runs(pid)), |runs| !runs).await.expect("gone");
}
