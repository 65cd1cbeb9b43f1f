//! The ring of keys that a trust domain shares.
//!
//! ```json
//! {"keys": [{"id": "8 hex digits", "key": "64 hex digits", "not_before_ms": 0, "not_after_ms": 0}]}
//! ```
//!
//! A key is *accepted* from the moment it is in the ring until its end, and *seals* from its beginning: so a rotation
//! adds the new key with a beginning that lies after the last proxy has read it, and every proxy can open what any
//! other seals at any time. The secret itself is forgotten once the working keys are derived from it; those are
//! wiped when the ring is dropped and never printed.

use core::fmt;

use hkdf::Hkdf;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::hex;
use crate::hex::hex_id;
use crate::time::WallTime;

/// Keys of one ring; more than a rotation could need.
pub const RING_KEYS_MAX: usize = 64;
/// Bytes of a ring's text; checked before it is parsed.
pub const RING_BYTES_MAX: usize = 64 * 1024;

const KEY_BYTES: usize = 32;
const INFO_REFERENCE: &[u8] = b"zipline/1 reference";
const INFO_PULL_REQUEST: &[u8] = b"zipline/1 pull request";
const INFO_PULL_ANSWER: &[u8] = b"zipline/1 pull answer";
const INFO_TIER: &[u8] = b"zipline/1 tier";
const INFO_PULL_TLS: &[u8] = b"zipline/1 pull tls";

hex_id! {
    /// Names a key of the ring, in every token and on every pull. Not a secret.
    KeyId, 4, "a key id"
}

/// One of the keys derived from a ring's key. Wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; KEY_BYTES]);

impl Secret {
    pub(crate) const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// A key of the trust domain, ready for use.
#[derive(Clone)]
pub struct DomainKey {
    id: KeyId,
    not_before: WallTime,
    not_after: WallTime,
    pub(crate) reference: Secret,
    pub(crate) pull_request: Secret,
    pub(crate) pull_answer: Secret,
    pub(crate) tier: Secret,
    pull_tls: Secret,
}

impl DomainKey {
    /// Derives the working keys (HKDF-SHA256 without salt, one `info` a use).
    fn derive(entry: &KeyEntry) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, entry.key.0.as_slice());
        let expand = |info: &[u8]| {
            let mut secret = Secret([0; KEY_BYTES]);
            hkdf.expand(info, &mut secret.0).expect("HKDF-SHA256 gives up to 8160 bytes, and 32 are asked for");
            secret
        };
        Self {
            id: entry.id,
            not_before: WallTime::from_unix_millis(entry.not_before_ms),
            not_after: WallTime::from_unix_millis(entry.not_after_ms),
            reference: expand(INFO_REFERENCE),
            pull_request: expand(INFO_PULL_REQUEST),
            pull_answer: expand(INFO_PULL_ANSWER),
            tier: expand(INFO_TIER),
            pull_tls: expand(INFO_PULL_TLS),
        }
    }

    /// Its name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The secret of the authority under which proxies make their certificates: an Ed25519 private key.
    pub const fn pull_tls_seed(&self) -> &[u8] {
        self.pull_tls.as_bytes()
    }

    /// From when on it may seal.
    pub const fn not_before(&self) -> WallTime {
        self.not_before
    }

    /// From when on nothing sealed with it is opened.
    pub const fn not_after(&self) -> WallTime {
        self.not_after
    }
}

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainKey")
            .field("id", &self.id)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The keys of a trust domain.
#[derive(Clone, Debug)]
pub struct KeyRing {
    /// In the order in which they begin, the latest last.
    keys: Vec<DomainKey>,
}

