//! A read over a bad network: whatever is cut, changed, doubled or held back on the way, a reader is given the object's
//! bytes in order, or an error; never anything else, and never a part as if it were the whole.

use core::num::NonZeroU32;
use core::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use zipline_contract::ErrorCode;
use zipline_contract::limits::{BLOCK_BYTES, RECORD_HEAD_BYTES};
use zipline_core::object::{Epoch, LeaseId, ObjectId};
use zipline_core::pull::{
    AnswerHead, AnswerRange, ByteRange, BytesStep, DeliveredStep, Finished, Mac, Nonce, ObjectSize, Planned, PullError,
    PullReader, PullRequest, ReaderLimits, RecordChain, RecordHead, RecordPlan, RecordStep, Span, SumKind, Wanted, Written,
};
use zipline_core::reference::{DomainKey, KeyRing, Reference};
use zipline_core::time::{Monotonic, WallTime};

const MIB: u64 = BLOCK_BYTES as u64;
const NOW: WallTime = WallTime::from_unix_secs(1_800_000_000);
const LIMITS: ReaderLimits = ReaderLimits { resumes_max: 4, idle: Duration::from_secs(30) };

fn key() -> DomainKey {
    let ring = br#"{"keys":[{"id":"00000001","key":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","not_before_ms":0,"not_after_ms":9000000000000}]}"#;
    KeyRing::parse(ring).unwrap().sealing(NOW).unwrap().clone()
}

