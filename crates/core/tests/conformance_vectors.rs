//! Holds the crate to the conformance vectors, and the vectors to the page they are made from.
#![allow(clippy::disallowed_methods, reason = "a test reads its vectors")]

#[path = "../examples/write_vectors/vectors/mod.rs"]
mod vectors;

use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use zipline_contract::limits::RECORD_HEAD_BYTES;
use zipline_core::object::{Now, ObjectId};
use zipline_core::pull::{
    AnswerHead, ByteRange, Mac, Nonce, NonceWindow, Planned, PullMethod, PullRequest, RecordChain, RecordHead, RecordKind,
    RecordPlan, SignedRequest, Span, SumKind, Written,
};
use zipline_core::reference::{DomainKey, Extent, KeyRing, Narrowing, Receiver, Reference, TierName, fingerprint, token_key};
use zipline_core::time::{Monotonic, WallTime};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/vectors").join(name)
}

fn file(name: &str) -> Value {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["schema"], 1);
    file
}

fn cases<'a>(file: &'a Value, section: &str) -> &'a [Value] {
    let cases = file[section].as_array().unwrap();
    assert!(!cases.is_empty(), "{section} has no cases");
    cases
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is missing in {value}"))
}

fn bytes<const N: usize>(value: &Value, name: &str) -> [u8; N] {
    let text = text(value, name);
    assert_eq!(text.len(), 2 * N, "{name}");
    core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

fn ring(file: &Value) -> KeyRing {
    KeyRing::parse(file["ring"].to_string().as_bytes()).unwrap()
}

fn time(value: &Value, name: &str) -> WallTime {
    WallTime::from_unix_millis(value[name].as_u64().unwrap_or_else(|| panic!("{name} is missing in {value}")))
}

fn extent(value: &Value) -> Extent {
    let length = value["length"].as_u64().unwrap().try_into().unwrap();
    Extent::new(value["first"].as_u64().unwrap(), length).unwrap()
}

fn reference(value: &Value) -> Reference {
    Reference {
        pull_version: value["pull_version"].as_u64().unwrap() as u8,
        producer: text(value, "producer").parse().unwrap(),
        epoch: text(value, "epoch").parse().unwrap(),
        object: text(value, "object").parse().unwrap(),
        size: value["size"].as_u64(),
        sum: text(value, "sum").parse().unwrap(),
        expires: time(value, "expires_ms"),
        retrievals: (value["retrievals"].as_u64().unwrap() as u32).try_into().unwrap(),
        slot: value["slot"].as_u64().map(|slot| slot as u32),
        receiver: value["receiver"].as_str().map(|name| name.parse().unwrap()),
        range: value.get("range").map(extent),
        tier: value["tier"].as_str().map(|name| TierName::new(name).unwrap()),
    }
}

#[test]
fn the_committed_files_are_what_the_page_says() {
    for (name, text) in vectors::files() {
        let committed = std::fs::read_to_string(path(name)).unwrap_or_default();
        assert!(committed == text, "{name} is stale: run `cargo run -p zipline-core --example write_vectors`");
    }
}

#[test]
fn a_wrong_ring_is_refused() {
    for case in cases(&file("references.json"), "bad_rings") {
        assert!(KeyRing::parse(case["ring"].to_string().as_bytes()).is_err(), "{}", case["name"]);
    }
}

#[test]
fn references_are_sealed_to_the_byte() {
    let file = file("references.json");
    for case in cases(&file, "seal") {
        let token = ring(&file).seal(&reference(&case["reference"]), time(case, "now_ms"), bytes(case, "nonce")).unwrap();
        assert_eq!(token.as_str(), text(case, "token"), "{}", case["name"]);
        assert_eq!(token_key(token.as_str()).unwrap().to_string(), text(case, "key"));
        assert_eq!(fingerprint(token.as_str()).to_string(), text(case, "fingerprint"));
    }
}

#[test]
fn tokens_open_or_do_not() {
    let file = file("references.json");
    for case in cases(&file, "open") {
        let opened = ring(&file).open(text(case, "token"), time(case, "now_ms"));
        let result = opened.as_ref().map_err(|error| error.code().name());
        let expected = case.get("reference").map(reference);
        assert_eq!(result, expected.as_ref().ok_or_else(|| text(case, "error")), "{}", case["name"]);
    }
}

#[test]
fn references_narrow_or_do_not() {
    for case in cases(&file("references.json"), "narrow") {
        let asked = &case["narrowing"];
        let narrowing = Narrowing {
            expires: asked.get("expires_ms").map(|_| time(asked, "expires_ms")),
            range: asked.get("range").map(extent),
            receiver: asked["receiver"].as_str().map(|name| name.parse().unwrap()),
            slot: asked["slot"].as_u64().map(|slot| slot as u32),
        };
        let result = reference(&case["reference"]).narrow(narrowing).map_err(|error| error.code().name());
        assert_eq!(result, case.get("result").map(reference).ok_or_else(|| text(case, "error")), "{}", case["name"]);
    }
}

#[test]
fn receivers_are_let_in_or_not() {
    let file = file("references.json");
    for case in cases(&file, "receivers") {
        let names: Vec<Receiver> =
            case["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().parse().unwrap()).collect();
        let receiver = case["receiver"].as_str().map(|name| name.parse().unwrap());
        let reference = Reference { receiver, ..reference(&file["seal"][0]["reference"]) };
        assert_eq!(reference.check_receiver(&names).is_ok(), case["allowed"].as_bool().unwrap(), "{case}");
    }
}

fn key(file: &Value, case: &Value) -> DomainKey {
    ring(file).accepting(text(case, "key").parse().unwrap(), time(file, "now_ms")).unwrap().clone()
}

fn read(case: &Value) -> Result<SignedRequest, zipline_core::pull::RequestError> {
    let headers = case["headers"].as_object().unwrap().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
    SignedRequest::read(text(case, "verb"), text(case, "path"), headers, text(case, "dialled").parse().unwrap())
}

fn now(file: &Value) -> Now {
    Now { mono: Monotonic::from_secs(1000), wall: time(file, "now_ms") }
}

#[test]
fn requests_are_signed_to_the_byte_and_taken_once() {
    let file = file("pull.json");
    for case in cases(&file, "requests") {
        let method = match text(case, "method") {
            "GET" => PullMethod::Get,
            "HEAD" => PullMethod::Head,
            "acknowledge" => PullMethod::Acknowledge,
            "release" => PullMethod::Release,
            "free" => PullMethod::Free,
            "HANDOVER" => PullMethod::Handover,
            other => panic!("{other} is no method"),
        };
        let request = PullRequest {
            method,
            object: text(case, "object").parse().unwrap(),
            range: case["range"].as_str().map(|range| ByteRange::parse_exact(range).unwrap()),
            dialled: text(case, "dialled").parse().unwrap(),
            epoch: text(case, "epoch").parse().unwrap(),
            lease: case["lease"].as_str().map(|lease| lease.parse().unwrap()),
            receiver: case["receiver"].as_str().map(|name| name.parse().unwrap()),
            slot: case["slot"].as_u64().map(|slot| slot as u32),
            time: time(case, "time_ms"),
            nonce: Nonce::from_bytes(bytes(case, "nonce")),
        };
        let key = key(&file, case);
        let mac = request.sign(&key);
        assert_eq!(mac.to_string(), text(case, "mac"), "{}", case["name"]);
        let mut headers: Vec<(String, String)> =
            request.headers(key.id(), &mac).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        headers.sort();
        let mut expected: Vec<(String, String)> = case["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.as_str().unwrap().to_owned()))
            .collect();
        expected.sort();
        assert_eq!(headers, expected, "{}", case["name"]);
        assert_eq!((request.method.verb(), request.path().as_str()), (text(case, "verb"), text(case, "path")));

        let mut seen = NonceWindow::default();
        let arrived = read(case).unwrap().authenticate(&ring(&file), &mut seen, now(&file)).unwrap();
        assert_eq!(arrived.request, request, "{}", case["name"]);
        let again = read(case).unwrap().authenticate(&ring(&file), &mut seen, now(&file));
        assert_eq!(again.unwrap_err().code().name(), "pull-unauthenticated");
    }
}

#[test]
fn requests_that_are_nobody_s_are_refused() {
    let file = file("pull.json");
    for case in cases(&file, "refused_requests") {
        let code = match read(case) {
            Err(error) => error.code(),
            Ok(signed) => signed.authenticate(&ring(&file), &mut NonceWindow::default(), now(&file)).unwrap_err().code(),
        };
        assert_eq!(code.name(), text(case, "error"), "{}", case["name"]);
    }
}

#[test]
fn answers_are_signed_to_the_byte() {
    let file = file("pull.json");
    for case in cases(&file, "answers") {
        let headers = case["headers"].as_object().unwrap().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
        let (head, mac) = AnswerHead::read(case["status"].as_u64().unwrap() as u16, headers).unwrap();
        let signed = head.sign(
            &key(&file, case),
            &text(case, "request_mac").parse::<Mac>().unwrap(),
            text(case, "object").parse::<ObjectId>().unwrap(),
        );
        assert_eq!(signed.to_string(), text(case, "mac"), "{}", case["name"]);
        assert!(mac.unwrap().matches(&signed));
        let ours = head.headers(Some(&signed));
        assert_eq!(ours.len(), case["headers"].as_object().unwrap().len(), "{}", case["name"]);
        let (again, _) = AnswerHead::read(head.status, ours.iter().map(|(name, value)| (*name, value.as_bytes()))).unwrap();
        assert_eq!(again, head);
    }
}

fn payload(file: &Value, length: u64) -> Vec<u8> {
    let seed = text(&file["payload"], "seed");
    let pieces = (0..length.div_ceil(32)).flat_map(|counter| Sha256::digest(format!("{seed}:{counter}").as_bytes()));
    pieces.take(length as usize).collect()
}

fn sealing(file: &Value) -> DomainKey {
    ring(file).sealing(time(file, "now_ms")).unwrap().clone()
}

#[test]
fn bodies_are_cut_summed_and_chained_to_the_byte() {
    let file = file("pull.json");
    for case in cases(&file, "bodies") {
        let name = &case["name"];
        let sum: SumKind = text(case, "sum").parse().unwrap();
        let mac: Mac = text(case, "answer_mac").parse().unwrap();
        let size = case["size"].as_u64().unwrap();
        let payload = payload(&file, size);
        let (mut ours, mut theirs) = (RecordChain::new(&sealing(&file), mac), RecordChain::new(&sealing(&file), mac));
        for record in cases(case, "records") {
            let (offset, length) = (record["offset"].as_u64().unwrap() as usize, record["length"].as_u64().unwrap() as usize);
            let bytes = &payload[offset..offset + length];
            let head = match text(record, "kind") {
                "heartbeat" => RecordHead::heartbeat(sum),
                kind => RecordHead::bytes(length as u32, kind == "last", sum, sum.sum(bytes)),
            };
            let wire: [u8; RECORD_HEAD_BYTES] = bytes_of(record);
            assert_eq!(ours.seal(&head), wire, "{name}");
            assert_eq!(theirs.open(&wire), Ok(head), "{name}");
        }

        // What the plan cuts of a complete object are the same records.
        let span = Span { first: case["first"].as_u64().unwrap(), limit: case["end"].as_u64().unwrap() };
        let mut plan = RecordPlan::new(span);
        let planned = core::iter::from_fn(|| match plan.next(Written { bytes: size, complete: true }) {
            Planned::Record { offset, length, last, .. } => Some((offset, u64::from(length), last)),
            _ => None,
        });
        let expected: Vec<(u64, u64, bool)> = cases(case, "records")
            .iter()
            .map(|record| {
                (record["offset"].as_u64().unwrap(), record["length"].as_u64().unwrap(), text(record, "kind") == "last")
            })
            .collect();
        if expected.iter().all(|(_, length, last)| *length > 0 || *last)
            && expected.last().is_none_or(|last| last.1 > 0 || size == 0)
        {
            assert_eq!(planned.collect::<Vec<_>>(), expected, "{name}");
        }
    }
}

fn bytes_of(record: &Value) -> [u8; RECORD_HEAD_BYTES] {
    bytes(record, "head")
}

#[test]
fn bodies_that_were_changed_are_believed_up_to_the_change() {
    let file = file("pull.json");
    for case in cases(&file, "refused_bodies") {
        let mut chain = RecordChain::new(&sealing(&file), text(case, "answer_mac").parse().unwrap());
        let heads = case["heads"].as_array().unwrap().iter();
        let accepted = heads
            .map(|head| bytes_of(&serde_json::json!({"head": head})))
            .take_while(|wire| chain.open(wire).is_ok_and(|head| head.kind != RecordKind::Aborted))
            .count();
        assert_eq!(accepted as u64, case["accepted"].as_u64().unwrap(), "{}", case["name"]);
    }
}

#[test]
fn ranges_are_read_or_not() {
    for case in cases(&file("pull.json"), "ranges") {
        let range = ByteRange::parse(text(case, "text"), case["size"].as_u64());
        if case.get("error").is_some() {
            assert!(range.is_err(), "{case}");
        } else {
            let range = range.unwrap();
            assert_eq!((Some(range.first()), range.last()), (case["first"].as_u64(), case["last"].as_u64()), "{case}");
        }
    }
}
