//! `pull.json`: requests, answers, bodies, ranges.

use serde_json::{Map, Value, json};

use super::spec::{
    CURRENT, ENDED, FOREIGN, Key, NOW, OLD, UNKNOWN, derive, derived_keys, hex, hmac, payload, ring, sum, sum_number, unhex,
};

const MIB: u64 = 1 << 20;
const OBJECT: &str = "101112131415161718191a1b1c1d1e1f";
const EPOCH: &str = "0001020304050607";
const LEASE: &str = "202122232425262728292a2b2c2d2e2f";
const NONCE: &str = "303132333435363738393a3b3c3d3e3f";

pub(super) fn file() -> Value {
    json!({
        "schema": 1,
        "ring": ring(),
        "derived_keys": derived_keys(),
        "now_ms": NOW,
        "requests": requests(),
        "refused_requests": refused_requests(),
        "answers": answers(),
        "payload": {"seed": "pull", "generator": "SHA256(\"SEED:0\") || SHA256(\"SEED:1\") || ..., cut to the length"},
        "bodies": bodies(),
        "refused_bodies": refused_bodies(),
        "ranges": ranges(),
    })
}

/// What a request says; `None` is an empty line under the MAC and no header.
#[derive(Clone)]
struct Request {
    method: &'static str,
    range: Option<&'static str>,
    dialled: &'static str,
    lease: Option<&'static str>,
    receiver: Option<&'static str>,
    slot: Option<u32>,
    time_ms: u64,
}

const GET: Request = Request {
    method: "GET",
    range: None,
    dialled: "10.1.2.3:8122",
    lease: Some(LEASE),
    receiver: Some("default/reducer"),
    slot: None,
    time_ms: NOW,
};

impl Request {
    fn verb(&self) -> &'static str {
        match self.method {
            "acknowledge" | "release" | "free" => "POST",
            method => method,
        }
    }

    fn path(&self) -> String {
        match self.method {
            "acknowledge" | "release" | "free" => format!("/v1/objects/{OBJECT}/{}", self.method),
            _ => format!("/v1/objects/{OBJECT}"),
        }
    }

    fn mac_input(&self) -> String {
        let slot = self.slot.map(|slot| slot.to_string()).unwrap_or_default();
        lines(&[
            "zipline-pull/1",
            self.verb(),
            &self.path(),
            self.range.unwrap_or_default(),
            self.dialled,
            EPOCH,
            self.lease.unwrap_or_default(),
            self.receiver.unwrap_or_default(),
            &slot,
            &self.time_ms.to_string(),
            NONCE,
        ])
    }

    fn headers(&self, key: &Key) -> Map<String, Value> {
        let mac = hmac(&derive(key, "zipline/1 pull request"), self.mac_input().as_bytes());
        let time = self.time_ms.to_string();
        let mut headers = Map::new();
        let mut set = |name: &str, value: &str| headers.insert(name.to_owned(), json!(value));
        set("Zipline-Pull", "1");
        set("Zipline-Key", &hex(&key.id));
        set("Zipline-Epoch", EPOCH);
        set("Zipline-Time", &time);
        set("Zipline-Nonce", NONCE);
        set("Zipline-Mac", &hex(&mac));
        self.lease.map(|lease| set("Zipline-Lease", lease));
        self.receiver.map(|receiver| set("Zipline-Receiver", receiver));
        self.slot.map(|slot| set("Zipline-Slot", &slot.to_string()));
        self.range.map(|range| set("Range", range));
        headers
    }
}

