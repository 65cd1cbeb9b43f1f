//! Only proxies of the trust domain are answered, each of their requests once, and only while clocks agree.
//!
//! A scripted peer speaks the pull port's bytes with core's types, and leaves out or changes one thing.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zipline_contract::ErrorCode;
use zipline_core::object::{Epoch, LeaseId};
use zipline_core::pull::{Mac, Nonce, PullMethod, PullRequest, Wanted};
use zipline_core::reference::KeyRing;
use zipline_core::time::WallTime;
use zipline_transfer::{Clock, Keys, PutOptions};

use crate::common::*;

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    WallTime::from_unix_millis(u64::try_from(since.as_millis()).expect("before the year 584 million"))
}

fn ring() -> KeyRing {
    KeyRing::parse(ring_json(7).as_bytes()).expect("a ring")
}

fn text(request: &PullRequest, mac: Option<&Mac>) -> String {
    let ring = ring();
    let key = ring.sealing(now()).expect("a key");
    let signed = request.sign(key);
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method.verb(), request.path());
    for (name, value) in request.headers(key.id(), mac.unwrap_or(&signed)) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

/// What the pull port says to these bytes until it closes, or to a whole head.
async fn says(at: &At, bytes: &[u8]) -> Result<(String, bool)> {
    let mut stream = TcpStream::connect(at.loopback.port(PORT)).await?;
    say(&mut stream, bytes).await
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) -> Result<(String, bool)> {
    stream.write_all(bytes).await?;
    let mut said = Vec::new();
    loop {
        let mut byte = [0];
        let closed = tokio::time::timeout(LIMIT, stream.read(&mut byte)).await?.unwrap_or(0) == 0;
        if closed || said.ends_with(b"\r\n\r\n") {
            return Ok((String::from_utf8(said)?, closed));
        }
        said.push(byte[0]);
        if said.ends_with(b"\r\n\r\n") && said.windows(17).any(|w| w == b"content-length: 0") {
            return Ok((String::from_utf8(said)?, false));
        }
    }
}

/// A producer with one object, and a request of its state.
async fn scene() -> Result<(At, PullRequest)> {
    let at = start(|_| ()).await?;
    let put = put(&at.node, bytes(1000), PutOptions::default()).await?;
    let wanted = Wanted::of(&at.node.open(put.token.as_str())?, None, LeaseId::from_bytes([3; 16]), None)?;
    let request = wanted.request(PullMethod::Head, now(), Nonce::from_bytes([1; 16]));
    Ok((at, request))
}

fn error_of(said: &str) -> Option<ErrorCode> {
    said.lines().find_map(|line| line.strip_prefix("zipline-error: ")).and_then(ErrorCode::from_name)
}

