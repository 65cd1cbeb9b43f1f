//! Stores that are not there, refuse, or are slow for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zipline_contract::Retry;
use zipline_sdk::{Client, Error, PutOptions};
use zipline_testkit::{Fault, Relay, Side, free_port};

use crate::places::{client, place};

/// An S3 service that answers as told: every request with that status, so many times.
struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Scripted {
    async fn start(answers: fn(usize) -> &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let mut server = JoinSet::new();
        server.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, answers(counted.fetch_add(1, Ordering::SeqCst))).await.ok();
            }
        });
        Ok(Self { address, requests, _server: server })
    }

    fn client(&self, retries: u32) -> Result<Client> {
        s3_client(self.address, retries)
    }
}

fn s3_client(address: SocketAddr, retries: u32) -> Result<Client> {
    client(&BTreeMap::from([
        ("ZIPLINE_API", "unix:/nowhere".to_owned()),
        ("ZIPLINE_TRANSFER", "s3".to_owned()),
        ("ZIPLINE_S3_ENDPOINT", format!("http://{address}")),
        ("ZIPLINE_S3_BUCKET", "bucket".to_owned()),
        ("ZIPLINE_STORE_RETRIES", retries.to_string()),
        ("AWS_ACCESS_KEY_ID", "hunter1".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".to_owned()),
    ]))
}

/// Reads one request with a body of five bytes, and answers it.
async fn answer(mut stream: TcpStream, status: &str) -> Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nhello") {
        request.push(stream.read_u8().await?);
    }
    let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let head = format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_503_is_retried_within_the_bound_and_counted() -> Result<()> {
    let busy_twice = |request| if request < 2 { "503 Slow Down" } else { "200 OK" };
    let server = Scripted::start(busy_twice).await?;
    let client = server.client(4)?;
    client.put("hello", PutOptions::default()).await?;
    let counted = client.store_counters().s3;
    ensure!((counted.puts, counted.failed, counted.throttled) == (1, 2, 2), "{counted:?}");

    let server = Scripted::start(|_| "503 Slow Down").await?;
    let client = server.client(2)?;
    let error = client.put("hello", PutOptions::default()).await.expect_err("it never helps");
    ensure!(error.name() == "store-refused" && error.retry() == Retry::Later, "{error}");
    ensure!(error.to_string().contains("503") && error.to_string().contains("SlowDown"), "{error}");
    ensure!(server.requests.load(Ordering::SeqCst) == 3, "once and two retries");
    let counted = client.store_counters().s3;
    ensure!((counted.puts, counted.failed, counted.throttled) == (0, 3, 3), "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_refuses_for_good_is_asked_once() -> Result<()> {
    let server = Scripted::start(|_| "403 Forbidden").await?;
    let client = server.client(4)?;
    let error = client.put("hello", PutOptions::default()).await.expect_err("refused");
    ensure!(error.name() == "store-refused" && error.retry() == Retry::Never, "{error}");
    ensure!(server.requests.load(Ordering::SeqCst) == 1);
    ensure!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_there_is_a_typed_error_without_secrets() -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let redis = client(&BTreeMap::from([
        ("ZIPLINE_API", "unix:/nowhere".to_owned()),
        ("ZIPLINE_TRANSFER", "redis".to_owned()),
        ("ZIPLINE_REDIS_URL", format!("redis://:hunter2@{address}/0")),
        ("ZIPLINE_STORE_RETRIES", "1".to_owned()),
    ]))?;
    for (store, client) in [("s3", s3_client(address, 1)?), ("redis", redis)] {
        let error = client.put("hello", PutOptions::default()).await.expect_err("nobody is there");
        ensure!(error.name() == "store-unreachable" && error.retry() == Retry::Later, "{error}");
        ensure!(error.to_string().contains(&address.to_string()), "{error}");
        ensure!(!format!("{error} {error:?} {:?}", client.config()).contains("hunter"), "{error:?}");
        let counted = client.store_counters();
        let failed = if store == "s3" { counted.s3.failed } else { counted.redis.failed };
        ensure!(failed == 2, "{store}: {counted:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_replaced_and_a_stall_ends() -> Result<()> {
    for method in ["s3", "redis"] {
        let Some(place) = place(method, "a_connection_that_breaks_is_replaced_and_a_stall_ends").await? else { continue };
        let relay = Relay::start("127.0.0.1:0".parse()?, place.address()).await?;
        let mut variables = place.variables(relay.address());
        variables.insert("ZIPLINE_STORE_TIMEOUT_SECONDS", "5".to_owned());
        let client = client(&variables)?;
        let payload = vec![7; 2 << 20];
        relay.next([Fault::Cut(Side::ToTarget, 100_000)]);
        let reference = client.put(payload.clone(), PutOptions::default()).await?;
        ensure!(client.get(&reference).await?.len() == payload.len());

        relay.always(Fault::Stall(Side::ToTarget, 10));
        let stalled = crate::places::client(&variables)?;
        let begun = tokio::time::Instant::now();
        let error = stalled.put(payload, PutOptions::default()).await.expect_err("nothing passes");
        ensure!(matches!(error, Error::StoreUnreachable { .. }), "{error}");
        ensure!(begun.elapsed() < Duration::from_secs(60), "it does not hang");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_a_wrong_key_are_refused_and_not_repeated() -> Result<()> {
    for (method, variable, value) in
        [("s3", "AWS_SECRET_ACCESS_KEY", "wrong".to_owned()), ("redis", "ZIPLINE_REDIS_URL", "redis://:wrong@{}/0".to_owned())]
    {
        let Some(place) = place(method, "a_wrong_password_and_a_wrong_key_are_refused").await? else { continue };
        let mut variables = place.variables(place.address());
        variables.insert(variable, value.replace("{}", &place.address().to_string()));
        let client = client(&variables)?;
        let error = client.put("hello", PutOptions::default()).await.expect_err("refused");
        ensure!(error.name() == "store-refused" && error.retry() == Retry::Never, "{error}");
    }
    Ok(())
}
