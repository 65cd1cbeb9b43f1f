//! The token: a reference under the trust domain's seal.
//!
//! `zl1.` + base64url( key id ‖ nonce ‖ XChaCha20-Poly1305(fields) ), with `zl1.` ‖ key id as associated data. The
//! layout of the fields is fixed in `docs/reference/protocol.md` §2. Length and alphabet are checked before the key
//! is looked up, and the seal before any field is read; fields that a later minor version appends are ignored.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zipline_contract::limits::REFERENCE_CHARS_MAX;
use zipline_contract::{ErrorCode, REFERENCE_PREFIX};

use super::Reference;
use super::fields::{FieldError, read_fields, write_fields};
use super::keys::{DomainKey, KeyId, KeyRing};
use crate::hex;
use crate::time::WallTime;

/// Bytes of a token's nonce. It is random, and long enough to be so under a key that many proxies share.
pub const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const ENVELOPE_BYTES: usize = KeyId::BYTES + NONCE_BYTES + TAG_BYTES;

/// A sealed reference. Whoever of the trust domain has it may read the object, so `Debug` shows its fingerprint only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(String);

impl Token {
    /// The text, as it stands in `Zipline-Reference`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, as it stands in `Zipline-Reference`.
    pub fn into_string(self) -> String {
        self.0
    }

    /// What logs may show.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.fingerprint())
    }
}

/// Eight hexadecimal digits that stand for a token in logs and traces.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 4]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The fingerprint of any token, also of one that cannot be opened: the beginning of its SHA-256.
pub fn fingerprint(token: &str) -> Fingerprint {
    let digest = Sha256::digest(token.as_bytes());
    Fingerprint([digest[0], digest[1], digest[2], digest[3]])
}

impl KeyRing {
    /// Seals a reference with the key that seals at `now`. `nonce` must be fresh from a secure generator.
    pub fn seal(&self, reference: &Reference, now: WallTime, nonce: [u8; NONCE_BYTES]) -> Result<Token, SealError> {
        let key = self.sealing(now).ok_or(SealError::NoKey)?;
        let mut fields = Vec::with_capacity(256);
        write_fields(reference, &mut fields);
        let id = key.id();
        let sealed = XChaCha20Poly1305::new(key.reference.as_bytes().into())
            .encrypt(&XNonce::from(nonce), Payload { msg: &fields, aad: &associated_data(id) })
            .map_err(|_| SealError::TooLong)?;
        let mut envelope = Vec::with_capacity(ENVELOPE_BYTES + fields.len());
        envelope.extend_from_slice(id.as_bytes());
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        let mut text = String::with_capacity(REFERENCE_CHARS_MAX);
        text.push_str(REFERENCE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(&envelope, &mut text);
        if text.len() > REFERENCE_CHARS_MAX {
            return Err(SealError::TooLong);
        }
        Ok(Token(text))
    }

    /// Opens a token: any fault of its text, its seal or its fields is [`ReferenceError::Invalid`].
    pub fn open(&self, token: &str, now: WallTime) -> Result<Reference, ReferenceError> {
        let envelope = decode_envelope(token)?;
        let id = envelope_key(&envelope);
        let key = self.accepting(id, now).ok_or(ReferenceError::UnknownKey { key: id })?;
        let fields = unseal(key, &envelope)?;
        let reference = read_fields(&fields).map_err(|error| ReferenceError::Invalid(InvalidReference::Field(error)))?;
        if reference.expires < now || (reference.expires == now && !mutant!("expiry-off-by-one")) {
            return Err(ReferenceError::Expired { expired: reference.expires, now });
        }
        Ok(reference)
    }
}

/// The name of the key that sealed `token`. Nothing is checked but the text's form.
pub fn token_key(token: &str) -> Result<KeyId, ReferenceError> {
    Ok(envelope_key(&decode_envelope(token)?))
}

fn decode_envelope(token: &str) -> Result<Vec<u8>, ReferenceError> {
    let invalid = |reason| Err(ReferenceError::Invalid(reason));
    if token.len() > REFERENCE_CHARS_MAX {
        return invalid(InvalidReference::TooLong { chars: token.len() });
    }
    let Some(text) = token.strip_prefix(REFERENCE_PREFIX) else { return invalid(InvalidReference::Prefix) };
    match URL_SAFE_NO_PAD.decode(text) {
        Err(_) => invalid(InvalidReference::Alphabet),
        Ok(envelope) if envelope.len() < ENVELOPE_BYTES => invalid(InvalidReference::TooShort { chars: token.len() }),
        Ok(envelope) => Ok(envelope),
    }
}

fn envelope_key(envelope: &[u8]) -> KeyId {
    KeyId::from_bytes([envelope[0], envelope[1], envelope[2], envelope[3]])
}

fn unseal(key: &DomainKey, envelope: &[u8]) -> Result<Vec<u8>, ReferenceError> {
    let (nonce, sealed) = envelope[KeyId::BYTES..].split_at(NONCE_BYTES);
    let nonce = XNonce::try_from(nonce).map_err(|_| ReferenceError::Invalid(InvalidReference::Seal))?;
    XChaCha20Poly1305::new(key.reference.as_bytes().into())
        .decrypt(&nonce, Payload { msg: sealed, aad: &associated_data(key.id()) })
        .map_err(|_| ReferenceError::Invalid(InvalidReference::Seal))
}

fn associated_data(id: KeyId) -> [u8; 8] {
    let mut data = [0; 8];
    data[..4].copy_from_slice(REFERENCE_PREFIX.as_bytes());
    data[4..].copy_from_slice(id.as_bytes());
    data
}

const _: () = assert!(REFERENCE_PREFIX.len() == 4, "the associated data has room for it");

/// Why a reference cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The ring has no key that has begun and not ended.
    #[error("no key of the ring may seal now; see the keys' not_before_ms and not_after_ms, and this machine's clock")]
    NoKey,
    /// Cannot happen with the limits of the parts; kept as an error so that no limit's change makes a panic.
    #[error("the token would be longer than {REFERENCE_CHARS_MAX} characters")]
    TooLong,
}

