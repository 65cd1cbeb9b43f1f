//! Local disk behind memory: what waits goes there, and is read as if it had not.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use zipline_contract::ErrorCode;
use zipline_core::pull::ByteRange;
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, NodeConfig, PutOptions, SpillConfig, Taking};

use super::common::{LIMIT, MIB, bytes, empty, get, put, retrievals, start};

/// 8 MiB of memory, spilled above 6.
fn spilling(directory: &Path, bytes_max: u64) -> impl Fn(&mut NodeConfig) + use<> {
    let directory = directory.to_owned();
    move |config| {
        config.buffer_bytes = 8 * MIB as u64;
        config.put_wait = std::time::Duration::from_millis(300);
        config.spill = Some(SpillConfig { directory: directory.clone(), bytes_max });
    }
}

#[tokio::test]
async fn five_times_the_memory_is_held_and_read_back_whole() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let producer = start(|config| {
        spilling(directory.path(), 1 << 30)(config);
        config.put_wait = LIMIT;
    })
    .await?;
    let consumer = start(|_| ()).await?;
    let sizes = [3 * MIB + 1, 40_000, 2 * MIB, MIB + 17];
    let mut puts = Vec::new();
    for n in 0..24 {
        let payload = bytes(sizes[n % 4]);
        puts.push((put(&producer.node, payload.clone(), retrievals(2)).await?, payload));
    }
    let census = producer.node.census();
    assert!(census.bytes <= 8 * MIB as u64 && census.spilled_bytes > 24 * MIB as u64, "{census:?}");
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "no file has a name");
    for (put, payload) in &puts {
        assert!(get(&consumer.node, put.token.as_str()).await? == *payload, "over the wire");
        let mut own =
            producer.node.fetch(put.token.as_str(), FetchOptions { taking: Taking::Whole, ..FetchOptions::default() }).await?;
        assert!(super::common::read(&own.receive().await?) == *payload, "at its own node");
        own.acknowledge().await?;
    }
    empty(&producer.node).await
}

#[tokio::test]
async fn a_part_of_a_spilled_object_is_read_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (producer, consumer) = (start(spilling(directory.path(), 1 << 30)).await?, start(|_| ()).await?);
    let payload = bytes(7 * MIB);
    let put = put(&producer.node, payload.clone(), PutOptions::default()).await?;
    let spilled = |census: &zipline_core::object::Census| census.spilled_objects == 1;
    wait::until("the object on disk", LIMIT, async || Ok(producer.node.census()), spilled).await?;
    let range = Some(ByteRange::parse("bytes=1048570-4194310", None)?);
    let mut incoming = consumer.node.fetch(put.token.as_str(), FetchOptions { range, ..FetchOptions::default() }).await?;
    let mut part = Vec::new();
    while let Some(block) = incoming.next_block().await? {
        part.extend_from_slice(&block);
    }
    assert!(part == payload[1_048_570..=4_194_310]);
    Ok(())
}

#[tokio::test]
async fn what_is_on_disk_is_unreadable_to_others_and_a_full_directory_is_buffer_full() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let producer = start(spilling(directory.path(), 4 * MIB as u64)).await?;
    let text = b"a payload that nobody else may read. ".repeat(80_000);
    put(&producer.node, text.clone().into(), PutOptions::default()).await?;
    put(&producer.node, bytes(4 * MIB), PutOptions::default()).await?;
    let spilled = |census: &zipline_core::object::Census| census.spilled_objects == 1;
    wait::until("the first object on disk", LIMIT, async || Ok(producer.node.census()), spilled).await?;
    let device = std::fs::metadata(directory.path())?.dev();
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.is_file() && meta.dev() == device && meta.nlink() == 0 && meta.len() > text.len() as u64 {
            let raw = std::fs::read(&path).context("an open file without a name")?;
            assert!(!raw.windows(20).step_by(4096).any(|part| text.windows(20).take(40).any(|plain| plain == part)));
            seen += 1;
        }
    }
    assert!(seen >= 1, "the spilled file is open");
    put(&producer.node, bytes(3 * MIB), PutOptions::default()).await?;
    let full = put(&producer.node, bytes(3 * MIB), PutOptions::default()).await;
    assert_eq!(full.err().map(|error| error.code()), Some(ErrorCode::BufferFull));
    Ok(())
}
