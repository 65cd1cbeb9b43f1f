//! Producers and consumers over a virtual network and clock: whole lives of objects, from a seed.
//!
//! Goal: the parts that `pull_reader.rs` and `holdings_laws.rs` test apart keep their promises together: sealed tokens,
//! signed requests, leases, cut-through, resumes, acknowledgements, while connections break, bits flip, consumers are
//! killed, acknowledgements are lost, writers fail, and producers restart. The seed draws the faults and how likely each
//! is; some runs have none of a kind. [`Sim`] drives, [`Checker`] judges and sees only what a function or an operator sees.
//!
//! A failure prints the command that replays it. The canaries at the end are runs with a part that cheats; they must fail.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a seed may be given, and is told, to replay one run")]

use core::num::NonZeroU32;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use zipline_contract::ErrorCode;
use zipline_contract::limits::{BLOCK_BYTES, RECORD_HEAD_BYTES};
use zipline_core::object::{
    Acknowledged, Admission, Census, Effect, Epoch, HoldingLimits, Holdings, LeaseId, LeaseRequest, NewObject, Now, ObjectId,
    Owner, RoomLimits, Via,
};
use zipline_core::pull::{
    AnswerHead, AnswerRange, AwaitingHead, AwaitingRecord, BytesStep, DeliveredStep, Mac, Nonce, NonceWindow, ObjectSize,
    Planned, PullMethod, PullReader, PullRequest, ReaderLimits, RecordChain, RecordHead, RecordPlan, RecordStep, SignedRequest,
    Span, SumKind, Wanted, verified,
};
use zipline_core::reference::{DomainKey, KeyRing, Reference};
use zipline_core::tier::Durability;
use zipline_core::time::{Monotonic, WallTime};

const RUNS: u64 = 150;
const STEPS: usize = 600;
const PRODUCERS: usize = 2;
const CONSUMERS_MAX: usize = 6;
const TTL: Duration = Duration::from_secs(300);
const LEASE: Duration = Duration::from_secs(30);
const ROOM: RoomLimits =
    RoomLimits { bytes_max: 6 * BLOCK_BYTES as u64, places_max: 6, waiters_max: 4, wait_max: Duration::from_secs(5) };

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// True in so many of a thousand cases.
    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.roll() as u8)
    }
}

/// How likely each fault is in this run, in a thousand.
struct Odds {
    cut: u64,
    flip: u64,
    kill: u64,
    lost_acknowledgement: u64,
    writer_fails: u64,
    restart: u64,
    free: u64,
    stall: u64,
}

impl Odds {
    fn of(dice: &mut Dice) -> Self {
        // Half of the kinds are switched off in a run, so that the others are seen at work.
        let mut odds = |most: u64| if dice.chance(500) { 0 } else { dice.below(most) };
        Self {
            cut: odds(200),
            flip: odds(150),
            kill: odds(60),
            lost_acknowledgement: odds(500),
            writer_fails: odds(60),
            restart: odds(8),
            free: odds(10),
            stall: odds(30),
        }
    }
}

/// A part that cheats, for the canaries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cheat {
    None,
    /// The consumer delivers a block whatever its sum says.
    UnverifiedBytes,
    /// The consumer takes a broken body for the end of a whole one.
    CutForWhole,
    /// The producer forgets that it counted an acknowledgement, and counts it for whoever comes next.
    AcknowledgesAll,
}

/// Bytes of an object's content: a piece of one long pattern, where the id says.
fn content(object: ObjectId, first: u64, length: u64) -> &'static [u8] {
    // Made by a dependency, which is optimised also where this test is not.
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut pattern = vec![0; 4 * BLOCK_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut pattern);
        pattern
    });
    let origin = u64::from_be_bytes(object.as_bytes()[..8].try_into().unwrap()) % BLOCK_BYTES as u64;
    &PATTERN[(origin + first) as usize..][..length as usize]
}

