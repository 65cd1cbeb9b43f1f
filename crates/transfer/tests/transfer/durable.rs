//! The durable tier: what is there outlives its producer, and nothing goes there that was not asked for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use zipline_contract::ErrorCode;
use zipline_core::pull::ByteRange;
use zipline_core::reference::{Narrowing, TierName};
use zipline_core::tier::Durability;
use zipline_testkit::{Fault, Side, wait};
use zipline_transfer::{Clock, FetchOptions, Node, NodeConfig, Put, PutOptions, Taking, TierConfig, TransferError};

use super::common::{At, LIMIT, MIB, bytes, put, read, retrievals, start, start_behind_relay};

/// A store in this process; a real one is in the end-to-end tests.
fn store() -> Arc<InMemory> {
    Arc::new(InMemory::new())
}

fn tiered(store: &Arc<InMemory>) -> impl Fn(&mut NodeConfig) + use<> {
    let store: Arc<InMemory> = Arc::clone(store);
    move |config| {
        config.tier = Some(TierConfig {
            name: TierName::new("bucket").expect("a name"),
            store: Arc::<InMemory>::clone(&store),
            prefix: "team/a".into(),
            transfers: 2,
            sweep: None,
            idle: Duration::from_secs(5),
        });
        config.connect_timeout = Duration::from_millis(500);
    }
}

fn durable(durability: Durability, count: u32) -> PutOptions {
    PutOptions { durability: Some(durability), ..retrievals(count) }
}

/// Reads at once and acknowledges.
async fn whole(node: &Node, token: &str) -> Result<Vec<u8>, TransferError> {
    let mut incoming = node.fetch(token, FetchOptions { taking: Taking::Whole, ..FetchOptions::default() }).await?;
    let payload = incoming.receive().await?;
    incoming.acknowledge().await?;
    Ok(read(&payload))
}

async fn copies(store: &InMemory) -> Result<Vec<Path>> {
    let listed: Vec<_> = store.list(Some(&Path::from("team/a/o"))).try_collect().await?;
    Ok(listed.into_iter().map(|meta| meta.location).collect())
}

async fn copies_until(store: &InMemory, count: usize) -> Result<()> {
    let what = format!("{count} copies in the store");
    wait::until(&what, LIMIT, async || copies(store).await, |copies| copies.len() == count).await.map(|_| ())
}

/// A producer that put `payload` and is gone, and a consumer.
async fn orphaned(store: &Arc<InMemory>, payload: &bytes::Bytes, options: PutOptions) -> Result<(Put, At)> {
    let producer = start(tiered(store)).await?;
    let put = put(&producer.node, payload.clone(), options).await?;
    producer.node.stop().await;
    drop(producer);
    Ok((put, start(tiered(store)).await?))
}

fn code<T>(result: Result<T, TransferError>) -> Option<ErrorCode> {
    result.err().map(|error| error.code())
}

#[tokio::test]
async fn what_was_put_for_always_is_read_after_its_producer_is_gone_and_then_removed() -> Result<()> {
    let store = store();
    for size in [0, 5, MIB, 9 * MIB + 321] {
        let payload = bytes(size);
        let (put, consumer) = orphaned(&store, &payload, durable(Durability::Always, 1)).await?;
        assert_eq!(put.guaranteed_until, put.expires);
        assert_eq!(copies(&store).await?.len(), 1);
        let state = consumer.node.stat(put.token.as_str()).await?;
        assert_eq!((state.size, state.retrievals_left), (Some(size as u64), 1));
        assert!(whole(&consumer.node, put.token.as_str()).await? == payload, "{size} bytes");
        copies_until(&store, 0).await?;
        assert_eq!(
            code(consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await),
            Some(ErrorCode::ProducerUnreachable)
        );
    }
    Ok(())
}

