//! An object can be referred to and read while it is written, and its readers learn it when its writer fails.

use std::time::Duration;

use anyhow::Result;
use zipline_contract::ErrorCode;
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, PutOptions, Taking};

use crate::common::*;

#[tokio::test]
async fn blocks_are_read_as_they_are_written_by_readers_near_and_far() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    for declared in [true, false] {
        let payload = bytes(3 * MIB + 500);
        let size = declared.then_some(payload.len() as u64);
        let mut writer = producer.node.put(PutOptions { size, ..retrievals(3) }).await?;
        let token = writer.reference()?;
        let mut far = consumer.node.fetch(token.as_str(), FetchOptions::default()).await?;
        let mut near = producer.node.fetch(token.as_str(), FetchOptions::default()).await?;
        assert_eq!((far.content_length(), near.content_length()), (size, size));
        let mut read = Vec::new();
        for block in 0..3 {
            writer.write(payload.slice(block * MIB..block * MIB + MIB / 2)).await?;
            writer.write(payload.slice(block * MIB + MIB / 2..(block + 1) * MIB)).await?;
            let came = far.next_block().await?.expect("a block");
            assert_eq!(near.next_block().await?.as_ref(), Some(&came));
            read.extend_from_slice(&came);
        }
        writer.write(payload.slice(3 * MIB..)).await?;
        writer.finish().await?;
        while let Some(block) = far.next_block().await? {
            read.extend_from_slice(&block);
        }
        assert!(read == payload);
        while near.next_block().await?.is_some() {}
        far.acknowledge().await?;
        near.acknowledge().await?;
        assert!(get(&consumer.node, token.as_str()).await? == payload, "the early reference goes on to hold");
        empty(&producer.node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_small_object_is_waited_for_until_it_is_complete() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let mut writer = producer.node.put(retrievals(2)).await?;
    let token = writer.reference()?;
    let mut incoming = consumer.node.fetch(token.as_str(), FetchOptions::default()).await?;
    writer.write(bytes(100)).await?;
    let reading = tokio::spawn(async move {
        let block = incoming.next_block().await?;
        incoming.acknowledge().await.map(|()| block)
    });
    let node = producer.node.clone();
    let own = tokio::spawn(async move { node.fetch(token.as_str(), FetchOptions::default()).await?.receive().await });
    wait::until("both readers", LIMIT, async || Ok(producer.node.census().leases), |leases| *leases == 2).await?;
    writer.finish().await?;
    assert_eq!(reading.await??, Some(bytes(100)));
    assert_eq!(read(&own.await??), bytes(100));
    Ok(())
}

#[tokio::test]
async fn a_writer_that_fails_is_told_to_every_reader_as_that() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let mut writer = producer.node.put(retrievals(5)).await?;
    let token = writer.reference()?;
    let mut far = consumer.node.fetch(token.as_str(), FetchOptions::default()).await?;
    let mut near = producer.node.fetch(token.as_str(), FetchOptions::default()).await?;
    writer.write(bytes(MIB + 5)).await?;
    assert!(far.next_block().await?.is_some() && near.next_block().await?.is_some());
    let waiting = tokio::spawn(async move { far.next_block().await });
    drop(writer);
    assert_eq!(waiting.await?.expect_err("aborted").code(), ErrorCode::PayloadAborted);
    assert_eq!(near.next_block().await.expect_err("aborted").code(), ErrorCode::PayloadAborted);
    assert_eq!(get(&consumer.node, token.as_str()).await.expect_err("late").code(), ErrorCode::PayloadAborted);
    drop(near);
    assert_eq!(producer.node.counts().aborted, 1);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_slow_writer_is_heard_of_but_not_waited_for_without_end() -> Result<()> {
    let producer = start(|config| config.lease = Duration::from_millis(300)).await?;
    let consumer = start(|config| config.pull_idle_timeout = Duration::from_millis(900)).await?;
    let writer = producer.node.put(PutOptions::default()).await?;
    let token = writer.reference()?;
    let mut incoming = consumer.node.fetch(token.as_str(), FetchOptions::default()).await?;
    let error = incoming.next_block().await.expect_err("nothing is written");
    assert_eq!(error.code(), ErrorCode::PullIdleTimeout, "{error}");
    assert_eq!(producer.node.counts().leases_lapsed, 0, "heartbeats kept the lease meanwhile");
    Ok(())
}

#[tokio::test]
async fn a_writer_whose_object_was_freed_is_stopped() -> Result<()> {
    let producer = start(|_| ()).await?;
    let mut writer = producer.node.put(PutOptions::default()).await?;
    writer.write(bytes(MIB)).await?;
    producer.node.free(writer.reference()?.as_str()).await?;
    assert_eq!(writer.write(bytes(MIB)).await.expect_err("freed").code(), ErrorCode::ReferenceExhausted);
    drop(writer);
    empty(&producer.node).await
}

#[tokio::test]
async fn a_declared_size_must_be_kept() -> Result<()> {
    let producer = start(|_| ()).await?;
    for size in [1000, 2 * MIB as u64] {
        let declared = PutOptions { size: Some(size), ..PutOptions::default() };
        let mut writer = producer.node.put(declared.clone()).await?;
        writer.write(bytes(usize::try_from(size)?)).await?;
        let error = writer.write(bytes(1)).await.expect_err("more than declared");
        assert_eq!(error.code(), ErrorCode::RequestInvalid);
        drop(writer);
        let mut writer = producer.node.put(declared).await?;
        writer.write(bytes(usize::try_from(size)? - 1)).await?;
        let error = writer.finish().await.expect_err("fewer than declared");
        assert!(error.to_string().contains(&size.to_string()), "{error}");
        empty(&producer.node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_object_of_unknown_size_is_received_whole() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    for size in [10, 2 * MIB + 9] {
        let payload = bytes(size);
        let mut writer = producer.node.put(PutOptions::default()).await?;
        let token = writer.reference()?;
        let options = FetchOptions { taking: Taking::Whole, ..FetchOptions::default() };
        let mut incoming = consumer.node.fetch(token.as_str(), options).await?;
        let receiving = tokio::spawn(async move {
            let received = incoming.receive().await?;
            incoming.acknowledge().await.map(|()| received)
        });
        for start in (0..size).step_by(100_000) {
            writer.write(payload.slice(start..size.min(start + 100_000))).await?;
        }
        writer.finish().await?;
        let received = receiving.await??;
        assert!(read(&received) == payload);
        assert_eq!(received.descriptor().is_some(), size > MIB);
        drop(received);
        empty(&consumer.node).await?;
    }
    Ok(())
}
