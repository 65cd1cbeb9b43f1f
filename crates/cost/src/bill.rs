//! The bill of one workflow request, by method.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{FUNCTION_SIZES_GB, Operations, Prices, REQUESTS_PER_HOUR, Run};

/// Seconds of the month that storage is priced by (30 days).
const MONTH_SECONDS: f64 = 2_592_000.0;
/// Bytes of a GB, as bills count it.
const GB: f64 = 1e9;
/// Bytes of a GiB, as cache nodes are sized.
const GIB: f64 = 1_073_741_824.0;
/// Seconds of an hour.
const HOUR_SECONDS: f64 = 3600.0;
/// Hours of the month that S3 Express is priced by.
const MONTH_HOURS: f64 = 720.0;

/// What one method costs for one workflow request, in USD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Operations on a store, and bytes charged by the operation.
    pub requests_usd: f64,
    /// Bytes lying in a store, or a node kept for them.
    pub storage_usd: f64,
    /// Function time and function requests.
    pub compute_usd: f64,
    /// Memory held for consumers, with the `holds` as given.
    pub hold_usd: f64,
    /// All four.
    pub total_usd: f64,
}

impl Line {
    fn of(requests_usd: f64, storage_usd: f64, compute_usd: f64, hold_usd: f64) -> Self {
        Self { requests_usd, storage_usd, compute_usd, hold_usd, total_usd: requests_usd + storage_usd + compute_usd + hold_usd }
    }
}

/// What a hold costs by who pays for it. With a blocking `invoke` the producer runs and is billed in any case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HoldSettings {
    /// (a) Nobody: idle instances are kept warm anyway.
    pub a_nobody_usd: f64,
    /// (b) The producer's whole memory until the last retrieval, by function size in GB.
    pub b_whole_memory_usd: BTreeMap<String, f64>,
    /// (c) Only the bytes held, as given.
    pub c_held_bytes_usd: f64,
}

/// A cost at a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Workflow requests an hour.
    pub requests_per_hour: f64,
    /// Cost of one of them, functions included.
    pub total_usd: f64,
}

/// A cache's cost as a curve over load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCurve {
    /// Node type or serverless flavour.
    pub name: &'static str,
    /// Cost a request at each load of [`REQUESTS_PER_HOUR`].
    pub points: Vec<CurvePoint>,
}

/// The bill of one workflow request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// Version of this document.
    pub schema: u32,
    /// Region of the prices.
    pub region: String,
    /// Date of the price table.
    pub dated: String,
    /// Each method's line. Caches stand at one request an hour here; their curves are below.
    pub methods: BTreeMap<&'static str, Line>,
    /// The three settings for memory held by Zipline.
    pub hold: HoldSettings,
    /// Function cost if every function had this many GB.
    pub compute_by_function_gb: BTreeMap<String, f64>,
    /// Caches over load.
    pub curves: Vec<NodeCurve>,
}

/// Node types: name in the bill, its price's item, memory in GiB.
const NODES: [(&str, &str, f64); 4] = [
    ("elasticache_t3_micro", "cache_t3_micro_hour", 0.5),
    ("elasticache_t3_small", "cache_t3_small_hour", 1.37),
    ("elasticache_t3_medium", "cache_t3_medium_hour", 3.09),
    ("elasticache_m5_large", "cache_m5_large_hour", 6.38),
];

/// Serverless flavours: name, price of a GB-hour, price of an ECPU, GB charged at least.
const SERVERLESS: [(&str, &str, &str, f64); 2] = [
    ("elasticache_serverless_redis", "serverless_redis_gb_hour", "serverless_redis_ecpu", 1.0),
    ("elasticache_serverless_valkey", "serverless_valkey_gb_hour", "serverless_valkey_ecpu", 0.1),
];

