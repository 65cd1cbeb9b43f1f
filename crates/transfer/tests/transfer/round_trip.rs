//! Payloads arrive byte-identical, whatever their size and way.

use crate::common::*;
use anyhow::Result;
use zipline_core::pull::{ByteRange, HeaderText, SumKind};
use zipline_core::reference::{Extent, Narrowing};
use zipline_transfer::{FetchOptions, PutOptions, Taking};

#[tokio::test]
async fn a_payload_of_any_size_arrives_byte_identical_over_tcp_and_is_then_gone() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    for size in [0, 1, 31 * 1024, 64 * 1024, MIB - 1, MIB, MIB + 1, 100 * MIB] {
        let payload = bytes(size);
        let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
        assert_eq!(put.size, size as u64);
        let got = get(&consumer.node, put.token.as_str()).await?;
        assert!(got == payload, "{size} bytes");
        empty(&producer.node).await?;
    }
    let counted = consumer.node.counters();
    assert_eq!((counted.pulls_ok, counted.resumes, counted.pulls_failed.len()), (8, 0, 0));
    Ok(())
}

#[tokio::test]
async fn a_payload_is_received_whole_into_memory_and_its_room_given_back() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    for (size, on_heap) in [(0, true), (1000, true), (64 * 1024, false), (5 * MIB + 17, false)] {
        let payload = bytes(size);
        let put = put(&producer.node, payload.clone(), PutOptions { sum: SumKind::Blake3, ..PutOptions::default() }).await?;
        let options = FetchOptions { taking: Taking::Whole, ..FetchOptions::default() };
        let mut incoming = consumer.node.fetch(put.token.as_str(), options).await?;
        let received = incoming.receive().await?;
        assert!(read(&received) == payload);
        assert_eq!(received.descriptor().is_none(), on_heap);
        assert_eq!(consumer.node.census().receiving_bytes, size as u64);
        incoming.acknowledge().await?;
        drop(received);
        empty(&producer.node).await?;
        empty(&consumer.node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_own_node_s_object_is_read_where_it_lies() -> Result<()> {
    let at = start(|_| ()).await?;
    for size in [0, 10, 3 * MIB + 5] {
        let payload = bytes(size);
        let put = put(&at.node, payload.clone(), retrievals(2)).await?;
        assert!(get(&at.node, put.token.as_str()).await? == payload);
        let mut incoming = at.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
        let received = incoming.receive().await?;
        assert!(read(&received) == payload && incoming.is_local());
        incoming.acknowledge().await?;
        empty(&at.node).await?;
    }
    assert_eq!(at.node.counters().bytes_sent, 0);
    Ok(())
}

#[tokio::test]
async fn ranges_count_from_what_the_reference_shows_and_give_nothing_else() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let payload = bytes(3 * MIB + 100);
    let put = put(&producer.node, payload.clone(), retrievals(100)).await?;
    let extent = Extent::new(1000, (2 * MIB as u64).try_into()?).expect("a range");
    let narrowing = Narrowing { range: Some(extent), ..Narrowing::default() };
    let narrow = consumer.node.narrow(put.token.as_str(), narrowing)?;
    let shown = &payload[1000..1000 + 2 * MIB];
    assert!(get(&consumer.node, narrow.as_str()).await? == shown);
    for node in [&consumer.node, &producer.node] {
        for (first, last) in [(0, 0), (5, 5000), (MIB as u64 - 1500, MIB as u64 + 10), (7, u64::MAX - 1)] {
            let options = FetchOptions { range: ByteRange::closed(first, last), ..FetchOptions::default() };
            let end = usize::try_from(last)?.saturating_add(1).min(shown.len());
            assert!(get_with(node, narrow.as_str(), options).await? == shown[usize::try_from(first)?..end], "{first}-{last}");
            let mut incoming = node.fetch(narrow.as_str(), options).await?;
            assert_eq!((incoming.first(), incoming.shown_size()), (first, Some(shown.len() as u64)));
            assert!(read(&incoming.receive().await?) == shown[usize::try_from(first)?..end], "{first}-{last}, received");
        }
        let beyond = FetchOptions { range: ByteRange::closed(2 * MIB as u64, 2 * MIB as u64 + 5), ..FetchOptions::default() };
        assert_eq!(node.fetch(narrow.as_str(), beyond).await.expect_err("outside").code().name(), "range-unsatisfiable");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_payload_was_put_with_is_told_to_its_readers() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let options = PutOptions { content_type: HeaderText::content_type("text/csv; charset=utf-8"), ..retrievals(3) };
    let put = put(&producer.node, bytes(10), options).await?;
    let incoming = consumer.node.fetch(put.token.as_str(), FetchOptions::default()).await?;
    assert_eq!(incoming.content_type(), Some("text/csv; charset=utf-8"));
    assert_eq!((incoming.content_length(), incoming.retrievals_left(), incoming.expires()), (Some(10), 3, put.expires));
    let state = consumer.node.stat(put.token.as_str()).await?;
    assert_eq!((state.size, state.retrievals_left, state.expires), (Some(10), 3, put.expires));
    assert_eq!(producer.node.stat(put.token.as_str()).await?, state);
    drop(incoming);
    consumer.node.free(put.token.as_str()).await?;
    consumer.node.free(put.token.as_str()).await?;
    empty(&producer.node).await?;
    assert_eq!(consumer.node.stat(put.token.as_str()).await.expect_err("freed").code().name(), "reference-exhausted");
    Ok(())
}
