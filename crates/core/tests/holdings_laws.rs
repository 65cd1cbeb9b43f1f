//! The laws of what a proxy holds, over random schedules.
//!
//! A [`Ledger`] is kept from what the table answered and from its effects alone, and compared with the table's own census
//! after every step. It knows nothing of how the table decides; it knows what may never happen: more retrievals than
//! granted, a waiter that is overtaken or never told, a reader or an object that ends twice, bytes that nobody holds.

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use zipline_core::object::{
    Acknowledged, Admission, Census, Effect, HoldingLimits, Holdings, LeaseId, LeaseRequest, NewObject, Now, ObjectId, Owner,
    ReceiveId, RoomLimits, Via,
};
use zipline_core::tier::Durability;
use zipline_core::time::{Monotonic, WallTime};

const BYTES_MAX: u64 = 1000;
const EXTRA: u32 = 2;
const LIMITS: HoldingLimits = HoldingLimits {
    held: RoomLimits { bytes_max: BYTES_MAX, places_max: 5, waiters_max: 4, wait_max: Duration::from_secs(5) },
    receiving: RoomLimits { bytes_max: BYTES_MAX, places_max: 3, waiters_max: 2, wait_max: Duration::from_secs(5) },
    attempts_extra: EXTRA,
    lease: Duration::from_secs(30),
};

#[derive(Clone, Debug)]
enum Op {
    Reserve { id: u8, bytes: u64 },
    Cancel { id: u8 },
    Insert { id: u8, owner: Owner, ttl: u64 },
    Grow { id: u8, bytes: u64 },
    Written { id: u8, bytes: u64 },
    Finish { id: u8 },
    Abort { id: u8 },
    Free { id: u8 },
    Grant { id: u8, lease: u8, slot: Option<u32>, handover: bool },
    Progress { id: u8, lease: u8 },
    Status { id: u8, lease: u8 },
    Acknowledge { id: u8, lease: u8 },
    Release { id: u8, lease: u8 },
    Receive { id: u8, bytes: u64 },
    ReceiveMore { id: u8, bytes: u64 },
    Received { id: u8 },
    Advance { millis: u64 },
    JumpWall { millis: u64 },
    Elsewhere { bytes: u64 },
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..4_u8;
    let lease = || 0..5_u8;
    let bytes = || prop_oneof![Just(0_u64), 1..200_u64, 1..1100_u64];
    let slot = prop_oneof![2 => Just(None), 1 => (0..4_u32).prop_map(Some)];
    let owner = prop_oneof![
        1 => Just(Owner::Call),
        1 => Just(Owner::CallUntilRetrieved),
        3 => (1..4_u32).prop_map(|n| Owner::Put { retrievals: NonZeroU32::new(n).unwrap() }),
    ];
    prop_oneof![
        8 => (id(), bytes()).prop_map(|(id, bytes)| Op::Reserve { id, bytes }),
        1 => id().prop_map(|id| Op::Cancel { id }),
        8 => (id(), owner, 1..200_u64).prop_map(|(id, owner, ttl)| Op::Insert { id, owner, ttl }),
        3 => (id(), bytes()).prop_map(|(id, bytes)| Op::Grow { id, bytes }),
        2 => (id(), bytes()).prop_map(|(id, bytes)| Op::Written { id, bytes }),
        4 => id().prop_map(|id| Op::Finish { id }),
        1 => id().prop_map(|id| Op::Abort { id }),
        1 => id().prop_map(|id| Op::Free { id }),
        10 => (id(), lease(), slot, prop::bool::weighted(0.2))
            .prop_map(|(id, lease, slot, handover)| Op::Grant { id, lease, slot, handover }),
        3 => (id(), lease()).prop_map(|(id, lease)| Op::Progress { id, lease }),
        1 => (id(), lease()).prop_map(|(id, lease)| Op::Status { id, lease }),
        5 => (id(), lease()).prop_map(|(id, lease)| Op::Acknowledge { id, lease }),
        3 => (id(), lease()).prop_map(|(id, lease)| Op::Release { id, lease }),
        2 => (id(), bytes()).prop_map(|(id, bytes)| Op::Receive { id, bytes }),
        1 => (id(), bytes()).prop_map(|(id, bytes)| Op::ReceiveMore { id, bytes }),
        2 => id().prop_map(|id| Op::Received { id }),
        4 => prop_oneof![0..3000_u64, 0..40_000_u64].prop_map(|millis| Op::Advance { millis }),
        1 => (0..100_000_u64).prop_map(|millis| Op::JumpWall { millis }),
        1 => (0..600_u64).prop_map(|bytes| Op::Elsewhere { bytes }),
    ]
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    charged: u64,
    writing: bool,
    attempts: u32,
    acknowledged: BTreeSet<LeaseId>,
    slots: BTreeSet<u32>,
    active: BTreeMap<LeaseId, Via>,
    slot_of: BTreeMap<LeaseId, Option<u32>>,
}

