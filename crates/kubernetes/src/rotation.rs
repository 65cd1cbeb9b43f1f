//! The life of a namespace's key ring: when a key is added, when it begins to seal, when it goes.
//!
//! Pure: time and randomness are passed in. A kubelet shows a changed Secret to a pod only a minute or two later, so a new
//! key is in the ring for [`Policy::accept_lead`] before the first proxy seals with it; by then every proxy opens it. A key
//! stays for [`Policy::overlap`] after the next one took over, so that no reference that it sealed outlives it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};
use zipline_core::hex;

/// Bytes of a key, and of its name.
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// How far a key's beginning is set back where nothing was sealed before it: clocks of nodes differ by less.
const BACKDATED: Duration = Duration::from_secs(60);

/// How often keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a key seals.
    pub period: Duration,
    /// How long a new key is accepted before it seals; longer than a kubelet takes to show a changed Secret.
    pub accept_lead: Duration,
    /// How long a key is accepted after it no longer seals; longer than the longest expiry (`ZIPLINE_TTL_SECONDS_MAX`).
    pub overlap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(24 * 3600),
            accept_lead: Duration::from_secs(300),
            overlap: Duration::from_secs(2 * 3600),
        }
    }
}

/// A key as it stands in the Secret. Wiped when dropped, never printed.
#[derive(Clone, Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
struct Key {
    #[zeroize(skip)]
    id: String,
    key: String,
    not_before_ms: u64,
    not_after_ms: u64,
}

/// A ring of keys that is being kept. Its text is what `zipline_core::reference::KeyRing` reads.
#[derive(Clone, Deserialize, Serialize)]
pub struct Ring {
    keys: Vec<Key>,
}

/// What is known of a key without the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySummary {
    /// Its name.
    pub id: String,
    /// From when on it seals, Unix milliseconds.
    pub not_before_ms: u64,
    /// Until when it opens, Unix milliseconds.
    pub not_after_ms: u64,
}

/// What becomes of a ring at some time.
#[derive(Clone)]
pub struct Kept {
    /// The new ring; `None` where the old one may stay.
    pub changed: Option<Ring>,
    /// When to look again, Unix milliseconds.
    pub next_ms: u64,
}

