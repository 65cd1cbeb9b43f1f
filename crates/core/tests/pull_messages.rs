//! Requests, answers, ranges, nonces and record plans: what the wire says, and what it does not let through.

use core::time::Duration;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use zipline_contract::limits::{BLOCK_BYTES, NONCES_MAX};
use zipline_contract::{ErrorCode, headers};
use zipline_core::object::{Epoch, LeaseId, Now, ObjectId};
use zipline_core::pull::{
    AnswerError, AnswerHead, AnswerRange, Authenticated, ByteRange, HeaderText, LastByte, Mac, Nonce, NonceRefusal, NonceWindow,
    ObjectSize, Planned, PullMethod, PullRequest, RangeError, RecordPlan, Refusal, RequestError, SignedRequest, Span, SumKind,
    Written,
};
use zipline_core::reference::{DomainKey, Extent, KeyRing};
use zipline_core::time::{Monotonic, WallTime};

const MIB: u64 = BLOCK_BYTES as u64;
const NOW: Now = Now { mono: Monotonic::from_secs(1000), wall: WallTime::from_unix_millis(1_800_000_000_000) };
const METHODS: [PullMethod; 6] =
    [PullMethod::Get, PullMethod::Head, PullMethod::Acknowledge, PullMethod::Release, PullMethod::Free, PullMethod::Handover];