/// What must be true, from the outside.
#[derive(Debug, Default)]
struct Ledger {
    reserved: BTreeMap<ObjectId, u64>,
    /// New puts in order of arrival.
    waiting: VecDeque<(ObjectId, u64)>,
    growing: BTreeMap<ObjectId, u64>,
    held: BTreeMap<ObjectId, Held>,
    lingering: BTreeMap<ObjectId, (u64, BTreeSet<LeaseId>)>,
    receiving: BTreeMap<ReceiveId, u64>,
    receive_waiting: BTreeMap<ReceiveId, u64>,
    over: BTreeSet<ObjectId>,
    begun: u64,
    ended: u64,
    attempts: u64,
    counted: u64,
    /// Counted though the lease had lapsed.
    counted_late: u64,
}

impl Ledger {
    fn census(&self) -> Census {
        let lingering_bytes = self.lingering.values().map(|(bytes, _)| bytes).sum();
        Census {
            bytes: self.reserved.values().sum::<u64>()
                + self.held.values().map(|held| held.charged).sum::<u64>()
                + lingering_bytes,
            lingering_bytes,
            objects: self.reserved.len() + self.held.len(),
            writers: self.held.values().filter(|held| held.writing).count(),
            leases: self.held.values().map(|held| held.active.len()).sum(),
            waiters: self.waiting.len() + self.growing.len(),
            receiving_bytes: self.receiving.values().sum(),
            receiving: self.receiving.len(),
            receiving_waiters: self.receive_waiting.len(),
            ..Census::EMPTY
        }
    }

    fn take(&mut self, effect: Effect<ObjectId>) {
        match effect {
            Effect::Admitted(id) => {
                if let Some(bytes) = self.growing.remove(&id) {
                    self.held.get_mut(&id).expect("who grows is held").charged = bytes;
                } else {
                    let (first, bytes) = self.waiting.pop_front().expect("who is admitted has waited");
                    assert_eq!(first, id, "a waiter was overtaken");
                    self.reserved.insert(id, bytes);
                }
            }
            Effect::Refused(id, _) => {
                if self.growing.remove(&id).is_none() {
                    let before = self.waiting.len();
                    self.waiting.retain(|(waiting, _)| *waiting != id);
                    assert_eq!(self.waiting.len() + 1, before, "who is refused has waited");
                }
            }
            Effect::ReceiveAdmitted(id) => {
                let bytes = self.receive_waiting.remove(&id).expect("who is admitted has waited");
                self.receiving.insert(id, bytes);
            }
            Effect::ReceiveRefused(id, _) => {
                self.receive_waiting.remove(&id).expect("who is refused has waited");
            }
            Effect::Cut { object, lease, .. } => {
                let held = self.held.get_mut(&object).expect("who is cut reads what is held");
                assert_eq!(held.active.remove(&lease), Some(Via::Pull), "only active pulls are cut");
            }
            Effect::Forget(id) => panic!("{id} has no durable copy"),
            Effect::Freed { object, payload, .. } => {
                assert_eq!(object, payload, "the payload is the object's own");
                let held = self.held.remove(&object).expect("an object ends once");
                assert!(held.active.values().all(|via| *via == Via::Handover), "readers are cut before the end");
                if !held.active.is_empty() {
                    self.lingering.insert(object, (held.charged, held.active.into_keys().collect()));
                }
                self.ended += 1;
                self.over.insert(object);
            }
        }
    }
}

struct World {
    holdings: Holdings<ObjectId>,
    ledger: Ledger,
    mono: u64,
    wall_ahead: u64,
    /// Ids are not used again: each of the few names in the schedule stands for its latest object.
    generations: [u8; 4],
}

impl World {
    fn new() -> Self {
        Self { holdings: Holdings::new(LIMITS), ledger: Ledger::default(), mono: 0, wall_ahead: 0, generations: [0; 4] }
    }

    fn now(&self) -> Now {
        Now {
            mono: Monotonic::from_millis(self.mono),
            wall: WallTime::from_unix_millis(1_800_000_000_000 + self.mono + self.wall_ahead),
        }
    }

    fn object(&self, n: u8) -> ObjectId {
        let mut bytes = [n; 16];
        bytes[15] = self.generations[usize::from(n)];
        ObjectId::from_bytes(bytes)
    }