/// Judges by what leaves the machines.
#[derive(Default)]
struct Checker {
    /// Consumers whose acknowledgement was answered as counted, by object.
    accepted: BTreeMap<ObjectId, BTreeSet<LeaseId>>,
    retrievals: BTreeMap<ObjectId, u32>,
    whole_reads: u64,
    failures: BTreeMap<&'static str, u64>,
}

impl Checker {
    fn read_whole(&mut self, object: ObjectId, size: u64, delivered: &[u8]) {
        assert!(delivered == content(object, 0, size), "a function was given what is not the object");
        self.whole_reads += 1;
    }

    fn read_part(&self, object: ObjectId, size: u64, delivered: &[u8]) {
        let length = delivered.len() as u64;
        assert!(
            length <= size && delivered == content(object, 0, length),
            "a function was given bytes that are not the object's"
        );
    }

    fn accepted(&mut self, object: ObjectId, lease: LeaseId) {
        let readers = self.accepted.entry(object).or_default();
        readers.insert(lease);
        assert!(readers.len() as u32 <= self.retrievals[&object], "more retrievals were counted than granted");
    }
}

struct Payload {
    size: u64,
    sum: SumKind,
}

struct Producer {
    epoch: Epoch,
    holdings: Holdings<Payload>,
    seen: NonceWindow,
    /// Objects that are being written, and objects that wait for room.
    writers: BTreeMap<ObjectId, u64>,
    waiting: BTreeMap<ObjectId, (Payload, NonZeroU32)>,
    connections: BTreeMap<u64, Connection>,
}

/// One answer on its way.
struct Connection {
    object: ObjectId,
    lease: LeaseId,
    chain: RecordChain,
    plan: RecordPlan,
    sum: SumKind,
    cut: bool,
}

enum Phase {
    Asking(PullReader),
    Head(AwaitingHead, u64, Result<Box<(AnswerHead, Option<Mac>)>, Lost>),
    Reading(AwaitingRecord, u64),
    /// Everything was delivered; the acknowledgement is to be sent until it is answered.
    Acknowledging,
}

#[derive(Debug)]
struct Lost;

struct Consumer {
    wanted: Wanted,
    size: u64,
    producer: usize,
    delivered: Vec<u8>,
    phase: Option<Phase>,
}

struct Sim {
    dice: Dice,
    odds: Odds,
    cheat: Cheat,
    millis: u64,
    ring: KeyRing,
    key: DomainKey,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    tokens: Vec<(String, u64, usize)>,
    checker: Checker,
    connections: u64,
}

fn address(producer: usize) -> std::net::SocketAddr {
    format!("10.0.0.{}:8122", producer + 1).parse().unwrap()
}

fn new_holdings() -> Holdings<Payload> {
    Holdings::new(HoldingLimits { held: ROOM, receiving: ROOM, attempts_extra: 8, lease: LEASE })
}

impl Sim {
    fn seeded(seed: u64, cheat: Cheat) -> Self {
        let mut dice = Dice(seed);
        let odds = Odds::of(&mut dice);
        let secret: String = (0..32).map(|_| format!("{:02x}", dice.roll() as u8)).collect();
        let ring = format!(r#"{{"keys":[{{"id":"00000001","key":"{secret}","not_before_ms":0,"not_after_ms":9000000000000}}]}}"#);
        let ring = KeyRing::parse(ring.as_bytes()).unwrap();
        let producers = (0..PRODUCERS)
            .map(|_| Producer {
                epoch: Epoch::from_bytes(dice.bytes()),
                holdings: new_holdings(),
                seen: NonceWindow::default(),
                writers: BTreeMap::new(),
                waiting: BTreeMap::new(),
                connections: BTreeMap::new(),
            })
            .collect();
        let key = ring.keys()[0].clone();
        let (checker, consumers, tokens) = (Checker::default(), Vec::new(), Vec::new());
        Self { dice, odds, cheat, millis: 0, ring, key, producers, consumers, tokens, checker, connections: 0 }
    }

    fn now(&self) -> Now {
        Now { mono: Monotonic::from_millis(self.millis), wall: WallTime::from_unix_millis(1_800_000_000_000 + self.millis) }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.dice.below(10) {
                0 => self.put(),
                1 => self.start_consumer(),
                2 => self.write(),
                3 => self.pass_time(),
                _ => self.step_consumer(),
            }
        }
        self.end();
    }