fn ring() -> KeyRing {
    let entry = |id: &str, secret: &str| {
        format!(r#"{{"id":"{id}","key":"{}","not_before_ms":0,"not_after_ms":9000000000000}}"#, secret.repeat(32))
    };
    KeyRing::parse(format!(r#"{{"keys":[{},{}]}}"#, entry("0000000a", "a1"), entry("0000000b", "b2")).as_bytes()).unwrap()
}

fn key() -> DomainKey {
    ring().keys()[0].clone()
}

fn dialled() -> SocketAddr {
    "10.0.0.1:8122".parse().unwrap()
}

fn request(method: PullMethod) -> PullRequest {
    PullRequest {
        method,
        object: ObjectId::from_bytes([2; 16]),
        range: None,
        dialled: dialled(),
        epoch: Epoch::from_bytes([1; 8]),
        lease: (method != PullMethod::Free).then_some(LeaseId::from_bytes([3; 16])),
        receiver: Some("default/reducer".parse().unwrap()),
        slot: Some(4),
        time: NOW.wall,
        nonce: Nonce::from_bytes([5; 16]),
    }
}

/// Headers as they travel: names and values, some of them nobody's.
type Headers = Vec<(String, Vec<u8>)>;

fn headers_of(request: &PullRequest, key: &DomainKey) -> Headers {
    let mac = request.sign(key);
    let mut list: Headers =
        request.headers(key.id(), &mac).into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
    list.push(("Host".to_owned(), b"10.0.0.1:8122".to_vec()));
    list.push(("traceparent".to_owned(), b"\xff".to_vec()));
    list
}

fn read(verb: &str, path: &str, headers: &Headers) -> Result<SignedRequest, RequestError> {
    SignedRequest::read(verb, path, headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())), dialled())
}

fn arrive(request: &PullRequest, headers: &Headers) -> Result<Authenticated, ErrorCode> {
    read(request.method.verb(), &request.path(), headers)
        .map_err(|error| error.code())?
        .authenticate(&ring(), &mut NonceWindow::default(), NOW)
        .map_err(|refusal| refusal.code())
}

fn set(headers: &mut Headers, name: &str, value: &str) {
    headers.retain(|(other, _)| other != name);
    headers.push((name.to_owned(), value.as_bytes().to_vec()));
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    for method in METHODS {
        let mut sent = request(method);
        if method == PullMethod::Get {
            sent.range = ByteRange::closed(7, 99);
        }
        let mut headers = headers_of(&sent, &key());
        headers.iter_mut().for_each(|(name, _)| *name = name.to_uppercase());
        let arrived = arrive(&sent, &headers).unwrap();
        assert_eq!((arrived.request, arrived.key), (sent.clone(), key().id()));
        assert!(arrived.mac.matches(&sent.sign(&key())));
    }
}

#[test]
fn a_producer_that_listens_on_all_addresses_sees_the_address_that_was_dialled() {
    let sent = request(PullMethod::Get);
    let mapped = PullRequest { dialled: "[::ffff:10.0.0.1]:8122".parse().unwrap(), ..sent.clone() };
    assert!(sent.sign(&key()).matches(&mapped.sign(&key())));
}

#[test]
fn a_request_changed_in_any_field_is_nobody_s() {
    let sent = PullRequest { range: ByteRange::closed(7, 99), ..request(PullMethod::Get) };
    for (name, value) in [
        (headers::KEY, "0000000b"),
        (headers::EPOCH, "0101010101010102"),
        (headers::LEASE, "03030303030303030303030303030304"),
        (headers::TIME, "1800000000001"),
        (headers::NONCE, "05050505050505050505050505050506"),
        (headers::RECEIVER, "default/mapper"),
        (headers::SLOT, "5"),
        ("range", "bytes=7-98"),
        ("range", "bytes=7-"),
    ] {
        let mut headers = headers_of(&sent, &key());
        set(&mut headers, name, value);
        assert_eq!(arrive(&sent, &headers).map(drop), Err(ErrorCode::PullUnauthenticated), "{name}: {value}");
    }
    for name in [headers::RECEIVER, headers::SLOT, "range"] {
        let mut headers = headers_of(&sent, &key());
        headers.retain(|(other, _)| other != name);
        assert_eq!(arrive(&sent, &headers).map(drop), Err(ErrorCode::PullUnauthenticated), "without {name}");
    }
    let elsewhere = PullRequest { dialled: "10.0.0.2:8122".parse().unwrap(), ..sent.clone() };
    assert_eq!(arrive(&sent, &headers_of(&elsewhere, &key())).map(drop), Err(ErrorCode::PullUnauthenticated));
    let other_object = PullRequest { object: ObjectId::from_bytes([9; 16]), ..sent.clone() };
    assert_eq!(arrive(&sent, &headers_of(&other_object, &key())).map(drop), Err(ErrorCode::PullUnauthenticated));
    let other_method = request(PullMethod::Release);
    assert_eq!(
        arrive(&request(PullMethod::Acknowledge), &headers_of(&other_method, &key())).map(drop),
        Err(ErrorCode::PullUnauthenticated)
    );
}

#[test]
fn a_head_that_is_no_request_is_told_from_one_of_another_version() {
    let sent = request(PullMethod::Get);
    let good = headers_of(&sent, &key());
    let refused = |headers: &Headers| read("GET", &sent.path(), headers).map(drop).unwrap_err();
    for name in [headers::PULL, headers::KEY, headers::EPOCH, headers::LEASE, headers::TIME, headers::NONCE, headers::MAC] {
        let mut headers = good.clone();
        headers.retain(|(other, _)| other != name);
        assert_eq!(refused(&headers), RequestError::Missing(name));
        let mut headers = good.clone();
        let twice = headers.iter().find(|(other, _)| other == name).unwrap().clone();
        headers.push(twice);
        assert_eq!(refused(&headers), RequestError::Header(name), "twice");
    }
    for (name, value) in [
        (headers::KEY, "0000000A"),
        (headers::TIME, "+1800000000000"),
        (headers::TIME, "01800000000000"),
        (headers::TIME, "99999999999999999999999"),
        (headers::SLOT, " 4"),
        (headers::RECEIVER, "default/reducer\n"),
        (headers::RECEIVER, ""),
        (headers::MAC, "00"),
        ("range", "bytes=0-1,3-4"),
        ("range", "bytes=-5"),
        ("range", "bytes = 5-"),
        ("range", "bytes=05-9"),
    ] {
        let mut headers = good.clone();
        set(&mut headers, name, value);
        assert_eq!(refused(&headers).code(), ErrorCode::PullUnauthenticated, "{name}: {value}");
    }
    let mut headers = good.clone();
    set(&mut headers, headers::PULL, "2");
    assert_eq!(refused(&headers).code(), ErrorCode::ProtocolUnsupported);
    let object = &sent.path()[..];
    for (verb, path) in [
        ("PUT", object),
        ("get", object),
        ("GET", "/v1/objects/"),
        ("GET", "/v1/objects/0202"),
        ("GET", &object.to_uppercase()),
        ("GET", &format!("{object}/")),
        ("GET", &format!("{object}/acknowledge")),
        ("POST", object),
        ("POST", &format!("{object}/release/")),
        ("GET", &format!("/v1/objects/{}ä", "0".repeat(31))),
    ] {
        assert_eq!(read(verb, path, &good).map(drop), Err(RequestError::Target), "{verb} {path}");
    }
}

#[test]
fn a_lease_stands_where_it_must_and_a_range_only_on_a_read() {
    let mut free = headers_of(&request(PullMethod::Free), &key());
    set(&mut free, headers::LEASE, "03030303030303030303030303030303");
    assert_eq!(read("POST", &request(PullMethod::Free).path(), &free).map(drop), Err(RequestError::Header(headers::LEASE)));
    let head = PullRequest { lease: None, ..request(PullMethod::Head) };
    assert!(arrive(&head, &headers_of(&head, &key())).is_ok());
    let ranged = PullRequest { range: ByteRange::closed(0, 1), ..request(PullMethod::Head) };
    assert_eq!(read("HEAD", &ranged.path(), &headers_of(&ranged, &key())).map(drop), Err(RequestError::Header("range")));
}

#[test]
fn the_skew_of_two_clocks_is_told_with_both_times_and_signed() {
    let at = |offset: i64| WallTime::from_unix_millis((1_800_000_000_000 + offset) as u64);
    let arrive_at = |time| {
        let sent = PullRequest { time, ..request(PullMethod::Get) };
        let signed = read("GET", &sent.path(), &headers_of(&sent, &key())).unwrap();
        signed.authenticate(&ring(), &mut NonceWindow::default(), NOW)
    };
    for offset in [-30_000, 0, 30_000] {
        assert!(arrive_at(at(offset)).is_ok(), "{offset}");
    }
    for offset in [-30_001, 30_001, -1_800_000_000_000] {
        let refusal = arrive_at(at(offset)).unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::ClockSkew);
        let text = refusal.to_string();
        assert!(text.contains("1800000000000") && text.contains(&at(offset).unix_millis().to_string()), "{text}");
        assert_eq!(refusal.into_signable().unwrap().request.time, at(offset));
    }
}

