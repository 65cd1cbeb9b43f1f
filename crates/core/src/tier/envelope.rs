//! The form of a durable copy: a head of fixed length, then the object's blocks, each sealed on its own.
//!
//! ```text
//! "ZLT1" ‖ key id (4) ‖ salt (16) ‖ sealed facts (472 + tag 16)        512 bytes
//! block 0 (≤ 1 MiB) ‖ tag (16) ‖ block 1 ‖ tag ‖ …                     the last one may be shorter; none of an empty object
//! ```
//!
//! The key is made of the ring's key that the head names, of the epoch and of the object id: a copy that was put in the
//! place of another does not open. The sealed facts have the size, so that a cut copy is noticed, and the tags verify
//! every byte: they are the block sums of a copy.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;
use zipline_contract::ErrorCode;
use zipline_contract::limits::{BLOCK_BYTES, CONTENT_TYPE_BYTES_MAX, RETRIEVALS_MAX};

use super::cipher::{CHUNK_TAG_BYTES, ChunkCipher, SALT_BYTES};
use crate::object::{Epoch, ObjectId};
use crate::pull::{HeaderText, SumKind};
use crate::reference::{DomainKey, KeyId, KeyRing};
use crate::time::WallTime;

/// Bytes of a copy before its first block.
pub const ENVELOPE_HEAD_BYTES: usize = 512;

const MAGIC: &[u8; 4] = b"ZLT1";
const CLEAR_BYTES: usize = MAGIC.len() + KeyId::BYTES + SALT_BYTES;
const FACTS_BYTES: usize = ENVELOPE_HEAD_BYTES - CLEAR_BYTES - CHUNK_TAG_BYTES;
const FACTS_FIXED_BYTES: usize = 8 + 1 + 8 + 4 + 4 + 2;
const INFO: &[u8] = b"zipline/1 tier object";
/// The number of the head among the sealed chunks; no block has it.
const HEAD_INDEX: u64 = u64::MAX;
const BLOCK: u64 = BLOCK_BYTES as u64;
const SEALED_BLOCK: u64 = BLOCK + CHUNK_TAG_BYTES as u64;

const _: () = assert!(FACTS_FIXED_BYTES + CONTENT_TYPE_BYTES_MAX <= FACTS_BYTES, "the facts fit the head");

/// What a copy says about its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the object.
    pub size: u64,
    /// How its blocks were summed on the wire.
    pub sum: SumKind,
    /// When it expires.
    pub expires: WallTime,
    /// Retrievals granted in all.
    pub retrievals: u32,
    /// Retrievals that were left when the copy was written.
    pub retrievals_left: u32,
    /// Content type that readers are told.
    pub content_type: Option<HeaderText>,
}

/// A copy being written, or opened for reading.
#[derive(Clone, Debug)]
pub struct Envelope {
    cipher: ChunkCipher,
    facts: Facts,
}

/// Where the bytes of a read lie in a copy, in whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSpan {
    /// First block.
    pub block: u64,
    /// First byte in the copy.
    pub first: u64,
    /// Behind the last byte in the copy.
    pub end: u64,
    /// Bytes of the first block that are not wanted.
    pub skip: u64,
}

impl Envelope {
    /// A copy to be written, with its head. `salt` is fresh from a secure generator.
    pub fn seal(
        key: &DomainKey,
        epoch: Epoch,
        object: ObjectId,
        facts: Facts,
        salt: [u8; SALT_BYTES],
    ) -> (Self, [u8; ENVELOPE_HEAD_BYTES]) {
        let envelope = Self { cipher: cipher(key, epoch, object, salt), facts };
        let mut sealed = envelope.facts.write();
        let tag = envelope.cipher.seal(HEAD_INDEX, &mut sealed);
        let mut head = Vec::with_capacity(ENVELOPE_HEAD_BYTES);
        for part in [MAGIC.as_slice(), key.id().as_bytes(), &salt, &sealed, &tag] {
            head.extend_from_slice(part);
        }
        (envelope, head.try_into().expect("the parts of a head add up to its length"))
    }