    /// Everybody goes away; then nothing may be held once every time is over.
    fn end(&mut self) {
        self.odds = Odds { cut: 0, flip: 0, kill: 0, lost_acknowledgement: 0, writer_fails: 0, restart: 0, free: 0, stall: 0 };
        for consumer in core::mem::take(&mut self.consumers) {
            self.checker.read_part(consumer.wanted.object, consumer.size, &consumer.delivered);
        }
        self.millis += 1_000_000;
        self.run_timers(); // Every object expires, and whoever still waited for room begins one.
        for n in 0..PRODUCERS {
            let writers: Vec<ObjectId> = self.producers[n].waiting.keys().copied().collect();
            writers.into_iter().for_each(|id| self.producers[n].holdings.cancel(id));
            self.take_effects(n);
        }
        for _ in 0..2 {
            self.millis += 1_000_000;
            self.run_timers(); // These expire too, and are forgotten.
        }
        for producer in &self.producers {
            assert_eq!(producer.holdings.census(), Census::EMPTY, "something is held for ever");
            assert_eq!((producer.holdings.remembered(), producer.holdings.next_timeout()), (0, None));
        }
    }

    fn pass_time(&mut self) {
        self.millis += if self.dice.chance(self.odds.stall) { 40_000 } else { self.dice.below(800) };
        self.run_timers();
        if self.dice.chance(self.odds.restart) {
            let n = self.dice.below(PRODUCERS as u64) as usize;
            let epoch = Epoch::from_bytes(self.dice.bytes());
            let (holdings, seen) = (new_holdings(), NonceWindow::default());
            let none = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            self.producers[n] = Producer { epoch, holdings, seen, writers: none.0, waiting: none.1, connections: none.2 };
        }
    }

    fn run_timers(&mut self) {
        let now = self.now();
        for n in 0..PRODUCERS {
            while self.producers[n].holdings.next_timeout().is_some_and(|due| due <= now.mono) {
                self.producers[n].holdings.handle_timeout(now);
                self.take_effects(n);
            }
        }
    }

    fn take_effects(&mut self, n: usize) {
        while let Some(effect) = self.producers[n].holdings.poll_effect() {
            let producer = &mut self.producers[n];
            match effect {
                Effect::Cut { object, lease, .. } => {
                    let readers = producer.connections.values_mut();
                    readers.filter(|c| (c.object, c.lease) == (object, lease)).for_each(|c| c.cut = true);
                }
                Effect::Freed { object, .. } => drop(producer.writers.remove(&object)),
                Effect::Forget(id) => panic!("{id} has no durable copy"),
                Effect::Admitted(id) => {
                    let (payload, retrievals) = producer.waiting.remove(&id).expect("who is admitted has waited");
                    self.begin(n, id, payload, retrievals);
                }
                Effect::Refused(id, _) => drop(producer.waiting.remove(&id)),
                Effect::ReceiveAdmitted(_) | Effect::ReceiveRefused(..) => unreachable!("nothing is received here"),
            }
        }
    }

    fn put(&mut self) {
        let n = self.dice.below(PRODUCERS as u64) as usize;
        let block = BLOCK_BYTES as u64;
        let size = match self.dice.below(4) {
            0 => self.dice.below(2),
            1 => self.dice.below(5000),
            2 => self.dice.below(3) * block,
            _ => self.dice.below(2 * block),
        };
        let sum = if self.dice.chance(200) { SumKind::Blake3 } else { SumKind::Crc32c };
        let id = ObjectId::from_bytes(self.dice.bytes());
        let retrievals = NonZeroU32::new(1 + self.dice.below(3) as u32).unwrap();
        let now = self.now();
        match self.producers[n].holdings.reserve(id, size, now) {
            Ok(Admission::Admitted) => self.begin(n, id, Payload { size, sum }, retrievals),
            Ok(Admission::Waiting) => drop(self.producers[n].waiting.insert(id, (Payload { size, sum }, retrievals))),
            Err(refusal) => *self.checker.failures.entry(refusal.code().name()).or_default() += 1,
        }
    }