#[tokio::test]
async fn a_genuine_request_is_answered_under_a_mac_and_the_connection_kept() -> Result<()> {
    let (at, request) = scene().await?;
    let mut stream = TcpStream::connect(at.loopback.port(PORT)).await?;
    for nonce in 1..4 {
        let request = PullRequest { nonce: Nonce::from_bytes([nonce; 16]), ..request.clone() };
        let (said, _) = say(&mut stream, text(&request, None).as_bytes()).await?;
        assert!(
            said.starts_with("HTTP/1.1 200 ") && said.contains("zipline-size: 1000\r\n") && said.contains("zipline-mac: "),
            "{said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_pull_without_or_with_a_wrong_mac_is_refused_unsigned_and_leaves_no_trace() -> Result<()> {
    let (at, request) = scene().await?;
    let good = text(&request, None);
    let without: String =
        good.lines().filter(|line| !line.starts_with("zipline-mac")).map(|line| format!("{line}\r\n")).collect();
    let wrong = text(&request, Some(&Mac::from_bytes([9; 32])));
    let moved = text(&PullRequest { dialled: "127.9.9.9:8122".parse()?, ..request.clone() }, None);
    let other_path = good.replacen("HEAD ", "GET ", 1);
    for (what, bytes) in [("without", without), ("wrong", wrong), ("for another address", moved), ("another method", other_path)]
    {
        let (said, closed) = says(&at, bytes.as_bytes()).await?;
        assert_eq!(error_of(&said), Some(ErrorCode::PullUnauthenticated), "{what}: {said}");
        assert!(!said.contains("zipline-mac: "), "{what}: {said}");
        assert!(!said.contains("zipline-size") && (closed || said.starts_with("HTTP/1.1 502")), "{what}");
    }
    let counts = at.node.counts();
    assert_eq!((counts.attempts, at.node.census().leases), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_replayed_pull_is_refused() -> Result<()> {
    let (at, request) = scene().await?;
    let bytes = text(&request, None);
    let (first, _) = says(&at, bytes.as_bytes()).await?;
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    let (second, _) = says(&at, bytes.as_bytes()).await?;
    assert_eq!(error_of(&second), Some(ErrorCode::PullUnauthenticated), "{second}");
    Ok(())
}

#[tokio::test]
async fn clocks_too_far_apart_are_named_with_both_times_and_signed() -> Result<()> {
    let producer = start(|_| ()).await?;
    let consumer = start(|config| config.clock = Clock::shifted(-40_000)).await?;
    let put = put(&producer.node, bytes(10), PutOptions::default()).await?;
    let error = get(&consumer.node, put.token.as_str()).await.expect_err("40 s apart");
    assert_eq!(error.code(), ErrorCode::ClockSkew);
    let numbers: Vec<u64> = error.to_string().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let apart = numbers.iter().max().zip(numbers.iter().filter(|n| **n > 1_000_000).min()).map(|(a, b)| a - b);
    assert!(apart.is_some_and(|apart| (39_000..42_000).contains(&apart)), "{error}");
    let ahead = start(|config| config.clock = Clock::shifted(25_000)).await?;
    assert_eq!(get(&ahead.node, put.token.as_str()).await?, bytes(10), "25 s are allowed");
    Ok(())
}

#[tokio::test]
async fn another_instance_at_the_address_says_that_the_producer_is_gone() -> Result<()> {
    let (at, request) = scene().await?;
    let before = PullRequest { epoch: Epoch::from_bytes([0; 8]), ..request };
    let (said, _) = says(&at, text(&before, None).as_bytes()).await?;
    assert_eq!(error_of(&said), Some(ErrorCode::ProducerGone), "{said}");
    assert!(said.contains("zipline-mac: "), "a genuine question gets a signed answer");
    Ok(())
}

#[tokio::test]
async fn a_restarted_producer_is_gone_for_others_and_for_itself() -> Result<()> {
    let consumer = start(|_| ()).await?;
    let first = start(|_| ()).await?;
    let put = put(&first.node, bytes(10), PutOptions::default()).await?;
    let At { node, loopback } = first;
    node.stop().await;
    drop(node);
    let gone = get(&consumer.node, put.token.as_str()).await.expect_err("nobody listens");
    assert_eq!(gone.code(), ErrorCode::ProducerUnreachable);
    let second = zipline_transfer::Node::start(config(&loopback), keys(7)).await?;
    for node in [&consumer.node, &second] {
        assert_eq!(get(node, put.token.as_str()).await.expect_err("restarted").code(), ErrorCode::ProducerGone);
    }
    Ok(())
}

#[tokio::test]
async fn a_foreign_key_opens_nothing_and_a_shared_id_with_another_key_neither() -> Result<()> {
    let producer = start(|_| ()).await?;
    let put = put(&producer.node, bytes(10), PutOptions::default()).await?;
    let other_id = start_with(keys(8), |_| ()).await?;
    assert_eq!(get(&other_id.node, put.token.as_str()).await.expect_err("foreign").code(), ErrorCode::ReferenceUnknownKey);
    let same_id = start_with(keys(17), |_| ()).await?;
    assert_eq!(get(&same_id.node, put.token.as_str()).await.expect_err("forged").code(), ErrorCode::ReferenceInvalid);
    let none = start_with(Arc::new(Keys::none()), |_| ()).await?;
    assert_eq!(get(&none.node, put.token.as_str()).await.expect_err("no keys").code(), ErrorCode::ReferenceUnknownKey);
    assert_eq!(none.node.put(PutOptions::default()).await.expect_err("no keys").code(), ErrorCode::ReferenceUnknownKey);
    none.node.keys().replace(ring());
    assert_eq!(get(&none.node, put.token.as_str()).await?, bytes(10), "keys can come later");
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_request_close_their_connection_and_nothing_else() -> Result<()> {
    let (at, request) = scene().await?;
    let long = format!("GET /v1/objects/x HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(9000));
    let with_body = text(&request, None).replacen("\r\n\r\n", "\r\ncontent-length: 5\r\n\r\nhello", 1);
    let pipelined = text(&request, None).repeat(2);
    let cases: [(&str, &[u8]); 6] = [
        ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        ("another path", b"GET / HTTP/1.1\r\n\r\n"),
        ("too long", long.as_bytes()),
        ("a body", with_body.as_bytes()),
        ("pipelined", pipelined.as_bytes()),
        ("hand-over over TCP", b"HANDOVER /v1/objects/00000000000000000000000000000000 HTTP/1.1\r\n\r\n"),
    ];
    for (what, bytes) in cases {
        let mut stream = TcpStream::connect(at.loopback.port(PORT)).await?;
        let (said, mut closed) = say(&mut stream, bytes).await?;
        if !closed {
            assert!(said.starts_with("HTTP/1.1 502 "), "{what}: {said}");
            closed = tokio::time::timeout(LIMIT, stream.read(&mut [0])).await?.unwrap_or(0) == 0;
        }
        assert!(closed, "{what}");
    }
    let (said, _) = says(&at, text(&PullRequest { nonce: Nonce::from_bytes([77; 16]), ..request }, None).as_bytes()).await?;
    assert!(said.starts_with("HTTP/1.1 200 "), "the port still serves: {said}");
    Ok(())
}