/// Bytes that differ at every offset's neighbourhood, so that no block equals another.
fn bytes_of(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn wanted(span: Span, size: Option<u64>, sum: SumKind) -> Wanted {
    Wanted {
        producer: "10.0.0.1:8122".parse().unwrap(),
        epoch: Epoch::from_bytes([1; 8]),
        object: ObjectId::from_bytes([2; 16]),
        span,
        size,
        sum,
        lease: LeaseId::from_bytes([3; 16]),
        receiver: None,
        slot: None,
    }
}

/// What happens to one answer's body on its way.
#[derive(Clone, Debug)]
enum Fault {
    None,
    /// The connection breaks after this part of the body (of 1000).
    Cut(u16),
    /// One bit at this part of the body is another.
    Flip(u16),
    /// Record n comes twice.
    Double(usize),
    /// Record n is missing.
    Drop(usize),
    /// Records n and n + 1 change places.
    Swap(usize),
    /// The whole body is the one of the answer before.
    Replay,
    /// The producer breaks off after n records, and says so.
    Abort(usize),
}

/// A producer that serves one object as the protocol says, and a network that does to each answer what `faults` say.
struct Producer {
    key: DomainKey,
    bytes: Vec<u8>,
    sum: SumKind,
    /// How much is written when the n-th answer begins; the last entry holds for all later ones. During an answer the
    /// next entry is reached.
    written: Vec<Written>,
    faults: Vec<Fault>,
    answers: usize,
    last_body: Vec<Vec<u8>>,
}

struct Answer {
    head: AnswerHead,
    mac: Mac,
    body: Vec<u8>,
}

impl Producer {
    fn complete(bytes: Vec<u8>, sum: SumKind, faults: Vec<Fault>) -> Self {
        let written = vec![Written { bytes: bytes.len() as u64, complete: true }];
        Self { key: key(), bytes, sum, written, faults, answers: 0, last_body: Vec::new() }
    }

    fn written_at(&self, step: usize) -> Written {
        self.written[step.min(self.written.len() - 1)]
    }

    fn answer(&mut self, request: &PullRequest, mac: &Mac) -> Answer {
        assert!(request.sign(&self.key).matches(mac));
        let mut step = self.answers;
        let known = self.written_at(step).complete.then_some(self.bytes.len() as u64);
        let span = request.range.map_or(Span::WHOLE, |range| range.resolve(known).unwrap());
        let size = ObjectSize::from(known);
        let head = AnswerHead {
            size: Some(size),
            sum: Some(self.sum),
            range: request.range.map(|_| AnswerRange::of(span, size)),
            ..AnswerHead::bare(if request.range.is_some() { 206 } else { 200 }, request.epoch)
        };
        let mac = head.sign(&self.key, mac, request.object);
        let mut chain = RecordChain::new(&self.key, mac);
        let mut plan = RecordPlan::new(span);
        let mut records = Vec::new();
        let fault = self.faults.get(self.answers).cloned().unwrap_or(Fault::None);
        loop {
            if matches!(fault, Fault::Abort(after) if records.len() >= after) {
                records.push(chain.seal(&RecordHead::aborted(self.sum)).to_vec());
                break;
            }
            match plan.next(self.written_at(step)) {
                Planned::Record { offset, length, last, .. } => {
                    let payload = &self.bytes[offset as usize..][..length as usize];
                    let head = RecordHead::bytes(length, last, self.sum, self.sum.sum(payload));
                    records.push([&chain.seal(&head)[..], payload].concat());
                }
                Planned::Wait { .. } => {
                    records.push(chain.seal(&RecordHead::heartbeat(self.sum)).to_vec());
                    step += 1;
                }
                Planned::Done => break,
            }
        }
        self.answers += 1;
        Answer { head, mac, body: self.through_the_network(records, &fault) }
    }

    fn through_the_network(&mut self, mut records: Vec<Vec<u8>>, fault: &Fault) -> Vec<u8> {
        let replayed = core::mem::replace(&mut self.last_body, records.clone());
        match *fault {
            Fault::Double(n) if n < records.len() => records.insert(n, records[n].clone()),
            Fault::Drop(n) if n < records.len() => drop(records.remove(n)),
            Fault::Swap(n) if n + 1 < records.len() => records.swap(n, n + 1),
            Fault::Replay => records = replayed,
            _ => {}
        }
        let mut body = records.concat();
        let at = |part: u16| (body.len() as u64 * u64::from(part) / 1000) as usize;
        match *fault {
            Fault::Cut(part) => body.truncate(at(part)),
            Fault::Flip(part) if !body.is_empty() => {
                let at = at(part).min(body.len() - 1);
                body[at] ^= 1 << (part % 8);
            }
            _ => {}
        }
        body
    }
}

/// What a function was given, and how its read ended.
struct Outcome {
    delivered: Vec<u8>,
    end: Result<Finished, PullError>,
}

/// The driver: a loop over the reader's states, as `transfer` has it, over bytes in memory.
fn read(wanted: Wanted, producer: &mut Producer) -> Outcome {
    let mut delivered = Vec::new();
    let now = Monotonic::ZERO;
    let mut reader = PullReader::new(wanted, LIMITS, now);
    let mut asked = 0_u8;
    let end = loop {
        asked = asked.checked_add(1).expect("resumes and re-asks are bounded");
        let (request, mac, awaiting) = reader.ask(&producer.key, NOW, Nonce::from_bytes([asked; 16]));
        let answer = producer.answer(&request, &mac);
        let outcome = match awaiting.head(&answer.head, Some(&answer.mac)) {
            Ok(records) => read_body(records, &answer.body, &mut delivered),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Body::Finished(finished)) => break Ok(finished),
            Ok(Body::Again(again)) => reader = again,
            Err(error) => break Err(error),
        }
    };
    Outcome { delivered, end }
}

enum Body {
    Finished(Finished),
    Again(PullReader),
}

fn read_body(
    mut records: zipline_core::pull::AwaitingRecord,
    mut body: &[u8],
    delivered: &mut Vec<u8>,
) -> Result<Body, PullError> {
    loop {
        let Some((head, rest)) = body.split_first_chunk::<RECORD_HEAD_BYTES>() else { return records.broken().map(Body::Again) };
        body = rest;
        let bytes = match records.record(head) {
            RecordStep::Bytes(bytes) => bytes,
            RecordStep::Heartbeat(again) => {
                records = again;
                continue;
            }
            RecordStep::Finished(finished) => return Ok(Body::Finished(finished)),
            RecordStep::Again(reader) => return Ok(Body::Again(reader)),
            RecordStep::Failed(error) => return Err(error),
        };
        let Some((payload, rest)) = body.split_at_checked(bytes.length()) else { return bytes.broken().map(Body::Again) };
        body = rest;
        match bytes.verify(payload) {
            BytesStep::Verified(verified) => {
                delivered.extend_from_slice(payload);
                match verified.delivered(Monotonic::ZERO) {
                    DeliveredStep::Record(next) => records = next,
                    DeliveredStep::Finished(finished) => return Ok(Body::Finished(finished)),
                }
            }
            BytesStep::Again(reader) => return Ok(Body::Again(reader)),
            BytesStep::Failed(error) => return Err(error),
        }
    }
}

