//! Tokens: what opens, what does not, and what narrowing can and cannot do.

use core::num::{NonZeroU32, NonZeroU64};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use zipline_contract::ErrorCode;
use zipline_contract::limits::{REFERENCE_CHARS_MAX, RETRIEVALS_MAX};
use zipline_core::object::{Epoch, ObjectId};
use zipline_core::pull::SumKind;
use zipline_core::reference::{
    Extent, KeyRing, KeyRingError, NarrowError, Narrowing, Receiver, Reference, ReferenceError, SealError, TierName, fingerprint,
    token_key,
};
use zipline_core::time::WallTime;

const NOW: WallTime = WallTime::from_unix_millis(1_800_000_000_000);
const NONCE: [u8; 24] = [7; 24];

fn key(id: &str, secret: &str, not_before: u64, not_after: u64) -> String {
    format!(r#"{{"id":"{id}","key":"{}","not_before_ms":{not_before},"not_after_ms":{not_after}}}"#, secret.repeat(32))
}

fn ring_of(keys: &[String]) -> KeyRing {
    KeyRing::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
}

fn ring() -> KeyRing {
    ring_of(&[key("0000000a", "a1", 0, u64::MAX)])
}

fn plain() -> Reference {
    Reference {
        pull_version: 1,
        producer: "10.1.2.3:8122".parse().unwrap(),
        epoch: Epoch::from_bytes(*b"epoch..."),
        object: ObjectId::from_bytes(*b"the object's id."),
        size: Some(1000),
        sum: SumKind::Crc32c,
        expires: WallTime::from_unix_millis(NOW.unix_millis() + 300_000),
        retrievals: NonZeroU32::new(3).unwrap(),
        slot: None,
        receiver: None,
        range: None,
        tier: None,
    }
}

fn extent(first: u64, length: u64) -> Extent {
    Extent::new(first, NonZeroU64::new(length).unwrap()).unwrap()
}

fn code(result: Result<Reference, ReferenceError>) -> Option<ErrorCode> {
    result.err().map(|error| error.code())
}

#[test]
fn a_ring_that_is_wrong_says_what_is_wrong_and_no_key() {
    let secret = "5ec2e7".repeat(10) + "5ec2";
    let wrong = |json: &str| KeyRing::parse(json.as_bytes()).unwrap_err();
    let entry = |id: &str, key: &str| format!(r#"{{"keys":[{{"id":"{id}","key":"{key}","not_before_ms":1,"not_after_ms":2}}]}}"#);
    for (json, says) in [
        (String::from("{}"), "keys"),
        (String::from("nonsense"), "expected"),
        (entry("0000000A", &secret), "a key id is 8"),
        (entry("00a", &secret), "a key id is 8"),
        (entry("0000000a", &secret[1..]), "a key is 64"),
        (entry("0000000a", &(secret.clone() + "0")), "a key is 64"),
        (entry("0000000a", &secret.to_uppercase()), "a key is 64"),
        (entry("0000000a", &secret).replace("not_after_ms", "until"), "not_after_ms"),
        (entry("0000000a", &secret).replace(":1,", &format!(":\"{secret}\\\"{secret}\",")), "expected u64"),
        (format!(r#"{{"keys":["{secret}"]}}"#), "expected struct"),
        (format!(r#"{{"keys":"{secret}"}}"#), "expected a sequence"),
    ] {
        let error = wrong(&json);
        assert!(matches!(error, KeyRingError::Malformed(_)), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(says), "{text}");
        assert!(!text.to_lowercase().contains("5ec2"), "{text}");
    }
    assert_eq!(wrong(r#"{"keys":[]}"#), KeyRingError::Empty);
    let [a, b] = [key("0000000a", "a1", 5, 5), key("0000000a", "a1", 0, 9)];
    assert!(matches!(wrong(&format!(r#"{{"keys":[{a}]}}"#)), KeyRingError::EndsBeforeItBegins { not_after_ms: 5, .. }));
    assert!(matches!(wrong(&format!(r#"{{"keys":[{b},{b}]}}"#)), KeyRingError::Duplicate { .. }));
    let many: Vec<String> = (0..65).map(|n| key(&format!("{n:08x}"), "a1", 0, 9)).collect();
    assert_eq!(wrong(&format!(r#"{{"keys":[{}]}}"#, many.join(","))), KeyRingError::TooManyKeys { keys: 65 });
    assert_eq!(wrong(&" ".repeat(70_000)), KeyRingError::TooLong { bytes: 70_000 });
}

#[test]
fn a_ring_shows_no_secret() {
    let shown = format!("{:?}", ring_of(&[key("0000000a", "a1", 5, 9)]));
    assert_eq!(
        shown,
        "KeyRing { keys: [DomainKey { id: KeyId(0000000a), not_before: WallTime(5), not_after: WallTime(9), .. }] }"
    );
}

#[test]
fn a_ring_may_lie_in_a_larger_document() {
    let json =
        format!(r#"{{"egress_token":"t","keys":[{}],"more":{{}}}}"#, key("0000000a", "a1", 0, 9).replace("}", r#","x":1}"#));
    assert_eq!(KeyRing::parse(json.as_bytes()).unwrap().keys().len(), 1);
}

#[test]
fn during_a_rotation_every_proxy_opens_what_any_other_seals() {
    let at = |seconds: u64| WallTime::from_unix_secs(1_800_000_000 + seconds);
    let ms = |seconds: u64| at(seconds).unix_millis();
    let old = key("0000000a", "a1", 0, ms(100));
    let new = key("0000000b", "b2", ms(50), u64::MAX);
    let (before, during, after) = (ring_of(core::slice::from_ref(&old)), ring_of(&[new.clone(), old]), ring_of(&[new]));
    let sealed_by = |ring: &KeyRing, seconds| {
        ring.seal(&plain(), at(seconds), NONCE).map(|token| token_key(token.as_str()).unwrap().to_string())
    };

    assert_eq!(sealed_by(&during, 49).as_deref(), Ok("0000000a"), "the new key is accepted before it seals");
    assert_eq!(sealed_by(&during, 50).as_deref(), Ok("0000000b"));
    assert_eq!(sealed_by(&before, 100), Err(SealError::NoKey));
    assert_eq!(sealed_by(&after, 49), Err(SealError::NoKey));

    let with_old = before.seal(&plain(), at(60), NONCE).unwrap();
    let with_new = after.seal(&plain(), at(60), NONCE).unwrap();
    assert_eq!(during.open(with_old.as_str(), at(60)), Ok(plain()));
    assert_eq!(during.open(with_new.as_str(), at(10)), Ok(plain()), "accepted as soon as it is in the ring");
    assert_eq!(code(after.open(with_old.as_str(), at(60))), Some(ErrorCode::ReferenceUnknownKey));
    assert_eq!(code(during.open(with_old.as_str(), at(100))), Some(ErrorCode::ReferenceUnknownKey), "until its end");
}

#[test]
fn a_token_of_another_trust_domain_does_not_open_though_the_key_s_name_is_the_same() {
    let token = ring().seal(&plain(), NOW, NONCE).unwrap();
    let other = ring_of(&[key("0000000a", "a2", 0, u64::MAX)]);
    assert_eq!(code(other.open(token.as_str(), NOW)), Some(ErrorCode::ReferenceInvalid));
}

#[test]
fn an_expired_token_says_so_and_by_how_much() {
    let token = ring().seal(&plain(), NOW, NONCE).unwrap();
    let at = |ms| WallTime::from_unix_millis(NOW.unix_millis() + ms);
    assert!(ring().open(token.as_str(), at(299_999)).is_ok());
    let error = ring().open(token.as_str(), at(301_500)).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("1500 ms ago")), (ErrorCode::ReferenceExpired, true), "{error}");
}

#[test]
fn the_largest_reference_fits_a_token() {
    let label = "x".repeat(63);
    let reference = Reference {
        producer: "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535".parse().unwrap(),
        size: Some(u64::MAX - 1),
        retrievals: NonZeroU32::new(RETRIEVALS_MAX).unwrap(),
        slot: Some(RETRIEVALS_MAX - 1),
        receiver: Some(Receiver::new(&label, &label).unwrap()),
        range: Some(extent(1, u64::MAX - 2)),
        tier: Some(TierName::new(&"t".repeat(32)).unwrap()),
        ..plain()
    };
    let token = ring().seal(&reference, NOW, NONCE).unwrap();
    assert!(token.as_str().len() <= REFERENCE_CHARS_MAX);
    assert_eq!(ring().open(token.as_str(), NOW), Ok(reference));
}

#[test]
fn what_is_no_token_is_invalid_and_never_quoted() {
    let token = ring().seal(&plain(), NOW, NONCE).unwrap().into_string();
    let long = format!("zl1.{}", "A".repeat(REFERENCE_CHARS_MAX));
    for wrong in [
        "",
        "zl1.",
        "hello",
        "zl1.AAAA",
        &token[4..],
        &token.replace("zl1.", "zl2."),
        &token.replace("zl1.", "ZL1."),
        &format!("{token}="),
        &format!("{token} "),
        &format!(" {token}"),
        &format!("{token}AA"),
        &format!("{}ä", &token[..token.len() - 2]),
        &long,
    ] {
        let error = ring().open(wrong, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ReferenceInvalid, "{wrong}");
        assert!(wrong.len() < 10 || !error.to_string().contains(&wrong[5..10]), "{error}");
    }
}

#[test]
fn logs_get_a_fingerprint_and_not_the_token() {
    let token = ring().seal(&plain(), NOW, NONCE).unwrap();
    let shown = format!("{token:?}");
    assert_eq!(shown, format!("Token({})", fingerprint(token.as_str())));
    assert_eq!(fingerprint("abc").to_string(), "ba7816bf", "the beginning of SHA-256");
}

#[test]
fn a_receiver_s_reference_is_for_that_receiver() {
    let names = ["default/mapper".parse().unwrap(), "default/mapper-00001".parse().unwrap()];
    assert!(plain().check_receiver(&names).is_ok());
    assert!(plain().check_receiver([]).is_ok());
    let mine = Reference { receiver: Some(names[1].clone()), ..plain() };
    assert!(mine.check_receiver(&names).is_ok());
    let refused = mine.check_receiver(&names[..1]).unwrap_err();
    assert_eq!((refused.code(), refused.receiver), (ErrorCode::ReferenceWrongReceiver, names[1].clone()));
    assert!(mine.check_receiver([]).is_err());
}

#[test]
fn a_narrowed_range_counts_from_what_the_reference_denotes() {
    let narrow = |reference: Reference, first, length| {
        reference.narrow(Narrowing { range: Some(extent(first, length)), ..Narrowing::default() })
    };
    let part = narrow(plain(), 100, 200).unwrap();
    assert_eq!((part.range, part.visible_size()), (Some(extent(100, 200)), Some(200)));
    assert_eq!(narrow(part.clone(), 150, 50).unwrap().range, Some(extent(250, 50)));
    let refused = narrow(part.clone(), 150, 51).unwrap_err();
    assert_eq!((refused.code(), refused.to_string().contains("150..201")), (ErrorCode::RequestInvalid, true), "{refused}");
    assert!(narrow(plain(), 0, 1000).is_ok() && narrow(plain(), 0, 1001).is_err());
    let unknown = Reference { size: None, ..plain() };
    assert_eq!(narrow(unknown, u64::MAX - 2, 2).unwrap().range, Some(extent(u64::MAX - 2, 2)));
}

#[test]
fn a_receiver_and_a_slot_can_be_set_once() {
    let [a, b]: [Receiver; 2] = ["n/a".parse().unwrap(), "n/b".parse().unwrap()];
    let with = |reference: Reference, receiver: Option<&Receiver>, slot| {
        reference.narrow(Narrowing { receiver: receiver.cloned(), slot, ..Narrowing::default() })
    };
    let set = with(plain(), Some(&a), Some(2)).unwrap();
    assert_eq!(with(set.clone(), Some(&a), Some(2)), Ok(set.clone()));
    assert_eq!(with(set.clone(), Some(&b), None).unwrap_err().code(), ErrorCode::ReferenceWrongReceiver);
    assert_eq!(with(set.clone(), None, Some(1)), Err(NarrowError::OtherSlot { slot: 2, asked: 1 }));
    assert_eq!(with(plain(), None, Some(3)), Err(NarrowError::NoSuchSlot { asked: 3, slots: 3 }));
}

prop_compose! {
    fn reference()(
        ip in any::<IpAddr>(),
        port in 1..=u16::MAX,
        epoch: [u8; 8],
        object: [u8; 16],
        size in prop::option::of(prop_oneof![0..5000_u64, 0..u64::MAX]),
        blake3: bool,
        lives in 1..1_000_000_u64,
        retrievals in 1..=RETRIEVALS_MAX,
        slot: Option<u32>,
        receiver in prop::option::of("[a-z0-9]{1,63}/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"),
        range in prop::option::of((0..5000_u64, 1..5000_u64)),
        tier in prop::option::of("[a-z0-9_-]{1,32}"),
    ) -> Reference {
        Reference {
            pull_version: 1,
            producer: SocketAddr::new(ip, port),
            epoch: Epoch::from_bytes(epoch),
            object: ObjectId::from_bytes(object),
            size,
            sum: if blake3 { SumKind::Blake3 } else { SumKind::Crc32c },
            expires: WallTime::from_unix_millis(NOW.unix_millis() + lives),
            retrievals: NonZeroU32::new(retrievals).unwrap(),
            slot: slot.map(|slot| slot % retrievals),
            receiver: receiver.map(|text| text.parse().unwrap()),
            range: range.map(|(first, length)| extent(first, length)).filter(|range| size.is_none_or(|size| range.end() <= size)),
            tier: tier.map(|name| TierName::new(&name).unwrap()),
        }
    }
}

prop_compose! {
    fn narrowing()(
        expires in prop::option::of(0..2_000_000_u64),
        range in prop::option::of((prop_oneof![0..200_u64, any::<u64>()], prop_oneof![1..200_u64, 1..u64::MAX])),
        receiver in prop::option::of(prop_oneof![Just("n/a"), Just("n/b")]),
        slot in prop::option::of(prop_oneof![0..3_u32, any::<u32>()]),
    ) -> Narrowing {
        Narrowing {
            expires: expires.map(|ms| WallTime::from_unix_millis(NOW.unix_millis() + ms)),
            range: range.and_then(|(first, length)| Extent::new(first, NonZeroU64::new(length).unwrap())),
            receiver: receiver.map(|text| text.parse().unwrap()),
            slot,
        }
    }
}

/// Whether everything that `narrow` allows, `wide` allowed.
fn is_within(narrow: &Reference, wide: &Reference) -> bool {
    let range_of = |reference: &Reference| match (reference.range, reference.size) {
        (Some(range), _) => (range.first(), range.end()),
        (None, Some(size)) => (0, size),
        (None, None) => (0, u64::MAX),
    };
    let (inner, outer) = (range_of(narrow), range_of(wide));
    let same = |a: &Reference| Reference { expires: NOW, range: None, receiver: None, slot: None, ..a.clone() };
    same(narrow) == same(wide)
        && narrow.expires <= wide.expires
        && outer.0 <= inner.0
        && inner.1 <= outer.1
        && (wide.receiver.is_none() || narrow.receiver == wide.receiver)
        && (wide.slot.is_none() || narrow.slot == wide.slot)
        && narrow.slot.is_none_or(|slot| slot < narrow.retrievals.get())
}

fn config() -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases: 512, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_sealed_opens_as_it_was(reference in reference(), nonce: [u8; 24]) {
        let token = ring().seal(&reference, NOW, nonce).unwrap();
        prop_assert!(token.as_str().len() <= REFERENCE_CHARS_MAX);
        prop_assert!(token.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        prop_assert_eq!(ring().open(token.as_str(), NOW), Ok(reference));
    }

    #[test]
    fn a_token_changed_in_one_place_never_opens(reference in reference(), nonce: [u8; 24], at: prop::sample::Index, to: char) {
        let token = ring().seal(&reference, NOW, nonce).unwrap().into_string();
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        let error = ring().open(&changed, NOW).unwrap_err();
        prop_assert!(matches!(error.code(), ErrorCode::ReferenceInvalid | ErrorCode::ReferenceUnknownKey));
    }

    #[test]
    fn a_token_that_is_cut_or_lengthened_never_opens(reference in reference(), at: prop::sample::Index, more in "[A-Za-z0-9_-]{1,8}") {
        let token = ring().seal(&reference, NOW, NONCE).unwrap().into_string();
        prop_assert!(ring().open(&token[..at.index(token.len())], NOW).is_err());
        let longer = format!("{token}{more}");
        prop_assert!(ring().open(&longer, NOW).is_err());
    }

    #[test]
    fn no_text_makes_opening_fail_in_another_way(text in "\\PC{0,600}", prefixed in "zl1\\.[A-Za-z0-9_-]{0,600}") {
        prop_assert!(ring().open(&text, NOW).is_err());
        prop_assert!(ring().open(&prefixed, NOW).is_err());
    }

    #[test]
    fn narrowing_never_widens(reference in reference(), narrowings in prop::collection::vec(narrowing(), 1..6)) {
        let mut current = reference;
        for narrowing in narrowings {
            if let Ok(next) = current.clone().narrow(narrowing) {
                prop_assert!(is_within(&next, &current), "{next:?} is not within {current:?}");
                let token = ring().seal(&next, NOW, NONCE).unwrap();
                if next.expires > NOW {
                    prop_assert_eq!(ring().open(token.as_str(), NOW), Ok(next.clone()));
                }
                current = next;
            }
        }
    }
}
