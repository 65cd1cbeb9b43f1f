//! Memory of ended objects goes back to the system. Alone in its process, so that every memfd in it is this test's.

#[path = "transfer/common.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the other test binary, which uses all of it")]
mod common;

use anyhow::Result;
use common::*;
use zipline_testkit::wait;
use zipline_transfer::{FetchOptions, PutOptions, Taking};

/// Bytes allocated in memfds that this process has open.
fn memfd_bytes() -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let is_memfd = std::fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:"));
        if is_memfd {
            // A file that was closed between the two looks has given its memory back.
            bytes += std::fs::metadata(&path).map_or(0, |file| std::os::unix::fs::MetadataExt::blocks(&file) * 512);
        }
    }
    Ok(bytes)
}

#[tokio::test]
async fn payloads_that_ended_give_their_memory_back_on_both_sides() -> Result<()> {
    const SIZE: usize = 32 * MIB;
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(put(&producer.node, bytes(SIZE), PutOptions::default()).await?.token);
    }
    assert!(memfd_bytes()? >= 4 * SIZE as u64);
    for token in &tokens {
        let options = FetchOptions { taking: Taking::Whole, ..FetchOptions::default() };
        let mut incoming = consumer.node.fetch(token.as_str(), options).await?;
        let received = incoming.receive().await?;
        incoming.acknowledge().await?;
        drop(received);
    }
    empty(&producer.node).await?;
    empty(&consumer.node).await?;
    wait::until("no memfd", LIMIT, async || memfd_bytes(), |bytes| *bytes == 0).await?;
    Ok(())
}
