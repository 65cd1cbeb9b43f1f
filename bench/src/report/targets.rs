//! What Zipline set out to reach, each with its measured number, met or not.
//!
//! Made from the same rows as everything else, without a choice: a target over several rows is met when all of them meet it, and
//! the worst is named.

use serde_json::Value;

use super::OURS;
use super::cost::{Hold, Priced};
use super::page::{Section, Table};
use super::read::{AppRow, File, MicroRow, ScaleRow, TransferRow};
use super::sections::{cost_ratio, find};
use crate::output::bytes;
use crate::stats::{Interval, exponent};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// From this size on a payload is a large one.
const LARGE_BYTES: u64 = 100 * MIB;
/// Through the queue-proxy at most this much slower than through a plain hyper reverse proxy.
const HYPER_MOST: f64 = 1.1;

/// The rows of a report.
pub(super) struct Measured<'r> {
    pub(super) apps: &'r [AppRow],
    pub(super) priced: &'r [Priced],
    pub(super) micro: &'r [MicroRow],
    pub(super) transfer: &'r [TransferRow],
    pub(super) scale: &'r [ScaleRow],
    pub(super) proxy: Option<&'r File>,
}

/// A number that a target is about, and of what it is.
struct Found {
    of: String,
    value: f64,
    shown: String,
}

impl Found {
    fn ratio(of: String, value: f64) -> Self {
        Self { of, value, shown: format!("{value:.2}") }
    }

    /// The lower bound of an interval.
    fn low(of: String, interval: Interval) -> Self {
        Self { of, value: interval.low, shown: interval.to_string() }
    }
}

/// What the found numbers must be.
#[derive(Clone, Copy)]
enum Must {
    /// All of them at least.
    AllAtLeast(f64),
    /// All of them at most.
    AllAtMost(f64),
    /// One of them at least.
    OneAtLeast(f64),
}

impl Must {
    /// Whether it holds, and the number that decides.
    fn judge(self, found: &[Found]) -> Option<(bool, &Found)> {
        let least = found.iter().min_by(|a, b| a.value.total_cmp(&b.value))?;
        let most = found.iter().max_by(|a, b| a.value.total_cmp(&b.value))?;
        Some(match self {
            Self::AllAtLeast(bound) => (least.value >= bound, least),
            Self::AllAtMost(bound) => (most.value <= bound, most),
            Self::OneAtLeast(bound) => (most.value >= bound, most),
        })
    }

    fn meets(self, found: &Found) -> bool {
        match self {
            Self::AllAtLeast(bound) | Self::OneAtLeast(bound) => found.value >= bound,
            Self::AllAtMost(bound) => found.value <= bound,
        }
    }
}

/// The table of targets.
pub(super) fn targets(measured: &Measured<'_>) -> Section {
    let mut section = Section::new("targets", "Targets");
    section.text.push(
        "Each target with what decides it here: the worst of its rows where all must meet it, the best where one must. An interval is \
         followed by the number of pairs behind it."
            .to_owned(),
    );
    let mut table =
        Table::new("Targets and what was found", &["what", "target", "decided by", "rows that meet it", "met", "kind"]);
    let mut add = |what: &str, target: &str, kind: &str, must: Must, found: Vec<Found>| {
        let judged = must.judge(&found);
        let decided = judged.as_ref().map_or_else(|| "—".to_owned(), |(_, by)| format!("{}: {}", by.of, by.shown));
        let meeting = found.iter().filter(|found| must.meets(found)).count();
        let met = match judged {
            None => "not measured",
            Some((true, _)) => "yes",
            Some((false, _)) => "no",
        };
        let rows = format!("{meeting} of {}", found.len());
        table.rows.push(vec![what.to_owned(), target.to_owned(), decided, rows, met.to_owned(), kind.to_owned()]);
    };
    of_apps(measured, &mut add);
    of_payloads(measured, &mut add);
    of_requests(measured, &mut add);
    of_growth(measured, &mut add);
    section.tables.push(table);
    section
}

/// Takes what, target, kind, what must be, and what was found.
type Add<'a> = dyn FnMut(&str, &str, &str, Must, Vec<Found>) + 'a;

