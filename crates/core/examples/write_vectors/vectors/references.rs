//! `references.json`: the ring, sealing, opening, narrowing.

use core::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::spec::{
    CURRENT, ENDED, FOREIGN, Key, NEXT, NOW, OLD, UNKNOWN, derived_keys, fingerprint, hex, ring, seal, sum_number, unhex,
};

const NONCE: [u8; 24] = *b"a nonce is used but once";

pub(super) fn file() -> Value {
    json!({
        "schema": 1,
        "ring": ring(),
        "derived_keys": derived_keys(),
        "bad_rings": bad_rings(),
        "seal": seals(),
        "open": opens(),
        "narrow": narrowings(),
        "receivers": receivers(),
    })
}

fn bad_rings() -> Value {
    let entry =
        |id: &str, key: &str, from: u64, until: u64| json!({"id": id, "key": key, "not_before_ms": from, "not_after_ms": until});
    let (key, short) = ("ab".repeat(32), "ab".repeat(31));
    let case = |name: &str, ring: Value| json!({"name": name, "ring": ring});
    json!([
        case("no keys at all", json!({})),
        case("an empty list", json!({"keys": []})),
        case("an id in upper case", json!({"keys": [entry("0000000A", &key, 0, 9)]})),
        case("an id that is too short", json!({"keys": [entry("000000a", &key, 0, 9)]})),
        case("a key that is too short", json!({"keys": [entry("0000000a", &short, 0, 9)]})),
        case("a key in upper case", json!({"keys": [entry("0000000a", &key.to_uppercase(), 0, 9)]})),
        case("a key that ends as it begins", json!({"keys": [entry("0000000a", &key, 9, 9)]})),
        case("one name for two keys", json!({"keys": [entry("0000000a", &key, 0, 9), entry("0000000a", &key, 5, 99)]})),
        case(
            "a time that is no number",
            json!({"keys": [{"id": "0000000a", "key": key, "not_before_ms": "0", "not_after_ms": 9}]})
        ),
    ])
}

/// A reference with everything that is always there.
fn plain() -> Value {
    json!({
        "pull_version": 1,
        "producer": "10.1.2.3:8122",
        "epoch": "0001020304050607",
        "object": "101112131415161718191a1b1c1d1e1f",
        "size": 1_048_581,
        "sum": "crc32c",
        "expires_ms": NOW + 300_000,
        "retrievals": 3,
    })
}

/// `base` with other or more fields.
fn with(base: &Value, fields: Value) -> Value {
    let mut all = base.as_object().cloned().unwrap_or_default();
    all.extend(fields.as_object().cloned().unwrap_or_default());
    all.retain(|_, value| *value != json!("left out"));
    Value::Object(all)
}

fn full() -> Value {
    with(
        &plain(),
        json!({
            "producer": "[fd00:1::2]:65535", "size": null, "sum": "blake3", "retrievals": 1_000_000, "slot": 999_999,
            "receiver": "default/reducer-2", "range": {"first": 1, "length": 9_007_199_254_740_990_u64}, "tier": "spill_1",
        }),
    )
}

/// The fields, in the page's order.
fn plaintext(reference: &Value) -> Vec<u8> {
    let number = |name: &str| reference[name].as_u64().unwrap_or(u64::MAX);
    let text = |name: &str| reference[name].as_str().unwrap_or_default();
    let producer: SocketAddr = text("producer").parse().expect("an address");
    let mut bytes = vec![number("pull_version") as u8];
    match producer {
        SocketAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.ip().octets());
        }
        SocketAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.ip().octets());
        }
    }
    bytes.extend(producer.port().to_be_bytes());
    bytes.extend(unhex(text("epoch")));
    bytes.extend(unhex(text("object")));
    bytes.extend(number("size").to_be_bytes());
    bytes.push(sum_number(text("sum")));
    bytes.extend(number("expires_ms").to_be_bytes());
    bytes.extend((number("retrievals") as u32).to_be_bytes());
    let flags = ["slot", "receiver", "range", "tier"];
    bytes.push(flags.iter().enumerate().map(|(bit, name)| u8::from(reference.get(*name).is_some()) << bit).sum());
    if reference.get("slot").is_some() {
        bytes.extend((number("slot") as u32).to_be_bytes());
    }
    if reference.get("receiver").is_some() {
        bytes.push(text("receiver").len() as u8);
        bytes.extend(text("receiver").bytes());
    }
    if let Some(range) = reference.get("range") {
        bytes.extend(range["first"].as_u64().unwrap_or(0).to_be_bytes());
        bytes.extend(range["length"].as_u64().unwrap_or(0).to_be_bytes());
    }
    if reference.get("tier").is_some() {
        bytes.push(text("tier").len() as u8);
        bytes.extend(text("tier").bytes());
    }
    bytes
}

