//! A key ring's life, as queue-proxies of `zipline-core` read it.
#![allow(missing_docs)]

use std::time::Duration;

use zipline_core::reference::KeyRing;
use zipline_core::time::WallTime;
use zipline_kubernetes::rotation::{Policy, Ring};

const START_MS: u64 = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;

/// Different bytes each time, the same in every run.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0u32;
    move |bytes| {
        next += 1;
        for (byte, value) in bytes.iter_mut().zip(next.to_be_bytes().into_iter().cycle()) {
            *byte = value;
        }
    }
}

fn core_ring(ring: &Ring) -> KeyRing {
    KeyRing::parse(ring.to_text().as_bytes()).expect("core reads what the controller writes")
}

fn at(ms: u64) -> WallTime {
    WallTime::from_unix_millis(ms)
}

#[test]
fn a_first_ring_seals_at_once() {
    let ring = core_ring(&Ring::first(START_MS, Policy::default(), counting()));
    assert!(ring.sealing(at(START_MS)).is_some());
}

/// A year of a controller that looks when it was told to: at no time is there no sealing key, a new one is known to all
/// proxies before it seals, and what a key sealed is opened for as long as the overlap says.
#[test]
fn through_a_year_there_is_always_a_key_that_everybody_knows() {
    let policy = Policy::default();
    let mut random = counting();
    let mut ring = Ring::first(START_MS, policy, &mut random);
    let (mut now, mut changes) = (START_MS, 0);
    // What a pod sees: the ring as it was two minutes ago.
    let mut seen_late = vec![(now, core_ring(&ring))];
    while now < START_MS + 365 * 24 * 60 * MINUTE_MS {
        let kept = ring.keep(now, policy, &mut random);
        if let Some(changed) = kept.changed {
            let (before, after) = (core_ring(&ring), core_ring(&changed));
            if let Some(sealing) = before.sealing(at(now)) {
                let until = now + policy.overlap.as_millis() as u64 - 1;
                assert!(after.accepting(sealing.id(), at(until)).is_some(), "what was just sealed can be opened");
            }
            ring = changed;
            changes += 1;
            seen_late.push((now, core_ring(&ring)));
        }
        let current = core_ring(&ring);
        let sealing = current.sealing(at(now)).expect("always a key that seals").id();
        let late = &seen_late
            .iter()
            .rev()
            .find(|(since, _)| since + 2 * MINUTE_MS <= now.max(START_MS + 2 * MINUTE_MS))
            .expect("a ring")
            .1;
        assert!(late.accepting(sealing, at(now)).is_some(), "a proxy that reads two minutes late opens it");
        assert!(ring.summary().len() <= 4, "the ring stays small");
        assert!(kept.next_ms > now, "time goes on");
        now = kept.next_ms;
    }
    assert!(changes >= 365, "{changes} changes");
}

#[test]
fn asked_twice_in_a_minute_one_key_is_added() {
    let policy = Policy::default();
    let mut random = counting();
    let ring = Ring::first(START_MS, policy, &mut random);
    let once = ring.rotate(START_MS + MINUTE_MS, policy, &mut random).changed.expect("a key is added");
    let twice = once.rotate(START_MS + MINUTE_MS + 30_000, policy, &mut random);
    assert!(twice.changed.is_none(), "the one that waits to begin is it");
    let (added, first) = (core_ring(&once), core_ring(&ring));
    let old = first.sealing(at(START_MS)).expect("a key").id();
    assert_eq!(added.sealing(at(START_MS + MINUTE_MS)).map(|key| key.id()), Some(old), "not yet");
    assert_ne!(added.sealing(at(START_MS + 7 * MINUTE_MS)).map(|key| key.id()), Some(old), "five minutes later");
}

#[test]
fn a_controller_that_was_away_for_a_week_starts_anew_and_drops_what_ended() {
    let policy = Policy { period: Duration::from_secs(3600), ..Policy::default() };
    let mut random = counting();
    let ring = Ring::first(START_MS, policy, &mut random);
    let later = START_MS + 7 * 24 * 60 * MINUTE_MS;
    let kept = ring.keep(later, policy, &mut random).changed.expect("changed");
    assert_eq!(kept.summary().len(), 1);
    assert!(core_ring(&kept).sealing(at(later)).is_some(), "and seals at once: nothing else does");
}

#[test]
fn what_is_no_ring_is_refused_without_being_quoted() {
    let secret = "ab".repeat(31);
    let texts = [
        "{".to_owned(),
        r#"{"keys": []}"#.to_owned(),
        format!(r#"{{"keys": [{{"id": "00000001", "key": "{secret}", "not_before_ms": 1, "not_after_ms": 2}}]}}"#),
        format!(r#"{{"keys": [{{"id": "1", "key": "{secret}cd", "not_before_ms": 1, "not_after_ms": 2}}]}}"#),
        format!(r#"{{"keys": [{{"id": "00000001", "key": "{secret}cd", "not_before_ms": 2, "not_after_ms": 2}}]}}"#),
        format!(r#"{{"keys": "{secret}"}}"#),
    ];
    for text in texts {
        let error = Ring::parse(text.as_bytes()).expect_err("no ring").to_string();
        assert!(!error.contains(&secret), "{error}");
    }
    let ring = Ring::first(START_MS, Policy::default(), counting());
    assert!(!format!("{ring:?}").contains(&"00000002".repeat(8)), "the key is not printed");
    assert!(Ring::parse(ring.to_text().as_bytes()).is_ok());
}
