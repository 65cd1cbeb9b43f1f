//! A wounded connection costs time, never a byte: reads go on behind the last verified record, or fail by name.

use std::time::Duration;

use anyhow::Result;
use zipline_contract::ErrorCode;
use zipline_testkit::{Fault, Side, wait};
use zipline_transfer::{FetchOptions, PutOptions, Taking};

use crate::common::*;

const SIZE: usize = 6 * MIB + 12345;

#[tokio::test]
async fn a_cut_connection_goes_on_behind_the_last_verified_record_as_one_attempt() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let consumer = start(|_| ()).await?;
    let payload = bytes(SIZE);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    // In a head, in the first record, in a later one, at a record's very end.
    for at in [100, 700_000, 3_000_000, MIB as u64 + 500] {
        relay.next([Fault::Cut(Side::FromTarget, at)]);
    }
    assert!(get(&consumer.node, put.token.as_str()).await? == payload);
    assert_eq!((consumer.node.counters().resumes, producer.node.counts().attempts), (4, 1));
    let sent = producer.node.counters().bytes_received + consumer.node.counters().bytes_received;
    assert_eq!(sent, SIZE as u64, "no verified byte came twice");
    empty(&producer.node).await
}

#[tokio::test]
async fn a_connection_that_breaks_too_often_ends_the_read_and_gives_its_lease_back() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let consumer = start(|config| config.pull_resumes = 2).await?;
    let put = put(&producer.node, bytes(SIZE), PutOptions::default()).await?;
    for _ in 0..3 {
        relay.next([Fault::Cut(Side::FromTarget, 500_000)]);
    }
    let error = get(&consumer.node, put.token.as_str()).await.expect_err("cut three times");
    assert_eq!(error.code(), ErrorCode::ProducerUnreachable, "{error}");
    wait::until("no lease", LIMIT, async || Ok(producer.node.census().leases), |leases| *leases == 0).await?;
    assert_eq!(producer.node.census().objects, 1, "the object waits for its next reader");
    assert!(get(&consumer.node, put.token.as_str()).await? == bytes(SIZE));
    Ok(())
}

#[tokio::test]
async fn one_corrupt_byte_costs_one_block_and_is_not_seen() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let payload = bytes(SIZE);
    // In the payload of the third record; in the first record's head.
    for at in [2_500_000, 520] {
        let consumer = start(|_| ()).await?; // Another one each time: the fault is for the next connection.
        let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
        relay.next([Fault::Corrupt(Side::FromTarget, at)]);
        assert!(get(&consumer.node, put.token.as_str()).await? == payload);
        assert_eq!(consumer.node.counters().resumes, 1, "at {at}");
    }
    Ok(())
}

#[tokio::test]
async fn a_block_that_is_corrupt_twice_is_never_delivered() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let consumer = start(|_| ()).await?;
    let payload = bytes(SIZE);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    relay.always(Fault::Corrupt(Side::FromTarget, 600_000));
    for taking in [Taking::Stream, Taking::Whole] {
        let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions { taking, ..FetchOptions::default() }).await?;
        let error = match taking {
            Taking::Stream => incoming.next_block().await.map(|_| ()).expect_err("corrupt"),
            Taking::Whole => incoming.receive().await.map(|_| ()).expect_err("corrupt"),
        };
        assert_eq!(error.code(), ErrorCode::PayloadCorrupt, "{error}");
        assert_eq!(incoming.next_block().await.expect_err("over").code(), ErrorCode::RequestInvalid, "and stays over");
        assert!(incoming.acknowledge().await.is_err());
    }
    empty(&consumer.node).await
}

#[tokio::test]
async fn a_corrupt_answer_head_is_not_believed() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let consumer = start(|_| ()).await?;
    let put = put(&producer.node, bytes(1000), PutOptions::default()).await?;
    relay.always(Fault::Corrupt(Side::FromTarget, 100));
    let error = get(&consumer.node, put.token.as_str()).await.expect_err("changed on the way");
    assert!(matches!(error.code(), ErrorCode::PullUnauthenticated | ErrorCode::ProducerUnreachable), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_stalled_connection_ends_with_the_idle_timeout() -> Result<()> {
    let (producer, relay) = start_behind_relay(|_| ()).await?;
    let consumer = start(|config| config.pull_idle_timeout = Duration::from_millis(300)).await?;
    let put = put(&producer.node, bytes(SIZE), PutOptions::default()).await?;
    relay.next([Fault::Stall(Side::FromTarget, 2_000_000)]);
    let error = get(&consumer.node, put.token.as_str()).await.expect_err("stalled");
    assert_eq!(error.code(), ErrorCode::PullIdleTimeout, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_producer_that_dies_in_the_middle_is_unreachable() -> Result<()> {
    let producer = start(|_| ()).await?;
    let consumer = start(|_| ()).await?;
    let put = put(&producer.node, bytes(64 * MIB), PutOptions::default()).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert!(incoming.next_block().await?.is_some());
    producer.node.stop().await;
    drop(producer);
    let error = loop {
        if let Err(error) = incoming.next_block().await {
            break error;
        }
    };
    assert_eq!(error.code(), ErrorCode::ProducerUnreachable, "{error}");
    Ok(())
}