fn seals() -> Vec<Value> {
    let case = |name: &str, now: u64, key: &Key, reference: Value| {
        let plaintext = plaintext(&reference);
        let token = seal(key, &NONCE, &plaintext);
        json!({
            "name": name, "now_ms": now, "nonce": hex(&NONCE), "key": hex(&key.id), "reference": reference,
            "plaintext": hex(&plaintext), "token": token, "fingerprint": fingerprint(&token),
        })
    };
    vec![
        case("only what is always there", NOW, &CURRENT, plain()),
        case("every field", NOW, &CURRENT, full()),
        case("an empty object", NOW, &CURRENT, with(&plain(), json!({"size": 0, "retrievals": 1}))),
        case("one of several slots", NOW, &CURRENT, with(&plain(), json!({"slot": 0}))),
        case("before the next key begins", NOW + 499_999, &CURRENT, with(&plain(), json!({"expires_ms": NOW + 600_000}))),
        case("as soon as it has begun", NOW + 500_000, &NEXT, with(&plain(), json!({"expires_ms": NOW + 600_000}))),
    ]
}

fn opens() -> Vec<Value> {
    let mut cases = texts();
    cases.extend(seals_and_keys());
    cases.extend(wrong_fields());
    cases
}

fn opened(name: &str, now: u64, token: String, reference: Value) -> Value {
    json!({"name": name, "now_ms": now, "token": token, "reference": reference})
}

fn refused(name: &str, now: u64, token: String, error: &str) -> Value {
    json!({"name": name, "now_ms": now, "token": token, "error": error})
}

fn texts() -> Vec<Value> {
    let good = seal(&CURRENT, &NONCE, &plaintext(&plain()));
    let invalid = |name: &str, token: String| refused(name, NOW, token, "reference-invalid");
    let cut = good.len() - 4;
    vec![
        opened("a good one", NOW, good.clone(), plain()),
        invalid("nothing", String::new()),
        invalid("only the prefix", "zl1.".to_owned()),
        invalid("no prefix", good[4..].to_owned()),
        invalid("another version", good.replace("zl1.", "zl2.")),
        invalid("the prefix in upper case", good.replace("zl1.", "ZL1.")),
        invalid("padding", format!("{good}=")),
        invalid("a line feed at the end", format!("{good}\n")),
        invalid("a space before it", format!(" {good}")),
        invalid("standard base64", format!("{}+/{}", &good[..50], &good[52..])),
        invalid("cut", good[..cut].to_owned()),
        invalid("cut within the nonce", good[..20].to_owned()),
        invalid("lengthened", format!("{good}AAAA")),
        invalid("longer than any token", format!("{good}{}", "A".repeat(513 - good.len()))),
    ]
}

/// The token with one bit of the byte at `at` changed.
fn flipped(token: &str, at: usize) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = engine.decode(&token[4..]).expect("a token");
    bytes[at] ^= 1;
    format!("zl1.{}", engine.encode(bytes))
}

fn seals_and_keys() -> Vec<Value> {
    let fields = plaintext(&plain());
    let good = seal(&CURRENT, &NONCE, &fields);
    // Sealed under the current key's bytes, with the old key's name in the text: the name is associated data.
    let renamed = {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let mut bytes = engine.decode(&good[4..]).expect("a token");
        bytes[..4].copy_from_slice(&OLD.id);
        format!("zl1.{}", engine.encode(bytes))
    };
    vec![
        refused("a bit of the nonce", NOW, flipped(&good, 4), "reference-invalid"),
        refused("a bit of the sealed fields", NOW, flipped(&good, 40), "reference-invalid"),
        refused("a bit of the tag", NOW, flipped(&good, 28 + fields.len() + 15), "reference-invalid"),
        refused("another key's name", NOW, renamed, "reference-invalid"),
        refused("another trust domain's key of the same name", NOW, seal(&FOREIGN, &NONCE, &fields), "reference-invalid"),
        refused("a key that is not in the ring", NOW, seal(&UNKNOWN, &NONCE, &fields), "reference-unknown-key"),
        refused("a key that has just ended", NOW, seal(&ENDED, &NONCE, &fields), "reference-unknown-key"),
        opened("a key a moment before its end", NOW - 1, seal(&ENDED, &NONCE, &fields), plain()),
        opened("the key before", NOW, seal(&OLD, &NONCE, &fields), plain()),
        opened("a key that does not seal yet", NOW, seal(&NEXT, &NONCE, &fields), plain()),
        opened("a moment before the expiry", NOW + 299_999, good.clone(), plain()),
        refused("at the expiry", NOW + 300_000, good, "reference-expired"),
    ]
}