#[test]
fn a_request_is_taken_once_and_a_forged_one_is_not_remembered() {
    let sent = request(PullMethod::Get);
    let mut seen = NonceWindow::default();
    let mut arrive = |headers: &Headers| {
        read("GET", &sent.path(), headers)
            .unwrap()
            .authenticate(&ring(), &mut seen, NOW)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    };
    let good = headers_of(&sent, &key());
    let mut forged = good.clone();
    set(&mut forged, headers::MAC, &"00".repeat(32));
    assert!(arrive(&forged).is_err());
    assert_eq!(arrive(&good), Ok(()), "the forged one had the same nonce");
    assert_eq!(arrive(&good), Err(Refusal::Replayed.to_string()));
    let mut stranger = good;
    set(&mut stranger, headers::KEY, "000000ff");
    assert!(arrive(&stranger).unwrap_err().contains("000000ff"));
}

#[test]
fn a_nonce_is_remembered_as_long_as_its_request_would_be_accepted() {
    let nonce = |n: u64| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Nonce::from_bytes(bytes)
    };
    let wall = |ms: u64| WallTime::from_unix_millis(1_800_000_000_000 + ms);
    for sent in [0, 30_000, 60_000] {
        // It arrives when the producer's clock says 30,000, and is acceptable until it says `sent` + 30,000.
        let mut window = NonceWindow::default();
        assert_eq!(window.admit(nonce(1), wall(sent), wall(30_000), Monotonic::from_secs(500)), Ok(()));
        for elapsed in (0..=sent).step_by(1000) {
            let again = window.admit(nonce(1), wall(sent), wall(30_000 + elapsed), Monotonic::from_millis(500_000 + elapsed));
            assert_eq!(again, Err(NonceRefusal::Replayed), "sent {sent}, {elapsed} ms later");
        }
        assert!(window.admit(nonce(2), wall(100_000), wall(100_000), Monotonic::from_secs(600)).is_ok());
        assert_eq!(window.len(), 1, "and is forgotten soon after");
    }
    let mut window = NonceWindow::default();
    let now = Monotonic::from_secs(500);
    for n in 0..NONCES_MAX as u64 {
        assert_eq!(window.admit(nonce(n), wall(0), wall(0), now), Ok(()));
    }
    assert_eq!(window.admit(nonce(u64::MAX), wall(0), wall(0), now), Err(NonceRefusal::Full));
    assert_eq!(window.admit(nonce(u64::MAX), wall(39_000), wall(39_000), now + Duration::from_secs(39)), Ok(()));
    assert_eq!(window.len(), 1);
}

