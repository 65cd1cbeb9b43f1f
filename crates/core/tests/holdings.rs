//! The laws of what a proxy holds, by example. Random schedules are in `holdings_laws.rs`.

use core::num::NonZeroU32;
use core::time::Duration;

use zipline_contract::ErrorCode;
use zipline_core::object::{
    Acknowledged, Admission, Census, CutReason, Effect, End, HoldingLimits, Holdings, LeaseId, LeaseRequest, NewObject, Now,
    ObjectId, Owner, ReadError, ReceiveId, Refusal, RoomLimits, Via, WriteError,
};
use zipline_core::tier::Durability;
use zipline_core::time::{Monotonic, WallTime};

const LEASE: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(300);
const ROOM: RoomLimits = RoomLimits { bytes_max: 1000, places_max: 8, waiters_max: 3, wait_max: WAIT };

fn holdings() -> Holdings<&'static str> {
    Holdings::new(HoldingLimits { held: ROOM, receiving: ROOM, attempts_extra: 2, lease: LEASE })
}

fn at(seconds: u64) -> Now {
    Now { mono: Monotonic::from_secs(1000 + seconds), wall: WallTime::from_unix_secs(1_800_000_000 + seconds) }
}

fn object(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 16])
}

fn lease(n: u8) -> LeaseId {
    LeaseId::from_bytes([n; 16])
}

fn read(n: u8) -> LeaseRequest {
    LeaseRequest { lease: lease(n), slot: None, via: Via::Pull }
}

fn slot_read(n: u8, slot: u32) -> LeaseRequest {
    LeaseRequest { slot: Some(slot), ..read(n) }
}

fn put(retrievals: u32) -> Owner {
    Owner::Put { retrievals: NonZeroU32::new(retrievals).unwrap() }
}

fn new(owner: Owner, size: Option<u64>) -> NewObject {
    NewObject { owner, size, ttl: TTL, expires: at(TTL.as_secs()).wall, durability: Durability::None }
}

/// Puts a complete object.
fn hold(holdings: &mut Holdings<&'static str>, n: u8, bytes: u64, owner: Owner) {
    assert_eq!(holdings.reserve(object(n), bytes, at(0)), Ok(Admission::Admitted));
    holdings.insert(object(n), new(owner, Some(bytes)), "payload", at(0)).unwrap();
    holdings.finish(object(n), bytes).unwrap();
}

fn effects(holdings: &mut Holdings<&'static str>) -> Vec<Effect<&'static str>> {
    core::iter::from_fn(|| holdings.poll_effect()).collect()
}

fn freed(n: u8, end: End) -> Effect<&'static str> {
    Effect::Freed { object: object(n), end, payload: "payload" }
}

fn cut(n: u8, l: u8, why: CutReason) -> Effect<&'static str> {
    Effect::Cut { object: object(n), lease: lease(l), why }
}

/// Runs the timer until nothing is due at `now`.
fn run_timer(holdings: &mut Holdings<&'static str>, now: Now) {
    while holdings.next_timeout().is_some_and(|due| due <= now.mono) {
        holdings.handle_timeout(now);
    }
}

#[test]
fn the_last_retrieval_frees_the_object_and_cuts_the_other_readers() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(2));
    for n in 1..=3 {
        h.grant(object(1), read(n), at(1)).unwrap();
    }
    assert_eq!(h.acknowledge(object(1), lease(1), at(2)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), []);
    assert_eq!(h.status(object(1), None, at(2)).unwrap().retrievals_left, 1);
    assert_eq!(h.acknowledge(object(1), lease(2), at(2)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), [cut(1, 3, CutReason::Ended(End::Retrieved)), freed(1, End::Retrieved)]);
    assert_eq!(h.census(), Census::EMPTY);

    let late = h.acknowledge(object(1), lease(3), at(3)).unwrap_err();
    assert_eq!((late.code(), late.end), (ErrorCode::ReferenceExhausted, Some(End::Retrieved)));
    assert_eq!(h.grant(object(1), read(4), at(3)).unwrap_err().code(), ErrorCode::ReferenceExhausted);
    assert_eq!(h.counts().acknowledgements, 2);
}