    /// There is room: the reference can be given away before the first byte is written.
    fn begin(&mut self, n: usize, id: ObjectId, payload: Payload, retrievals: NonZeroU32) {
        let now = self.now();
        let (size, sum, declared) = (payload.size, payload.sum, self.dice.chance(500));
        let expires = now.wall + TTL;
        let new = NewObject {
            owner: Owner::Put { retrievals },
            size: declared.then_some(size),
            ttl: TTL,
            expires,
            durability: Durability::None,
        };
        let producer = &mut self.producers[n];
        assert!(producer.holdings.insert(id, new, payload, now).is_ok());
        producer.writers.insert(id, 0);
        let reference = Reference {
            pull_version: 1,
            producer: address(n),
            epoch: producer.epoch,
            object: id,
            size: declared.then_some(size),
            sum,
            expires,
            retrievals,
            slot: None,
            receiver: None,
            range: None,
            tier: None,
        };
        let token = self.ring.seal(&reference, now.wall, self.dice.bytes()).unwrap().into_string();
        self.tokens.push((token, size, n));
        self.checker.retrievals.insert(id, retrievals.get());
    }

    fn write(&mut self) {
        let now = self.now();
        for n in 0..PRODUCERS {
            let writing: Vec<(ObjectId, u64)> = self.producers[n].writers.iter().map(|(id, at)| (*id, *at)).collect();
            for (id, at) in writing {
                let Some(size) = self.producers[n].holdings.payload(id).map(|payload| payload.size) else { continue };
                let at = (at + 1 + self.dice.below(BLOCK_BYTES as u64 * 2)).min(size);
                let fails = self.dice.chance(self.odds.writer_fails);
                let producer = &mut self.producers[n];
                if fails {
                    producer.holdings.abort(id, now);
                } else if at == size {
                    assert_eq!(producer.holdings.finish(id, size), Ok(()));
                    producer.writers.remove(&id);
                } else {
                    assert_eq!(producer.holdings.written(id, at), Ok(()));
                    producer.writers.insert(id, at);
                }
                self.take_effects(n);
                if self.dice.chance(self.odds.free) {
                    self.producers[n].holdings.free(id, now);
                    self.take_effects(n);
                }
            }
        }
    }

    fn start_consumer(&mut self) {
        if self.tokens.is_empty() || self.consumers.len() >= CONSUMERS_MAX {
            return;
        }
        let recent = self.tokens.len() as u64 - 1 - self.dice.below(self.tokens.len().min(4) as u64);
        let (token, size, producer) = self.tokens[recent as usize].clone();
        let now = self.now();
        let Ok(reference) = self.ring.open(&token, now.wall) else { return };
        let wanted = Wanted::of(&reference, None, LeaseId::from_bytes(self.dice.bytes()), None).unwrap();
        let limits = ReaderLimits { resumes_max: 4, idle: Duration::from_secs(30) };
        let phase = Some(Phase::Asking(PullReader::new(wanted.clone(), limits, now.mono)));
        self.consumers.push(Consumer { wanted, size, producer, delivered: Vec::new(), phase });
    }

