//! References to objects in a store: `zs1.KEY` and `zr1.KEY`, `.FIRST-LENGTH` after them for a part.
//!
//! The key says how often the object may be read and how long it is, so that a reader knows what to expect without
//! asking, and holds 128 random bits, so that nobody finds it who was not given it. Where the store is, is configuration.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zipline_contract::{REFERENCE_PREFIX_REDIS, REFERENCE_PREFIX_S3, Transfer, limits};

use crate::client::ByteRange;
use crate::error::Error;
use crate::reference::Reference;

/// Characters of the random part of a key.
const RANDOM_CHARS: usize = (limits::STORE_KEY_RANDOM_BYTES * 8).div_ceil(6);

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    S3,
    Redis,
}

impl Kind {
    /// The store that payloads are parked in under a transfer method.
    pub(crate) const fn of(transfer: Transfer) -> Option<Self> {
        match transfer {
            Transfer::Zipline | Transfer::Inline => None,
            Transfer::S3 => Some(Self::S3),
            Transfer::Redis => Some(Self::Redis),
        }
    }

    /// The name of its transfer method.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S3 => Transfer::S3.name(),
            Self::Redis => Transfer::Redis.name(),
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::S3 => REFERENCE_PREFIX_S3,
            Self::Redis => REFERENCE_PREFIX_REDIS,
        }
    }
}

/// The name of an object in its store. A bearer token, as every reference: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StoreKey {
    text: String,
    /// Whole reads after which its readers free it; 0: whoever put it does.
    pub(crate) retrievals: u32,
    pub(crate) size_bytes: u64,
}

impl StoreKey {
    /// A key that nobody has had before.
    pub(crate) fn random(retrievals: u32, size_bytes: u64) -> Result<Self, Error> {
        let mut random = [0; limits::STORE_KEY_RANDOM_BYTES];
        getrandom::fill(&mut random).map_err(|error| Error::system("drawing a random key")(std::io::Error::other(error)))?;
        Ok(Self::of(retrievals, size_bytes, &URL_SAFE_NO_PAD.encode(random)))
    }

    fn of(retrievals: u32, size_bytes: u64, random: &str) -> Self {
        Self { text: format!("{retrievals}-{size_bytes}-{random}"), retrievals, size_bytes }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let (retrievals, size_bytes, random) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
        let known = random.len() == RANDOM_CHARS && random.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let key = Self::of(retrievals, size_bytes, random);
        // Written in one way only: no sign, no leading zero.
        (known && retrievals <= limits::RETRIEVALS_MAX && key.text == text).then_some(key)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({} retrievals, {} bytes)", self.retrievals, self.size_bytes)
    }
}

/// A reference to an object in a store, or to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) kind: Kind,
    pub(crate) key: StoreKey,
    pub(crate) range: Option<ByteRange>,
}

impl Stored {
    /// Reads a token that begins with the store's prefix.
    pub(crate) fn parse(kind: Kind, token: &str) -> Option<Self> {
        let (key, range) = match token.strip_prefix(kind.prefix())?.split_once('.') {
            Some((key, range)) => (key, Some(range)),
            None => (token.strip_prefix(kind.prefix())?, None),
        };
        let key = StoreKey::parse(key)?;
        let range = match range {
            Some(text) => Some(parse_range(text).filter(|range| within(*range, key.size_bytes))?),
            None => None,
        };
        Some(Self { kind, key, range })
    }

    /// Bytes that it reads.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.range.map_or(self.key.size_bytes, |range| range.length)
    }

    /// The part of it that `range` names, counted from its own first byte; `None` where that is not within it.
    pub(crate) fn part(&self, range: ByteRange) -> Option<ByteRange> {
        let first = self.range.map_or(0, |own| own.first);
        within(range, self.size_bytes()).then(|| ByteRange { first: first + range.first, length: range.length })
    }

    pub(crate) fn reference(&self) -> Reference {
        let (prefix, key) = (self.kind.prefix(), self.key.as_str());
        Reference::from_token(match self.range {
            Some(ByteRange { first, length }) => format!("{prefix}{key}.{first}-{length}"),
            None => format!("{prefix}{key}"),
        })
    }
}

fn parse_range(text: &str) -> Option<ByteRange> {
    let (first, length) = text.split_once('-')?;
    let range = ByteRange { first: first.parse().ok()?, length: length.parse().ok()? };
    (format!("{}-{}", range.first, range.length) == text).then_some(range)
}

fn within(range: ByteRange, size_bytes: u64) -> bool {
    range.length > 0 && range.first.checked_add(range.length).is_some_and(|end| end <= size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "zs1.1-300001-AAECAwQFBgcICQoLDA0ODw";

    #[test]
    fn a_stored_reference_says_what_to_expect() {
        let stored = Stored::parse(Kind::S3, TOKEN).expect("well formed");
        assert_eq!((stored.key.retrievals, stored.key.size_bytes, stored.range), (1, 300_001, None));
        assert_eq!(stored.reference().as_str(), TOKEN);
        let part = Stored::parse(Kind::S3, &format!("{TOKEN}.5-70000")).expect("well formed");
        assert_eq!(part.part(ByteRange { first: 10, length: 2 }), Some(ByteRange { first: 15, length: 2 }));
        assert_eq!(part.part(ByteRange { first: 0, length: 70_001 }), None);
        assert!(!format!("{stored:?}").contains("AAEC"), "{stored:?}");
    }

    #[test]
    fn a_key_is_written_in_one_way_only() {
        let odd = [
            "zs1.",
            "zs1.key",
            "zr1.1-5-AAECAwQFBgcICQoLDA0ODw",
            "zs1.01-5-AAECAwQFBgcICQoLDA0ODw",
            "zs1.1-+5-AAECAwQFBgcICQoLDA0ODw",
            "zs1.1-5-AAECAwQFBgcICQoLDA0OD",
            "zs1.1-5-AAECAwQFBgcICQoLDA0OD/",
            "zs1.1000001-5-AAECAwQFBgcICQoLDA0ODw",
            "zs1.1-5-AAECAwQFBgcICQoLDA0ODw.0-6",
            "zs1.1-5-AAECAwQFBgcICQoLDA0ODw.0-0",
            "zs1.1-5-AAECAwQFBgcICQoLDA0ODw.",
            "zs1.1-5-../../../../etc/passwd",
        ];
        for token in odd {
            assert_eq!(Stored::parse(Kind::S3, token), None, "{token}");
        }
        let (one, other) = (StoreKey::random(1, 5).expect("drawn"), StoreKey::random(1, 5).expect("drawn"));
        assert_ne!(one, other);
        assert_eq!(StoreKey::parse(one.as_str()), Some(one));
    }
}
