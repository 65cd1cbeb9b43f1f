//! Room is bounded, waited for in order of arrival, and given back by whatever ends a payload.

use std::time::Duration;

use anyhow::Result;
use std::os::fd::AsFd;
use zipline_contract::ErrorCode;
use zipline_sys::SharedBudget;
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, NodeConfig, PutOptions, Taking};

use crate::common::*;

fn small(config: &mut NodeConfig) {
    config.buffer_bytes = 10 * MIB as u64;
    config.put_wait = Duration::from_millis(200);
}

#[tokio::test]
async fn a_put_waits_for_room_and_gets_it_when_a_payload_is_read() -> Result<()> {
    let producer = start(|config| config.buffer_bytes = 10 * MIB as u64).await?;
    let first = put(&producer.node, bytes(8 * MIB), PutOptions::default()).await?;
    let node = producer.node.clone();
    let second = tokio::spawn(async move { put(&node, bytes(5 * MIB), PutOptions::default()).await });
    wait::until("a waiter", LIMIT, async || Ok(producer.node.census().waiters), |waiters| *waiters == 1).await?;
    assert!(get(&producer.node, first.token.as_str()).await?.len() == 8 * MIB);
    let second = second.await??;
    assert!(get(&producer.node, second.token.as_str()).await?.len() == 5 * MIB);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_put_that_gets_no_room_is_refused_with_the_numbers() -> Result<()> {
    let producer = start(small).await?;
    let _held = put(&producer.node, bytes(8 * MIB), PutOptions::default()).await?;
    let error = put(&producer.node, bytes(5 * MIB), PutOptions::default()).await.expect_err("no room");
    assert_eq!(error.code(), ErrorCode::BufferFull);
    let text = error.to_string();
    assert!(text.contains(&(8 * MIB).to_string()) && text.contains(&(10 * MIB).to_string()), "{text}");
    assert!(error.retry_after().is_some_and(|after| after > Duration::from_secs(200)), "when the object expires");
    let error = put(&producer.node, bytes(11 * MIB), PutOptions::default()).await.expect_err("never");
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    assert_eq!(producer.node.census().waiters, 0);
    Ok(())
}

#[tokio::test]
async fn more_waiters_than_allowed_are_refused_at_once() -> Result<()> {
    let producer = start(|config| {
        config.buffer_bytes = MIB as u64;
        config.put_waiters = 1;
        config.put_wait = LIMIT;
    })
    .await?;
    let held = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    let node = producer.node.clone();
    let waiting = tokio::spawn(async move { put(&node, bytes(10), PutOptions::default()).await });
    wait::until("a waiter", LIMIT, async || Ok(producer.node.census().waiters), |waiters| *waiters == 1).await?;
    let error = put(&producer.node, bytes(10), PutOptions::default()).await.expect_err("the queue is full");
    assert_eq!(error.code(), ErrorCode::BufferFull);
    producer.node.free(held.token.as_str()).await?;
    waiting.await??;
    Ok(())
}

#[tokio::test]
async fn a_put_that_is_given_up_while_it_waits_leaves_nothing() -> Result<()> {
    let producer = start(|config| config.buffer_bytes = MIB as u64).await?;
    let held = put(&producer.node, bytes(MIB), PutOptions::default()).await?;
    let given_up = tokio::time::timeout(Duration::from_millis(50), producer.node.put(PutOptions::default())).await;
    assert!(given_up.is_err());
    assert_eq!(producer.node.census().waiters, 0);
    producer.node.free(held.token.as_str()).await?;
    empty(&producer.node).await
}

#[tokio::test]
async fn a_writer_of_unknown_size_takes_room_as_it_goes_and_gives_the_rest_back() -> Result<()> {
    let producer = start(small).await?;
    for size in [0, 10, 40_000, 3 * MIB + 1, 10 * MIB] {
        let payload = bytes(size);
        let mut writer = producer.node.put(PutOptions::default()).await?;
        for start in (0..size).step_by(70_000) {
            writer.write(payload.slice(start..size.min(start + 70_000))).await?;
        }
        let put = writer.finish().await?;
        assert_eq!(producer.node.census().bytes, size as u64);
        assert!(get(&producer.node, put.token.as_str()).await? == payload);
        empty(&producer.node).await?;
    }
    let mut writer = producer.node.put(PutOptions::default()).await?;
    let error = loop {
        if let Err(error) = writer.write(bytes(MIB)).await {
            break error;
        }
    };
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    drop(writer);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_payload_that_cannot_be_received_is_refused_before_a_byte_moves() -> Result<()> {
    let producer = start(|_| ()).await?;
    let consumer = start(small).await?;
    let whole = FetchOptions { taking: Taking::Whole, ..FetchOptions::default() };
    let large = put(&producer.node, bytes(11 * MIB), PutOptions::default()).await?;
    let error = consumer.node.fetch(large.token.as_str(), whole).await.map(|_| ()).expect_err("too large");
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    assert_eq!((producer.node.counts().attempts, producer.node.counters().bytes_sent), (0, 0));
    assert!(get(&consumer.node, large.token.as_str()).await?.len() == 11 * MIB, "as a stream it passes");
    let put = put(&producer.node, bytes(6 * MIB), retrievals(2)).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), whole).await?;
    let first = incoming.receive().await?;
    let error = consumer.node.fetch(put.token.as_str(), whole).await.map(|_| ()).expect_err("no room beside it");
    assert_eq!(error.code(), ErrorCode::BufferFull);
    drop(first);
    assert!(read(&consumer.node.fetch(put.token.as_str(), whole).await?.receive().await?).len() == 6 * MIB);
    Ok(())
}

