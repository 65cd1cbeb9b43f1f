//! The page's cryptography and texts, read anew.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The moment of most cases: Unix milliseconds.
pub(super) const NOW: u64 = 1_800_000_000_000;

/// A key of the ring.
pub(super) struct Key {
    pub(super) id: [u8; 4],
    secret: [u8; 32],
    not_before_ms: u64,
    not_after_ms: u64,
}

/// The key that seals at [`NOW`].
pub(super) const CURRENT: Key =
    Key { id: [0, 0, 0, 0x0b], secret: [0x2b; 32], not_before_ms: NOW - 1_000_000, not_after_ms: NOW + 9_000_000 };
/// The key before it, still accepted.
pub(super) const OLD: Key = Key { id: [0, 0, 0, 0x0a], secret: [0x1a; 32], not_before_ms: 0, not_after_ms: NOW + 1_000_000 };
/// The key after it, accepted already.
pub(super) const NEXT: Key =
    Key { id: [0, 0, 0, 0x0c], secret: [0x3c; 32], not_before_ms: NOW + 500_000, not_after_ms: NOW + 90_000_000 };
/// A key that has ended.
pub(super) const ENDED: Key = Key { id: [0, 0, 0, 9], secret: [0x09; 32], not_before_ms: 0, not_after_ms: NOW };
/// A key of another trust domain that bears the current key's name.
pub(super) const FOREIGN: Key = Key { secret: [0xff; 32], ..CURRENT };
/// A key that is in no ring here.
pub(super) const UNKNOWN: Key = Key { id: [0xff; 4], ..CURRENT };

pub(super) fn ring() -> Value {
    let entry = |key: &Key| json!({"id": hex(&key.id), "key": hex(&key.secret), "not_before_ms": key.not_before_ms, "not_after_ms": key.not_after_ms});
    json!({"keys": [entry(&CURRENT), entry(&OLD), entry(&NEXT), entry(&ENDED)]})
}

pub(super) fn derived_keys() -> Value {
    [&CURRENT, &OLD, &NEXT, &ENDED]
        .map(|key| {
            json!({
                "id": hex(&key.id),
                "reference": hex(&derive(key, "zipline/1 reference")),
                "pull_request": hex(&derive(key, "zipline/1 pull request")),
                "pull_answer": hex(&derive(key, "zipline/1 pull answer")),
            })
        })
        .into_iter()
        .collect()
}

pub(super) fn derive(key: &Key, info: &str) -> [u8; 32] {
    let mut derived = [0; 32];
    Hkdf::<Sha256>::new(None, &key.secret).expand(info.as_bytes(), &mut derived).expect("32 bytes can be derived");
    derived
}

/// The token over `plaintext`.
pub(super) fn seal(key: &Key, nonce: &[u8; 24], plaintext: &[u8]) -> String {
    let associated = [b"zl1.".as_slice(), &key.id].concat();
    let sealed = XChaCha20Poly1305::new(&derive(key, "zipline/1 reference").into())
        .encrypt(&XNonce::from(*nonce), Payload { msg: plaintext, aad: &associated })
        .expect("so little can be sealed");
    format!("zl1.{}", URL_SAFE_NO_PAD.encode([key.id.as_slice(), nonce, &sealed].concat()))
}

pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut hmac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    hmac.update(message);
    hmac.finalize().into_bytes().into()
}

pub(super) fn fingerprint(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes())[..4])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// A payload, by the generator that `sdk.json` uses too.
pub(super) fn payload(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    for counter in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend_from_slice(&Sha256::digest(format!("{seed}:{counter}").as_bytes()));
    }
    bytes.truncate(length);
    bytes
}

/// The 32 bytes of a record's sum.
pub(super) fn sum(kind: &str, bytes: &[u8]) -> [u8; 32] {
    match kind {
        "blake3" => *blake3::hash(bytes).as_bytes(),
        _ => {
            let mut field = [0; 32];
            field[..4].copy_from_slice(&crc32c::crc32c(bytes).to_be_bytes());
            field
        }
    }
}

pub(super) fn sum_number(kind: &str) -> u8 {
    if kind == "blake3" { 2 } else { 1 }
}