fn of_apps(measured: &Measured<'_>, add: &mut Add<'_>) {
    let warm = |method: &'static str| measured.apps.iter().filter(move |row| row.start == "warm" && row.method == method);
    let name = |row: &AppRow| format!("{}, {}", row.app, row.variant);
    let published = || warm("s3-standard").filter(|row| row.app != "map-reduce");
    let faster = || published().filter_map(|row| Some(Found::ratio(name(row), row.times_ours?.median))).collect::<Vec<_>>();
    let (with_delays, kind) = ("S3 with published delays", "measured, injected");
    add(&format!("video and stacking against {with_delays}: faster"), "≥ 1.3 × each", kind, Must::AllAtLeast(1.3), faster());
    add(&format!("video and stacking against {with_delays}: faster"), "≥ 3 × on one", kind, Must::OneAtLeast(3.0), faster());
    let cheaper = || {
        let ratios = published().filter_map(|row| Some(Found::ratio(name(row), cost_ratio(measured.priced, row, Hold::Nobody)?)));
        ratios.collect::<Vec<_>>()
    };
    add(
        &format!("video and stacking against {with_delays}: cheaper, hold (a)"),
        "≥ 2 × each",
        "priced",
        Must::AllAtLeast(2.0),
        cheaper(),
    );
    add(
        &format!("video and stacking against {with_delays}: cheaper, hold (a)"),
        "≥ 4 × on one",
        "priced",
        Must::OneAtLeast(4.0),
        cheaper(),
    );
    let redis = warm("redis").filter_map(|row| Some((name(row), row.times_ours?)));
    let redis: Vec<(String, Interval)> = redis.collect();
    let lower = redis.iter().map(|(name, times)| Found::low(name.clone(), *times)).collect();
    add("applications against Redis: never slower", "lower bound ≥ 0.97", "measured", Must::AllAtLeast(0.97), lower);
    let medians = redis.iter().map(|(name, times)| Found::ratio(name.clone(), times.median)).collect();
    add("applications against Redis: faster", "≥ 5 % on one", "measured", Must::OneAtLeast(1.05), medians);
    let at_one = warm("redis").filter_map(|row| {
        let cost =
            |method: &str| find(measured.priced, row, method)?.curve.iter().find(|(load, _)| *load == 1.0).map(|(_, cost)| *cost);
        Some(Found::ratio(name(row), cost(&row.method)? / cost(OURS)?))
    });
    add(
        "applications against Redis: cheaper at one request an hour",
        "≥ 100 ×",
        "priced",
        Must::AllAtLeast(100.0),
        at_one.collect(),
    );
}

fn of_payloads(measured: &Measured<'_>, add: &mut Add<'_>) {
    let of = |row: &MicroRow| format!("{} of {} to {} over {}", row.pattern, bytes(row.size_bytes), row.degree, row.method);
    let against = |methods: &'static [&'static str]| {
        let rows = measured.micro.iter().filter(move |row| methods.contains(&row.method.as_str()));
        rows.filter_map(|row| Some((row, row.times_ours?)))
    };
    let below = against(&["inline"]).filter(|(row, _)| matches!(row.pattern.as_str(), "call" | "plain-call"));
    let below = below.map(|(row, times)| Found::low(of(row), times)).collect();
    let within = Must::AllAtLeast(1.0 / 1.05);
    add(
        "calls below the inline threshold against inline: not slower by more than 5 %",
        "lower bound ≥ 0.95",
        "measured",
        within,
        below,
    );
    let large = |(row, _): &(&MicroRow, Interval)| row.size_bytes >= 64 * KIB;
    let stores = against(&["redis", "s3"]).filter(large).map(|(row, times)| Found::low(of(row), times));
    let mut stores: Vec<Found> = stores.collect();
    for row in measured.transfer.iter().filter(|row| row.size_bytes >= 64 * KIB) {
        let of = |store: &str| format!("{} of {} against {store}", row.path, bytes(row.size_bytes));
        stores.extend(row.ratio_to_stores.iter().map(|(store, ratio)| Found::low(of(store), *ratio)));
    }
    add(
        "any size from 64 KiB, any fan-out, against Redis and S3 as they are",
        "lower bound ≥ 0.95",
        "measured",
        Must::AllAtLeast(0.95),
        stores,
    );
    let of = |row: &TransferRow| format!("{} of {}", row.path, bytes(row.size_bytes));
    let pulls = measured.transfer.iter().filter(|row| row.size_bytes >= LARGE_BYTES && row.path.starts_with("zipline pull"));
    let pulls = pulls.filter_map(|row| Some(Found::ratio(of(row), row.ratio_to_ceiling?))).collect();
    add("one large object over TCP against the best raw program", "≥ 0.9 ×", "measured", Must::AllAtLeast(0.9), pulls);
    let hand_over = |size| measured.transfer.iter().find(|row| row.path == "zipline hand-over" && row.size_bytes == size);
    let constant = hand_over(LARGE_BYTES).zip(hand_over(MIB)).map(|(large, small)| large.seconds.median / small.seconds.median);
    let constant = constant.map(|ratio| Found::ratio("100 MiB by 1 MiB".to_owned(), ratio)).into_iter().collect();
    add("hand-over of a descriptor: constant", "100 MiB ≤ 2 × 1 MiB", "measured", Must::AllAtMost(2.0), constant);
}

