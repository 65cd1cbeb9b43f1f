//! The one message authentication code of the wire: HMAC-SHA256, compared in constant time.

use core::fmt;
use core::str::FromStr;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::hex::{self, IdError};
use crate::reference::Secret;

/// Bytes of a MAC in a head.
pub const MAC_BYTES: usize = 32;

/// A message authentication code. It has no `==`: use [`Mac::matches`], whose time tells nothing.
#[derive(Clone, Copy)]
pub struct Mac([u8; MAC_BYTES]);

impl Mac {
    /// The MAC with these bytes.
    pub const fn from_bytes(bytes: [u8; MAC_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; MAC_BYTES] {
        &self.0
    }

    /// Whether the two are the same, in constant time.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl FromStr for Mac {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::decode(text).map(Self).ok_or(IdError::new("a MAC", MAC_BYTES * 2))
    }
}

/// The MAC over `parts`, one after the other.
pub(crate) fn mac_over<'a>(key: &Secret, parts: impl IntoIterator<Item = &'a [u8]>) -> Mac {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in parts {
        hmac.update(part);
    }
    Mac(hmac.finalize().into_bytes().into())
}

/// The MAC over `lines`, each ended by a line feed. No line may hold one.
pub(crate) fn mac_over_lines(key: &Secret, lines: &[&str]) -> Mac {
    debug_assert!(lines.iter().all(|line| !line.contains('\n')), "the lines' types exclude line feeds");
    mac_over(key, lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]))
}