    /// Opens the copy of that object by its head.
    ///
    /// # Errors
    /// A head that is none, is sealed with an unknown key, or is not this object's; a copy that has expired.
    pub fn open(
        ring: &KeyRing,
        epoch: Epoch,
        object: ObjectId,
        head: &[u8; ENVELOPE_HEAD_BYTES],
        now: WallTime,
    ) -> Result<Self, EnvelopeError> {
        let (clear, sealed) = head.split_at(CLEAR_BYTES);
        let (magic, rest) = clear.split_at(MAGIC.len());
        let (id, salt) = rest.split_at(KeyId::BYTES);
        if magic != MAGIC {
            return Err(EnvelopeError::Form);
        }
        let id = KeyId::from_bytes(id.try_into().map_err(|_| EnvelopeError::Form)?);
        let salt = salt.try_into().map_err(|_| EnvelopeError::Form)?;
        let key = ring.accepting(id, now).ok_or(EnvelopeError::UnknownKey { key: id })?;
        let cipher = cipher(key, epoch, object, salt);
        let (facts, tag) = sealed.split_at(FACTS_BYTES);
        let mut facts: [u8; FACTS_BYTES] = facts.try_into().map_err(|_| EnvelopeError::Form)?;
        if !cipher.open(HEAD_INDEX, &mut facts, tag.try_into().map_err(|_| EnvelopeError::Form)?) {
            return Err(EnvelopeError::Seal);
        }
        let facts = Facts::read(&facts).ok_or(EnvelopeError::Form)?;
        if facts.expires <= now {
            return Err(EnvelopeError::Expired { expired: facts.expires });
        }
        Ok(Self { cipher, facts })
    }

    /// What the copy says.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of the whole copy.
    pub fn stored_bytes(&self) -> u64 {
        let blocks = self.facts.size.div_ceil(BLOCK);
        ENVELOPE_HEAD_BYTES as u64 + self.facts.size + blocks * CHUNK_TAG_BYTES as u64
    }

    /// Bytes of block `index`, without its tag; 0 behind the last.
    pub fn block_bytes(&self, index: u64) -> usize {
        let left = self.facts.size.saturating_sub(index.saturating_mul(BLOCK));
        usize::try_from(left.min(BLOCK)).unwrap_or(BLOCK_BYTES)
    }

    /// Where the object's bytes from `first` to `end` lie; `None` where that is none.
    pub fn stored_span(&self, first: u64, end: u64) -> Option<StoredSpan> {
        let end = end.min(self.facts.size);
        if first >= end {
            return None;
        }
        let (block, blocks) = (first / BLOCK, end.div_ceil(BLOCK));
        let at = |blocks: u64| ENVELOPE_HEAD_BYTES as u64 + blocks * SEALED_BLOCK;
        Some(StoredSpan { block, first: at(block), end: at(blocks).min(self.stored_bytes()), skip: first % BLOCK })
    }

    /// Seals block `index` in place; its tag is written behind it.
    pub fn seal_block(&self, index: u64, block: &mut [u8]) -> [u8; CHUNK_TAG_BYTES] {
        self.cipher.seal(index, block)
    }

    /// Opens block `index` with its tag behind it; the object's bytes are then all but the last 16.
    ///
    /// # Errors
    /// [`EnvelopeError::Block`]: cut, changed, or not this block.
    pub fn open_block(&self, index: u64, block: &mut [u8]) -> Result<(), EnvelopeError> {
        let failed = EnvelopeError::Block { index };
        let (bytes, tag) = block.split_last_chunk_mut::<CHUNK_TAG_BYTES>().ok_or(failed)?;
        let whole = bytes.len() == self.block_bytes(index);
        if whole && self.cipher.open(index, bytes, *tag) { Ok(()) } else { Err(failed) }
    }
}

