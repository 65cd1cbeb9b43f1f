//! Decisions that are wrong on purpose, so that the simulation can show that it would notice.
//!
//! Compiled only with `--cfg zipline_mutants`, and each in force only on a thread that has chosen it. In the code a mutant
//! is `mutant!("name")`, which is `false` in every other build. See `docs/simulation.md`.

use core::cell::Cell;

/// One wrong variant.
#[derive(Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name, as it stands in `mutant!`.
    pub name: &'static str,
    /// What it does wrong.
    pub wrong: &'static str,
}

macro_rules! mutants {
    ($($name:literal $wrong:literal;)*) => {
        /// Every mutant.
        pub const ALL: &[Mutant] = &[$(Mutant { name: $name, wrong: $wrong },)*];
    };
}

mutants! {
    "retrieval-counted-early" "a lease is counted as a retrieval when it is granted";
    "release-counts" "a lease that is given back is counted as a retrieval";
    "lease-not-returned" "a lease that is given back stays active";
    "lease-never-lapses" "a lease without progress does not lapse";
    "attempts-not-counted" "a lease that is granted again is no new attempt";
    "slot-of-another" "a slot can be retrieved more than once";
    "acknowledged-after-release" "an acknowledgement of a lease that was given back counts";
    "acknowledgement-forgotten" "a repeated acknowledgement of an ended object is not known any more";
    "readers-not-cut" "readers of an object that ended are not told";
    "expiry-off-by-one" "a reference is opened in the millisecond in which it expires";
    "wall-expiry-ignored" "an object is read past its expiry by the wall clock";
    "held-past-expiry" "an object is held on after its time";
    "budget-kept-on-cancel" "room that was reserved and not used is not given back";
    "budget-kept-on-receive" "room for a received payload is not given back";
    "surplus-kept" "room beyond an object's size is not given back at its end";
    "lingering-not-charged" "memory that a reader still maps is not charged";
    "waiter-overtaken" "a newcomer who fits is let in before those who wait";
    "waiter-forgotten" "nobody is let in when an object ends";
    "places-not-bounded" "the number of objects is not bounded";
    "drain-forgets-held" "a drain ends though objects are held";
    "drain-forgets-requests" "a drain does not wait for requests in flight";
    "drain-takes-puts" "a draining proxy goes on taking puts";
    "drain-outlives-grace" "a drain with objects goes on past its grace limit";
    "resume-from-wrong-byte" "a broken read goes on behind the block that was on its way";
    "resume-without-end" "a broken read is resumed without bound";
    "sum-not-checked" "a block whose sum does not hold is delivered";
    "record-mac-not-checked" "a record's head is believed without its MAC";
    "answer-mac-not-checked" "an answer's head is believed without its MAC";
    "request-mac-not-checked" "a request is believed without its MAC";
    "last-record-early" "the last record of what is written so far ends the body";
    "heartbeat-is-progress" "a heartbeat counts as a byte of the payload";
    "replay-accepted" "a nonce may come twice";
    "nonce-forgotten-early" "nonces are forgotten while they can still be replayed, and no floor remembers them";
    "skew-not-checked" "a request of any time is accepted";
    "receiver-not-checked" "a reference for one service is resolved by another";
    "narrowing-widens" "a narrowed range counts from the object's first byte";
    "breaker-lets-in-one-more" "a breaker runs one more than its capacity";
    "breaker-forgets-waiters" "a place that comes free in a breaker is not given on";
    "throttler-sends-twice" "a request that waited is sent to two instances";
    "throttler-keeps-the-gone" "an instance that is not ready any more gets requests";
    "hold-forgotten" "an idle instance does not report the objects that it holds";
    "hold-on-top" "a hold is added to the requests that there are";
    "zero-while-held" "a revision goes to zero without the activator in the path";
    "most-instances-ignored" "the largest scale is not kept to";
}

thread_local! {
    static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Puts a mutant in force on this thread, or none.
pub fn choose(mutant: Option<&'static Mutant>) {
    CHOSEN.set(mutant.map(|mutant| mutant.name));
}

pub(crate) fn is_chosen(name: &'static str) -> bool {
    CHOSEN.get().is_some_and(|chosen| chosen == name)
}