/// Genuine tokens whose fields cannot be, and some that look so and can.
fn wrong_fields() -> Vec<Value> {
    let good = plaintext(&plain());
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    // Offsets in the plaintext of a reference with an IPv4 producer.
    let (family, port, size, sum, retrievals, flags) = (1, 6, 32, 40, 49, 53);
    let flagged = |flag: u8, field: &[u8]| [changed(flags, &[flag]), field.to_vec()].concat();
    let range = |first: u64, length: u64| [first.to_be_bytes(), length.to_be_bytes()].concat();
    let text = |text: &str| [vec![text.len() as u8], text.as_bytes().to_vec()].concat();
    let invalid = |name: &str, fields: &[u8]| refused(name, NOW, seal(&CURRENT, &NONCE, fields), "reference-invalid");
    let valid = |name: &str, fields: &[u8], reference| opened(name, NOW, seal(&CURRENT, &NONCE, fields), reference);
    vec![
        valid("a higher pull version", &changed(0, &[9]), with(&plain(), json!({"pull_version": 9}))),
        valid("bytes of a later minor version", &[good.clone(), b"more".to_vec()].concat(), plain()),
        valid("flags of a later minor version", &flagged(0xf0, b"more"), plain()),
        valid("a size that is not known", &changed(size, &[0xff; 8]), with(&plain(), json!({"size": null}))),
        invalid("no fields", &[]),
        invalid("fields that are cut", &good[..good.len() - 1]),
        invalid("pull version 0", &changed(0, &[0])),
        invalid("an address family that is none", &changed(family, &[5])),
        invalid("port 0", &changed(port, &[0, 0])),
        invalid("a sum that is none", &changed(sum, &[3])),
        invalid("no retrievals", &changed(retrievals, &[0; 4])),
        invalid("more retrievals than there may be", &changed(retrievals, &1_000_001_u32.to_be_bytes())),
        invalid("a slot beyond the last", &flagged(1, &3_u32.to_be_bytes())),
        invalid("a slot that is cut", &flagged(1, &[0, 0, 0])),
        invalid("a receiver without a service", &flagged(2, &text("default"))),
        invalid("a receiver in upper case", &flagged(2, &text("Default/reducer"))),
        invalid("a receiver that is not UTF-8", &flagged(2, &[3, b'a', b'/', 0xff])),
        invalid("a receiver that is cut", &flagged(2, &[9, b'a', b'/', b'b'])),
        invalid("a range without bytes", &flagged(4, &range(0, 0))),
        invalid("a range beyond the end", &flagged(4, &range(1_048_580, 2))),
        invalid("a range beyond every offset", &flagged(4, &range(u64::MAX, 2))),
        invalid("a tier without a name", &flagged(8, &text(""))),
        invalid("a tier that is a location", &flagged(8, &text("s3://bucket"))),
        invalid("a tier whose name is too long", &flagged(8, &text(&"t".repeat(33)))),
    ]
}

fn narrowings() -> Vec<Value> {
    let narrowed = |name: &str, reference: &Value, narrowing: Value, changed: Value| json!({"name": name, "reference": reference, "narrowing": narrowing, "result": with(reference, changed)});
    let refused = |name: &str, reference: &Value, narrowing: Value, error: &str| json!({"name": name, "reference": reference, "narrowing": narrowing, "error": error});
    let range = |first: u64, length: u64| json!({"range": {"first": first, "length": length}});
    let ranged = with(&plain(), range(1000, 100));
    let set = with(&plain(), json!({"receiver": "default/a", "slot": 1}));
    let unknown = with(&plain(), json!({"size": null}));
    vec![
        narrowed("nothing", &full(), json!({}), json!({})),
        narrowed("a sooner expiry", &plain(), json!({"expires_ms": NOW + 1}), json!({"expires_ms": NOW + 1})),
        narrowed("a later expiry changes nothing", &plain(), json!({"expires_ms": NOW + 300_001}), json!({})),
        narrowed("a range", &plain(), range(1000, 100), range(1000, 100)),
        narrowed("a range that is everything", &plain(), range(0, 1_048_581), range(0, 1_048_581)),
        narrowed("a range counts from the range before", &ranged, range(10, 90), range(1010, 90)),
        narrowed("a range of an unknown size", &unknown, range(5_000_000_000, 1), range(5_000_000_000, 1)),
        refused("a range beyond the end", &plain(), range(1_048_580, 2), "request-invalid"),
        refused("a range beyond the range before", &ranged, range(10, 91), "request-invalid"),
        narrowed("a receiver", &plain(), json!({"receiver": "default/a"}), json!({"receiver": "default/a"})),
        narrowed("the same receiver", &set, json!({"receiver": "default/a"}), json!({})),
        refused("another receiver", &set, json!({"receiver": "default/b"}), "reference-wrong-receiver"),
        narrowed("a slot", &plain(), json!({"slot": 2}), json!({"slot": 2})),
        narrowed("the same slot", &set, json!({"slot": 1}), json!({})),
        refused("another slot", &set, json!({"slot": 0}), "request-invalid"),
        refused("a slot beyond the last", &plain(), json!({"slot": 3}), "request-invalid"),
    ]
}

fn receivers() -> Vec<Value> {
    let case = |receiver: Option<&str>, names: &[&str], allowed: bool| {
        let mut case = Map::new();
        case.extend(receiver.map(|receiver| ("receiver".to_owned(), json!(receiver))));
        case.insert("names".to_owned(), json!(names));
        case.insert("allowed".to_owned(), json!(allowed));
        Value::Object(case)
    };
    vec![
        case(None, &["default/a"], true),
        case(None, &[], true),
        case(Some("default/a"), &["default/a"], true),
        case(Some("default/a"), &["default/b", "default/a"], true),
        case(Some("default/a"), &["default/b"], false),
        case(Some("default/a"), &["other/a"], false),
        case(Some("default/a"), &["default/a-00001"], false),
        case(Some("default/a"), &[], false),
    ]
}