impl Bill {
    /// The mean of several requests' bills under the same prices; `None` of none.
    pub fn mean(bills: &[Self]) -> Option<Self> {
        let mut mean = bills.first()?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| bills.iter().map(value).sum::<f64>() / bills.len() as f64;
        for (name, line) in &mut mean.methods {
            let part = |part: fn(&Line) -> f64| of(&|bill| bill.methods.get(name).map_or(0.0, part));
            *line = Line::of(part(|l| l.requests_usd), part(|l| l.storage_usd), part(|l| l.compute_usd), part(|l| l.hold_usd));
        }
        mean.hold.c_held_bytes_usd = of(&|bill| bill.hold.c_held_bytes_usd);
        for (gb, cost) in &mut mean.hold.b_whole_memory_usd {
            *cost = of(&|bill| bill.hold.b_whole_memory_usd.get(gb).copied().unwrap_or(0.0));
        }
        for (gb, cost) in &mut mean.compute_by_function_gb {
            *cost = of(&|bill| bill.compute_by_function_gb.get(gb).copied().unwrap_or(0.0));
        }
        for (curve_at, curve) in mean.curves.iter_mut().enumerate() {
            for (point_at, point) in curve.points.iter_mut().enumerate() {
                point.total_usd = of(&|bill| bill.curves[curve_at].points[point_at].total_usd);
            }
        }
        Some(mean)
    }
}

/// Prices one workflow request under every method.
pub fn bill(operations: &Operations, prices: &Prices) -> Bill {
    let compute = compute(operations, prices, None);
    let hold = operations.holds.iter().map(|hold| hold.gb * hold.seconds).sum::<f64>() * prices.of("function_gb_second");
    let mut methods = BTreeMap::from([
        ("inline", Line::of(0.0, 0.0, compute, 0.0)),
        ("zipline", Line::of(0.0, 0.0, compute, hold)),
        ("s3_standard", s3_standard(operations, prices, compute)),
        ("s3_express", s3_express(operations, prices, compute)),
    ]);
    let mut curves = Vec::new();
    for (name, item, gib) in NODES {
        let points: Vec<_> = REQUESTS_PER_HOUR.map(|load| (load, node(operations, prices, item, gib, load, compute))).into();
        add_cache(&mut methods, &mut curves, name, &points);
    }
    for (name, gb_hour, ecpu, gb_min) in SERVERLESS {
        let points: Vec<_> = REQUESTS_PER_HOUR
            .map(|load| (load, serverless(operations, (prices.of(gb_hour), prices.of(ecpu)), gb_min, load, compute)))
            .into();
        add_cache(&mut methods, &mut curves, name, &points);
    }
    Bill {
        schema: 1,
        region: prices.region.clone(),
        dated: prices.dated.clone(),
        methods,
        hold: hold_settings(operations, prices, hold),
        compute_by_function_gb: by_size(|gb| self::compute(operations, prices, Some(gb))),
        curves,
    }
}

fn add_cache(
    methods: &mut BTreeMap<&'static str, Line>,
    curves: &mut Vec<NodeCurve>,
    name: &'static str,
    points: &[(f64, Line)],
) {
    if let Some((_, idle)) = points.first() {
        methods.insert(name, *idle);
    }
    let points = points.iter().map(|(load, line)| CurvePoint { requests_per_hour: *load, total_usd: line.total_usd }).collect();
    curves.push(NodeCurve { name, points });
}

/// Function time, by the started millisecond, and function requests.
fn compute(operations: &Operations, prices: &Prices, every_function_gb: Option<f64>) -> f64 {
    let gb_seconds: f64 = operations.functions.iter().map(|run| every_function_gb.unwrap_or(run.gb) * billed_seconds(run)).sum();
    gb_seconds * prices.of("function_gb_second") + operations.invocations() * prices.of("function_request")
}

fn billed_seconds(run: &Run) -> f64 {
    // A millisecond that was started is paid whole; the tolerance keeps 0.1 s from becoming 101 ms.
    (run.seconds * 1000.0 - 1e-6).ceil().max(0.0) / 1000.0
}

