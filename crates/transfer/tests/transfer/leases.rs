//! Leases: who may read how often, and what becomes of readers that stop, die or come too late.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use zipline_contract::ErrorCode;
use zipline_core::object::Owner;
use zipline_core::reference::Narrowing;
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, PutOptions};

use crate::common::*;

/// More than two sockets hold between them.
const LARGE: usize = 64 * MIB;

async fn until_leases(at: &At, leases: usize) -> Result<()> {
    wait::until("leases", LIMIT, async || Ok(at.node.census().leases), |seen| *seen == leases).await.map(|_| ())
}

#[tokio::test]
async fn an_object_is_read_as_often_as_it_was_put_for_and_then_gone() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let payload = bytes(100_000);
    let put = put(&producer.node, payload.clone(), retrievals(5)).await?;
    let mut reads = JoinSet::new();
    for _ in 0..5 {
        let (node, token) = (consumer.node.clone(), put.token.clone());
        reads.spawn(async move { get(&node, token.as_str()).await });
    }
    while let Some(read) = reads.join_next().await {
        assert!(read?? == payload);
    }
    empty(&producer.node).await?;
    for node in [&consumer.node, &producer.node] {
        assert_eq!(get(node, put.token.as_str()).await.expect_err("used up").code(), ErrorCode::ReferenceExhausted);
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_gives_up_gives_its_lease_back_and_uses_no_retrieval() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let payload = bytes(LARGE);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    for node in [&consumer.node, &producer.node] {
        let mut incoming = node.fetch(put.token.as_str(), FetchOptions::default()).await?;
        assert!(incoming.next_block().await?.is_some());
        assert_eq!(producer.node.census().leases, 1);
        drop(incoming);
        until_leases(&producer, 0).await?;
        let incoming = node.fetch(put.token.as_str(), FetchOptions::default()).await?;
        assert_eq!(incoming.acknowledge().await.expect_err("not read").code(), ErrorCode::RequestInvalid);
        until_leases(&producer, 0).await?;
    }
    assert!(get(&consumer.node, put.token.as_str()).await? == payload);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_consumer_that_dies_loses_its_lease_to_time_and_the_next_one_reads() -> Result<()> {
    let producer = start(|config| config.lease = Duration::from_millis(300)).await?;
    let (victim, heir) = (start(|_| ()).await?, start(|_| ()).await?);
    let payload = bytes(LARGE);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    let mut incoming = victim.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert!(incoming.next_block().await?.is_some());
    // Nothing of it runs any more, so that nobody gives the lease back.
    victim.node.stop().await;
    std::mem::forget(incoming);
    until_leases(&producer, 0).await?;
    assert_eq!((producer.node.counts().leases_lapsed, producer.node.census().objects), (1, 1));
    assert!(get(&heir.node, put.token.as_str()).await? == payload);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_reader_that_stops_reading_does_not_hold_the_producer_and_may_still_go_on() -> Result<()> {
    let producer = start(|config| config.lease = Duration::from_millis(300)).await?;
    let consumer = start(|_| ()).await?;
    let payload = bytes(LARGE);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    let mut read = incoming.next_block().await?.expect("a block").to_vec();
    until_leases(&producer, 0).await?;
    wait::until("the cut", LIMIT, async || Ok(producer.node.counters().connections_served), |served| *served == 0).await?;
    while let Some(block) = incoming.next_block().await? {
        read.extend_from_slice(&block);
    }
    assert!(read == payload, "it goes on where it was, as another attempt");
    incoming.acknowledge().await?;
    assert_eq!(producer.node.counts().attempts, 2);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_reader_whose_function_works_long_keeps_its_lease_until_it_acknowledges() -> Result<()> {
    let producer = start(|config| config.lease = Duration::from_secs(1)).await?;
    let consumer = start(|config| config.lease = Duration::from_secs(1)).await?;
    let put = put(&producer.node, bytes(1000), PutOptions::default()).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    while incoming.next_block().await?.is_some() {}
    // The work itself: it is longer than the lease, which nothing but renewals keeps.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((producer.node.census().leases, producer.node.counts().leases_lapsed), (1, 0));
    incoming.acknowledge().await?;
    empty(&producer.node).await
}

#[tokio::test]
async fn nothing_goes_on_for_a_read_that_is_over() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let put = put(&producer.node, bytes(2 * MIB), retrievals(4)).await?;
    assert!(get(&consumer.node, put.token.as_str()).await?.len() == 2 * MIB);
    let before = tasks();
    for _ in 0..3 {
        assert!(get(&consumer.node, put.token.as_str()).await?.len() == 2 * MIB);
    }
    wait::until("no task more", LIMIT, async || Ok(tasks()), |now| *now <= before).await?;
    assert!((1..=2).contains(&consumer.node.counters().connections_made), "kept for the next read");
    Ok(())
}

#[tokio::test]
async fn the_last_acknowledgement_cuts_every_other_reader_at_once() -> Result<()> {
    let (producer, slow, quick) = (start(|_| ()).await?, start(|_| ()).await?, start(|_| ()).await?);
    let put = put(&producer.node, bytes(LARGE), PutOptions::default()).await?;
    let mut incoming = slow.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert!(incoming.next_block().await?.is_some());
    assert!(get(&quick.node, put.token.as_str()).await?.len() == LARGE);
    empty(&producer.node).await?;
    let error = loop {
        match incoming.next_block().await {
            Ok(Some(_)) => {} // What was in the sockets already.
            Ok(None) => panic!("a cut payload was taken for whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::ReferenceExhausted, "{error}");
    Ok(())
}

#[tokio::test]
async fn an_acknowledgement_that_comes_too_late_is_told_so() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let put = put(&producer.node, bytes(1000), PutOptions::default()).await?;
    let mut late = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    while late.next_block().await?.is_some() {}
    assert!(get(&consumer.node, put.token.as_str()).await?.len() == 1000);
    assert_eq!(late.acknowledge().await.expect_err("too late").code(), ErrorCode::ReferenceExhausted);
    assert_eq!(producer.node.counts().acknowledgements, 1);
    Ok(())
}

#[tokio::test]
async fn readers_that_never_acknowledge_run_out_of_attempts() -> Result<()> {
    let producer = start(|config| config.attempts_extra = 2).await?;
    let consumer = start(|_| ()).await?;
    let put = put(&producer.node, bytes(1000), PutOptions::default()).await?;
    for _ in 0..3 {
        drop(consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?);
    }
    let error = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await.expect_err("used up");
    assert_eq!(error.code(), ErrorCode::AttemptsExhausted, "{error}");
    assert!(error.to_string().contains('3'), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_slot_is_one_branch_s_own_retrieval() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let put = put(&producer.node, bytes(1000), retrievals(2)).await?;
    let slot = |slot| consumer.node.narrow(put.token.as_str(), Narrowing { slot: Some(slot), ..Narrowing::default() });
    let (first, second) = (slot(0)?, slot(1)?);
    assert!(get(&consumer.node, first.as_str()).await?.len() == 1000);
    assert_eq!(get(&consumer.node, first.as_str()).await.expect_err("used").code(), ErrorCode::ReferenceExhausted);
    assert!(get(&consumer.node, second.as_str()).await?.len() == 1000);
    empty(&producer.node).await
}

#[tokio::test]
async fn an_object_expires_with_its_readers() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    // Long enough for put and fetch on a busy machine; the rest waits for its end.
    let options = PutOptions { ttl: Some(Duration::from_secs(3)), ..PutOptions::default() };
    let put = put(&producer.node, bytes(LARGE), options).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert!(incoming.next_block().await?.is_some());
    wait::until("nothing held", LIMIT, async || Ok(producer.node.census().objects), |objects| *objects == 0).await?;
    let error = loop {
        if let Err(error) = incoming.next_block().await {
            break error;
        }
    };
    assert_eq!(error.code(), ErrorCode::ReferenceExpired, "{error}");
    assert_eq!(get(&consumer.node, put.token.as_str()).await.expect_err("late").code(), ErrorCode::ReferenceExpired);
    assert_eq!(producer.node.counts().expired, 1);
    Ok(())
}

#[tokio::test]
async fn a_call_s_payload_is_read_by_retries_and_copies_and_ends_with_the_call() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let options = PutOptions { owner: Owner::Call, size: Some(1000), ..PutOptions::default() };
    let mut writer = producer.node.put(options).await?;
    let call = writer.call_object();
    let token = writer.reference()?;
    writer.write(bytes(1000)).await?;
    writer.finish().await?;
    for _ in 0..3 {
        assert!(get(&consumer.node, token.as_str()).await? == bytes(1000));
    }
    assert_eq!(producer.node.census().objects, 1);
    drop(call);
    empty(&producer.node).await?;
    assert_eq!(get(&consumer.node, token.as_str()).await.expect_err("over").code(), ErrorCode::ReferenceExhausted);
    Ok(())
}