fn span(first: u64, limit: u64) -> Span {
    Span { first, limit }
}

#[test]
fn objects_of_every_shape_arrive_whole() {
    for size in [0, 1, 1000, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 7] {
        for sum in [SumKind::Crc32c, SumKind::Blake3] {
            for known in [Some(size), None] {
                let bytes = bytes_of(size);
                let outcome = read(wanted(Span::WHOLE, known, sum), &mut Producer::complete(bytes.clone(), sum, vec![]));
                assert_eq!(outcome.end, Ok(Finished { first: 0, bytes: size }), "{size} {sum} {known:?}");
                assert!(outcome.delivered == bytes, "{size} {sum}");
            }
        }
    }
}

#[test]
fn ranges_of_every_shape_arrive_whole() {
    let bytes = bytes_of(2 * MIB + 7);
    for (first, limit) in [(0, 1), (5, MIB), (MIB - 1, MIB + 1), (MIB, 2 * MIB), (1, u64::MAX), (2 * MIB + 6, 9 * MIB)] {
        let end = limit.min(bytes.len() as u64);
        let mut producer = Producer::complete(bytes.clone(), SumKind::Crc32c, vec![]);
        let outcome = read(wanted(span(first, limit), Some(bytes.len() as u64), SumKind::Crc32c), &mut producer);
        assert_eq!(outcome.end, Ok(Finished { first, bytes: end - first }), "{first}..{limit}");
        assert!(outcome.delivered == bytes[first as usize..end as usize], "{first}..{limit}");
    }
}

#[test]
fn a_broken_connection_is_resumed_behind_the_last_verified_record() {
    let bytes = bytes_of(3 * MIB);
    let faults = vec![Fault::Cut(500), Fault::Cut(10), Fault::Cut(999)];
    let mut producer = Producer::complete(bytes.clone(), SumKind::Crc32c, faults);
    let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut producer);
    assert_eq!(outcome.end, Ok(Finished { first: 0, bytes: 3 * MIB }));
    assert!(outcome.delivered == bytes);
    assert_eq!(producer.answers, 4);
}

#[test]
fn a_connection_that_breaks_for_ever_ends_the_read() {
    let mut producer = Producer::complete(bytes_of(MIB), SumKind::Crc32c, vec![Fault::Cut(100); 100]);
    let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut producer);
    assert_eq!(outcome.end.as_ref().map_err(PullError::code), Err(ErrorCode::ProducerUnreachable));
    assert_eq!((outcome.delivered.len(), producer.answers), (0, 5));
}

#[test]
fn a_corrupt_block_is_asked_for_once_more_and_then_given_up() {
    let bytes = bytes_of(2 * MIB);
    let mut producer = Producer::complete(bytes.clone(), SumKind::Crc32c, vec![Fault::Flip(700)]);
    let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut producer);
    assert!(outcome.end.is_ok() && outcome.delivered == bytes && producer.answers == 2);

    let mut producer = Producer::complete(bytes.clone(), SumKind::Crc32c, vec![Fault::Flip(700), Fault::Flip(700)]);
    let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut producer);
    assert_eq!(outcome.end, Err(PullError::Corrupt { offset: MIB }));
    assert_eq!(outcome.end.map_err(|error| error.code()), Err(ErrorCode::PayloadCorrupt));
    assert!(outcome.delivered == bytes[..MIB as usize]);
}

#[test]
fn an_object_is_read_while_it_is_written() {
    let bytes = bytes_of(2 * MIB + 100);
    let steps = [0, 10, MIB, MIB + 5, 2 * MIB, 2 * MIB + 100];
    let mut written: Vec<Written> = steps.iter().map(|bytes| Written { bytes: *bytes, complete: false }).collect();
    written.push(Written { bytes: 2 * MIB + 100, complete: true });
    for limit in [u64::MAX, MIB, MIB + 3, 5 * MIB] {
        let mut producer = Producer { written: written.clone(), ..Producer::complete(bytes.clone(), SumKind::Blake3, vec![]) };
        let outcome = read(wanted(span(0, limit), None, SumKind::Blake3), &mut producer);
        let end = limit.min(bytes.len() as u64);
        assert_eq!(outcome.end, Ok(Finished { first: 0, bytes: end }), "{limit}");
        assert!(outcome.delivered == bytes[..end as usize]);
    }
}

