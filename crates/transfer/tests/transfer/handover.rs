//! On one machine a payload passes as a descriptor; the connection that brought it is its lease.

use std::sync::Arc;

use anyhow::Result;
use tempfile::TempDir;
use zipline_contract::ErrorCode;
use zipline_core::reference::{Extent, Narrowing};
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, PayloadBytes, PutOptions};

use crate::common::*;

async fn pair() -> Result<(TempDir, At, At)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_owned();
    let producer = start(|config| config.handover_dir = Some(path.clone())).await?;
    let consumer = start(|config| config.handover_dir = Some(path)).await?;
    Ok((directory, producer, consumer))
}

#[tokio::test]
async fn a_payload_passes_without_a_byte_over_tcp_and_is_the_same_memory() -> Result<()> {
    let (_directory, producer, consumer) = pair().await?;
    for size in [0, 100, 64 * 1024, 20 * MIB] {
        let payload = bytes(size);
        let put = put(&producer.node, payload.clone(), retrievals(2)).await?;
        assert!(get(&consumer.node, put.token.as_str()).await? == payload, "as a stream");
        let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
        let received = incoming.receive().await?;
        assert!(read(&received) == payload && incoming.is_local());
        assert_eq!(consumer.node.census().receiving_bytes, 0, "it is the producer's memory");
        incoming.acknowledge().await?;
        empty(&producer.node).await?;
        assert!(read(&received) == payload, "and stays as long as somebody has it");
    }
    let (made, taken) = (producer.node.counters(), consumer.node.counters());
    assert_eq!((made.handovers_made, taken.handovers_taken, made.bytes_sent, taken.connections_made), (8, 8, 0, 0));
    Ok(())
}

#[tokio::test]
async fn closing_the_connection_gives_the_lease_back_and_only_then_the_memory_is_free() -> Result<()> {
    let (_directory, producer, consumer) = pair().await?;
    let put = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    let received = incoming.receive().await?;
    assert_eq!(producer.node.census().leases, 1);
    producer.node.free(put.token.as_str()).await?;
    let census = producer.node.census();
    assert_eq!((census.objects, census.bytes, census.lingering_bytes), (0, MIB as u64, MIB as u64));
    drop(incoming);
    empty(&producer.node).await?;
    assert!(matches!(received.bytes(), PayloadBytes::Memfd(_)));
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_dies_gives_its_lease_back_at_once() -> Result<()> {
    let (_directory, producer, consumer) = pair().await?;
    let put = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    let incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert_eq!(producer.node.census().leases, 1);
    drop(incoming);
    wait::until("no lease", LIMIT, async || Ok(producer.node.census().leases), |leases| *leases == 0).await?;
    assert!(get(&consumer.node, put.token.as_str()).await?.len() == MIB);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_lease_lasts_as_long_as_its_connection_however_long_that_is() -> Result<()> {
    let (_directory, producer, consumer) = pair().await?;
    let put = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    let _received = incoming.receive().await?;
    // Longer than a producer waits for any request of a stranger.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(producer.node.census().leases, 1);
    incoming.acknowledge().await?;
    empty(&producer.node).await
}

#[tokio::test]
async fn what_cannot_be_handed_over_is_pulled() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_owned();
    let producer = start(|config| {
        config.handover_dir = Some(path.clone());
        config.heap_threshold_bytes = MIB as u64;
    })
    .await?;
    let consumer = start(|config| config.handover_dir = Some(path.clone())).await?;
    let on_heap = put(&producer.node, bytes(100_000), PutOptions::default()).await?;
    assert!(get(&consumer.node, on_heap.token.as_str()).await? == bytes(100_000), "too large for a message");
    let mut writer = producer.node.put(PutOptions::default()).await?;
    let token = writer.reference()?;
    let mut incoming = consumer.node.fetch(token.as_str(), FetchOptions::default()).await?;
    assert!(!incoming.is_local(), "still being written");
    writer.write(bytes(2 * MIB)).await?;
    writer.finish().await?;
    while incoming.next_block().await?.is_some() {}
    incoming.acknowledge().await?;
    assert_eq!((producer.node.counts().attempts, producer.node.counters().handovers_made), (2, 0));
    let stranger = start(|_| ()).await?;
    let put = put(&stranger.node, bytes(100_000), PutOptions::default()).await?;
    assert!(get(&consumer.node, put.token.as_str()).await? == bytes(100_000), "a producer without a socket");
    Ok(())
}

#[tokio::test]
async fn a_narrowed_reference_never_gives_the_whole_object_s_descriptor() -> Result<()> {
    let (_directory, producer, consumer) = pair().await?;
    let payload = bytes(2 * MIB);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    let range = Extent::new(1000, 100_000.try_into()?);
    let narrow = consumer.node.narrow(put.token.as_str(), Narrowing { range, ..Narrowing::default() })?;
    let mut incoming = consumer.node.fetch(narrow.as_str(), FetchOptions::default()).await?;
    let received = incoming.receive().await?;
    assert!(incoming.is_local() && read(&received) == payload[1000..101_000]);
    assert_eq!(consumer.node.census().receiving_bytes, 100_000, "a copy takes room here");
    drop(received);
    empty(&consumer.node).await
}

#[tokio::test]
async fn refusals_are_the_pull_s_and_a_hand_over_needs_the_same_keys() -> Result<()> {
    let (directory, producer, consumer) = pair().await?;
    let put = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    assert!(get(&consumer.node, put.token.as_str()).await?.len() == MIB);
    let error = get(&consumer.node, put.token.as_str()).await.expect_err("used up");
    assert_eq!(error.code(), ErrorCode::ReferenceExhausted);
    assert_eq!(producer.node.counts().attempts, 1);
    // A socket of another trust domain in the same place: the pull then finds out who is there.
    let forged = start_with(keys(17), |config| config.handover_dir = Some(directory.path().to_owned())).await?;
    let token = {
        let ip = forged.loopback.ip();
        let sealer = start_with(keys(7), |config| config.advertised = ip).await?;
        crate::common::put(&sealer.node, bytes(10), PutOptions::default()).await?.token
    };
    assert_eq!(get(&consumer.node, token.as_str()).await.expect_err("foreign").code(), ErrorCode::PullUnauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_socket_file_left_by_a_process_that_died_is_no_obstacle() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let loopback = zipline_testkit::Loopback::claim()?;
    let file = directory.path().join(format!("{}.sock", loopback.port(PORT)));
    drop(std::os::unix::net::UnixListener::bind(&file)?);
    assert!(file.exists());
    let mut config = config(&loopback);
    config.handover_dir = Some(directory.path().to_owned());
    let node = zipline_transfer::Node::start(config, Arc::clone(&keys(7))).await?;
    node.stop().await;
    drop(node);
    wait::until("its file to go", LIMIT, async || Ok(file.exists()), |exists| !exists).await?;
    Ok(())
}