#[test]
fn an_acknowledgement_repeated_within_a_minute_of_the_end_is_answered_and_not_counted_again() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(2));
    h.grant(object(1), read(1), at(1)).unwrap();
    h.grant(object(1), read(2), at(1)).unwrap();
    assert_eq!(h.acknowledge(object(1), lease(1), at(2)), Ok(Acknowledged::Counted));
    assert_eq!(h.acknowledge(object(1), lease(1), at(2)), Ok(Acknowledged::Before));
    assert_eq!(h.status(object(1), None, at(2)).unwrap().retrievals_left, 1);
    assert_eq!(h.acknowledge(object(1), lease(2), at(2)), Ok(Acknowledged::Counted));
    run_timer(&mut h, at(61));
    assert_eq!(h.acknowledge(object(1), lease(1), at(61)), Ok(Acknowledged::Before));
    run_timer(&mut h, at(62));
    assert_eq!(h.acknowledge(object(1), lease(1), at(62)).unwrap_err().end, None);
    assert_eq!(h.remembered(), 0);
    assert_eq!(h.next_timeout(), None);
}

#[test]
fn a_repeated_lease_is_the_same_read_and_a_new_one_a_new_attempt() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    for _ in 0..5 {
        h.grant(object(1), read(1), at(1)).unwrap();
    }
    h.grant(object(1), read(2), at(1)).unwrap();
    h.grant(object(1), read(3), at(1)).unwrap();
    let refused = h.grant(object(1), read(4), at(1)).unwrap_err();
    assert_eq!(refused, ReadError::Attempts { attempts: 3 });
    assert_eq!(refused.code(), ErrorCode::AttemptsExhausted);
    h.grant(object(1), read(3), at(1)).unwrap();
    assert_eq!((h.counts().attempts, h.census().leases), (3, 3));
}

#[test]
fn one_read_cannot_go_on_for_ever_by_being_resumed() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    let refused = (0..1000).find_map(|_| h.grant(object(1), read(1), at(1)).err());
    assert_eq!(refused, Some(ReadError::Resumes));
}

#[test]
fn a_lease_lapses_without_progress_and_its_reader_is_cut() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    h.grant(object(1), read(1), at(0)).unwrap();
    assert!(h.progress(object(1), lease(1), at(20)));
    run_timer(&mut h, at(49));
    assert_eq!(effects(&mut h), []);
    h.status(object(1), Some(lease(1)), at(49)).unwrap();
    run_timer(&mut h, at(78));
    assert_eq!(effects(&mut h), []);
    run_timer(&mut h, at(79));
    assert_eq!(effects(&mut h), [cut(1, 1, CutReason::Lapsed)]);
    assert!(!h.progress(object(1), lease(1), at(80)), "a lapsed reader is stopped");
    assert_eq!(h.census().leases, 0);
    h.grant(object(1), read(2), at(80)).unwrap();
}

#[test]
fn a_lease_that_is_over_leaves_no_timer() {
    let mut h = holdings();
    let only_expiry = Some(at(300).mono);
    hold(&mut h, 1, 100, put(5));
    for n in 1..=2 {
        h.grant(object(1), read(n), at(0)).unwrap();
        h.progress(object(1), lease(n), at(20));
    }
    run_timer(&mut h, at(30));
    assert_eq!(h.next_timeout(), Some(at(50).mono), "the timer looks again when the progress is old");
    h.acknowledge(object(1), lease(1), at(31)).unwrap();
    h.release(object(1), lease(2));
    assert_eq!(h.next_timeout(), only_expiry);
    h.grant(object(1), read(3), at(32)).unwrap();
    h.free(object(1), at(33));
    assert_eq!(h.next_timeout(), Some(at(93).mono), "only the memory of the end is left");
}

