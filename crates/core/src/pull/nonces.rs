//! The memory against replayed pulls.
//!
//! A request's time must be within [`CLOCK_SKEW_MS_MAX`] of the producer's, so a nonce has to be remembered only as
//! long as its request's time would still be accepted: between nothing and 60 s, 30 s where clocks agree. Nonces lie
//! in buckets by the time at which they may be forgotten, and whole buckets are dropped. Only requests whose MAC holds
//! get here, and their nonces are random, so the first eight bytes stand for all sixteen: two honest nonces meet once
//! in some 10^13 requests, and the second is then refused with an error that may be tried again.
//!
//! Memory: about 18 bytes a nonce, [`NONCES_MAX`] nonces.

use core::hash::{BuildHasherDefault, Hasher};
use core::time::Duration;
use std::collections::{HashSet, VecDeque};

use zipline_contract::limits::{CLOCK_SKEW_MS_MAX, NONCES_MAX};

use crate::hex::hex_id;
use crate::time::{Monotonic, WallTime};

/// How long a bucket collects; the most that a nonce is remembered beyond its need.
const BUCKET: Duration = Duration::from_secs(8);

hex_id! {
    /// Random value of one request. Never used twice by an honest consumer.
    Nonce, 16, "a nonce"
}

/// The nonces that were seen and could still be replayed.
#[derive(Debug, Default)]
pub struct NonceWindow {
    /// Bucket numbers with their nonces, the number rising.
    buckets: VecDeque<(u64, HashSet<u64, BuildHasherDefault<Unhashed>>)>,
    nonces: usize,
}

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceRefusal {
    /// It was seen before.
    Replayed,
    /// As many are remembered as may be.
    Full,
}

impl NonceWindow {
    /// Remembers the nonce of a request whose MAC holds and whose time, `sent`, is within the allowed skew of `wall`.
    pub fn admit(&mut self, nonce: Nonce, sent: WallTime, wall: WallTime, now: Monotonic) -> Result<(), NonceRefusal> {
        self.forget(now);
        let key = prefix(nonce);
        if !mutant!("replay-accepted") && self.buckets.iter().any(|(_, seen)| seen.contains(&key)) {
            return Err(NonceRefusal::Replayed);
        }
        if self.nonces >= NONCES_MAX {
            return Err(NonceRefusal::Full);
        }
        let replayable_for = wall.until(sent.saturating_add(Duration::from_millis(CLOCK_SKEW_MS_MAX)));
        let number = if mutant!("nonce-forgotten-early") {
            bucket(now).saturating_add(1)
        } else {
            bucket(now.saturating_add(replayable_for)).saturating_add(1)
        };
        let at = self.buckets.partition_point(|(other, _)| *other < number);
        if self.buckets.get(at).is_none_or(|(other, _)| *other != number) {
            self.buckets.insert(at, (number, HashSet::default()));
        }
        self.buckets[at].1.insert(key);
        self.nonces += 1;
        Ok(())
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.nonces
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.nonces == 0
    }

    fn forget(&mut self, now: Monotonic) {
        while self.buckets.front().is_some_and(|(number, _)| *number <= bucket(now)) {
            if let Some((_, seen)) = self.buckets.pop_front() {
                self.nonces -= seen.len();
            }
        }
    }
}

fn bucket(time: Monotonic) -> u64 {
    time.since_origin().as_secs() / BUCKET.as_secs()
}

fn prefix(nonce: Nonce) -> u64 {
    let bytes = nonce.as_bytes();
    u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// Nonces are random and authenticated: they are their own hash.
#[derive(Debug, Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