#[tokio::test]
async fn proxies_that_share_a_budget_wait_for_each_other() -> Result<()> {
    let budget = SharedBudget::create()?;
    let mut nodes = Vec::new();
    for slot in [3, 4] {
        let shared = SharedBudget::from_fd(budget.as_fd().try_clone_to_owned()?)?;
        nodes.push(
            start(|config| {
                config.buffer_bytes = 10 * MIB as u64;
                config.shared_budget = Some((shared, slot));
            })
            .await?,
        );
    }
    let (one, other) = (&nodes[0], &nodes[1]);
    let held = put(&one.node, bytes(8 * MIB), PutOptions::default()).await?;
    assert_eq!(budget.total(), 8 * MIB as u64);
    let node = other.node.clone();
    let waiting = tokio::spawn(async move { put(&node, bytes(5 * MIB), PutOptions::default()).await });
    wait::until("a waiter", LIMIT, async || Ok(other.node.census().waiters), |waiters| *waiters == 1).await?;
    one.node.free(held.token.as_str()).await?;
    let second = waiting.await??;
    assert_eq!(budget.total(), 5 * MIB as u64);
    other.node.free(second.token.as_str()).await?;
    assert_eq!(budget.total(), 0);
    Ok(())
}

#[tokio::test]
async fn a_drain_takes_no_new_puts_and_keeps_what_is_held_readable() -> Result<()> {
    let (producer, consumer) = (start(small).await?, start(|_| ()).await?);
    let held = put(&producer.node, bytes(8 * MIB), PutOptions::default()).await?;
    let node = producer.node.clone();
    let waiting = tokio::spawn(async move { put(&node, bytes(5 * MIB), PutOptions::default()).await });
    wait::until("a waiter", LIMIT, async || Ok(producer.node.census().waiters), |waiters| *waiters == 1).await?;
    producer.node.drain();
    assert_eq!(waiting.await?.expect_err("sent away").code(), ErrorCode::Draining);
    assert_eq!(producer.node.put(PutOptions::default()).await.expect_err("draining").code(), ErrorCode::Draining);
    let node = producer.node.clone();
    let unheld = tokio::spawn(async move { node.unneeded().await });
    assert!(get(&consumer.node, held.token.as_str()).await?.len() == 8 * MIB);
    tokio::time::timeout(LIMIT, unheld).await??;
    assert_eq!(producer.node.stop().await.objects, 0);
    Ok(())
}

#[tokio::test]
async fn what_a_stop_gives_up_is_said() -> Result<()> {
    let producer = start(|_| ()).await?;
    let _held = put(&producer.node, bytes(5000), PutOptions::default()).await?;
    let left = producer.node.stop().await;
    assert_eq!((left.objects, left.bytes), (1, 5000));
    Ok(())
}