fn s3_standard(operations: &Operations, prices: &Prices, compute: f64) -> Line {
    let requests = operations.puts * prices.of("s3_put") + operations.gets * prices.of("s3_get");
    let storage = operations.bytes / GB * operations.stored_seconds * prices.of("s3_gb_month") / MONTH_SECONDS;
    Line::of(requests, storage, compute, 0.0)
}

fn s3_express(operations: &Operations, prices: &Prices, compute: f64) -> Line {
    let requests = operations.puts * prices.of("express_put")
        + operations.gets * prices.of("express_get")
        + operations.bytes / GB * prices.of("express_upload_gb")
        + operations.bytes_read() / GB * prices.of("express_retrieval_gb");
    let gb_hours = operations.bytes / GB * operations.stored_seconds / HOUR_SECONDS;
    Line::of(requests, gb_hours * prices.of("express_gb_month") / MONTH_HOURS, compute, 0.0)
}

/// Started hours of as many nodes as the bytes need that lie there at once, shared by the requests of those hours: the
/// number of hours cancels out.
fn node(operations: &Operations, prices: &Prices, item: &'static str, gib: f64, requests_per_hour: f64, compute: f64) -> Line {
    let at_once = (operations.stored_seconds / HOUR_SECONDS * requests_per_hour).max(1.0);
    let nodes = (operations.bytes * at_once / GIB / gib).ceil().max(1.0);
    Line::of(0.0, prices.of(item) * nodes / requests_per_hour, compute, 0.0)
}

fn serverless(operations: &Operations, (gb_hour, ecpu): (f64, f64), gb_min: f64, requests_per_hour: f64, compute: f64) -> Line {
    let kilobytes = (operations.bytes + operations.bytes_read()) / 1000.0;
    let held_gb = (operations.bytes / GB * operations.stored_seconds / HOUR_SECONDS * requests_per_hour).max(gb_min);
    Line::of(kilobytes * ecpu, held_gb * gb_hour / requests_per_hour, compute, 0.0)
}

fn hold_settings(operations: &Operations, prices: &Prices, given: f64) -> HoldSettings {
    let seconds: f64 = operations.holds.iter().map(|hold| hold.seconds).sum();
    HoldSettings {
        a_nobody_usd: 0.0,
        b_whole_memory_usd: by_size(|gb| gb * seconds * prices.of("function_gb_second")),
        c_held_bytes_usd: given,
    }
}