    fn step_consumer(&mut self) {
        if self.consumers.is_empty() {
            return;
        }
        let at = self.dice.below(self.consumers.len() as u64) as usize;
        let mut consumer = self.consumers.swap_remove(at);
        if self.dice.chance(self.odds.kill) {
            // Killed: nobody is told. Its lease lapses.
            self.checker.read_part(consumer.wanted.object, consumer.size, &consumer.delivered);
            return;
        }
        let Some(phase) = consumer.phase.take() else { return };
        match self.advance(&mut consumer, phase) {
            Ok(Some(next)) => {
                consumer.phase = Some(next);
                self.consumers.push(consumer);
            }
            Ok(None) => {}
            Err(code) => {
                self.checker.read_part(consumer.wanted.object, consumer.size, &consumer.delivered);
                *self.checker.failures.entry(code.name()).or_default() += 1;
                self.send(&consumer, PullMethod::Release);
            }
        }
    }

    fn advance(&mut self, consumer: &mut Consumer, phase: Phase) -> Result<Option<Phase>, ErrorCode> {
        let now = self.now();
        match phase {
            Phase::Asking(reader) => {
                if reader.idle_at() <= now.mono {
                    return Err(reader.timed_out().code());
                }
                let (request, mac, awaiting) = reader.ask(&self.key, now.wall, Nonce::from_bytes(self.dice.bytes()));
                self.connections += 1;
                let id = self.connections;
                let lost = self.dice.chance(self.odds.cut);
                let answer = if lost { Err(Lost) } else { Ok(Box::new(self.serve(consumer.producer, &request, &mac, id))) };
                Ok(Some(Phase::Head(awaiting, id, answer)))
            }
            Phase::Head(awaiting, _, Err(Lost)) => awaiting.broken().map(Phase::Asking).map(Some).map_err(|error| error.code()),
            Phase::Head(awaiting, id, Ok(answer)) => match awaiting.head(&answer.0, answer.1.as_ref()) {
                Ok(records) => Ok(Some(Phase::Reading(records, id))),
                Err(error) => Err(error.code()),
            },
            Phase::Reading(records, id) => self.read_record(consumer, records, id),
            Phase::Acknowledging => {
                if self.dice.chance(self.odds.lost_acknowledgement) {
                    // The producer has it, and its answer is lost: the consumer asks again.
                    self.send(consumer, PullMethod::Acknowledge);
                    return Ok(Some(Phase::Acknowledging));
                }
                match self.send(consumer, PullMethod::Acknowledge) {
                    204 => self.checker.accepted(consumer.wanted.object, consumer.wanted.lease),
                    _ => *self.checker.failures.entry("not counted").or_default() += 1,
                }
                Ok(None)
            }
        }
    }

    fn read_record(&mut self, consumer: &mut Consumer, records: AwaitingRecord, id: u64) -> Result<Option<Phase>, ErrorCode> {
        let now = self.now();
        if records.idle_at() <= now.mono {
            return Err(records.timed_out().code());
        }
        let wire = self.next_record(consumer.producer, id);
        let wire = if self.dice.chance(self.odds.cut) { None } else { wire };
        let Some(mut wire) = wire else {
            if self.cheat == Cheat::CutForWhole {
                return self.whole(consumer);
            }
            return records.broken().map(Phase::Asking).map(Some).map_err(|error| error.code());
        };
        if self.dice.chance(self.odds.flip) {
            let at = self.dice.below(wire.len() as u64) as usize;
            wire[at] ^= 1 << self.dice.below(8);
        }
        let (head, payload) = wire.split_first_chunk::<RECORD_HEAD_BYTES>().unwrap();
        let bytes = match records.record(head) {
            RecordStep::Bytes(bytes) => bytes,
            RecordStep::Heartbeat(records) => return Ok(Some(Phase::Reading(records, id))),
            RecordStep::Finished(_) => return self.whole(consumer),
            RecordStep::Again(reader) => return Ok(Some(Phase::Asking(reader))),
            RecordStep::Failed(error) => return Err(error.code()),
        };
        if self.cheat == Cheat::UnverifiedBytes {
            consumer.delivered.extend_from_slice(payload);
        }
        match bytes.verify(payload) {
            BytesStep::Verified(verified) => {
                if self.cheat != Cheat::UnverifiedBytes {
                    consumer.delivered.extend_from_slice(payload);
                }
                match verified.delivered(now.mono) {
                    DeliveredStep::Record(records) => Ok(Some(Phase::Reading(records, id))),
                    DeliveredStep::Finished(_) => self.whole(consumer),
                }
            }
            BytesStep::Again(reader) => Ok(Some(Phase::Asking(reader))),
            BytesStep::Failed(error) => Err(error.code()),
        }
    }