/// Eight days later, by the clock of the proxy that looks; its own limit on ttls is short, and not what counts.
#[tokio::test]
async fn what_a_killed_producer_left_is_swept_once_nobody_can_have_promised_it_any_more() -> Result<()> {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let store = store();
    let (_put, _consumer) = orphaned(&store, &bytes(1000), durable(Durability::Always, 1)).await?;
    assert_eq!(copies(&store).await?.len(), 1);
    let sweeping = |days: i64| {
        let tiered = tiered(&store);
        move |config: &mut NodeConfig| {
            tiered(config);
            config.ttl_max = Duration::from_secs(1);
            config.clock = Clock::shifted(days * DAY_MS);
            config.tier.as_mut().expect("a tier").sweep = Some(Duration::from_millis(20));
        }
    };
    let later = start(sweeping(8)).await?;
    copies_until(&store, 0).await?;
    assert_eq!(later.node.tier().map(|counted| counted.swept), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_part_of_a_copy_is_read_from_where_it_lies() -> Result<()> {
    let store = store();
    let payload = bytes(3 * MIB + 77);
    let (put, consumer) = orphaned(&store, &payload, durable(Durability::Always, 1)).await?;
    for (first, last) in [(0, 0), (10, MIB - 1), (MIB - 1, MIB), (2 * MIB + 5, 3 * MIB + 76)] {
        let range = ByteRange::parse(&format!("bytes={first}-{last}"), None)?;
        let options = FetchOptions { range: Some(range), ..FetchOptions::default() };
        let mut incoming = consumer.node.fetch(put.token.as_str(), options).await?;
        let mut part = Vec::new();
        while let Some(block) = incoming.next_block().await? {
            part.extend_from_slice(&block);
        }
        assert!(part == payload[first..=last], "{first}..={last}");
    }
    assert_eq!(copies(&store).await?.len(), 1, "a part is no retrieval");
    Ok(())
}

#[tokio::test]
async fn a_drain_writes_what_was_promised_and_lets_the_process_go() -> Result<()> {
    let store = store();
    let producer = start(tiered(&store)).await?;
    let kept = put(&producer.node, bytes(2 * MIB), durable(Durability::Drain, 1)).await?;
    let not_kept = put(&producer.node, bytes(MIB), durable(Durability::None, 1)).await?;
    assert!(copies(&store).await?.is_empty(), "nothing goes to the store before it must");
    producer.node.drain();
    copies_until(&store, 1).await?;
    assert_eq!(producer.node.census().unstored(), (1, MIB as u64));
    assert_eq!(code(producer.node.put(PutOptions::default()).await), Some(ErrorCode::Draining));
    let consumer = start(tiered(&store)).await?;
    assert!(whole(&consumer.node, not_kept.token.as_str()).await? == bytes(MIB), "pulls are served on");
    tokio::time::timeout(LIMIT, producer.node.unneeded()).await.context("nothing needs the producer")?;
    producer.node.stop().await;
    assert!(whole(&consumer.node, kept.token.as_str()).await? == bytes(2 * MIB));
    copies_until(&store, 0).await
}

#[tokio::test]
async fn an_object_that_ends_at_its_producer_takes_its_copy_along() -> Result<()> {
    let store = store();
    let (producer, consumer) = (start(tiered(&store)).await?, start(tiered(&store)).await?);
    let put = put(&producer.node, bytes(MIB), durable(Durability::Always, 1)).await?;
    assert_eq!(copies(&store).await?.len(), 1);
    assert!(whole(&consumer.node, put.token.as_str()).await? == bytes(MIB));
    copies_until(&store, 0).await?;
    tokio::time::timeout(LIMIT, producer.node.unneeded()).await.context("the copy's removal is over")
}

#[tokio::test]
async fn a_read_whose_producer_dies_in_the_middle_goes_on_in_the_tier() -> Result<()> {
    let store = store();
    let (producer, relay) = start_behind_relay(tiered(&store)).await?;
    let consumer = start(tiered(&store)).await?;
    let payload = bytes(5 * MIB + 99);
    let put = put(&producer.node, payload.clone(), durable(Durability::Always, 1)).await?;
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    let mut got = incoming.next_block().await?.context("a first block")?.to_vec();
    producer.node.stop().await;
    drop((producer, relay));
    while let Some(block) = incoming.next_block().await? {
        got.extend_from_slice(&block);
    }
    assert!(got == payload);
    incoming.acknowledge().await?;
    copies_until(&store, 0).await
}

#[tokio::test]
async fn retrievals_are_counted_in_the_store_and_a_slot_once() -> Result<()> {
    let store = store();
    let (put, consumer) = orphaned(&store, &bytes(1000), durable(Durability::Always, 2)).await?;
    let slot = |slot| Narrowing { slot: Some(slot), ..Narrowing::default() };
    let first = consumer.node.narrow(put.token.as_str(), slot(0))?;
    let second = consumer.node.narrow(put.token.as_str(), slot(1))?;
    assert!(whole(&consumer.node, first.as_str()).await? == bytes(1000));
    assert_eq!(copies(&store).await?.len(), 1, "another slot is left");
    let again = consumer.node.fetch(first.as_str(), FetchOptions::default()).await;
    assert_eq!(code(again), Some(ErrorCode::ReferenceExhausted));
    assert!(whole(&consumer.node, second.as_str()).await? == bytes(1000));
    copies_until(&store, 0).await?;
    let left: Vec<_> = store.list(None).try_collect().await?;
    ensure!(left.is_empty(), "marks are left: {left:?}");
    Ok(())
}

#[tokio::test]
async fn a_copy_that_was_changed_or_exchanged_in_the_store_is_refused_by_name() -> Result<()> {
    let store = store();
    let payload = bytes(2 * MIB);
    let (one, consumer) = orphaned(&store, &payload, durable(Durability::Always, 1)).await?;
    let place = copies(&store).await?.pop().context("a copy")?;
    let whole = store.get(&place).await?.bytes().await?;
    let mut changed = whole.to_vec();
    changed[MIB + 9000] ^= 1;
    store.put(&place, PutPayload::from(changed)).await?;
    let mut incoming = consumer.node.fetch(one.token.as_str(), FetchOptions::default()).await?;
    assert!(incoming.next_block().await?.is_some_and(|block| block == payload[..MIB]), "the first block is whole");
    assert_eq!(code(incoming.next_block().await), Some(ErrorCode::PayloadCorrupt));
    store.delete(&place).await?;

    let (other, _consumer) = orphaned(&store, &bytes(100), durable(Durability::Always, 1)).await?;
    let elsewhere = copies(&store).await?.pop().context("a copy")?;
    store.put(&elsewhere, PutPayload::from(whole)).await?;
    let exchanged = consumer.node.fetch(other.token.as_str(), FetchOptions::default()).await;
    assert_eq!(code(exchanged), Some(ErrorCode::PayloadCorrupt));
    Ok(())
}

#[tokio::test]
async fn without_a_tier_durability_is_refused_and_a_dead_producer_is_told_as_before() -> Result<()> {
    let store = store();
    let (plain, tiered) = (start(|_| ()).await?, start(tiered(&store)).await?);
    let refused = plain.node.put(durable(Durability::Drain, 1)).await;
    assert_eq!(code(refused), Some(ErrorCode::RequestInvalid));
    let put = put(&tiered.node, bytes(10), durable(Durability::Always, 1)).await?;
    tiered.node.stop().await;
    let lost = plain.node.fetch(put.token.as_str(), FetchOptions::default()).await;
    assert_eq!(code(lost), Some(ErrorCode::ProducerUnreachable), "a proxy without the tier cannot look there");
    Ok(())
}

#[tokio::test]
async fn a_restarted_producer_finds_its_own_copies() -> Result<()> {
    let store = store();
    let producer = start(tiered(&store)).await?;
    let put = put(&producer.node, bytes(MIB), durable(Durability::Always, 1)).await?;
    producer.node.stop().await;
    let At { node, loopback } = producer;
    drop(node);
    let mut config = super::common::config(&loopback);
    tiered(&store)(&mut config);
    let again = Node::start(config, super::common::keys(7)).await?;
    assert!(whole(&again, put.token.as_str()).await? == bytes(MIB));
    Ok(())
}

#[tokio::test]
async fn a_cut_connection_is_resumed_at_a_living_producer_and_not_in_the_tier() -> Result<()> {
    let store = store();
    let (producer, relay) = start_behind_relay(tiered(&store)).await?;
    let consumer = start(tiered(&store)).await?;
    let put = put(&producer.node, bytes(3 * MIB), durable(Durability::Always, 1)).await?;
    relay.next([Fault::Cut(Side::FromTarget, MIB as u64 + 500)]);
    assert!(whole(&consumer.node, put.token.as_str()).await? == bytes(3 * MIB));
    assert_eq!(consumer.node.tier().map(|tier| tier.read), Some(0));
    Ok(())
}
