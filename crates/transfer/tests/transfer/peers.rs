//! What listens at a producer's address need not be one: every way of not being one has its error, and none hangs.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zipline_contract::ErrorCode;
use zipline_core::reference::Narrowing;
use zipline_testkit::Loopback;
use zipline_transfer::PutOptions;

use crate::common::*;

/// A token that names an address of our own choosing: a node seals it that says to be there.
async fn token_for(front: &Loopback) -> Result<String> {
    let ip = front.ip();
    let at = start(|config| config.advertised = ip).await?;
    Ok(put(&at.node, bytes(1000), PutOptions::default()).await?.token.into_string())
}

/// Answers every connection's request with these bytes, and closes.
fn answering(listener: TcpListener, answer: Vec<u8>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            if stream.read(&mut head).await.is_ok() && stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    });
    tasks
}

#[tokio::test]
async fn garbage_from_a_peer_is_never_taken_for_a_payload() -> Result<()> {
    let consumer = start(|_| ()).await?;
    let unsigned = "HTTP/1.1 200 OK\r\nzipline-pull: 1\r\nzipline-epoch: 0011223344556677\r\nzipline-size: 1000\r\n";
    let forged = format!("{unsigned}zipline-sum: crc32c\r\nzipline-mac: {}\r\n\r\n", "ab".repeat(32));
    let newer = "HTTP/1.1 200 OK\r\nzipline-pull: 2\r\n\r\n";
    for (what, answer, code) in [
        ("a web server", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), ErrorCode::PullUnauthenticated),
        ("another protocol", "SSH-2.0-OpenSSH_9.9\r\n\r\n".to_owned(), ErrorCode::PullUnauthenticated),
        ("unsigned", format!("{unsigned}\r\n{}", "x".repeat(1000)), ErrorCode::PullUnauthenticated),
        ("forged", forged, ErrorCode::PullUnauthenticated),
        ("newer", newer.to_owned(), ErrorCode::ProtocolUnsupported),
        ("an endless head", "x".repeat(20_000), ErrorCode::ProducerUnreachable),
        ("nothing", String::new(), ErrorCode::ProducerUnreachable),
    ] {
        let front = Loopback::claim()?;
        let token = token_for(&front).await?;
        let _answering = answering(TcpListener::bind(front.port(PORT)).await?, answer.into_bytes());
        let error = get(&consumer.node, &token).await.expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
    }
    empty(&consumer.node).await
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_ends_with_the_idle_timeout() -> Result<()> {
    let consumer = start(|config| config.pull_idle_timeout = Duration::from_millis(200)).await?;
    let front = Loopback::claim()?;
    let token = token_for(&front).await?;
    let _listener = TcpListener::bind(front.port(PORT)).await?;
    let error = get(&consumer.node, &token).await.expect_err("silence");
    assert_eq!(error.code(), ErrorCode::PullIdleTimeout, "{error}");
    assert!(error.to_string().contains("200 ms"), "{error}");
    Ok(())
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable_and_named() -> Result<()> {
    let consumer = start(|_| ()).await?;
    let front = Loopback::claim()?;
    let token = token_for(&front).await?;
    let error = get(&consumer.node, &token).await.expect_err("nobody");
    assert_eq!(error.code(), ErrorCode::ProducerUnreachable);
    assert!(error.to_string().contains(&front.port(PORT).to_string()), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_address_outside_the_networks_is_not_dialled() -> Result<()> {
    let front = Loopback::claim()?;
    let token = token_for(&front).await?;
    let listener = TcpListener::bind(front.port(PORT)).await?;
    let consumer = start(|config| {
        config.peers = zipline_core::pull::PeerPolicy::parse("10.0.0.0/8", None, PORT).expect("a policy");
    })
    .await?;
    for error in [
        get(&consumer.node, &token).await.expect_err("outside"),
        consumer.node.stat(&token).await.map(|_| ()).expect_err("outside"),
        consumer.node.free(&token).await.expect_err("outside"),
    ] {
        assert_eq!(error.code(), ErrorCode::PeerForbidden, "{error}");
    }
    let other_port = start(|config| {
        config.peers = zipline_core::pull::PeerPolicy::parse("127.0.0.0/8", None, PORT + 1).expect("a policy");
    })
    .await?;
    assert_eq!(get(&other_port.node, &token).await.expect_err("another port").code(), ErrorCode::PeerForbidden);
    let dialled = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(dialled.is_err(), "somebody was dialled");
    Ok(())
}

#[tokio::test]
async fn a_reference_for_another_service_is_refused_before_anybody_is_asked() -> Result<()> {
    let producer = start(|_| ()).await?;
    let put = put(&producer.node, bytes(10), PutOptions::default()).await?;
    let receiver = Some("default/reducer".parse()?);
    let token = producer.node.narrow(put.token.as_str(), Narrowing { receiver, ..Narrowing::default() })?;
    let stranger = start(|config| config.receivers = vec!["default/mapper".parse().expect("a name")]).await?;
    assert_eq!(get(&stranger.node, token.as_str()).await.expect_err("not ours").code(), ErrorCode::ReferenceWrongReceiver);
    assert_eq!(producer.node.counts().attempts, 0);
    let reducer = start(|config| config.receivers = vec!["default/reducer".parse().expect("a name")]).await?;
    assert_eq!(get(&reducer.node, token.as_str()).await?, bytes(10));
    Ok(())
}

#[tokio::test]
async fn more_pulls_than_connections_wait_in_order_and_reuse_them() -> Result<()> {
    let producer = start(|_| ()).await?;
    let consumer = start(|config| config.pull_peer_connections = 2).await?;
    let payload = bytes(300_000);
    let put = put(&producer.node, payload.clone(), retrievals(32)).await?;
    let mut reads = JoinSet::new();
    for _ in 0..32 {
        let (node, token) = (consumer.node.clone(), put.token.clone());
        reads.spawn(async move { get(&node, token.as_str()).await });
    }
    while let Some(read) = reads.join_next().await {
        assert!(read?? == payload);
    }
    empty(&producer.node).await?;
    let served = producer.node.counters().connections_served;
    assert!((1..=2 + 4).contains(&served), "{served} connections");
    Ok(())
}

#[tokio::test]
async fn connections_beyond_the_limit_of_the_pull_port_are_closed_at_once() -> Result<()> {
    let producer = start(|config| config.pull_connections = 2).await?;
    let connect = async || tokio::net::TcpStream::connect(producer.loopback.port(PORT)).await;
    let (_one, _two) = (connect().await?, connect().await?);
    zipline_testkit::wait::until(
        "two connections",
        LIMIT,
        async || Ok(producer.node.counters().connections_served),
        |served| *served == 2,
    )
    .await?;
    let closed = tokio::time::timeout(LIMIT, connect().await?.read(&mut [0])).await?;
    assert!(closed.is_ok_and(|read| read == 0) || producer.node.counters().connections_served == 2);
    Ok(())
}