/// A clock that is set back makes a recorded request young again; its nonce may be forgotten, its time is not.
#[test]
fn a_replay_is_refused_also_when_the_producers_clock_was_set_back() {
    let wall = |ms: u64| WallTime::from_unix_millis(1_800_000_000_000 + ms);
    let nonce = |n: u8| Nonce::from_bytes([n; 16]);
    let mut window = NonceWindow::default();
    assert_eq!(window.admit(nonce(1), wall(0), wall(0), Monotonic::from_secs(500)), Ok(()));
    // A minute later it is forgotten, and the clock is set back to where it was.
    assert!(window.admit(nonce(2), wall(60_000), wall(60_000), Monotonic::from_secs(560)).is_ok());
    assert_eq!(window.len(), 1);
    let replayed = window.admit(nonce(1), wall(0), wall(1000), Monotonic::from_secs(561));
    assert_eq!(replayed, Err(NonceRefusal::Replayed));
    // What was sent since is taken.
    assert_eq!(window.admit(nonce(3), wall(1001), wall(1001), Monotonic::from_secs(561)), Ok(()));
}

fn full_answer() -> AnswerHead {
    AnswerHead {
        status: 206,
        epoch: Epoch::from_bytes([1; 8]),
        range: Some(AnswerRange { first: 5, last: LastByte::At(49), size: ObjectSize::Known(100) }),
        size: Some(ObjectSize::Known(100)),
        retrievals_left: Some(2),
        expires: Some(WallTime::from_unix_millis(1_800_000_300_000)),
        content_type: HeaderText::content_type("text/plain; charset=utf-8"),
        sum: Some(SumKind::Blake3),
        error: HeaderText::new("reference-exhausted", 64),
        detail: HeaderText::detail("2 of 3 retrievals were used"),
    }
}

fn through_the_wire(head: &AnswerHead, mac: Option<&Mac>) -> Result<(AnswerHead, Option<Mac>), AnswerError> {
    let list = head.headers(mac);
    AnswerHead::read(head.status, list.iter().map(|(name, value)| (*name, value.as_bytes())))
}

#[test]
fn an_answer_arrives_as_it_was_sent() {
    let object = ObjectId::from_bytes([2; 16]);
    let request = request(PullMethod::Get).sign(&key());
    let unknown = ObjectSize::Unknown;
    for head in [
        full_answer(),
        AnswerHead::bare(204, Epoch::from_bytes([1; 8])),
        AnswerHead { size: Some(unknown), range: Some(AnswerRange::of(Span { first: 7, limit: 9 }, unknown)), ..full_answer() },
        AnswerHead {
            range: Some(AnswerRange::of(Span { first: 100, limit: u64::MAX }, ObjectSize::Known(100))),
            ..full_answer()
        },
        AnswerHead::error(ErrorCode::ProducerGone, "another\ninstance \u{fc}", Epoch::from_bytes([1; 8])),
    ] {
        let mac = head.sign(&key(), &request, object);
        let (read, read_mac) = through_the_wire(&head, Some(&mac)).unwrap();
        assert_eq!(read, head);
        assert!(read.sign(&key(), &request, object).matches(&read_mac.unwrap()));
    }
    assert!(through_the_wire(&full_answer(), None).unwrap().1.is_none());
    assert_eq!(full_answer().error_code(), Some(ErrorCode::ReferenceExhausted));
}

