//! Nodes for tests: each at a loopback address of its own, all with one key ring, pull port 8122.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use zipline_core::object::Owner;
use zipline_core::pull::PeerPolicy;
use zipline_core::reference::KeyRing;
use zipline_testkit::{Loopback, Relay, wait};
use zipline_transfer::{FetchOptions, Keys, Node, NodeConfig, Payload, PayloadBytes, Put, PutOptions, TransferError};

pub(crate) const PORT: u16 = 8122;
pub(crate) const MIB: usize = 1024 * 1024;
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A ring of one key; keys ten apart have the same id.
pub(crate) fn ring_json(key: u8) -> String {
    format!(
        r#"{{"keys":[{{"id":"0000000{}","key":"{}","not_before_ms":0,"not_after_ms":9999999999999}}]}}"#,
        key % 10,
        format!("{key:02x}").repeat(32)
    )
}

pub(crate) fn keys(key: u8) -> Arc<Keys> {
    Arc::new(Keys::new(KeyRing::parse(ring_json(key).as_bytes()).expect("a ring")))
}

/// A node and its address.
pub(crate) struct At {
    pub(crate) node: Node,
    pub(crate) loopback: Loopback,
}

pub(crate) fn config(loopback: &Loopback) -> NodeConfig {
    let peers = PeerPolicy::parse("127.0.0.0/8", None, PORT).expect("a policy");
    NodeConfig::new(loopback.port(PORT), peers)
}

pub(crate) async fn start(change: impl FnOnce(&mut NodeConfig)) -> Result<At> {
    start_with(keys(7), change).await
}

pub(crate) async fn start_with(keys: Arc<Keys>, change: impl FnOnce(&mut NodeConfig)) -> Result<At> {
    let loopback = Loopback::claim()?;
    let mut config = config(&loopback);
    change(&mut config);
    Ok(At { node: Node::start(config, keys).await?, loopback })
}

/// A producer that is reached through a relay only: what it seals names the relay's address.
pub(crate) async fn start_behind_relay(change: impl FnOnce(&mut NodeConfig)) -> Result<(At, Relay)> {
    let front = Loopback::claim()?;
    let at = start(|config| {
        config.advertised = front.ip();
        change(config);
    })
    .await?;
    let relay = Relay::start(front.port(PORT), at.loopback.port(PORT)).await?;
    Ok((at, relay))
}

pub(crate) fn bytes(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub(crate) fn retrievals(retrievals: u32) -> PutOptions {
    let retrievals = NonZeroU32::new(retrievals).expect("at least one");
    PutOptions { owner: Owner::Put { retrievals }, ..PutOptions::default() }
}

pub(crate) async fn put(node: &Node, payload: Bytes, options: PutOptions) -> Result<Put, TransferError> {
    let mut writer = node.put(PutOptions { size: Some(payload.len() as u64), ..options }).await?;
    for start in (0..payload.len()).step_by(100_000) {
        writer.write(payload.slice(start..payload.len().min(start + 100_000))).await?;
    }
    writer.finish().await
}

/// Reads block by block and acknowledges.
pub(crate) async fn get(node: &Node, token: &str) -> Result<Vec<u8>, TransferError> {
    get_with(node, token, FetchOptions::default()).await
}

pub(crate) async fn get_with(node: &Node, token: &str, options: FetchOptions) -> Result<Vec<u8>, TransferError> {
    let mut incoming = node.fetch(token, options).await?;
    let mut all = Vec::new();
    while let Some(block) = incoming.next_block().await? {
        assert!(!block.is_empty() && block.len() <= MIB);
        all.extend_from_slice(&block);
    }
    incoming.acknowledge().await?;
    Ok(all)
}

pub(crate) fn read(payload: &Payload) -> Vec<u8> {
    match payload.bytes() {
        PayloadBytes::Heap(bytes) => bytes.to_vec(),
        PayloadBytes::Memfd(memfd) => {
            let mut bytes = vec![0; usize::try_from(memfd.size()).expect("it fits")];
            memfd.read_exact_at(&mut bytes, 0).expect("readable");
            bytes
        }
    }
}

/// Waits until the node holds and receives nothing, and nobody reads.
pub(crate) async fn empty(node: &Node) -> Result<()> {
    let holds_nothing = |census: &zipline_core::object::Census| *census == zipline_core::object::Census::EMPTY;
    wait::until("an empty node", LIMIT, async || Ok(node.census()), holds_nothing).await.map(|_| ())
}