fn lines(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn requests() -> Vec<Value> {
    let case = |name: &str, key: &Key, request: Request| {
        json!({
            "name": name, "method": request.method, "object": OBJECT, "range": request.range, "dialled": request.dialled,
            "epoch": EPOCH, "lease": request.lease, "receiver": request.receiver, "slot": request.slot,
            "time_ms": request.time_ms, "nonce": NONCE, "key": hex(&key.id),
            "verb": request.verb(), "path": request.path(), "headers": request.headers(key),
            "mac_input": request.mac_input(),
            "mac": hex(&hmac(&derive(key, "zipline/1 pull request"), request.mac_input().as_bytes())),
        })
    };
    vec![
        case("a whole object", &CURRENT, GET),
        case("a range", &CURRENT, Request { range: Some("bytes=1048576-2097151"), ..GET }),
        case(
            "the rest, for a slot, over IPv6",
            &CURRENT,
            Request { range: Some("bytes=5-"), dialled: "[fd00:1::2]:8122", slot: Some(7), ..GET },
        ),
        case("nobody in particular", &CURRENT, Request { receiver: None, ..GET }),
        case("signed with the key before", &OLD, GET),
        case("a clock 30 s behind", &CURRENT, Request { time_ms: NOW - 30_000, ..GET }),
        case("a clock 30 s ahead", &CURRENT, Request { time_ms: NOW + 30_000, ..GET }),
        case("state", &CURRENT, Request { method: "HEAD", lease: None, ..GET }),
        case("state, renewing a lease", &CURRENT, Request { method: "HEAD", ..GET }),
        case("acknowledge", &CURRENT, Request { method: "acknowledge", ..GET }),
        case("release", &CURRENT, Request { method: "release", ..GET }),
        case("free", &CURRENT, Request { method: "free", lease: None, receiver: None, ..GET }),
        case("hand-over", &CURRENT, Request { method: "HANDOVER", ..GET }),
    ]
}

fn refused_requests() -> Vec<Value> {
    let case = |name: &str, verb: &str, path: &str, headers: Map<String, Value>, error: &str| json!({"name": name, "verb": verb, "path": path, "headers": headers, "dialled": GET.dialled, "error": error});
    let unauthenticated = |name: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let mut headers = GET.headers(&CURRENT);
        change(&mut headers);
        case(name, "GET", &GET.path(), headers, "pull-unauthenticated")
    };
    let set = |name: &'static str, value: &'static str| {
        move |headers: &mut Map<String, Value>| {
            headers.insert(name.to_owned(), json!(value));
        }
    };
    let mut cases = vec![
        unauthenticated("another dialled address", &|headers| {
            *headers = Request { dialled: "10.1.2.4:8122", ..GET }.headers(&CURRENT)
        }),
        unauthenticated("another method", &|headers| *headers = Request { method: "release", ..GET }.headers(&CURRENT)),
        unauthenticated("a range added", &set("Range", "bytes=0-9")),
        unauthenticated("a receiver changed", &set("Zipline-Receiver", "default/mapper")),
        unauthenticated("a slot added", &set("Zipline-Slot", "0")),
        unauthenticated("a lease changed", &set("Zipline-Lease", NONCE)),
        unauthenticated("an epoch changed", &set("Zipline-Epoch", "0001020304050608")),
        unauthenticated("a time changed", &set("Zipline-Time", "1800000000001")),
        unauthenticated("no MAC", &|headers| drop(headers.remove("Zipline-Mac"))),
        unauthenticated("no lease", &|headers| drop(headers.remove("Zipline-Lease"))),
        unauthenticated(
            "a MAC of zeros",
            &set("Zipline-Mac", "0000000000000000000000000000000000000000000000000000000000000000"),
        ),
        unauthenticated("another trust domain's key of the same name", &|headers| *headers = GET.headers(&FOREIGN)),
        unauthenticated("a key that is not in the ring", &|headers| *headers = GET.headers(&UNKNOWN)),
        unauthenticated("a key that has ended", &|headers| *headers = GET.headers(&ENDED)),
        unauthenticated("a range that is a list", &|headers| {
            *headers = Request { range: Some("bytes=0-1,4-5"), ..GET }.headers(&CURRENT)
        }),
        unauthenticated("a range that is a suffix", &|headers| {
            *headers = Request { range: Some("bytes=-5"), ..GET }.headers(&CURRENT)
        }),
    ];
    for (name, time_ms) in [("a clock too far behind", NOW - 30_001), ("a clock too far ahead", NOW + 30_001)] {
        cases.push(case(name, "GET", &GET.path(), Request { time_ms, ..GET }.headers(&CURRENT), "clock-skew"));
    }
    let mut newer = GET.headers(&CURRENT);
    newer.insert("Zipline-Pull".to_owned(), json!("2"));
    cases.push(case("a later protocol", "GET", &GET.path(), newer, "protocol-unsupported"));
    cases.push(case("another path", "GET", "/v1/objects", GET.headers(&CURRENT), "pull-unauthenticated"));
    cases
}

/// The MAC of the request that every answer below is to: the first of `requests`.
fn request_mac() -> String {
    hex(&hmac(&derive(&CURRENT, "zipline/1 pull request"), GET.mac_input().as_bytes()))
}