#[test]
fn every_field_of_an_answer_stands_under_its_mac() {
    let object = ObjectId::from_bytes([2; 16]);
    let asked = request(PullMethod::Get).sign(&key());
    let mac = full_answer().sign(&key(), &asked, object);
    let changes: [fn(&mut AnswerHead); 10] = [
        |head| head.status = 200,
        |head| head.epoch = Epoch::from_bytes([2; 8]),
        |head| head.range = None,
        |head| head.size = Some(ObjectSize::Unknown),
        |head| head.retrievals_left = Some(3),
        |head| head.expires = None,
        |head| head.content_type = None,
        |head| head.sum = Some(SumKind::Crc32c),
        |head| head.error = None,
        |head| head.detail = HeaderText::detail("another"),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut head = full_answer();
        change(&mut head);
        assert!(!head.sign(&key(), &asked, object).matches(&mac), "change {n}");
    }
    let other_request = PullRequest { nonce: Nonce::from_bytes([6; 16]), ..request(PullMethod::Get) }.sign(&key());
    assert!(!full_answer().sign(&key(), &other_request, object).matches(&mac), "an answer fits one request");
    assert!(!full_answer().sign(&key(), &asked, ObjectId::from_bytes([9; 16])).matches(&mac));
    assert!(!full_answer().sign(&ring().keys()[1], &asked, object).matches(&mac));
}

#[test]
fn what_is_no_answer_of_ours_is_told_from_one_of_another_version() {
    let read =
        |list: &[(&str, &str)]| AnswerHead::read(200, list.iter().map(|(name, value)| (*name, value.as_bytes()))).map(drop);
    let epoch = (headers::EPOCH, "0101010101010101");
    assert_eq!(read(&[("server", "nginx")]), Err(AnswerError::Missing(headers::PULL)));
    assert_eq!(read(&[(headers::PULL, "1")]), Err(AnswerError::Missing(headers::EPOCH)));
    assert_eq!(read(&[(headers::PULL, "2"), epoch]).unwrap_err().code(), ErrorCode::ProtocolUnsupported);
    for (name, value) in [
        (headers::RANGE, "5-49"),
        (headers::RANGE, "5-none/100"),
        (headers::RANGE, "05-49/100"),
        (headers::SIZE, "-1"),
        (headers::SIZE, "Unknown"),
        (headers::SUM, "md5"),
        (headers::EXPIRES, "1e9"),
        (headers::RETRIEVALS_LEFT, "4294967296"),
        (headers::DETAIL, "two\tcolumns"),
        (headers::MAC, "no"),
    ] {
        assert_eq!(read(&[(headers::PULL, "1"), epoch, (name, value)]), Err(AnswerError::Header(name)), "{value}");
    }
    assert_eq!(read(&[(headers::PULL, "1"), epoch, epoch]), Err(AnswerError::Header(headers::EPOCH)));
}