#[test]
fn an_aborted_body_is_never_a_whole_one() {
    let mut producer = Producer::complete(bytes_of(2 * MIB), SumKind::Crc32c, vec![Fault::Abort(1); 100]);
    producer.written = vec![Written { bytes: 2 * MIB, complete: false }];
    let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut producer);
    assert_eq!(outcome.end, Err(PullError::Aborted));
    assert_eq!(outcome.end.map_err(|error| error.code()), Err(ErrorCode::PayloadAborted));
}

#[test]
fn a_read_without_payload_is_idle_whatever_else_comes() {
    let producer = Producer::complete(bytes_of(10), SumKind::Crc32c, vec![]);
    let start = Monotonic::from_secs(100);
    let reader = PullReader::new(wanted(Span::WHOLE, None, SumKind::Crc32c), LIMITS, start);
    let (request, mac, awaiting) = reader.ask(&producer.key, NOW, Nonce::from_bytes([1; 16]));
    let head = AnswerHead { size: Some(ObjectSize::Unknown), sum: Some(SumKind::Crc32c), ..AnswerHead::bare(200, request.epoch) };
    let mac = head.sign(&producer.key, &mac, request.object);
    let mut chain = RecordChain::new(&producer.key, mac);
    let mut records = awaiting.head(&head, Some(&mac)).unwrap();
    for _ in 0..5 {
        let RecordStep::Heartbeat(next) = records.record(&chain.seal(&RecordHead::heartbeat(SumKind::Crc32c))) else {
            panic!("a heartbeat is one");
        };
        records = next;
        assert_eq!(records.idle_at(), Monotonic::from_secs(130));
    }
    assert_eq!(records.timed_out().code(), ErrorCode::PullIdleTimeout);
}

fn answer_to(change: impl FnOnce(&mut AnswerHead)) -> Result<(), PullError> {
    let key = key();
    let reader = PullReader::new(wanted(span(5, 50), Some(100), SumKind::Crc32c), LIMITS, Monotonic::ZERO);
    let (request, mac, awaiting) = reader.ask(&key, NOW, Nonce::from_bytes([1; 16]));
    assert_eq!(request.range, ByteRange::closed(5, 49));
    let size = ObjectSize::Known(100);
    let mut head = AnswerHead {
        size: Some(size),
        sum: Some(SumKind::Crc32c),
        range: Some(AnswerRange::of(span(5, 50), size)),
        ..AnswerHead::bare(206, request.epoch)
    };
    change(&mut head);
    let mac = head.sign(&key, &mac, request.object);
    awaiting.head(&head, Some(&mac)).map(drop)
}

#[test]
fn an_answer_that_contradicts_the_question_is_refused() {
    assert_eq!(answer_to(|_| {}), Ok(()));
    let wrong: [fn(&mut AnswerHead); 9] = [
        |head| head.epoch = Epoch::from_bytes([9; 8]),
        |head| head.sum = Some(SumKind::Blake3),
        |head| head.sum = None,
        |head| head.size = None,
        |head| head.size = Some(ObjectSize::Known(99)),
        |head| head.size = Some(ObjectSize::Unknown),
        |head| head.status = 200,
        |head| head.range = None,
        |head| head.range = Some(AnswerRange::of(span(4, 50), ObjectSize::Known(100))),
    ];
    for change in wrong {
        assert_eq!(answer_to(change).map_err(|error| error.code()), Err(ErrorCode::PayloadCorrupt));
    }
}

