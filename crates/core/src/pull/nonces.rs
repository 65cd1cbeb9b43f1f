//! The memory against replayed pulls.
//!
//! A request's time must be within [`CLOCK_SKEW_MS_MAX`] of the producer's, so a nonce has to be remembered only as
//! long as its request's time would still be accepted: between nothing and 60 s, 30 s where clocks agree. Nonces lie
//! in buckets by the time at which they may be forgotten, and whole buckets are dropped. Only requests whose MAC holds
//! get here, and their nonces are random, so the first eight bytes stand for all sixteen: two honest nonces meet once
//! in some 10^13 requests, and the second is then refused with an error that may be tried again.
//!
//! The producer's wall clock may be set back, and then a request whose nonce was forgotten is within the skew again. So of
//! every bucket that is dropped the latest time is kept as a floor, below which nothing is taken. While clocks only go
//! forward the floor is older than the skew allows, and refuses nothing.
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
    /// Buckets, the number rising.
    buckets: VecDeque<Bucket>,
    nonces: usize,
    /// The latest time of a request whose nonce was forgotten.
    floor: Option<WallTime>,
}

/// Nonces that may be forgotten at the same time.
#[derive(Debug)]
struct Bucket {
    number: u64,
    seen: HashSet<u64, BuildHasherDefault<Unhashed>>,
    /// The latest time of their requests.
    latest: WallTime,
}

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceRefusal {
    /// It was seen before, or is so old that it may have been.
    Replayed,
    /// As many are remembered as may be.
    Full,
}

impl NonceWindow {
    /// Remembers the nonce of a request whose MAC holds and whose time, `sent`, is within the allowed skew of `wall`.
    pub fn admit(&mut self, nonce: Nonce, sent: WallTime, wall: WallTime, now: Monotonic) -> Result<(), NonceRefusal> {
        self.forget(now);
        let key = prefix(nonce);
        let is_forgotten = self.floor.is_some_and(|floor| sent <= floor);
        let is_seen = self.buckets.iter().any(|bucket| bucket.seen.contains(&key)) && !mutant!("replay-accepted");
        if is_forgotten || is_seen {
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
        let at = self.buckets.partition_point(|other| other.number < number);
        if self.buckets.get(at).is_none_or(|other| other.number != number) {
            self.buckets.insert(at, Bucket { number, seen: HashSet::default(), latest: sent });
        }
        let bucket = &mut self.buckets[at];
        bucket.seen.insert(key);
        bucket.latest = bucket.latest.max(sent);
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
        while self.buckets.front().is_some_and(|first| first.number <= bucket(now)) {
            if let Some(forgotten) = self.buckets.pop_front() {
                self.nonces -= forgotten.seen.len();
                if !mutant!("nonce-forgotten-early") {
                    self.floor = self.floor.max(Some(forgotten.latest));
                }
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