    fn settle(&mut self) {
        while let Some(effect) = self.holdings.poll_effect() {
            self.ledger.take(effect);
        }
        assert_eq!(self.holdings.census(), self.ledger.census());
        for held in self.ledger.held.values() {
            let retrievals = held.owner.retrievals().get();
            assert!(held.attempts <= retrievals + EXTRA, "more attempts than granted");
            if held.owner != Owner::Call {
                assert!((held.acknowledged.len() as u32) < retrievals, "an object outlives its last retrieval");
            }
        }
        assert!(self.holdings.census().bytes <= BYTES_MAX && self.holdings.census().receiving_bytes <= BYTES_MAX);
    }

    fn run_timer(&mut self) {
        let now = self.now();
        while self.holdings.next_timeout().is_some_and(|due| due <= now.mono) {
            self.holdings.handle_timeout(now);
            self.settle();
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Advance { millis } => {
                self.mono += millis;
                self.run_timer();
            }
            Op::JumpWall { millis } => self.wall_ahead += millis,
            Op::Elsewhere { bytes } => self.holdings.set_held_elsewhere(bytes),
            Op::Drain => self.holdings.drain(),
            Op::Receive { .. } | Op::ReceiveMore { .. } | Op::Received { .. } => self.receive(op),
            Op::Grant { .. } | Op::Progress { .. } | Op::Status { .. } | Op::Acknowledge { .. } | Op::Release { .. } => {
                self.read(op)
            }
            _ => self.write(op),
        }
        self.settle();
    }

    fn write(&mut self, op: &Op) {
        let (Op::Reserve { id, .. }
        | Op::Cancel { id }
        | Op::Insert { id, .. }
        | Op::Grow { id, .. }
        | Op::Written { id, .. }
        | Op::Finish { id }
        | Op::Abort { id }
        | Op::Free { id }) = *op
        else {
            unreachable!("not a writer's")
        };
        if matches!(op, Op::Reserve { .. }) && self.ledger.over.contains(&self.object(id)) {
            self.generations[usize::from(id)] += 1;
        }
        let id = self.object(id);
        let (now, h, l) = (self.now(), &mut self.holdings, &mut self.ledger);
        match *op {
            Op::Reserve { bytes, .. } => match h.reserve(id, bytes, now) {
                Ok(Admission::Admitted) => {
                    assert!(l.waiting.is_empty() && l.growing.is_empty(), "who comes overtakes nobody");
                    l.reserved.insert(id, bytes);
                }
                Ok(Admission::Waiting) => l.waiting.push_back((id, bytes)),
                Err(_) => {}
            },
            Op::Cancel { .. } => {
                h.cancel(id);
                l.reserved.remove(&id);
                l.waiting.retain(|(waiting, _)| *waiting != id);
            }
            Op::Insert { owner, ttl, .. } => {
                let ttl = Duration::from_secs(ttl);
                let new = NewObject { owner, size: None, ttl, expires: now.wall + ttl, durability: Durability::None };
                let Some(charged) = l.reserved.remove(&id) else {
                    assert!(h.insert(id, new, id, now).is_err(), "room comes first");
                    return;
                };
                assert!(h.insert(id, new, id, now).is_ok());
                l.begun += 1;
                l.held.insert(
                    id,
                    Held {
                        owner,
                        charged,
                        writing: true,
                        attempts: 0,
                        acknowledged: BTreeSet::new(),
                        slots: BTreeSet::new(),
                        active: BTreeMap::new(),
                        slot_of: BTreeMap::new(),
                    },
                );
            }
            Op::Grow { bytes, .. } => match (h.grow(id, bytes, now), l.held.get_mut(&id)) {
                (Ok(Admission::Admitted), Some(held)) => held.charged = held.charged.max(bytes),
                (Ok(Admission::Waiting), Some(_)) => {
                    l.growing.entry(id).or_insert(bytes);
                }
                (Ok(_), None) => panic!("only what is held grows"),
                (Err(_), _) => {}
            },
            Op::Written { bytes, .. } => {
                if h.written(id, bytes).is_ok() {
                    let held = &l.held[&id];
                    assert!(held.writing && bytes <= held.charged, "nobody writes beyond his room");
                }
            }
            Op::Finish { .. } => {
                let size = l.held.get(&id).map_or(0, |held| held.charged / 2);
                if h.finish(id, size).is_ok() {
                    let held = l.held.get_mut(&id).expect("only what is held is finished");
                    assert!(core::mem::replace(&mut held.writing, false), "an object is finished once");
                    held.charged = size;
                    l.growing.remove(&id);
                }
            }
            Op::Abort { .. } => h.abort(id, now),
            Op::Free { .. } => assert_eq!(h.free(id, now), l.held.contains_key(&id)),
            _ => unreachable!("not a writer's"),
        }
    }