#[test]
fn a_read_that_was_whole_after_all_counts_though_its_lease_lapsed() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    h.grant(object(1), read(1), at(0)).unwrap();
    run_timer(&mut h, at(31));
    assert_eq!(h.acknowledge(object(1), lease(1), at(40)), Ok(Acknowledged::Counted));
    assert_eq!(h.census(), Census::EMPTY);
}

#[test]
fn a_lease_given_back_is_no_retrieval_and_leaves_the_object_to_the_next() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    h.grant(object(1), read(1), at(0)).unwrap();
    h.release(object(1), lease(1));
    h.release(object(1), lease(1));
    assert_eq!(h.counts().leases_released, 1);
    assert_eq!(h.acknowledge(object(1), lease(1), at(1)).unwrap_err().end, None);
    h.grant(object(1), read(2), at(1)).unwrap();
    assert_eq!(h.acknowledge(object(1), lease(2), at(1)), Ok(Acknowledged::Counted));
}

#[test]
fn a_branch_of_a_broadcast_cannot_use_up_another_s_turn() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(2));
    h.grant(object(1), slot_read(1, 0), at(0)).unwrap();
    h.grant(object(1), slot_read(2, 0), at(0)).unwrap();
    assert_eq!(h.acknowledge(object(1), lease(1), at(1)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), [cut(1, 2, CutReason::SlotRetrieved)]);
    assert!(h.acknowledge(object(1), lease(2), at(1)).is_err());
    let again = h.grant(object(1), slot_read(3, 0), at(1)).unwrap_err();
    assert_eq!(again.code(), ErrorCode::ReferenceExhausted);
    assert_eq!(h.grant(object(1), slot_read(3, 2), at(1)).unwrap_err(), ReadError::NoSuchSlot { slot: 2, slots: 2 });
    h.grant(object(1), slot_read(4, 1), at(1)).unwrap();
    assert_eq!(h.acknowledge(object(1), lease(4), at(1)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), [freed(1, End::Retrieved)]);
}

#[test]
fn a_call_s_payload_lives_until_the_call_is_over_however_often_it_was_read() {
    let mut h = holdings();
    hold(&mut h, 1, 100, Owner::Call);
    for n in 1..=3 {
        h.grant(object(1), read(n), at(0)).unwrap();
        assert_eq!(h.acknowledge(object(1), lease(n), at(0)), Ok(Acknowledged::Counted));
    }
    assert_eq!(effects(&mut h), []);
    assert!(h.free(object(1), at(1)));
    assert!(!h.free(object(1), at(1)));
    assert_eq!(effects(&mut h), [freed(1, End::Released)]);

    hold(&mut h, 2, 100, Owner::CallUntilRetrieved);
    h.grant(object(2), read(1), at(0)).unwrap();
    assert_eq!(h.acknowledge(object(2), lease(1), at(0)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), [freed(2, End::Retrieved)]);
}

#[test]
fn an_object_expires_by_the_clock_that_does_not_jump_and_on_access_by_the_one_that_does() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    hold(&mut h, 2, 100, put(1));
    h.grant(object(1), read(1), at(0)).unwrap();
    let jumped = Now { mono: at(1).mono, wall: at(10_000).wall };
    run_timer(&mut h, jumped);
    assert_eq!(h.grant(object(1), read(2), jumped).unwrap_err().code(), ErrorCode::ReferenceExpired);
    assert_eq!(effects(&mut h), [cut(1, 1, CutReason::Ended(End::Expired)), freed(1, End::Expired)]);
    let stopped = Now { mono: at(300).mono, wall: at(0).wall };
    run_timer(&mut h, stopped);
    assert_eq!(effects(&mut h), [freed(2, End::Expired)]);
    assert_eq!(h.census(), Census::EMPTY);
}