impl KeyRing {
    /// Reads a ring. Unknown fields are ignored, so that the ring may lie in a larger document.
    ///
    /// The caller wipes `json` if it is the only copy.
    pub fn parse(json: &[u8]) -> Result<Self, KeyRingError> {
        if json.len() > RING_BYTES_MAX {
            return Err(KeyRingError::TooLong { bytes: json.len() });
        }
        let ring: RingEntry =
            serde_json::from_slice(json).map_err(|error| KeyRingError::Malformed(unquoted(&error.to_string())))?;
        if ring.keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        if ring.keys.len() > RING_KEYS_MAX {
            return Err(KeyRingError::TooManyKeys { keys: ring.keys.len() });
        }
        let mut keys = Vec::with_capacity(ring.keys.len());
        for entry in &ring.keys {
            if entry.not_before_ms >= entry.not_after_ms {
                return Err(KeyRingError::EndsBeforeItBegins {
                    key: entry.id,
                    not_before_ms: entry.not_before_ms,
                    not_after_ms: entry.not_after_ms,
                });
            }
            if keys.iter().any(|key: &DomainKey| key.id == entry.id) {
                return Err(KeyRingError::Duplicate { key: entry.id });
            }
            keys.push(DomainKey::derive(entry));
        }
        // The id decides between keys that begin together, so that every proxy seals with the same one.
        keys.sort_by_key(|key| (key.not_before, key.id));
        Ok(Self { keys })
    }

    /// The key that seals and signs at `now`: of those that have begun and not ended, the one that began last.
    pub fn sealing(&self, now: WallTime) -> Option<&DomainKey> {
        self.keys.iter().rev().find(|key| key.not_before <= now && now < key.not_after)
    }

    /// The key of that name, if what it sealed is still accepted at `now`.
    pub fn accepting(&self, id: KeyId, now: WallTime) -> Option<&DomainKey> {
        self.keys.iter().find(|key| key.id == id && now < key.not_after)
    }

    /// Every key, in the order in which they begin.
    pub fn keys(&self) -> &[DomainKey] {
        &self.keys
    }
}

/// The message without the texts it quotes: one of them may be a key in the wrong place.
fn unquoted(message: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let mut kept = String::with_capacity(message.len());
    for character in message.chars() {
        if !quoted || (character == '"' && !escaped) {
            kept.push(character);
        }
        if character == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && character == '\\' && !escaped;
    }
    kept
}

/// What is wrong with a key ring. Carries no part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// Longer than any ring.
    #[error("the key ring has {bytes} bytes, at most {RING_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON it should be; the text says which field and where.
    #[error("the key ring is not well formed: {0}")]
    Malformed(String),
    /// No key in it.
    #[error("the key ring has no keys; without one, leave it out altogether")]
    Empty,
    /// More keys than a rotation needs.
    #[error("the key ring has {keys} keys, at most {RING_KEYS_MAX} are read")]
    TooManyKeys {
        /// How many.
        keys: usize,
    },
    /// A key that is never valid.
    #[error("key {key} begins at {not_before_ms} and ends at {not_after_ms} (Unix ms): it is never valid")]
    EndsBeforeItBegins {
        /// The key.
        key: KeyId,
        /// Its beginning, Unix milliseconds.
        not_before_ms: u64,
        /// Its end, Unix milliseconds.
        not_after_ms: u64,
    },
    /// Two keys of one name.
    #[error("key {key} stands twice in the key ring")]
    Duplicate {
        /// The key.
        key: KeyId,
    },
}

#[derive(Deserialize)]
struct RingEntry {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
struct KeyEntry {
    #[serde(deserialize_with = "key_id")]
    id: KeyId,
    key: RawKey,
    not_before_ms: u64,
    not_after_ms: u64,
}

/// A ring's key as it was read; wiped as soon as the working keys are derived.
struct RawKey(Zeroizing<[u8; KEY_BYTES]>);

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = RawKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key of 64 lower-case hexadecimal digits")
            }

            // The message must not quote the text: it may be a key with one digit too many.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawKey, E> {
                let mut key = Zeroizing::new([0; KEY_BYTES]);
                if hex::decode_into(text, key.as_mut_slice()) {
                    Ok(RawKey(key))
                } else {
                    Err(E::custom("a key is 64 lower-case hexadecimal digits"))
                }
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

fn key_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyId, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}