#[test]
fn an_http_range_is_one_run_of_bytes() {
    let parse = |text: &str| ByteRange::parse(text, Some(1000));
    assert_eq!(parse("bytes=0-0"), Ok(ByteRange::closed(0, 0).unwrap()));
    assert_eq!(parse("Bytes= 5-"), Ok(ByteRange::starting_at(5)));
    assert_eq!(parse("bytes=-300"), Ok(ByteRange::starting_at(700)));
    assert_eq!(parse("bytes=-3000"), Ok(ByteRange::starting_at(0)));
    assert_eq!(parse("bytes=1-99999999999999999999999"), Ok(ByteRange::closed(1, u64::MAX - 1).unwrap()));
    for (text, error) in [
        ("", RangeError::Malformed),
        ("bytes", RangeError::Malformed),
        ("bytes=", RangeError::Malformed),
        ("bytes=-", RangeError::Malformed),
        ("bytes=a-b", RangeError::Malformed),
        ("bytes=1-2-3", RangeError::Malformed),
        ("bytes=+1-2", RangeError::Malformed),
        ("bytes=1 - 2", RangeError::Malformed),
        ("lines=1-2", RangeError::Unit),
        ("bytes=1-2,4-5", RangeError::Several),
        ("bytes=2-1", RangeError::Backwards),
        ("bytes=-0", RangeError::Unsatisfiable { first: 1000, size: 1000 }),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
    assert_eq!(ByteRange::parse("bytes=-5", None), Err(RangeError::SuffixOfUnknown));
    assert_eq!(ByteRange::starting_at(1001).resolve(Some(1000)), Err(RangeError::Unsatisfiable { first: 1001, size: 1000 }));
    assert_eq!(ByteRange::starting_at(1000).resolve(Some(1000)).map(|span| span.end(1000)), Ok(1000));
}

fn config() -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases: 512, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

prop_compose! {
    fn offsets()(low in prop_oneof![0..20_u64, any::<u64>()], more in prop_oneof![0..20_u64, any::<u64>()]) -> (u64, u64) {
        (low.min(u64::MAX - 1), low.saturating_add(more).min(u64::MAX - 1))
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_range_is_read_back_from_its_text((first, last) in offsets(), open: bool) {
        let range = if open { ByteRange::starting_at(first) } else { ByteRange::closed(first, last).unwrap() };
        prop_assert_eq!(ByteRange::parse_exact(&range.to_string()), Ok(range));
        prop_assert_eq!(ByteRange::parse(&range.to_string(), None), Ok(range));
    }

    #[test]
    fn no_text_makes_a_range_that_leaves_its_object(text in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
        if let Ok(range) = ByteRange::parse(&text, Some(size)) {
            prop_assert!(range.last().is_none_or(|last| range.first() <= last));
            if let Ok(span) = range.resolve(Some(size)) {
                prop_assert!(span.first <= size && span.end(size) <= size);
            }
        }
    }

    /// By the definition: byte by byte.
    #[test]
    fn a_range_within_a_part_is_the_part_s_bytes(
        part_first in 0..30_u64, part_length in 1..30_u64, first in 0..40_u64, length in prop::option::of(1..40_u64),
    ) {
        let part = Extent::new(part_first, part_length.try_into().unwrap()).unwrap();
        let range = match length {
            Some(length) => ByteRange::closed(first, first + length - 1).unwrap(),
            None => ByteRange::starting_at(first),
        };
        let expected: Vec<u64> = (part.first()..part.end())
            .enumerate()
            .filter(|(n, _)| *n as u64 >= range.first() && range.last().is_none_or(|last| *n as u64 <= last))
            .map(|(_, offset)| offset)
            .collect();
        let got: Vec<u64> = match range.within(part) {
            Some(range) => range.resolve(Some(1000)).map(|span| (span.first..span.end(1000)).collect()).unwrap(),
            None => vec![],
        };
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_plan_sends_every_byte_once_in_records_that_end_where_blocks_do(
        size in 0..4 * MIB, first_part in 0..=1000_u64, limit_part in 0..=1100_u64,
        steps in prop::collection::vec(0..=1000_u64, 0..5),
        near in prop::collection::vec((0..4_u64, -2..=2_i64), 0..4),
    ) {
        let first = size * first_part / 1000;
        let limit = if limit_part > 1000 { u64::MAX } else { (size * limit_part / 1000).max(first) };
        let near = near.into_iter().map(|(block, off)| (block * MIB).saturating_add_signed(off).min(size));
        let mut steps: Vec<u64> = steps.into_iter().map(|part| size * part / 1000).chain(near).collect();
        steps.sort_unstable();
        let mut states: Vec<Written> = steps.into_iter().map(|bytes| Written { bytes, complete: false }).collect();
        states.push(Written { bytes: size, complete: true });

        let mut plan = RecordPlan::new(Span { first, limit });
        let (mut next, mut ended, mut state) = (first, false, 0);
        loop {
            match plan.next(states[state]) {
                Planned::Record { offset, length, last, whole_block } => {
                    prop_assert!(!ended && offset == next);
                    next += u64::from(length);
                    prop_assert!(next <= states[state].bytes, "bytes that are not there yet");
                    prop_assert!(length > 0 || last);
                    prop_assert!(last || next % MIB == 0, "a record ends where a block does");
                    prop_assert!(length == 0 || offset / MIB == (next - 1) / MIB, "a record lies in one block");
                    prop_assert_eq!(whole_block, u64::from(length) == MIB);
                    ended = last;
                }
                Planned::Wait { until_bytes } => {
                    prop_assert!(!states[state].complete && until_bytes > states[state].bytes);
                    state += 1;
                }
                Planned::Done => break,
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(next, limit.min(size));
    }
}