/// What becomes of a genuine record as the first of a body of `span` and `size`.
fn first_record(span: Span, size: ObjectSize, record: &RecordHead) -> Result<&'static str, ErrorCode> {
    let key = key();
    let reader = PullReader::new(wanted(span, size.known(), SumKind::Crc32c), LIMITS, Monotonic::ZERO);
    let (request, mac, awaiting) = reader.ask(&key, NOW, Nonce::from_bytes([1; 16]));
    let head = AnswerHead {
        size: Some(size),
        sum: Some(SumKind::Crc32c),
        range: request.range.map(|_| AnswerRange::of(span, size)),
        ..AnswerHead::bare(if request.range.is_some() { 206 } else { 200 }, request.epoch)
    };
    let mac = head.sign(&key, &mac, request.object);
    let wire = RecordChain::new(&key, mac).seal(record);
    match awaiting.head(&head, Some(&mac)).unwrap().record(&wire) {
        RecordStep::Bytes(_) => Ok("bytes"),
        RecordStep::Heartbeat(_) => Ok("heartbeat"),
        RecordStep::Finished(_) => Ok("finished"),
        RecordStep::Again(_) => Ok("again"),
        RecordStep::Failed(error) => Err(error.code()),
    }
}

#[test]
fn a_genuine_record_that_cannot_be_is_refused_before_its_payload() {
    let known = |size| (Span::WHOLE, ObjectSize::Known(size));
    let unknown = (Span::WHOLE, ObjectSize::Unknown);
    let ranged = (span(5, 50), ObjectSize::Known(2 * MIB));
    let bytes = |length: u64, last| RecordHead::bytes(length as u32, last, SumKind::Crc32c, SumKind::Crc32c.sum(b"any"));
    for (of, record, expected) in [
        (known(2 * MIB), bytes(MIB, false), Ok("bytes")),
        (known(100), bytes(100, true), Ok("bytes")),
        (known(MIB), bytes(MIB, false), Ok("bytes")), // The end may follow in a record of its own.
        (unknown, bytes(100, true), Ok("bytes")),
        (unknown, RecordHead::end(SumKind::Crc32c), Ok("finished")),
        (ranged, bytes(45, true), Ok("bytes")),
        (known(0), RecordHead::heartbeat(SumKind::Crc32c), Ok("heartbeat")),
        (known(2 * MIB), RecordHead::aborted(SumKind::Crc32c), Ok("again")),
        (known(100), bytes(99, true), Err(ErrorCode::PayloadCorrupt)),
        (known(100), RecordHead::end(SumKind::Crc32c), Err(ErrorCode::PayloadCorrupt)),
        (known(100), bytes(101, true), Err(ErrorCode::PayloadCorrupt)),
        (known(100), bytes(100, false), Err(ErrorCode::PayloadCorrupt)),
        (known(2 * MIB), bytes(MIB - 1, false), Err(ErrorCode::PayloadCorrupt)),
        (ranged, bytes(45, false), Err(ErrorCode::PayloadCorrupt)),
        (ranged, bytes(46, true), Err(ErrorCode::PayloadCorrupt)),
        (unknown, RecordHead::end(SumKind::Blake3), Err(ErrorCode::PayloadCorrupt)),
        (unknown, bytes(0, true), Err(ErrorCode::PayloadCorrupt)), // Its sum is not that of nothing.
    ] {
        assert_eq!(first_record(of.0, of.1, &record), expected, "{of:?} {record:?}");
    }
}

#[test]
fn a_genuine_refusal_is_told_and_a_forged_or_unsigned_one_is_not_believed() {
    let refuse = |head: &mut AnswerHead| *head = AnswerHead::error(ErrorCode::ReferenceExhausted, "3 of 3 used", head.epoch);
    let refused = answer_to(refuse).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ReferenceExhausted);
    assert!(refused.to_string().ends_with("(3 of 3 used)"), "{refused}");

    let ask = || {
        let reader = PullReader::new(wanted(Span::WHOLE, None, SumKind::Crc32c), LIMITS, Monotonic::ZERO);
        reader.ask(&key(), NOW, Nonce::from_bytes([1; 16]))
    };
    let (request, _, awaiting) = ask();
    let head = AnswerHead::error(ErrorCode::ReferenceExhausted, "", request.epoch);
    assert_eq!(awaiting.head(&head, None).map(drop), Err(PullError::Unsigned { status: 410 }));
    let (request, mac, awaiting) = ask();
    let other = head.sign(&key(), &mac, ObjectId::from_bytes([9; 16]));
    assert_eq!(awaiting.head(&AnswerHead::bare(200, request.epoch), Some(&other)).map(drop), Err(PullError::Forged));
}