impl SealError {
    /// The public error.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::NoKey => ErrorCode::ReferenceUnknownKey,
            Self::TooLong => ErrorCode::ReferenceInvalid,
        }
    }
}

/// Why a token gives no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not a token, cut, changed, or of another make.
    #[error("{0}")]
    Invalid(InvalidReference),
    /// Sealed with a key that this ring does not have, or no longer.
    #[error("sealed with key {key}, which is not in this proxy's ring")]
    UnknownKey {
        /// The key's name.
        key: KeyId,
    },
    /// Genuine, but too late.
    #[error("expired at {} (Unix ms), {} ms ago by this machine's clock", .expired.unix_millis(), .now.since(*.expired).as_millis())]
    Expired {
        /// Its expiry.
        expired: WallTime,
        /// This machine's time.
        now: WallTime,
    },
}

impl ReferenceError {
    /// The public error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::ReferenceInvalid,
            Self::UnknownKey { .. } => ErrorCode::ReferenceUnknownKey,
            Self::Expired { .. } => ErrorCode::ReferenceExpired,
        }
    }
}

/// What makes a token invalid. None of these texts quotes the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Longer than any token.
    #[error("a reference has at most {REFERENCE_CHARS_MAX} characters, this one {chars}")]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// Shorter than any token.
    #[error("the reference is cut: {chars} characters are too few")]
    TooShort {
        /// Its length.
        chars: usize,
    },
    /// Another kind of text, or another version.
    #[error("a reference begins with {REFERENCE_PREFIX}")]
    Prefix,
    /// A character that is not base64url.
    #[error("the reference has a character that no reference has")]
    Alphabet,
    /// The seal does not hold.
    #[error("the reference's seal does not hold: it was cut, changed, or made by somebody else")]
    Seal,
    /// Sealed by a proxy that writes the fields differently.
    #[error("{0}")]
    Field(FieldError),
}