    fn read(&mut self, op: &Op) {
        let now = self.now();
        match *op {
            Op::Grant { id, lease: n, slot, handover } => {
                let via = if handover { Via::Handover } else { Via::Pull };
                let granted = self.holdings.grant(self.object(id), LeaseRequest { lease: lease(n), slot, via }, now).is_ok();
                self.settle_expiry();
                if granted {
                    let held = self.ledger.held.get_mut(&self.object(id)).expect("only what is held is read");
                    assert!(slot.is_none_or(|slot| !held.slots.contains(&slot)), "a slot is retrieved once");
                    if held.active.insert(lease(n), via).is_none() {
                        held.attempts += 1;
                        self.ledger.attempts += 1;
                    }
                    held.slot_of.insert(lease(n), slot);
                }
            }
            Op::Progress { id, lease: n } => {
                let active = self.ledger.held.get(&self.object(id)).is_some_and(|held| held.active.contains_key(&lease(n)));
                assert_eq!(self.holdings.progress(self.object(id), lease(n), now), active);
            }
            Op::Status { id, lease: n } => {
                let found = self.holdings.status(self.object(id), Some(lease(n)), now).is_ok();
                self.settle_expiry();
                assert_eq!(found, self.ledger.held.contains_key(&self.object(id)));
            }
            Op::Acknowledge { id, lease: n } => self.acknowledge(self.object(id), lease(n), now),
            Op::Release { id, lease: n } => {
                self.holdings.release(self.object(id), lease(n));
                if let Some(held) = self.ledger.held.get_mut(&self.object(id)) {
                    held.active.remove(&lease(n));
                } else if let Some((_, leases)) = self.ledger.lingering.get_mut(&self.object(id)) {
                    leases.remove(&lease(n));
                    if leases.is_empty() {
                        self.ledger.lingering.remove(&self.object(id));
                    }
                }
            }
            _ => unreachable!("not a reader's"),
        }
    }

    /// Asking about an object may end it, by the wall clock; what was asked for then came too late.
    fn settle_expiry(&mut self) {
        while let Some(effect) = self.holdings.poll_effect() {
            self.ledger.take(effect);
        }
    }

    fn acknowledge(&mut self, id: ObjectId, lease: LeaseId, now: Now) {
        let answer = self.holdings.acknowledge(id, lease, now);
        if answer == Ok(Acknowledged::Counted) {
            let held = self.ledger.held.get_mut(&id).expect("only what is held is retrieved");
            assert!(held.acknowledged.insert(lease), "an acknowledgement is counted once");
            let retrievals = held.owner.retrievals().get();
            assert!(held.owner == Owner::Call || held.acknowledged.len() as u32 <= retrievals, "more retrievals than granted");
            let slot = held.slot_of.get(&lease).expect("only who was let in retrieves");
            assert!(slot.is_none_or(|slot| held.slots.insert(slot)), "a slot is retrieved once");
            self.ledger.counted += 1;
            if held.active.remove(&lease).is_none() {
                self.ledger.counted_late += 1;
            }
        }
        let counted = answer.is_ok();
        self.settle_expiry();
        if counted && self.ledger.held.contains_key(&id) {
            assert_eq!(self.holdings.acknowledge(id, lease, now), Ok(Acknowledged::Before), "and answered again");
        }
    }

    fn receive(&mut self, op: &Op) {
        let (now, h, l) = (self.now(), &mut self.holdings, &mut self.ledger);
        match *op {
            Op::Receive { id, bytes } => match h.receive(receive(id), bytes, now) {
                Ok(Admission::Admitted) => drop(l.receiving.insert(receive(id), bytes)),
                Ok(Admission::Waiting) => drop(l.receive_waiting.insert(receive(id), bytes)),
                Err(_) => {}
            },
            Op::ReceiveMore { id, bytes } => match h.receive_more(receive(id), bytes, now) {
                Ok(Admission::Admitted) => {
                    let has = l.receiving.get_mut(&receive(id)).expect("only what is received grows");
                    *has = (*has).max(bytes);
                }
                Ok(Admission::Waiting) => {
                    l.receive_waiting.entry(receive(id)).or_insert(bytes);
                }
                Err(_) => {}
            },
            Op::Received { id } => {
                h.received(receive(id));
                l.receiving.remove(&receive(id));
                l.receive_waiting.remove(&receive(id));
            }
            _ => unreachable!("not a receiver's"),
        }
    }

