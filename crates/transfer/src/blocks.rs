//! Buffers of one block, used again: a fresh one costs 256 page faults, as much as summing what it takes.
//!
//! A block has room for the head of the record behind it, so that both come with one read.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use zipline_contract::limits::{BLOCK_BYTES, RECORD_HEAD_BYTES};

use crate::config::BLOCKS_KEPT;
use crate::stored::lock;

/// The blocks that nobody uses now.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Blocks {
    /// A block, its bytes whatever they were.
    pub(crate) fn take(self: &Arc<Self>) -> Block {
        let bytes = lock(&self.kept).pop().unwrap_or_else(|| vec![0; BLOCK_BYTES + RECORD_HEAD_BYTES]);
        Block { bytes, length: 0, home: Arc::clone(self) }
    }
}

/// One block. Dropping it, or the last of the bytes made of it, keeps it for the next read.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    length: usize,
    home: Arc<Blocks>,
}

impl Block {
    /// All of it, to be filled.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The first `length` bytes, to be passed on without a copy.
    pub(crate) fn freeze(mut self, length: usize) -> Bytes {
        self.length = length.min(self.bytes.len());
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut kept = lock(&self.home.kept);
        if kept.len() < BLOCKS_KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_once_its_bytes_are_gone_and_few_are_kept() {
        let blocks = Arc::new(Blocks::default());
        let mut block = blocks.take();
        block.space()[..3].copy_from_slice(b"abc");
        let address = block.space().as_ptr();
        let bytes = block.freeze(3);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_ne!(blocks.take().space().as_ptr(), address, "a part of it is still in use");
        assert_eq!(part, b"bc"[..]);
        drop(part);
        let mut many: Vec<_> = (0..BLOCKS_KEPT * 2).map(|_| blocks.take()).collect();
        assert!(many.iter_mut().any(|block| block.space().as_ptr() == address));
        drop(many);
        assert_eq!(lock(&blocks.kept).len(), BLOCKS_KEPT);
    }
}