fn by_size(cost: impl Fn(f64) -> f64) -> BTreeMap<String, f64> {
    FUNCTION_SIZES_GB.into_iter().map(|gb| (gb.to_string(), cost(gb))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hold;

    fn priced(operations: &Operations) -> Bill {
        bill(operations, &Prices::bundled())
    }

    fn near(value: f64, expected: f64, tolerance: f64) {
        assert!((value / expected - 1.0).abs() < tolerance, "{value} is not {expected}");
    }

    /// MR, 8 × 2, 2 GB functions, 71 MB shuffled.
    #[test]
    fn a_map_reduce_costs_what_was_worked_out_by_hand() {
        let shuffle = Operations {
            puts: 16.0,
            gets: 16.0,
            bytes: 70.9e6,
            holds: vec![Hold { gb: 2.0, seconds: 0.478 }; 8],
            ..Operations::default()
        };
        let bill = priced(&shuffle);
        near(bill.methods["s3_standard"].requests_usd, 86.4e-6, 1e-9);
        near(bill.methods["s3_express"].requests_usd, 288e-6, 1e-3);
        near(bill.methods["zipline"].hold_usd, 127.5e-6, 1e-3);
        near(bill.hold.b_whole_memory_usd["2"], 127.5e-6, 1e-3);
        assert_eq!(bill.hold.a_nobody_usd, 0.0);
    }

    #[test]
    fn ten_megabytes_a_million_times() {
        let one = Operations {
            puts: 1.0,
            gets: 1.0,
            bytes: 10e6,
            functions: vec![Run { gb: 1.0, seconds: 0.1 }],
            ..Operations::default()
        };
        let bill = priced(&one);
        near(bill.methods["s3_standard"].requests_usd * 1e6, 5.4, 1e-9);
        near(bill.methods["s3_express"].requests_usd * 1e6, 39.2, 1e-2);
        near(bill.methods["inline"].compute_usd * 1e6, 1.67 + 0.20, 5e-3);
    }

    #[test]
    fn express_is_dearer_than_standard_above_about_a_megabyte() {
        let at = |bytes| {
            let bill = priced(&Operations { puts: 1.0, gets: 1.0, bytes, ..Operations::default() });
            bill.methods["s3_express"].requests_usd / bill.methods["s3_standard"].requests_usd
        };
        assert!(at(1.0e6) < 1.0 && at(1.3e6) > 1.0, "{} {}", at(1.0e6), at(1.3e6));
    }

    #[test]
    fn a_started_millisecond_is_paid_whole_and_a_whole_one_once() {
        assert_eq!(billed_seconds(&Run { gb: 1.0, seconds: 0.1 }), 0.1);
        assert_eq!(billed_seconds(&Run { gb: 1.0, seconds: 0.1001 }), 0.101);
    }

    #[test]
    fn a_serverless_cache_is_paid_by_the_kilobyte_and_by_the_gigabyte_hour() {
        let bill = priced(&Operations { bytes: 1e6, stored_seconds: 3600.0, ..Operations::default() });
        // 2,000 KB moved, and the least that is charged: 1 GB for an hour.
        near(bill.methods["elasticache_serverless_redis"].requests_usd, 2000.0 * 0.0034e-6, 1e-9);
        near(bill.methods["elasticache_serverless_redis"].storage_usd, 0.125, 1e-9);
        near(bill.methods["elasticache_serverless_valkey"].storage_usd, 0.0084, 1e-9);
    }

    #[test]
    fn a_node_that_is_too_small_is_paid_as_often_as_it_is_needed() {
        let one = Operations { puts: 1.0, gets: 1.0, bytes: 1.0e9, stored_seconds: 0.36, ..Operations::default() };
        let bill = priced(&one);
        let micro = bill.curves.iter().find(|curve| curve.name == "elasticache_t3_micro").expect("micro nodes are priced");
        near(micro.points[0].total_usd, 2.0 * 0.017, 1e-9);
        // At 10,000 requests an hour, each for 0.36 s, one gigabyte lies there at a time: still two nodes.
        near(micro.points[4].total_usd, 2.0 * 0.017 / 10_000.0, 1e-9);
        let longer = priced(&Operations { stored_seconds: 3.6, ..one });
        near(longer.curves[0].points[4].total_usd, 19.0 * 0.017 / 10_000.0, 1e-9);
    }

    #[test]
    fn the_mean_of_bills_is_the_mean_of_their_parts() {
        let bills = [1.0, 3.0].map(|puts| priced(&Operations { puts, gets: puts, ..Operations::default() }));
        let mean = Bill::mean(&bills).expect("of two");
        near(mean.methods["s3_standard"].requests_usd, 2.0 * 5.4e-6, 1e-9);
        near(mean.methods["s3_standard"].total_usd, 2.0 * 5.4e-6, 1e-9);
        assert!(Bill::mean(&[]).is_none());
    }

    #[test]
    fn a_cache_gets_cheaper_in_proportion_to_load() {
        let bill = priced(&Operations { puts: 1.0, gets: 1.0, bytes: 1e6, ..Operations::default() });
        let curve = bill.curves.iter().find(|curve| curve.name == "elasticache_t3_micro").expect("micro nodes are priced");
        near(curve.points[0].total_usd / curve.points[3].total_usd, 1000.0, 1e-9);
    }
}
