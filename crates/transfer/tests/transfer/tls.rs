//! Pulls over mutual TLS: the same bytes, the same faults, hidden from whoever listens; certificates come with the ring.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zipline_contract::ErrorCode;
use zipline_core::reference::KeyRing;
use zipline_testkit::{Fault, Loopback, Side, wait};
use zipline_transfer::{NodeConfig, PutOptions};

use crate::common::*;

fn tls(config: &mut NodeConfig) {
    config.tls = true;
}

/// A ring of these keys, each with its beginning; keys ten apart have the same id.
fn ring(keys: &[(u8, u64)]) -> KeyRing {
    let entry = |(key, begins): &(u8, u64)| {
        let secret = format!("{key:02x}").repeat(32);
        format!(r#"{{"id":"0000000{}","key":"{secret}","not_before_ms":{begins},"not_after_ms":9999999999999}}"#, key % 10)
    };
    let entries: Vec<String> = keys.iter().map(entry).collect();
    KeyRing::parse(format!(r#"{{"keys":[{}]}}"#, entries.join(",")).as_bytes()).expect("a ring")
}

/// Everything that passes an address, in both directions.
struct Tap {
    heard: Arc<Mutex<Vec<u8>>>,
    _server: JoinSet<()>,
}

impl Tap {
    async fn start(at: std::net::SocketAddr, target: std::net::SocketAddr) -> Result<Self> {
        let (listener, heard) = (TcpListener::bind(at).await?, Arc::<Mutex<Vec<u8>>>::default());
        let (mut server, hearing) = (JoinSet::new(), Arc::clone(&heard));
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let (Ok((near, _)), Ok(far)) = (listener.accept().await, TcpStream::connect(target).await) {
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                    let hearing = Arc::clone(&hearing);
                    connections.spawn(async move {
                        let mut chunk = vec![0; 64 * 1024];
                        while let Ok(length @ 1..) = from.read(&mut chunk).await {
                            hearing.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..length]);
                            if to.write_all(&chunk[..length]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Ok(Self { heard, _server: server })
    }

    fn heard(&self, what: &[u8]) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.windows(what.len()).any(|window| window == what)
    }
}

#[tokio::test]
async fn payloads_of_every_size_are_the_same_over_tls_and_its_connections_are_used_again() -> Result<()> {
    let (producer, consumer) = (start(tls).await?, start(tls).await?);
    for size in [1, 100, 32 * 1024, MIB - 1, MIB, MIB + 1, 7 * MIB + 3, 64 * MIB] {
        let payload = bytes(size);
        let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
        assert!(get(&consumer.node, put.token.as_str()).await? == payload, "{size}");
    }
    let (made, served) = (consumer.node.counters(), producer.node.counters());
    assert!(made.connections_made <= 2, "{} connections for reads one after the other", made.connections_made);
    assert_eq!((made.tls_failures, served.tls_failures, made.resumes), (0, 0, 0));
    empty(&producer.node).await
}

#[tokio::test]
async fn who_listens_hears_the_payload_without_tls_and_nothing_of_it_with() -> Result<()> {
    for encrypted in [false, true] {
        let front = Loopback::claim()?;
        let change = |config: &mut NodeConfig| config.tls = encrypted;
        let producer = start(|config| {
            config.advertised = front.ip();
            change(config);
        })
        .await?;
        let consumer = start(change).await?;
        let tap = Tap::start(front.port(PORT), producer.loopback.port(PORT)).await?;
        let payload = bytes(2 * MIB);
        let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
        assert!(get(&consumer.node, put.token.as_str()).await? == payload);
        for at in (0..payload.len() - 16).step_by(300_000) {
            assert_eq!(tap.heard(&payload[at..at + 16]), !encrypted, "at {at}");
        }
        assert_eq!(tap.heard(b"HTTP/1.1"), !encrypted, "heads too");
    }
    Ok(())
}

#[tokio::test]
async fn a_cut_or_changed_tls_connection_goes_on_behind_the_last_verified_record() -> Result<()> {
    let (producer, relay) = start_behind_relay(tls).await?;
    let consumer = start(tls).await?;
    let payload = bytes(6 * MIB + 12345);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    let faults = [
        Fault::Cut(Side::FromTarget, 700_000),
        Fault::Corrupt(Side::FromTarget, 2_000_000),
        Fault::Cut(Side::FromTarget, 3_000_000),
    ];
    for fault in faults {
        relay.next([fault]);
    }
    assert!(get(&consumer.node, put.token.as_str()).await? == payload);
    assert_eq!((consumer.node.counters().resumes, producer.node.counts().attempts), (3, 1));
    assert_eq!(consumer.node.counters().bytes_received, payload.len() as u64, "no verified byte came twice");
    empty(&producer.node).await
}

/// Whoever makes these connections has no key: each costs its place, for seconds at most, and nobody else anything.
#[tokio::test]
async fn handshakes_that_stall_trickle_or_are_garbage_cost_their_place_for_seconds_and_nothing_else() -> Result<()> {
    const PLACES: usize = 12;
    let producer = start(|config| {
        tls(config);
        config.pull_connections = PLACES;
    })
    .await?;
    let consumer = start(tls).await?;
    let payload = bytes(2 * MIB);
    let put = put(&producer.node, payload.clone(), retrievals(2)).await?;
    let connect = async |sent: &[u8]| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(producer.loopback.port(PORT)).await?;
        stream.write_all(sent).await?;
        Ok(stream)
    };
    let garbage = [
        &b"\x16\x03\x01\x00\x05hello"[..],
        &[0x16; 400],
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x03\x00\x02\x01\x00\x15\x03\x03\x00\x02\x02\x00",
    ];
    for sent in garbage.iter().cycle().take(5 * PLACES) {
        let mut stream = connect(sent).await?;
        // An alert may come first; the end comes at once, and leaves the place to the next.
        let mut told = Vec::new();
        let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut told)).await?;
        assert!(ended.is_err() || told.len() < 100, "{} bytes for garbage", told.len());
    }
    assert_eq!(producer.node.counters().tls_failures, 5 * PLACES as u64, "each is counted");

    let served = async || Ok(producer.node.counters().connections_served);
    let mut stalled = vec![connect(b"").await?, connect(b"\x16").await?, connect(b"\x16\x03\x01\x02\x00\x01\x00").await?];
    let mut trickling = JoinSet::new();
    while stalled.len() + trickling.len() < PLACES - 3 {
        let mut stream = connect(b"\x16\x03\x01\x02\x00").await?;
        trickling.spawn(async move {
            while stream.write_all(&[1]).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
    }
    wait::until("the places to be taken", LIMIT, served, |served| *served == PLACES - 3).await?;
    assert!(get(&consumer.node, put.token.as_str()).await? == payload, "who has a key is served meanwhile");
    for _ in 0..3 * PLACES {
        stalled.push(connect(b"\x16").await?);
    }
    wait::until("every place to be taken", LIMIT, served, |served| *served >= PLACES).await?;
    assert_eq!(served().await?, PLACES, "and no more than there are");

    wait::until("every handshake to be given up", LIMIT, served, |served| *served <= 2).await?;
    while let Some(ended) = trickling.join_next().await {
        ended?;
    }
    assert!(get(&consumer.node, put.token.as_str()).await? == payload);
    empty(&producer.node).await
}

#[tokio::test]
async fn ends_that_differ_in_tls_are_told_so_at_once_and_counted() -> Result<()> {
    for (producing, consuming) in [(true, false), (false, true)] {
        let producer = start(|config| config.tls = producing).await?;
        let consumer = start(|config| config.tls = consuming).await?;
        let put = put(&producer.node, bytes(100_000), PutOptions::default()).await?;
        let error = get(&consumer.node, put.token.as_str()).await.expect_err("they differ");
        assert_eq!(error.code(), ErrorCode::PullUnauthenticated, "{error}");
        assert!(!consuming || error.to_string().contains("ZIPLINE_PULL_TLS"), "{error}");
        assert!(producer.node.counters().tls_failures >= 1);
        assert_eq!(consumer.node.counters().tls_failures > 0, consuming);
        assert_eq!((producer.node.counts().attempts, producer.node.counters().bytes_sent), (0, 0));
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_is_refused_by_either_end() -> Result<()> {
    // The other domain's key has the same id. Only the producer's reference key is known to the first consumer, only
    // the consumer's own to the second: so one fails to accept the producer, one is not accepted by it.
    let producer = start_with(keys(7), tls).await?;
    let stranger = start_with(keys(17), tls).await?;
    let put = put(&producer.node, bytes(100_000), PutOptions::default()).await?;
    let opened = stranger.node.fetch(put.token.as_str(), Default::default()).await.expect_err("another domain's");
    assert_ne!(opened.code(), ErrorCode::ProducerUnreachable, "{opened}");

    // It knows the reference's key, but its own current one is of another domain.
    let intruder = Arc::new(zipline_transfer::Keys::new(ring(&[(7, 0), (18, 1)])));
    let intruder = start_with(intruder, tls).await?;
    let error = get(&intruder.node, put.token.as_str()).await.expect_err("not accepted");
    assert_eq!(error.code(), ErrorCode::PullUnauthenticated, "{error}");
    assert!(error.to_string().contains("no TLS with"), "{error}");
    assert_eq!((producer.node.counts().attempts, producer.node.counters().bytes_sent), (0, 0));
    assert!(producer.node.counters().tls_failures >= 1);
    Ok(())
}

#[tokio::test]
async fn the_ring_rotates_under_load_and_no_pull_fails() -> Result<()> {
    const KEYS: [u8; 4] = [21, 32, 43, 54];
    let shared: Vec<_> = (0..2).map(|_| Arc::new(zipline_transfer::Keys::new(ring(&[(KEYS[0], 0)])))).collect();
    let producer = start_with(Arc::clone(&shared[0]), tls).await?;
    let pulls = async |count: usize| -> Result<()> {
        // A new one each time, since connections that were made before stay good.
        let consumer = start_with(Arc::clone(&shared[1]), tls).await?;
        let mut reading = JoinSet::new();
        for number in 0..count {
            let payload = bytes(50_000 + number * 70_000);
            let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
            let consumer = consumer.node.clone();
            reading.spawn(async move {
                assert!(get(&consumer, put.token.as_str()).await.expect("a pull during a rotation") == payload);
            });
        }
        while let Some(read) = reading.join_next().await {
            read?;
        }
        let counted = consumer.node.counters();
        assert_eq!((counted.tls_failures, counted.pulls_failed.len()), (0, 0));
        assert!(counted.pulls_ok >= count as u64);
        Ok(())
    };
    for pair in KEYS.windows(2) {
        let (old, new) = (pair[0], pair[1]);
        // First both know the new key, one after the other; then it is the current one; then the old one is gone.
        for step in [ring(&[(old, 1), (new, 0)]), ring(&[(old, 0), (new, 1)]), ring(&[(new, 0)])] {
            for keys in &shared {
                let replaced = async {
                    tokio::task::yield_now().await;
                    keys.replace(step.clone());
                    Ok(())
                };
                // The last step ends references sealed before it, so what is under way ends first.
                if step.keys().len() == 2 { tokio::try_join!(pulls(12), replaced, pulls(4)).map(drop)? } else { replaced.await? }
            }
            pulls(4).await?;
        }
    }
    assert_eq!(producer.node.counters().tls_failures, 0);
    empty(&producer.node).await
}
