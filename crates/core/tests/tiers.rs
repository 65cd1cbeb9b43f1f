//! Where objects lie beside memory: who goes to disk, what a drain writes to the durable tier, and what every end frees.

use core::num::NonZeroU32;
use core::time::Duration;

use proptest::prelude::*;
use zipline_core::object::{
    Admission, Census, Effect, HoldingLimits, Holdings, LeaseId, LeaseRequest, NewObject, Now, ObjectId, Owner, RoomLimits,
    STORE_TRIES_MAX, SpillLimits, Via,
};
use zipline_core::tier::Durability;
use zipline_core::time::{Monotonic, WallTime};

const MIB: u64 = 1024 * 1024;
const SPILL: SpillLimits = SpillLimits { bytes_max: 6 * MIB, watermark_bytes: 4 * MIB, object_bytes_min: 1024 };

fn holdings() -> Holdings<u32> {
    let room = RoomLimits { bytes_max: 8 * MIB, places_max: 100, waiters_max: 10, wait_max: Duration::from_secs(5) };
    let limits = HoldingLimits { held: room, receiving: room, attempts_extra: 8, lease: Duration::from_secs(30) };
    Holdings::new(limits).with_spill(SPILL)
}

fn at(second: u64) -> Now {
    Now { mono: Monotonic::from_secs(second), wall: WallTime::from_unix_secs(1_000_000 + second) }
}

fn object(n: u32) -> ObjectId {
    ObjectId::from_bytes(u128::from(n).to_be_bytes())
}

fn lease(n: u32) -> LeaseId {
    LeaseId::from_bytes(u128::from(n).to_be_bytes())
}

fn begin(holdings: &mut Holdings<u32>, n: u32, size: u64, durability: Durability, ttl: u64) -> bool {
    if holdings.reserve(object(n), size, at(0)) != Ok(Admission::Admitted) {
        return false;
    }
    let owner = Owner::Put { retrievals: NonZeroU32::MIN };
    let expires = at(ttl).wall;
    let new = NewObject { owner, size: Some(size), ttl: Duration::from_secs(ttl), expires, durability };
    holdings.insert(object(n), new, n, at(0)).is_ok()
}

fn put(holdings: &mut Holdings<u32>, n: u32, size: u64, durability: Durability) {
    assert!(begin(holdings, n, size, durability, 300 + u64::from(n)), "there is room");
    holdings.finish(object(n), size).expect("finished");
}

fn read(holdings: &mut Holdings<u32>, n: u32, via: Via) {
    let asked = LeaseRequest { lease: lease(n), slot: None, via };
    holdings.grant(object(n), asked, at(1)).map(|_| ()).expect("granted");
}

fn effects(holdings: &mut Holdings<u32>) -> Vec<Effect<u32>> {
    core::iter::from_fn(|| holdings.poll_effect()).collect()
}

#[test]
fn above_the_watermark_the_oldest_that_nobody_reads_goes_to_disk_and_makes_room() {
    let mut held = holdings();
    for n in 1..=3 {
        put(&mut held, n, MIB, Durability::None);
    }
    assert_eq!(held.next_to_spill(), None, "below the watermark");
    put(&mut held, 4, 4 * MIB, Durability::None);
    read(&mut held, 1, Via::Pull);
    assert_eq!(held.next_to_spill(), Some(object(2)));
    assert_eq!(held.next_to_spill(), Some(object(3)));
    assert_eq!(held.next_to_spill(), Some(object(4)), "two under way leave 5 MiB");
    assert_eq!(held.next_to_spill(), None, "what is under way will do");
    assert!(held.spilled(object(2)) && held.spilled(object(4)));
    let census = held.census();
    assert_eq!((census.bytes, census.spilled_bytes, census.spilled_objects, census.objects), (2 * MIB, 5 * MIB, 2, 4));
    assert_eq!(
        held.grant(object(4), LeaseRequest { lease: lease(4), slot: None, via: Via::Pull }, at(1)).map(|v| v.size),
        Ok(Some(4 * MIB))
    );
}

#[test]
fn who_waits_for_room_is_let_in_by_a_spill_below_the_watermark_too() {
    let mut held = holdings();
    put(&mut held, 1, 3 * MIB, Durability::None);
    assert_eq!(held.reserve(object(2), 6 * MIB, at(1)), Ok(Admission::Waiting));
    assert_eq!(held.next_to_spill(), Some(object(1)));
    assert!(held.spilled(object(1)));
    assert_eq!(effects(&mut held), [Effect::Admitted(object(2))]);
}

#[test]
fn an_object_that_is_read_or_ends_while_it_is_spilled_stays_where_it_is() {
    let mut held = holdings();
    put(&mut held, 1, 3 * MIB, Durability::None);
    put(&mut held, 2, 3 * MIB, Durability::None);
    assert_eq!(held.next_to_spill(), Some(object(1)));
    read(&mut held, 1, Via::Handover);
    assert!(!held.spilled(object(1)), "its memory is mapped by a reader");
    assert_eq!(held.next_to_spill(), Some(object(2)));
    held.free(object(2), at(1));
    assert!(!held.spilled(object(2)));
    held.free(object(1), at(1));
    held.release(object(1), lease(1));
    effects(&mut held);
    assert_eq!(held.census(), Census::EMPTY);
}

#[test]
fn a_full_disk_leaves_objects_in_memory() {
    let mut held = holdings();
    put(&mut held, 1, 5 * MIB, Durability::None);
    assert_eq!(held.next_to_spill(), Some(object(1)));
    assert!(held.spilled(object(1)));
    put(&mut held, 2, 5 * MIB, Durability::None);
    assert_eq!(held.next_to_spill(), None, "5 of 6 MiB are used");
    held.free(object(1), at(1));
    assert_eq!(held.next_to_spill(), Some(object(2)));
    held.spill_failed(object(2));
    assert_eq!(held.next_to_spill(), Some(object(2)), "offered again");
}