    fn whole(&mut self, consumer: &Consumer) -> Result<Option<Phase>, ErrorCode> {
        self.checker.read_whole(consumer.wanted.object, consumer.size, &consumer.delivered);
        Ok(Some(Phase::Acknowledging))
    }

    /// A request that is no read, and the status of its answer, whose MAC must hold.
    fn send(&mut self, consumer: &Consumer, method: PullMethod) -> u16 {
        let request = consumer.wanted.request(method, self.now().wall, Nonce::from_bytes(self.dice.bytes()));
        let mac = request.sign(&self.key);
        let (head, answer) = self.serve(consumer.producer, &request, &mac, 0);
        assert!(verified(&head, answer.as_ref(), &self.key, &mac, request.object).is_ok());
        head.status
    }

    /// The producer's pull port.
    fn serve(&mut self, n: usize, request: &PullRequest, mac: &Mac, id: u64) -> (AnswerHead, Option<Mac>) {
        let now = self.now();
        let list = request.headers(self.key.id(), mac);
        let headers = list.iter().map(|(name, value)| (*name, value.as_bytes()));
        let signed =
            SignedRequest::read(request.method.verb(), &request.path(), headers, address(n)).expect("a consumer's request");
        let authenticated = signed.authenticate(&self.ring, &mut self.producers[n].seen, now).expect("a genuine request");
        let head = self.answer(n, &authenticated.request, now);
        let answer = head.sign(&self.key, &authenticated.mac, request.object);
        if request.method == PullMethod::Get && head.status < 300 {
            let span = request.range.map_or(Span::WHOLE, |range| range.resolve(None).expect("a range of an unknown size"));
            let connection = Connection {
                object: request.object,
                lease: request.lease.expect("a read has a lease"),
                chain: RecordChain::new(&self.key, answer),
                plan: RecordPlan::new(span),
                sum: head.sum.expect("a body has a sum"),
                cut: false,
            };
            self.producers[n].connections.insert(id, connection);
        }
        self.take_effects(n);
        (head, Some(answer))
    }

    fn answer(&mut self, n: usize, request: &PullRequest, now: Now) -> AnswerHead {
        let cheats = self.cheat == Cheat::AcknowledgesAll;
        let Producer { epoch, holdings, .. } = &mut self.producers[n];
        let epoch = *epoch;
        if request.epoch != epoch {
            return AnswerHead::error(ErrorCode::ProducerGone, "restarted", epoch);
        }
        let lease = request.lease.expect("all requests here have one");
        match request.method {
            PullMethod::Get => {
                let view = match holdings.grant(request.object, LeaseRequest { lease, slot: request.slot, via: Via::Pull }, now) {
                    Ok(view) => view,
                    Err(error) => return AnswerHead::error(error.code(), &error.to_string(), epoch),
                };
                let size = ObjectSize::from(view.size);
                let range = request.range.map(|range| AnswerRange::of(range.resolve(view.size).expect("a resumed range"), size));
                AnswerHead {
                    range,
                    size: Some(size),
                    retrievals_left: Some(view.retrievals_left),
                    expires: Some(view.expires),
                    sum: Some(view.payload.sum),
                    ..AnswerHead::bare(if range.is_some() { 206 } else { 200 }, epoch)
                }
            }
            PullMethod::Acknowledge => match holdings.acknowledge(request.object, lease, now) {
                Ok(Acknowledged::Counted | Acknowledged::Before) => AnswerHead::bare(204, epoch),
                Err(_) if cheats => AnswerHead::bare(204, epoch),
                Err(error) => AnswerHead::error(error.code(), &error.to_string(), epoch),
            },
            _ => {
                holdings.release(request.object, lease);
                AnswerHead::bare(204, epoch)
            }
        }
    }