/// An answer's headers in the order of its MAC lines; an absent one is an empty line.
const ANSWER_LINES: [&str; 8] = [
    "Zipline-Range",
    "Zipline-Size",
    "Zipline-Retrievals-Left",
    "Zipline-Expires",
    "Content-Type",
    "Zipline-Sum",
    "Zipline-Error",
    "Zipline-Detail",
];

fn answer_mac_input(status: u16, fields: &Value) -> String {
    let (request, status) = (request_mac(), status.to_string());
    let mut all = vec!["zipline-answer/1", &request, &status, EPOCH, OBJECT];
    all.extend(ANSWER_LINES.map(|name| fields[name].as_str().unwrap_or_default()));
    lines(&all)
}

fn answer_mac(status: u16, fields: &Value) -> [u8; 32] {
    hmac(&derive(&CURRENT, "zipline/1 pull answer"), answer_mac_input(status, fields).as_bytes())
}

fn answers() -> Vec<Value> {
    let case = |name: &str, status: u16, fields: Value| {
        let mac = hex(&answer_mac(status, &fields));
        let mut headers = fields.as_object().cloned().unwrap_or_default();
        headers.insert("Zipline-Pull".to_owned(), json!("1"));
        headers.insert("Zipline-Epoch".to_owned(), json!(EPOCH));
        headers.insert("Zipline-Mac".to_owned(), json!(mac));
        json!({
            "name": name, "key": hex(&CURRENT.id), "request_mac": request_mac(), "object": OBJECT, "status": status,
            "headers": headers, "mac_input": answer_mac_input(status, &fields), "mac": mac,
        })
    };
    let whole = json!({
        "Zipline-Size": "1048581", "Zipline-Retrievals-Left": "3", "Zipline-Expires": "1800000300000",
        "Content-Type": "text/plain; charset=utf-8", "Zipline-Sum": "crc32c",
    });
    let range = |range: &str, size: &str| json!({"Zipline-Range": range, "Zipline-Size": size, "Zipline-Sum": "blake3"});
    vec![
        case("a whole object", 200, whole),
        case("one that is still being written", 200, json!({"Zipline-Size": "unknown", "Zipline-Sum": "blake3"})),
        case("a range", 206, range("1048576-1048580/1048581", "1048581")),
        case("the rest of what is being written", 206, range("5-unknown/unknown", "unknown")),
        case("nothing is left", 206, range("1048581-nothing/1048581", "1048581")),
        case("acknowledged", 204, json!({})),
        case("a refusal", 410, json!({"Zipline-Error": "reference-exhausted", "Zipline-Detail": "3 of 3 retrievals were used"})),
        case("a refusal that is not known yet", 418, json!({"Zipline-Error": "of-a-later-release"})),
    ]
}

/// A body being made: each record's head, chained.
struct Chain<'a> {
    key: [u8; 32],
    previous: Vec<u8>,
    sum_kind: &'a str,
    records: Vec<Value>,
}

impl<'a> Chain<'a> {
    fn new(answer_mac: [u8; 32], sum_kind: &'a str) -> Self {
        Self { key: derive(&CURRENT, "zipline/1 pull answer"), previous: answer_mac.to_vec(), sum_kind, records: Vec::new() }
    }

    fn push(&mut self, kind: &str, offset: u64, bytes: &[u8]) {
        let flags = match kind {
            "last" => 1,
            "aborted" => 2,
            _ => 0,
        };
        let mut head = (bytes.len() as u32).to_be_bytes().to_vec();
        head.extend([flags, sum_number(self.sum_kind), 0, 0]);
        head.extend(sum(self.sum_kind, bytes));
        let mac = &hmac(&self.key, &[self.previous.as_slice(), &head].concat())[..16];
        self.previous = mac.to_vec();
        head.extend(mac);
        self.records.push(json!({"kind": kind, "offset": offset, "length": bytes.len(), "head": hex(&head)}));
    }

