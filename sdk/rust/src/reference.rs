//! The token that stands for a payload, and the method its prefix names.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zipline_contract::{
    ErrorCode, REFERENCE_PREFIX, REFERENCE_PREFIX_INLINE, REFERENCE_PREFIX_REDIS, REFERENCE_PREFIX_S3, limits,
};

use crate::error::Error;
use crate::store::key::{Kind, Stored};

/// A token that stands for a payload: opaque, safe in headers and in JSON, to be passed on as it is.
///
/// A `zl1.` reference is a bearer token inside its trust domain, so `Debug` shows no more than its beginning.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// Takes the token over as it stands; whether it is one is found out where it is used.
    pub fn from_token(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The transfer method that its prefix names: `zipline`, `inline`, `s3`, `redis`, or `unknown`.
    pub fn method(&self) -> &'static str {
        match self.0.get(..4) {
            Some(REFERENCE_PREFIX) => "zipline",
            Some(REFERENCE_PREFIX_INLINE) => "inline",
            Some(REFERENCE_PREFIX_S3) => "s3",
            Some(REFERENCE_PREFIX_REDIS) => "redis",
            _ => "unknown",
        }
    }

    /// An inline reference: the bytes themselves, in base64url.
    pub(crate) fn inline(bytes: &[u8]) -> Self {
        let mut token = String::with_capacity(REFERENCE_PREFIX_INLINE.len() + bytes.len().div_ceil(3) * 4);
        token.push_str(REFERENCE_PREFIX_INLINE);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut token);
        Self(token)
    }

    /// How to read it.
    pub(crate) fn resolve(&self) -> Result<Resolved<'_>, Error> {
        match self.method() {
            "zipline" if self.0.len() > limits::REFERENCE_CHARS_MAX => Err(Error::refused(
                ErrorCode::ReferenceInvalid,
                format!("a reference has at most {} characters, this one {}", limits::REFERENCE_CHARS_MAX, self.0.len()),
            )),
            "zipline" if self.0.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Resolved::Sealed(&self.0)),
            "inline" => URL_SAFE_NO_PAD
                .decode(&self.0[REFERENCE_PREFIX_INLINE.len()..])
                .map(|bytes| Resolved::Inline(bytes.into()))
                .map_err(|error| {
                    Error::refused(ErrorCode::ReferenceInvalid, format!("the inline reference is not base64url: {error}"))
                }),
            "s3" => self.stored(Kind::S3),
            "redis" => self.stored(Kind::Redis),
            _ => Err(Error::refused(
                ErrorCode::ReferenceInvalid,
                "the reference begins with no known prefix or holds what no header may",
            )),
        }
    }
}

impl Reference {
    fn stored(&self, kind: Kind) -> Result<Resolved<'_>, Error> {
        let unknown = || Error::refused(ErrorCode::ReferenceInvalid, "the reference names no key of a store");
        Stored::parse(kind, &self.0).map(Resolved::Stored).ok_or_else(unknown)
    }
}

/// A reference that was looked at.
pub(crate) enum Resolved<'a> {
    /// Sealed: the queue-proxy reads it.
    Sealed(&'a str),
    /// It carried its bytes.
    Inline(Bytes),
    /// It names an object in a store.
    Stored(Stored),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({}, {} characters)", self.method(), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_reference_carries_its_bytes() {
        for bytes in [&b""[..], b"\xff\xfe\xfd", b"hello, zipline\n"] {
            let reference = Reference::inline(bytes);
            assert_eq!(reference.method(), "inline");
            match reference.resolve().expect("well formed") {
                Resolved::Inline(carried) => assert_eq!(carried, bytes),
                Resolved::Sealed(_) | Resolved::Stored(_) => panic!("an inline reference"),
            }
        }
    }

    #[test]
    fn what_no_header_may_carry_is_no_reference() {
        for token in ["", "zl1", "zl1.a\r\nb: c", "zi1.!!", "zi1.AAAAA", "zs1.key", "zr1.", "\u{20ac}\u{20ac}"] {
            let error = Reference::from_token(token).resolve().err().map(|error| error.code());
            assert_eq!(error, Some(Some(ErrorCode::ReferenceInvalid)), "{token}");
        }
    }

    #[test]
    fn a_token_is_not_printed_by_debug() {
        assert_eq!(format!("{:?}", Reference::from_token("zl1.secret")), "Reference(zipline, 10 characters)");
    }
}