    /// Lets everything end by itself, save what only its holder can end.
    fn end(mut self) {
        for id in 0..4 {
            self.step(&Op::Cancel { id });
            self.step(&Op::Received { id });
            (0..5).for_each(|lease| self.step(&Op::Release { id, lease }));
        }
        for (id, (_, leases)) in core::mem::take(&mut self.ledger.lingering) {
            leases.into_iter().for_each(|lease| self.holdings.release(id, lease));
        }
        for _ in 0..4 {
            self.step(&Op::Advance { millis: 300_000 });
            (0..4).for_each(|id| self.step(&Op::Cancel { id }));
        }
        assert_eq!(self.holdings.census(), Census::EMPTY, "something is held for ever");
        assert_eq!((self.holdings.next_timeout(), self.holdings.remembered()), (None, 0), "a timer is left");
        let counts = self.holdings.counts();
        assert_eq!(self.ledger.begun, self.ledger.ended);
        assert_eq!(counts.writing, self.ledger.begun);
        assert_eq!(counts.retrieved + counts.released + counts.expired + counts.aborted, self.ledger.ended);
        assert_eq!((counts.attempts, counts.acknowledgements), (self.ledger.attempts, self.ledger.counted));
        let without_retrieval = counts.leases_released + counts.leases_lapsed + counts.leases_cut;
        assert_eq!(counts.attempts, counts.acknowledgements - self.ledger.counted_late + without_retrieval, "a lease ends once");
    }
}

fn lease(n: u8) -> LeaseId {
    LeaseId::from_bytes([n; 16])
}

fn receive(n: u8) -> ReceiveId {
    ReceiveId(u64::from(n))
}

fn config(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn no_schedule_breaks_a_law(ops in prop::collection::vec(op(), 0..120), drain_at in prop::option::of(0..120_usize)) {
        let mut world = World::new();
        for (n, op) in ops.iter().enumerate() {
            if drain_at == Some(n) {
                world.step(&Op::Drain);
            }
            world.step(op);
        }
        world.step(&Op::Elsewhere { bytes: 0 });
        world.end();
    }
}

/// A scan anywhere would make this test run for hours.
#[test]
fn a_hundred_thousand_objects_are_put_read_and_retrieved() {
    const OBJECTS: u32 = 100_000;
    let room = RoomLimits { bytes_max: u64::MAX / 2, places_max: 200_000, waiters_max: 8, wait_max: Duration::from_secs(5) };
    let mut holdings = Holdings::new(HoldingLimits { held: room, ..LIMITS });
    let now = |n: u32| Now { mono: Monotonic::from_micros(u64::from(n)), wall: WallTime::from_unix_secs(1_800_000_000) };
    // Spread over the ids' range, as random ones are.
    let id = |n: u32| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        ObjectId::from_bytes(bytes)
    };
    let reader = |n: u32| LeaseRequest { lease: LeaseId::from_bytes(*id(n).as_bytes()), slot: None, via: Via::Pull };
    let owner = Owner::Put { retrievals: NonZeroU32::MIN };
    let ttl = Duration::from_secs(300);
    for n in 0..OBJECTS {
        assert_eq!(holdings.reserve(id(n), 1024, now(n)), Ok(Admission::Admitted));
        let new = NewObject { owner, size: Some(1024), ttl, expires: now(n).wall + ttl, durability: Durability::None };
        assert!(holdings.insert(id(n), new, (), now(n)).is_ok());
        assert!(holdings.finish(id(n), 1024).is_ok());
        assert!(holdings.grant(id(n), reader(n), now(n)).is_ok());
    }
    assert_eq!((holdings.census().objects, holdings.census().bytes), (100_000, 102_400_000));
    for n in 0..OBJECTS {
        assert!(holdings.next_timeout().is_some());
        if n % 3 == 0 {
            holdings.release(id(n), reader(n).lease);
            assert!(holdings.free(id(n), now(n)));
        } else if n % 3 == 1 {
            assert_eq!(holdings.acknowledge(id(n), reader(n).lease, now(n)), Ok(Acknowledged::Counted));
        }
    }
    let late = Now { mono: Monotonic::from_secs(1000), ..now(0) };
    while holdings.next_timeout().is_some_and(|due| due <= late.mono) {
        holdings.handle_timeout(late);
    }
    assert_eq!(holdings.census(), Census::EMPTY);
    assert_eq!(
        core::iter::from_fn(|| holdings.poll_effect()).filter(|effect| matches!(effect, Effect::Freed { .. })).count(),
        100_000
    );
}