#[test]
fn what_is_read_of_a_reference_stays_within_it() {
    let reference = Reference {
        pull_version: 1,
        producer: "10.0.0.1:8122".parse().unwrap(),
        epoch: Epoch::from_bytes([1; 8]),
        object: ObjectId::from_bytes([2; 16]),
        size: Some(1000),
        sum: SumKind::Crc32c,
        expires: NOW,
        retrievals: NonZeroU32::MIN,
        slot: None,
        receiver: None,
        range: zipline_core::reference::Extent::new(100, 50.try_into().unwrap()),
        tier: None,
    };
    let span_of = |part: Option<&str>| {
        let part = part.map(|part| ByteRange::parse(part, reference.visible_size()).unwrap());
        Wanted::of(&reference, part, LeaseId::from_bytes([3; 16]), None).map(|wanted| wanted.span)
    };
    assert_eq!(span_of(None), Ok(span(100, 150)));
    assert_eq!(span_of(Some("bytes=10-19")), Ok(span(110, 120)));
    assert_eq!(span_of(Some("bytes=10-")), Ok(span(110, 150)));
    assert_eq!(span_of(Some("bytes=10-9999")), Ok(span(110, 150)));
    assert_eq!(span_of(Some("bytes=-5")), Ok(span(145, 150)));
    assert!(span_of(Some("bytes=50-")).is_err());
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => Just(Fault::None),
        3 => (0..1000_u16).prop_map(Fault::Cut),
        3 => (0..1000_u16).prop_map(Fault::Flip),
        1 => (0..4_usize).prop_map(Fault::Double),
        1 => (0..4_usize).prop_map(Fault::Drop),
        1 => (0..4_usize).prop_map(Fault::Swap),
        1 => Just(Fault::Replay),
        1 => (0..4_usize).prop_map(Fault::Abort),
    ]
}

fn config(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn nothing_but_the_object_is_ever_delivered(
        size in prop_oneof![0..2000_u64, MIB - 2..MIB + 3, 0..2 * MIB + 2],
        first_part in 0..=1000_u64,
        limit_part in 0..=1200_u64,
        blake3 in any::<bool>(),
        known in any::<bool>(),
        steps in prop::collection::vec(0..=1000_u64, 0..4),
        faults in prop::collection::vec(fault(), 0..12),
    ) {
        let bytes = bytes_of(size);
        let sum = if blake3 { SumKind::Blake3 } else { SumKind::Crc32c };
        let first = size * first_part / 1000;
        let limit = if limit_part > 1000 { u64::MAX } else { (size * limit_part / 1000).max(first + 1) };
        let mut steps = steps.iter().map(|part| size * part / 1000).collect::<Vec<_>>();
        steps.sort_unstable();
        let mut written: Vec<Written> = steps.iter().map(|bytes| Written { bytes: *bytes, complete: false }).collect();
        written.push(Written { bytes: size, complete: true });
        let known = (known && written.len() == 1).then_some(size);

        let mut producer = Producer { written, ..Producer::complete(bytes.clone(), sum, faults) };
        let outcome = read(wanted(span(first, limit), known, sum), &mut producer);
        let expected = &bytes[first as usize..limit.min(size).max(first) as usize];
        prop_assert!(expected.starts_with(&outcome.delivered), "delivered what is not the object's");
        if let Ok(finished) = outcome.end {
            prop_assert_eq!(finished.bytes, expected.len() as u64);
            prop_assert!(outcome.delivered.len() == expected.len(), "a part was taken for the whole");
        }
    }

    #[test]
    fn as_many_broken_connections_as_are_allowed_do_no_harm(
        size in 0..2 * MIB,
        cuts in prop::collection::vec(0..1000_u16, 0..=4),
    ) {
        let bytes = bytes_of(size);
        let faults = cuts.into_iter().map(Fault::Cut).collect();
        let outcome = read(wanted(Span::WHOLE, None, SumKind::Crc32c), &mut Producer::complete(bytes.clone(), SumKind::Crc32c, faults));
        prop_assert_eq!(outcome.end, Ok(Finished { first: 0, bytes: size }));
        prop_assert!(outcome.delivered == bytes);
    }
}
