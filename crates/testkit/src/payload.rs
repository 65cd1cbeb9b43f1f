//! Payloads of any size whose bytes need not be kept.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use crate::key_ring::hex;

const CHUNK_BYTES: usize = 1024 * 1024;

/// A payload made from a size and a seed. Every block of 1 MiB differs from every other, so that blocks that were lost, doubled or
/// swapped change the digest.
#[derive(Clone, Debug)]
pub struct Payload {
    size: u64,
    seed: u64,
    template: Arc<Vec<u8>>,
}

impl Payload {
    /// The payload of `size` bytes grown from `seed`.
    pub fn new(size: u64, seed: u64) -> Self {
        let mut state = seed;
        let template = (0..CHUNK_BYTES / 8).flat_map(|_| splitmix(&mut state).to_le_bytes()).collect();
        Self { size, seed, template: Arc::new(template) }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All bytes at once; for payloads that a test can hold.
    pub fn bytes(&self) -> Bytes {
        self.chunks().flatten().collect()
    }

    /// SHA-256 in lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        let mut sum = Sha256::new();
        self.chunks().for_each(|chunk| sum.update(&chunk));
        hex(&sum.finalize())
    }

    /// An HTTP body of known length that makes its bytes while it is sent.
    pub fn body(&self) -> PayloadBody {
        PayloadBody { payload: self.clone(), sent: 0 }
    }

    /// The bytes, one block after the other.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let chunk = self.chunk(at)?;
            at += chunk.len() as u64;
            Some(chunk)
        })
    }

    /// The block that starts at `at`, a multiple of 1 MiB; none at the end.
    fn chunk(&self, at: u64) -> Option<Bytes> {
        let left = self.size.checked_sub(at).filter(|left| *left > 0)?;
        let mut block = self.template.as_ref().clone();
        let mut state = self.seed ^ at.rotate_left(17);
        block[..8].copy_from_slice(&splitmix(&mut state).to_le_bytes());
        block.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        Some(block.into())
    }
}

/// See [`Payload::body`].
#[derive(Debug)]
pub struct PayloadBody {
    payload: Payload,
    sent: u64,
}

impl Body for PayloadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.payload.chunk(self.sent);
        self.sent += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.payload.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.size - self.sent)
    }
}

/// One step of splitmix64, a small generator with good bits for test data.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_differ_and_the_size_is_exact() {
        let payload = Payload::new(2 * CHUNK_BYTES as u64 + 5, 7);
        let chunks: Vec<Bytes> = payload.chunks().collect();
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [CHUNK_BYTES, CHUNK_BYTES, 5]);
        assert_ne!(chunks[0], chunks[1]);
        assert_eq!(payload.bytes().len() as u64, payload.size());
        assert_ne!(payload.sha256(), Payload::new(payload.size(), 8).sha256());
    }
}