#[test]
fn an_object_is_read_while_it_is_written_and_a_failed_writer_ends_its_readers() {
    let mut h = holdings();
    assert_eq!(h.reserve(object(1), 100, at(0)), Ok(Admission::Admitted));
    h.insert(object(1), new(put(1), None), "payload", at(0)).unwrap();
    h.written(object(1), 60).unwrap();
    let view = h.grant(object(1), read(1), at(0)).unwrap();
    assert_eq!((view.size, view.written.bytes, view.written.complete), (None, 60, false));
    assert_eq!(h.written(object(1), 101), Err(WriteError::TooMuch { written: 101, room: 100 }));
    assert_eq!(h.grow(object(1), 200, at(0)), Ok(Admission::Admitted));
    h.written(object(1), 150).unwrap();
    assert_eq!(h.census().bytes, 200);
    h.abort(object(1), at(1));
    assert_eq!(effects(&mut h), [cut(1, 1, CutReason::Ended(End::Aborted)), freed(1, End::Aborted)]);
    assert_eq!(h.grant(object(1), read(1), at(1)).unwrap_err().code(), ErrorCode::PayloadAborted);
    assert_eq!(h.written(object(1), 160), Err(WriteError::Ended(End::Aborted)));
}

#[test]
fn a_complete_object_is_charged_by_its_size_and_cannot_be_aborted() {
    let mut h = holdings();
    assert_eq!(h.reserve(object(1), 500, at(0)), Ok(Admission::Admitted));
    h.insert(object(1), new(put(1), None), "payload", at(0)).unwrap();
    h.finish(object(1), 300).unwrap();
    assert_eq!((h.census().bytes, h.census().writers), (300, 0));
    h.abort(object(1), at(1));
    assert_eq!(h.finish(object(1), 300), Err(WriteError::Finished));
    let view = h.grant(object(1), read(1), at(1)).unwrap();
    assert_eq!((view.size, view.written.complete), (Some(300), true));
}

#[test]
fn a_declared_size_is_kept_to() {
    let mut h = holdings();
    assert_eq!(h.reserve(object(1), 100, at(0)), Ok(Admission::Admitted));
    h.insert(object(1), new(put(1), Some(100)), "payload", at(0)).unwrap();
    assert_eq!(h.finish(object(1), 99), Err(WriteError::OtherSize { declared: 100, written: 99 }));
    h.finish(object(1), 100).unwrap();
}