    fn heads(&self) -> Vec<String> {
        self.records.iter().map(|record| record["head"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

struct Body {
    name: &'static str,
    sum: &'static str,
    size: u64,
    first: u64,
    limit: u64,
}

impl Body {
    fn case(&self) -> Value {
        let &Self { name, sum, size, first, limit } = self;
        let bytes = payload("pull", size as usize);
        let mac = answer_mac(200, &json!({}));
        let mut chain = Chain::new(mac, sum);
        let (mut next, end) = (first, limit.min(size));
        loop {
            let cut = end.min((next / MIB + 1) * MIB);
            chain.push(if cut == end { "last" } else { "bytes" }, next, &bytes[next as usize..cut as usize]);
            next = cut;
            if cut == end {
                break;
            }
        }
        json!({"name": name, "answer_mac": hex(&mac), "sum": sum, "size": size, "first": first, "end": end, "records": chain.records})
    }
}

fn bodies() -> Vec<Value> {
    let body = |name, sum, size, first, limit| Body { name, sum, size, first, limit }.case();
    let mut cases = vec![
        body("nothing", "crc32c", 0, 0, u64::MAX),
        body("nothing, by blake3", "blake3", 0, 0, u64::MAX),
        body("a few bytes", "crc32c", 5, 0, u64::MAX),
        body("one block", "crc32c", MIB, 0, u64::MAX),
        body("more than a block", "crc32c", MIB + 5, 0, u64::MAX),
        body("more than a block, by blake3", "blake3", MIB + 5, 0, u64::MAX),
        body("a range across two blocks", "crc32c", 2 * MIB + 9, MIB - 3, 2 * MIB + 1),
        body("a range that ends with a block", "crc32c", 2 * MIB + 9, MIB - 3, MIB),
    ];
    // Cut-through: the writer is slow, and what it wrote last was a whole block.
    let bytes = payload("pull", MIB as usize);
    let mac = answer_mac(200, &json!({}));
    let mut chain = Chain::new(mac, "crc32c");
    chain.push("heartbeat", 0, &[]);
    chain.push("bytes", 0, &bytes);
    chain.push("heartbeat", MIB, &[]);
    chain.push("last", MIB, &[]);
    cases.push(json!({
        "name": "being written, with heartbeats and an empty end", "answer_mac": hex(&mac), "sum": "crc32c", "size": MIB, "first": 0,
        "end": MIB, "records": chain.records,
    }));
    cases
}

/// `accepted`: how many of the heads may be believed; the next one must not be.
fn refused_bodies() -> Vec<Value> {
    let mac = answer_mac(200, &json!({}));
    let mut good = Chain::new(mac, "crc32c");
    for (n, kind) in ["bytes", "bytes", "last"].into_iter().enumerate() {
        good.push(kind, n as u64 * MIB, &payload("pull", MIB as usize));
    }
    let heads = good.heads();
    let flip = |head: &str, at: usize| {
        let mut bytes = unhex(head);
        bytes[at] ^= 1;
        hex(&bytes)
    };
    let case = |name: &str, heads: Vec<String>, accepted: usize| json!({"name": name, "answer_mac": hex(&mac), "heads": heads, "accepted": accepted});
    let [a, b, c] = [heads[0].clone(), heads[1].clone(), heads[2].clone()];
    let other = Chain::new([0; 32], "crc32c");
    let mut wrong = Chain { previous: mac.to_vec(), ..other };
    wrong.push("bytes", 0, &payload("pull", MIB as usize + 1));
    vec![
        case("a bit of the length", vec![flip(&a, 3), b.clone()], 0),
        case("a bit of the flags", vec![a.clone(), flip(&b, 4)], 1),
        case("a bit of the sum", vec![a.clone(), b.clone(), flip(&c, 8)], 2),
        case("a bit of the MAC", vec![a.clone(), flip(&b, 55)], 1),
        case("a record twice", vec![a.clone(), a.clone()], 1),
        case("a record left out", vec![a.clone(), c.clone()], 1),
        case("records in another order", vec![b.clone(), a.clone()], 0),
        case("a genuine record that is too long", wrong.heads(), 0),
    ]
}

fn ranges() -> Vec<Value> {
    let good = |text: &str, size: Option<u64>, first: u64, last: Option<u64>| json!({"text": text, "size": size, "first": first, "last": last});
    let bad = |text: &str, size: Option<u64>| json!({"text": text, "size": size, "error": true});
    vec![
        good("bytes=0-0", None, 0, Some(0)),
        good("bytes=5-", None, 5, None),
        good("bytes=5-9", Some(100), 5, Some(9)),
        good("bytes=-30", Some(100), 70, None),
        good("bytes=-300", Some(100), 0, None),
        bad("bytes=-30", None),
        bad("bytes=-0", Some(100)),
        bad("bytes=9-5", None),
        bad("bytes=0-1,4-5", None),
        bad("bytes=", None),
        bad("bytes=-", None),
        bad("bytes=a-b", None),
        bad("bytes=+1-2", None),
        bad("lines=1-2", None),
        bad("1-2", None),
    ]
}
