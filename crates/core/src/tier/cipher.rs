//! Chunks that are sealed each on its own, so that any of them can be read alone.
//!
//! A nonce is 16 random bytes of the whole and the chunk's number: a chunk that was cut, changed, or put in the place of
//! another does not open. How many chunks there are is for whoever keeps them to know.

use core::fmt;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};

/// Random bytes of every sealed whole.
pub const SALT_BYTES: usize = 16;
/// What a sealed chunk has beside its bytes.
pub const CHUNK_TAG_BYTES: usize = 16;

/// Seals and opens the chunks of one whole. The key is wiped when it is dropped.
#[derive(Clone)]
pub struct ChunkCipher {
    cipher: XChaCha20Poly1305,
    salt: [u8; SALT_BYTES],
}

impl ChunkCipher {
    /// For one whole: `salt` is fresh from a secure generator for each that is sealed with `key`.
    pub fn new(key: &[u8; 32], salt: [u8; SALT_BYTES]) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.into()), salt }
    }

    /// Seals chunk `index` in place; the tag stands for what it was.
    pub fn seal(&self, index: u64, chunk: &mut [u8]) -> [u8; CHUNK_TAG_BYTES] {
        self.cipher
            .encrypt_inout_detached(&self.nonce(index), &[], chunk.into())
            .expect("a chunk is far shorter than the 256 GiB that one nonce is good for")
            .into()
    }

    /// Opens chunk `index` in place; false when it is not what was sealed, and then its bytes mean nothing.
    #[must_use]
    pub fn open(&self, index: u64, chunk: &mut [u8], tag: [u8; CHUNK_TAG_BYTES]) -> bool {
        self.cipher.decrypt_inout_detached(&self.nonce(index), &[], chunk.into(), &Tag::from(tag)).is_ok()
    }

    fn nonce(&self, index: u64) -> XNonce {
        let mut nonce = [0; 24];
        let (salt, number) = nonce.split_at_mut(SALT_BYTES);
        salt.copy_from_slice(&self.salt);
        number.copy_from_slice(&index.to_be_bytes());
        nonce.into()
    }
}

impl fmt::Debug for ChunkCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkCipher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_opens_in_its_own_place_and_unchanged_only() {
        let cipher = ChunkCipher::new(&[7; 32], [1; SALT_BYTES]);
        let mut chunk = *b"some bytes of a payload";
        let tag = cipher.seal(3, &mut chunk);
        assert_ne!(&chunk, b"some bytes of a payload");
        let opens = |cipher: &ChunkCipher, index, change: usize| {
            let mut copy = chunk;
            copy[change % copy.len()] ^= u8::from(change > 0);
            cipher.open(index, &mut copy, tag).then_some(copy)
        };
        assert_eq!(opens(&cipher, 3, 0).as_ref().map(<[u8; 23]>::as_slice), Some(b"some bytes of a payload".as_slice()));
        assert_eq!(opens(&cipher, 4, 0), None, "another place");
        assert_eq!(opens(&cipher, 3, 5), None, "a changed byte");
        assert_eq!(opens(&ChunkCipher::new(&[7; 32], [2; SALT_BYTES]), 3, 0), None, "another whole");
        assert_eq!(opens(&ChunkCipher::new(&[8; 32], [1; SALT_BYTES]), 3, 0), None, "another key");
    }
}