/// Why a ring can't be kept; a new one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not the JSON it should be. What it says instead is not shown: it may hold a key.
    #[error("not a key ring: not well formed at line {line}, column {column}")]
    Malformed {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A key of another length, or none at all.
    #[error("not a key ring: {0}")]
    Unusable(&'static str),
}

impl Ring {
    /// Reads a ring's text.
    ///
    /// # Errors
    /// When it is none, or a key has another length; queue-proxies would refuse it as well.
    pub fn parse(text: &[u8]) -> Result<Self, RingError> {
        let ring: Self =
            serde_json::from_slice(text).map_err(|error| RingError::Malformed { line: error.line(), column: error.column() })?;
        let is_hex = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        };
        if ring.keys.is_empty() {
            return Err(RingError::Unusable("it has no keys"));
        }
        if !ring.keys.iter().all(|key| is_hex(&key.key, KEY_BYTES)) {
            return Err(RingError::Unusable("a key is not 64 lower-case hexadecimal digits"));
        }
        if !ring.keys.iter().all(|key| is_hex(&key.id, ID_BYTES)) {
            return Err(RingError::Unusable("a key's id is not 8 lower-case hexadecimal digits"));
        }
        if !ring.keys.iter().all(|key| key.not_before_ms < key.not_after_ms) {
            return Err(RingError::Unusable("a key ends before it begins"));
        }
        Ok(ring)
    }

    /// Its text, for the Secret.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // Text and numbers only: always possible.
    }

    /// The keys, without their secrets, in the order in which they begin.
    pub fn summary(&self) -> Vec<KeySummary> {
        let mut keys: Vec<_> = self.keys.iter().map(Key::summary).collect();
        keys.sort_by_key(|key| key.not_before_ms);
        keys
    }

    /// A namespace's first ring: one key, which seals at once, since no proxy has another.
    pub fn first(now_ms: u64, policy: Policy, random: impl FnMut(&mut [u8])) -> Self {
        Self { keys: vec![Key::new(now_ms.saturating_sub(millis(BACKDATED)), now_ms, policy, random)] }
    }

    /// What the ring should be at `now`: ended keys go, and a key is added in time before the last one's period is over.
    pub fn keep(&self, now_ms: u64, policy: Policy, random: impl FnMut(&mut [u8])) -> Kept {
        self.advance(now_ms, policy, false, random)
    }

    /// The ring after an operator asked for a new key. While one waits to begin, that one is it: asking twice adds one.
    pub fn rotate(&self, now_ms: u64, policy: Policy, random: impl FnMut(&mut [u8])) -> Kept {
        self.advance(now_ms, policy, true, random)
    }

    fn advance(&self, now_ms: u64, policy: Policy, at_once: bool, random: impl FnMut(&mut [u8])) -> Kept {
        let mut keys: Vec<Key> = self.keys.iter().filter(|key| now_ms < key.not_after_ms).cloned().collect();
        let dropped = keys.len() < self.keys.len();
        let newest_ms = keys.iter().map(|key| key.not_before_ms).max();
        let due_ms = newest_ms.map_or(now_ms, |begin| begin.saturating_add(millis(policy.period)));
        let add_ms = due_ms.saturating_sub(millis(policy.accept_lead));
        let waits = newest_ms.is_some_and(|begin| begin > now_ms);
        let adds = now_ms >= add_ms || (at_once && !waits);
        if adds {
            // Of an empty ring nothing is left that a proxy could still seal with, so there is nothing to wait for.
            let begin_ms = match keys.is_empty() {
                true => now_ms.saturating_sub(millis(BACKDATED)),
                false => now_ms.saturating_add(millis(policy.accept_lead)),
            };
            let added = Key::new(begin_ms, now_ms, policy, random);
            // The key that seals until then must not end before what it seals does, however late this is.
            let needed_ms = begin_ms.saturating_add(millis(policy.overlap));
            if let Some(sealing) = keys.iter_mut().max_by_key(|key| key.not_before_ms) {
                sealing.not_after_ms = sealing.not_after_ms.max(needed_ms);
            }
            keys.push(added);
        }
        let next_add_ms = keys
            .iter()
            .map(|key| key.not_before_ms)
            .max()
            .map_or(now_ms, |begin| begin.saturating_add(millis(policy.period)).saturating_sub(millis(policy.accept_lead)));
        let next_end_ms = keys.iter().map(|key| key.not_after_ms).min().unwrap_or(u64::MAX);
        let changed = (dropped || adds).then_some(Self { keys });
        Kept { changed, next_ms: next_add_ms.min(next_end_ms).max(now_ms.saturating_add(1)) }
    }
}

impl Key {
    fn new(not_before_ms: u64, now_ms: u64, policy: Policy, mut random: impl FnMut(&mut [u8])) -> Self {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; KEY_BYTES]);
        random(&mut id);
        random(&mut secret);
        let key = hex::encode(&secret);
        secret.zeroize();
        Self {
            id: hex::encode(&id),
            key,
            not_before_ms,
            not_after_ms: not_before_ms.max(now_ms).saturating_add(longest_ms(policy)),
        }
    }

    fn summary(&self) -> KeySummary {
        KeySummary { id: self.id.clone(), not_before_ms: self.not_before_ms, not_after_ms: self.not_after_ms }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("keys", &self.summary()).finish()
    }
}

/// How long a key counts: its period, the next one's lead, and the overlap after that.
fn longest_ms(policy: Policy) -> u64 {
    millis(policy.period) + millis(policy.accept_lead) + millis(policy.overlap)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