fn of_requests(measured: &Measured<'_>, add: &mut Add<'_>) {
    let rows = measured.proxy.map_or(&[][..], File::plain_rows);
    let ours = |row: &&Value| row["target"] == "zipline-queue-proxy";
    let ratios = |other: &str, member: &str| -> Vec<Found> {
        let of = |row: &Value| {
            let same = |peer: &&Value| ["protocol", "connections"].iter().all(|name| peer[*name] == row[*name]);
            let peer = rows.iter().find(|peer| peer["target"] == other && same(peer))?;
            let (own, peer) = (row[member].as_f64()?, peer[member].as_f64()?);
            let protocol = row["protocol"].as_str().unwrap_or_default();
            (peer > 0.0).then(|| Found::ratio(format!("{protocol}, {} connections", row["connections"]), own / peer))
        };
        rows.iter().filter(ours).filter_map(of).collect()
    };
    let members = [
        ("added p50", "added_p50_seconds", "below it", 1.0),
        ("added p99", "added_p99_seconds", "≤ 1/2", 0.5),
        ("processor time", "cpu_seconds_per_1000_requests", "≤ 1/2", 0.5),
        ("memory at rest", "memory_at_rest_bytes", "≤ 1/3", 1.0 / 3.0),
    ];
    for (what, member, target, most) in members {
        let what = format!("small requests against Knative's queue-proxy: {what}");
        add(&what, target, "measured", Must::AllAtMost(most), ratios("stock queue-proxy", member));
    }
    let what = "small requests against a plain hyper reverse proxy: added p50";
    add(what, "≤ 1.1 ×", "measured", Must::AllAtMost(HYPER_MOST), ratios("hyper reverse proxy", "added_p50_seconds"));
    let large = measured.proxy.and_then(|file| serde_json::from_str::<Value>(&file.text).ok()).unwrap_or_default();
    let large =
        large["large"].as_array().into_iter().flatten().filter(ours).filter_map(|large| large["peak_memory_bytes"].as_u64());
    let large = large.map(|peak| Found { of: "above rest".to_owned(), value: peak as f64, shown: bytes(peak) }).collect();
    add("memory while 1 GiB passes to a plain function", "≤ 32 MiB", "measured", Must::AllAtMost((32 * MIB) as f64), large);
}

fn of_growth(measured: &Measured<'_>, add: &mut Add<'_>) {
    let mut curves: Vec<&str> = Vec::new();
    measured.scale.iter().for_each(|row| {
        if !curves.contains(&row.curve.as_str()) {
            curves.push(&row.curve)
        }
    });
    let grown = |curve: &str| {
        let points: Vec<_> =
            measured.scale.iter().filter(|row| row.curve == curve).map(|row| (row.x, row.seconds.median)).collect();
        exponent(&points)
    };
    let wanted = curves.into_iter().filter(|curve| *curve != "payload");
    let found = wanted.filter_map(|curve| Some(Found::ratio(curve.to_owned(), grown(curve)?))).collect();
    add("held objects, instances, workflow width: exponent of cost", "≤ 1.05", "measured", Must::AllAtMost(1.05), found);
}