#[test]
fn puts_wait_in_the_order_of_arrival_and_no_small_one_overtakes_a_large_one() {
    let mut h = holdings();
    hold(&mut h, 1, 900, put(1));
    assert_eq!(h.reserve(object(2), 500, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.reserve(object(3), 50, at(1)), Ok(Admission::Waiting));
    assert_eq!(h.reserve(object(4), 600, at(2)), Ok(Admission::Waiting));
    let Err(Refusal::Full { waiters: 3, bytes: 900, next_expiry: Some(_), .. }) = h.reserve(object(5), 1, at(2)) else {
        panic!("a fourth waiter is refused");
    };
    h.free(object(1), at(3));
    assert_eq!(effects(&mut h), [freed(1, End::Released), Effect::Admitted(object(2)), Effect::Admitted(object(3))]);
    h.cancel(object(2));
    assert_eq!(effects(&mut h), [Effect::Admitted(object(4))]);
    assert_eq!(h.census().bytes, 650);
}

#[test]
fn a_waiter_that_goes_away_gives_its_place_to_the_next() {
    let mut h = holdings();
    hold(&mut h, 1, 900, put(1));
    assert_eq!(h.reserve(object(2), 500, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.reserve(object(3), 50, at(0)), Ok(Admission::Waiting));
    h.cancel(object(2));
    assert_eq!(effects(&mut h), [Effect::Admitted(object(3))]);
    h.cancel(object(3));
    h.free(object(1), at(0));
    effects(&mut h);
    assert_eq!(h.census(), Census::EMPTY);
}

#[test]
fn a_waiter_is_told_when_its_time_is_over() {
    let mut h = holdings();
    hold(&mut h, 1, 900, put(1));
    assert_eq!(h.reserve(object(2), 500, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.next_timeout(), Some(at(5).mono));
    run_timer(&mut h, at(5));
    let effects = effects(&mut h);
    let [Effect::Refused(id, refusal)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!((id, refusal.code()), (object(2), ErrorCode::BufferFull));
    assert_eq!(h.census().waiters, 0);
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut h = holdings();
    let refusal = h.reserve(object(1), 1001, at(0)).unwrap_err();
    assert_eq!(refusal, Refusal::TooLarge { bytes: 1001, bytes_max: 1000 });
    assert_eq!(refusal.code(), ErrorCode::PayloadTooLarge);
    assert_eq!(h.receive(ReceiveId(1), 1001, at(0)).unwrap_err().code(), ErrorCode::PayloadTooLarge);
    assert_eq!(h.reserve(object(1), 1000, at(0)), Ok(Admission::Admitted));
}

#[test]
fn a_writer_that_needs_more_goes_before_new_puts() {
    let mut h = holdings();
    hold(&mut h, 1, 500, put(1));
    assert_eq!(h.reserve(object(2), 400, at(0)), Ok(Admission::Admitted));
    h.insert(object(2), new(put(1), None), "payload", at(0)).unwrap();
    assert_eq!(h.reserve(object(3), 200, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.grow(object(2), 900, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.grow(object(2), 900, at(0)), Ok(Admission::Waiting));
    h.free(object(1), at(1));
    assert_eq!(effects(&mut h), [freed(1, End::Released), Effect::Admitted(object(2))]);
    h.written(object(2), 900).unwrap();
}

#[test]
fn a_writer_that_waits_for_more_is_told_when_its_time_is_over() {
    let mut h = holdings();
    hold(&mut h, 1, 600, put(1));
    assert_eq!(h.reserve(object(2), 400, at(0)), Ok(Admission::Admitted));
    h.insert(object(2), new(put(1), None), "payload", at(0)).unwrap();
    assert_eq!(h.grow(object(2), 500, at(1)), Ok(Admission::Waiting));
    assert_eq!(h.reserve(object(3), 500, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.next_timeout(), Some(at(5).mono));
    run_timer(&mut h, at(5));
    assert!(matches!(effects(&mut h)[..], [Effect::Refused(id, Refusal::Full { .. })] if id == object(3)));
    assert_eq!(h.next_timeout(), Some(at(6).mono));
    run_timer(&mut h, at(6));
    assert!(matches!(effects(&mut h)[..], [Effect::Refused(id, Refusal::Full { .. })] if id == object(2)));
    assert_eq!(h.census().writers, 1, "what becomes of its object is the driver's to say");
}

#[test]
fn a_writer_that_waits_is_told_when_its_object_ends() {
    let mut h = holdings();
    hold(&mut h, 1, 600, put(1));
    assert_eq!(h.reserve(object(2), 400, at(0)), Ok(Admission::Admitted));
    h.insert(object(2), new(put(1), None), "payload", at(0)).unwrap();
    assert_eq!(h.grow(object(2), 500, at(0)), Ok(Admission::Waiting));
    h.free(object(2), at(0));
    assert_eq!(effects(&mut h), [freed(2, End::Released), Effect::Refused(object(2), Refusal::Ended(End::Released))]);
    assert_eq!(h.grow(object(2), 500, at(0)), Err(Refusal::Ended(End::Released)));
}

#[test]
fn memory_that_a_reader_on_this_machine_maps_stays_charged_until_its_connection_closes() {
    let mut h = holdings();
    hold(&mut h, 1, 700, put(1));
    h.grant(object(1), LeaseRequest { via: Via::Handover, ..read(1) }, at(0)).unwrap();
    h.grant(object(1), read(2), at(0)).unwrap();
    run_timer(&mut h, at(29));
    assert_eq!(h.acknowledge(object(1), lease(2), at(29)), Ok(Acknowledged::Counted));
    assert_eq!(effects(&mut h), [freed(1, End::Retrieved)]);
    assert_eq!(h.census(), Census { bytes: 700, lingering_bytes: 700, ..Census::EMPTY });
    assert_eq!(h.reserve(object(2), 400, at(30)), Ok(Admission::Waiting));
    h.release(object(1), lease(1));
    assert_eq!(effects(&mut h), [Effect::Admitted(object(2))]);
    assert_eq!(h.census().lingering_bytes, 0);
}

#[test]
fn a_reader_by_descriptor_keeps_its_lease_when_another_retrieves_its_slot() {
    let mut h = holdings();
    hold(&mut h, 1, 700, put(2));
    h.grant(object(1), LeaseRequest { via: Via::Handover, ..slot_read(1, 0) }, at(0)).unwrap();
    h.grant(object(1), slot_read(2, 0), at(0)).unwrap();
    assert_eq!(h.acknowledge(object(1), lease(2), at(1)), Ok(Acknowledged::Counted));
    assert!(h.acknowledge(object(1), lease(1), at(1)).is_err(), "its acknowledgement does not count");
    h.free(object(1), at(2));
    assert_eq!(h.census().lingering_bytes, 700);
    h.release(object(1), lease(1));
    assert_eq!(h.census(), Census::EMPTY);
}

#[test]
fn a_hand_over_does_not_lapse() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    h.grant(object(1), LeaseRequest { via: Via::Handover, ..read(1) }, at(0)).unwrap();
    run_timer(&mut h, at(299));
    assert_eq!(effects(&mut h), []);
    assert_eq!(h.acknowledge(object(1), lease(1), at(299)), Ok(Acknowledged::Counted));
    assert_eq!(h.census(), Census::EMPTY);
}

#[test]
fn what_others_hold_of_a_shared_budget_counts() {
    let mut h = holdings();
    h.set_held_elsewhere(900);
    assert_eq!(h.reserve(object(1), 200, at(0)), Ok(Admission::Waiting));
    h.set_held_elsewhere(100);
    assert_eq!(effects(&mut h), [Effect::Admitted(object(1))]);
}

#[test]
fn a_drain_sends_new_puts_away_and_lets_writers_finish() {
    let mut h = holdings();
    hold(&mut h, 1, 500, put(1));
    assert_eq!(h.reserve(object(2), 400, at(0)), Ok(Admission::Admitted));
    h.insert(object(2), new(put(1), None), "payload", at(0)).unwrap();
    assert_eq!(h.reserve(object(3), 900, at(0)), Ok(Admission::Waiting));
    h.drain();
    assert_eq!(effects(&mut h), [Effect::Refused(object(3), Refusal::Draining)]);
    assert_eq!(h.reserve(object(4), 1, at(0)).unwrap_err().code(), ErrorCode::Draining);
    assert_eq!(h.grow(object(2), 500, at(0)), Ok(Admission::Admitted));
    h.finish(object(2), 500).unwrap();
}

#[test]
fn received_payloads_have_a_budget_of_their_own() {
    let mut h = holdings();
    hold(&mut h, 1, 1000, put(1));
    assert_eq!(h.receive(ReceiveId(1), 600, at(0)), Ok(Admission::Admitted));
    assert_eq!(h.receive(ReceiveId(2), 300, at(0)), Ok(Admission::Admitted));
    assert_eq!(h.receive(ReceiveId(3), 300, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.receive_more(ReceiveId(2), 500, at(0)), Ok(Admission::Waiting));
    assert_eq!(h.receive_more(ReceiveId(2), 250, at(0)), Ok(Admission::Admitted));
    h.received(ReceiveId(1));
    assert_eq!(effects(&mut h), [Effect::ReceiveAdmitted(ReceiveId(2)), Effect::ReceiveAdmitted(ReceiveId(3))]);
    assert_eq!((h.census().receiving_bytes, h.census().receiving), (800, 2));
    h.received(ReceiveId(2));
    h.received(ReceiveId(3));
    assert_eq!((h.census().receiving_bytes, h.census().receiving), (0, 0));
    assert_eq!(h.next_timeout(), Some(at(300).mono), "only the held object's expiry is left");
}

#[test]
fn an_id_is_used_once_at_a_time() {
    let mut h = holdings();
    hold(&mut h, 1, 100, put(1));
    assert_eq!(h.reserve(object(1), 100, at(0)), Err(Refusal::IdTaken));
    assert_eq!(h.insert(object(2), new(put(1), None), "mine", at(0)), Err("mine"));
}