#[test]
fn a_drain_stores_what_was_promised_and_nobody_reads_first_and_the_rest_is_counted() {
    let mut held = holdings();
    put(&mut held, 1, 100, Durability::Drain);
    put(&mut held, 2, 200, Durability::Drain);
    put(&mut held, 3, 300, Durability::Drain);
    put(&mut held, 4, 400, Durability::None);
    assert_eq!(held.next_to_store(), None, "only at a drain");
    read(&mut held, 3, Via::Pull);
    held.drain();
    assert_eq!(held.next_to_store(), Some(object(2)), "of those that nobody reads, the last to expire");
    assert_eq!(held.next_to_store(), Some(object(1)));
    assert_eq!(held.next_to_store(), Some(object(3)), "then what is read");
    assert_eq!(held.next_to_store(), None);
    assert!(held.stored(object(1)) && held.stored(object(2)) && held.stored(object(3)));
    assert_eq!(held.census().unstored(), (1, 400));
    assert!(!held.is_unneeded());
    held.free(object(4), at(1));
    assert!(!held.is_unneeded(), "somebody still reads");
    held.release(object(3), lease(3));
    assert!(held.is_unneeded());
}

#[test]
fn a_copy_is_forgotten_with_its_object_and_given_up_when_the_object_ended_first() {
    let mut held = holdings();
    put(&mut held, 1, 100, Durability::Always);
    assert!(held.begin_store(object(1)) && held.stored(object(1)));
    assert!(!held.begin_store(object(1)), "it has a copy");
    read(&mut held, 1, Via::Pull);
    held.acknowledge(object(1), lease(1), at(1)).expect("counted");
    assert!(matches!(effects(&mut held)[..], [Effect::Forget(forgotten), Effect::Freed { .. }] if forgotten == object(1)));
    put(&mut held, 2, 100, Durability::Always);
    assert!(held.begin_store(object(2)));
    held.free(object(2), at(1));
    assert!(!held.stored(object(2)), "whoever wrote the copy removes it");
    effects(&mut held);
    assert_eq!(held.census(), Census::EMPTY);
}

#[test]
fn a_store_that_fails_is_tried_a_bounded_number_of_times() {
    let mut held = holdings();
    put(&mut held, 1, 100, Durability::Drain);
    held.drain();
    for _ in 0..STORE_TRIES_MAX {
        assert_eq!(held.next_to_store(), Some(object(1)));
        held.store_failed(object(1));
    }
    assert_eq!(held.next_to_store(), None);
    assert_eq!(held.census().unstored(), (1, 100));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, u8),
    Read(u32, bool),
    Release(u32),
    Acknowledge(u32),
    Free(u32),
    Spill,
    SpillDone(bool),
    Store,
    StoreDone(bool),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 1..20_u32;
    prop_oneof![
        4 => (1..4 * MIB, 0..3_u8).prop_map(|(size, durability)| Step::Put(size, durability)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, handover)| Step::Read(n, handover)),
        1 => n.clone().prop_map(Step::Release),
        1 => n.clone().prop_map(Step::Acknowledge),
        1 => n.prop_map(Step::Free),
        4 => Just(Step::Spill),
        4 => any::<bool>().prop_map(Step::SpillDone),
        2 => Just(Step::Store),
        2 => any::<bool>().prop_map(Step::StoreDone),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    #[test]
    fn budgets_hold_whatever_moves_and_every_end_frees_everything(steps in prop::collection::vec(step(), 1..80)) {
        let (mut held, mut next, mut spilling, mut storing) = (holdings(), 0, Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Put(size, durability) => {
                    next += 1;
                    let durability = Durability::ALL[usize::from(durability)];
                    if begin(&mut held, next, size, durability, 300) {
                        prop_assert!(held.finish(object(next), size).is_ok());
                    } else {
                        held.cancel(object(next));
                    }
                }
                Step::Read(n, handover) => {
                    let via = if handover { Via::Handover } else { Via::Pull };
                    held.grant(object(n), LeaseRequest { lease: lease(n), slot: None, via }, at(1)).map(|_| ()).unwrap_or_default();
                }
                Step::Release(n) => held.release(object(n), lease(n)),
                Step::Acknowledge(n) => held.acknowledge(object(n), lease(n), at(1)).map(|_| ()).unwrap_or_default(),
                Step::Free(n) => {
                    held.free(object(n), at(1));
                }
                Step::Spill => spilling.extend(held.next_to_spill()),
                Step::SpillDone(well) => if let Some(id) = spilling.pop() {
                    if well { held.spilled(id); } else { held.spill_failed(id); }
                },
                Step::Store => storing.extend(held.next_to_store()),
                Step::StoreDone(well) => if let Some(id) = storing.pop() {
                    if well { held.stored(id); } else { held.store_failed(id); }
                },
                Step::Drain => held.drain(),
            }
            effects(&mut held);
            let census = held.census();
            prop_assert!(census.bytes <= 8 * MIB && census.spilled_bytes <= SPILL.bytes_max, "{census:?}");
            prop_assert!(census.stored_objects <= census.objects, "{census:?}");
        }
        for n in 1..=next {
            held.free(object(n), at(2));
            held.release(object(n), lease(n));
        }
        spilling.drain(..).for_each(|id| assert!(!held.spilled(id), "it has ended"));
        storing.drain(..).for_each(|id| assert!(!held.stored(id), "it has ended"));
        effects(&mut held);
        prop_assert_eq!(held.census(), Census::EMPTY);
    }
}
