//! Durable copies: what was sealed opens where it belongs, unchanged, and nowhere else.

use proptest::prelude::*;
use zipline_contract::ErrorCode;
use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::object::{Epoch, ObjectId};
use zipline_core::pull::{HeaderText, SumKind};
use zipline_core::reference::KeyRing;
use zipline_core::tier::{CHUNK_TAG_BYTES, ENVELOPE_HEAD_BYTES, Envelope, EnvelopeError, Facts};
use zipline_core::time::WallTime;

const NOW: WallTime = WallTime::from_unix_secs(1_000);
const EPOCH: Epoch = Epoch::from_bytes([1; 8]);
const OBJECT: ObjectId = ObjectId::from_bytes([2; 16]);

fn ring(digit: char) -> KeyRing {
    let key = digit.to_string().repeat(64);
    let text = format!(r#"{{"keys": [{{"id": "0000000a", "key": "{key}", "not_before_ms": 0, "not_after_ms": 9000000}}]}}"#);
    KeyRing::parse(text.as_bytes()).expect("a ring")
}

fn facts(size: u64) -> Facts {
    let content_type = HeaderText::content_type("text/csv; charset=utf-8");
    let expires = WallTime::from_unix_secs(1_300);
    Facts { size, sum: SumKind::Blake3, expires, retrievals: 3, retrievals_left: 2, content_type }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A whole copy, as it lies in a store.
fn copy(ring: &KeyRing, bytes: &[u8]) -> Vec<u8> {
    let key = ring.sealing(NOW).expect("a key");
    let (envelope, head) = Envelope::seal(key, EPOCH, OBJECT, facts(bytes.len() as u64), [9; 16]);
    let mut stored = head.to_vec();
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let mut block = block.to_vec();
        let tag = envelope.seal_block(index as u64, &mut block);
        stored.extend_from_slice(&block);
        stored.extend_from_slice(&tag);
    }
    assert_eq!(stored.len() as u64, envelope.stored_bytes());
    stored
}

fn open(ring: &KeyRing, epoch: Epoch, object: ObjectId, stored: &[u8], now: WallTime) -> Result<Envelope, EnvelopeError> {
    let head = stored[..ENVELOPE_HEAD_BYTES].try_into().expect("a head");
    Envelope::open(ring, epoch, object, head, now)
}

/// The bytes from `first` to `end`, read from the blocks that they lie in.
fn read(envelope: &Envelope, stored: &[u8], first: u64, end: u64) -> Result<Vec<u8>, EnvelopeError> {
    let Some(span) = envelope.stored_span(first, end) else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    let blocks = &stored[span.first as usize..span.end as usize];
    for (index, block) in blocks.chunks(BLOCK_BYTES + CHUNK_TAG_BYTES).enumerate() {
        let mut block = block.to_vec();
        envelope.open_block(span.block + index as u64, &mut block)?;
        bytes.extend_from_slice(&block[..block.len() - CHUNK_TAG_BYTES]);
    }
    let (skip, length) = (span.skip as usize, (end.min(envelope.facts().size) - first) as usize);
    Ok(bytes[skip..skip + length].to_vec())
}

#[test]
fn any_part_of_a_copy_is_read_back_as_it_was_put() {
    let ring = ring('a');
    for size in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES - 1] {
        let bytes = payload(size);
        let stored = copy(&ring, &bytes);
        let envelope = open(&ring, EPOCH, OBJECT, &stored, NOW).expect("opens");
        assert_eq!(envelope.facts(), &facts(size as u64));
        for first in [0, 1, size / 2, size] {
            for end in [1, size.saturating_sub(1), size].into_iter().filter(|end| (first..=size).contains(end)) {
                let part = read(&envelope, &stored, first as u64, end as u64);
                assert_eq!(part.as_deref(), Ok(&bytes[first..end]), "{first}..{end} of {size}");
            }
        }
    }
}

#[test]
fn a_copy_opens_for_its_own_object_and_with_its_own_key_only() {
    let stored = copy(&ring('a'), b"payload");
    let opened = |ring: &KeyRing, epoch, object, now| open(ring, epoch, object, &stored, now).map(|_| ());
    assert_eq!(opened(&ring('a'), EPOCH, OBJECT, NOW), Ok(()));
    assert_eq!(opened(&ring('a'), Epoch::from_bytes([5; 8]), OBJECT, NOW), Err(EnvelopeError::Seal));
    assert_eq!(opened(&ring('a'), EPOCH, ObjectId::from_bytes([5; 16]), NOW), Err(EnvelopeError::Seal));
    assert_eq!(opened(&ring('b'), EPOCH, OBJECT, NOW), Err(EnvelopeError::Seal));
    let late = opened(&ring('a'), EPOCH, OBJECT, WallTime::from_unix_secs(1_300)).map_err(EnvelopeError::code);
    assert_eq!(late, Err(ErrorCode::ReferenceExpired));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_changed_or_cut_copy_is_never_delivered_as_whole(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let ring = ring('a');
        let bytes = payload(BLOCK_BYTES + 4321);
        let mut stored = copy(&ring, &bytes);
        let at = at.index(stored.len());
        if cut {
            stored.truncate(at);
        } else {
            stored[at] ^= 1 << bit;
        }
        if stored.len() < ENVELOPE_HEAD_BYTES {
            return Ok(());
        }
        let Ok(envelope) = open(&ring, EPOCH, OBJECT, &stored, NOW) else { return Ok(()) };
        stored.resize(envelope.stored_bytes() as usize, 0);
        prop_assert!(read(&envelope, &stored, 0, bytes.len() as u64).is_err());
    }
}