fn cipher(key: &DomainKey, epoch: Epoch, object: ObjectId, salt: [u8; SALT_BYTES]) -> ChunkCipher {
    let mut own = Zeroizing::new([0; 32]);
    let info = [INFO, epoch.as_bytes(), object.as_bytes()];
    Hkdf::<Sha256>::from_prk(key.tier.as_bytes())
        .expect("32 bytes are a key for HKDF-SHA256")
        .expand_multi_info(&info, own.as_mut_slice())
        .expect("HKDF-SHA256 gives up to 8160 bytes, and 32 are asked for");
    ChunkCipher::new(&own, salt)
}

impl Facts {
    fn write(&self) -> [u8; FACTS_BYTES] {
        let content_type = self.content_type.as_ref().map_or("", HeaderText::as_str).as_bytes();
        let length = u16::try_from(content_type.len()).expect("a kept content type has at most 256 bytes");
        let mut bytes = Vec::with_capacity(FACTS_BYTES);
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.push(self.sum.number());
        bytes.extend_from_slice(&self.expires.unix_millis().to_be_bytes());
        bytes.extend_from_slice(&self.retrievals.to_be_bytes());
        bytes.extend_from_slice(&self.retrievals_left.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(content_type);
        bytes.resize(FACTS_BYTES, 0); // What follows belongs to a later version.
        bytes.try_into().expect("resized to that length")
    }

    fn read(bytes: &[u8; FACTS_BYTES]) -> Option<Self> {
        fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
            let (taken, left) = rest.split_at_checked(count)?;
            *rest = left;
            Some(taken)
        }
        let mut rest = bytes.as_slice();
        let size = take(&mut rest, 8)?.try_into().map(u64::from_be_bytes).ok()?;
        let sum = SumKind::from_number(*take(&mut rest, 1)?.first()?)?;
        let expires = WallTime::from_unix_millis(take(&mut rest, 8)?.try_into().map(u64::from_be_bytes).ok()?);
        let retrievals = take(&mut rest, 4)?.try_into().map(u32::from_be_bytes).ok()?;
        let retrievals_left = take(&mut rest, 4)?.try_into().map(u32::from_be_bytes).ok()?;
        if retrievals > RETRIEVALS_MAX || retrievals_left > retrievals {
            return None;
        }
        let length = take(&mut rest, 2)?.try_into().map(u16::from_be_bytes).ok()?;
        let text = core::str::from_utf8(take(&mut rest, usize::from(length))?).ok()?;
        let content_type = match text {
            "" => None,
            text => Some(HeaderText::new(text, CONTENT_TYPE_BYTES_MAX)?),
        };
        Some(Self { size, sum, expires, retrievals, retrievals_left, content_type })
    }
}

/// Why a durable copy cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a copy, or of another version.
    #[error("what lies in the durable tier is no copy of an object, or of a later version")]
    Form,
    /// Sealed with a key that this ring does not have, or no longer.
    #[error("the durable copy was sealed with key {key}, which is not in this proxy's ring")]
    UnknownKey {
        /// The key's name.
        key: KeyId,
    },
    /// Changed, or the copy of another object.
    #[error("the durable copy's seal does not hold: it was changed, or is another object's")]
    Seal,
    /// Genuine, but too late.
    #[error("the object expired at {} (Unix ms)", .expired.unix_millis())]
    Expired {
        /// Its expiry.
        expired: WallTime,
    },
    /// A block that was cut or changed.
    #[error("block {index} of the durable copy does not verify: it was cut or changed")]
    Block {
        /// Its number.
        index: u64,
    },
}

impl EnvelopeError {
    /// The public error.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::UnknownKey { .. } => ErrorCode::ReferenceUnknownKey,
            Self::Expired { .. } => ErrorCode::ReferenceExpired,
            Self::Form | Self::Seal | Self::Block { .. } => ErrorCode::PayloadCorrupt,
        }
    }
}