    /// The next record on a connection, with its payload; `None`: it was closed.
    fn next_record(&mut self, n: usize, id: u64) -> Option<Vec<u8>> {
        let now = self.now();
        let producer = &mut self.producers[n];
        let connection = producer.connections.get_mut(&id)?;
        let sum = connection.sum;
        if connection.cut {
            let record = connection.chain.seal(&RecordHead::aborted(sum)).to_vec();
            producer.connections.remove(&id);
            return Some(record);
        }
        let view = producer.holdings.status(connection.object, None, now).ok()?;
        let planned = connection.plan.next(view.written);
        match planned {
            Planned::Record { offset, length, last, .. } => {
                let payload = content(connection.object, offset, u64::from(length));
                let head = connection.chain.seal(&RecordHead::bytes(length, last, sum, sum.sum(payload)));
                producer.holdings.progress(connection.object, connection.lease, now);
                Some([&head[..], payload].concat())
            }
            Planned::Wait { .. } => Some(connection.chain.seal(&RecordHead::heartbeat(sum)).to_vec()),
            Planned::Done => None,
        }
    }
}

#[test]
fn whole_lives_of_objects_keep_every_promise() {
    let seeds = match std::env::var("ZIPLINE_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("a seed is a number")],
        Err(_) => (0..RUNS).collect(),
    };
    let (mut whole, mut counted, mut failures) = (0, 0, BTreeMap::<&str, u64>::new());
    for seed in &seeds {
        let replay = Replay(*seed);
        let mut sim = Sim::seeded(*seed, Cheat::None);
        sim.run();
        whole += sim.checker.whole_reads;
        counted += sim.checker.accepted.values().map(BTreeSet::len).sum::<usize>();
        sim.checker.failures.into_iter().for_each(|(name, times)| *failures.entry(name).or_default() += times);
        core::mem::forget(replay);
    }
    if seeds.len() > 1 {
        // The net is of no use if nothing swims into it: every ending must have been seen.
        assert!(whole > 1000 && counted > 500, "{whole} whole reads, {counted} counted");
        for name in [
            "buffer-full",
            "not counted",
            "payload-aborted",
            "payload-corrupt",
            "producer-gone",
            "producer-unreachable",
            "pull-idle-timeout",
            "pull-unauthenticated",
            "reference-exhausted",
        ] {
            assert!(failures.contains_key(name), "no run ended with {name}: {failures:?}");
        }
    }
}

/// Says how to replay a run, if it is dropped by a panic.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        let seed = self.0;
        eprintln!("replay: ZIPLINE_SIM_SEED={seed} cargo test -p zipline-core --test pull_simulation whole_lives");
    }
}

/// What the checker says of the first run that it does not let pass.
fn caught(cheat: Cheat) -> String {
    let verdict = |seed| std::panic::catch_unwind(|| Sim::seeded(seed, cheat).run()).err();
    let panic = (0..RUNS).find_map(verdict).expect("a run with a part that cheats fails");
    panic.downcast_ref::<&str>().map_or_else(|| panic.downcast_ref::<String>().cloned().unwrap_or_default(), ToString::to_string)
}

#[test]
fn a_consumer_that_delivers_unverified_bytes_is_caught() {
    assert!(caught(Cheat::UnverifiedBytes).starts_with("a function was given"));
}

#[test]
fn a_consumer_that_takes_a_part_for_the_whole_is_caught() {
    assert_eq!(caught(Cheat::CutForWhole), "a function was given what is not the object");
}

#[test]
fn a_producer_that_counts_more_retrievals_than_granted_is_caught() {
    assert_eq!(caught(Cheat::AcknowledgesAll), "more retrievals were counted than granted");
}
