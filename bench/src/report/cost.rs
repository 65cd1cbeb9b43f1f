//! What the measured requests of `bench apps` would cost: every request is priced, and a row is the median of its requests.

use std::collections::BTreeMap;

use anyhow::Result;
use zipline_cost::{Bill, FUNCTION_SIZES_GB, Line, Prices, REQUESTS_PER_HOUR, bench_rows, bill};

use crate::stats::{Interval, interval};

/// Function size of the headline table, in GB; the others stand beside it in their own table.
pub(super) const HEADLINE_GB: f64 = 1.0;
/// Load of the headline table for caches, in workflow requests an hour; a curve shows the others.
pub(super) const HEADLINE_LOAD: f64 = 100.0;

/// Who pays for memory that a producer holds after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// (a)
    Nobody,
    /// (b)
    WholeMemory,
    /// (c)
    HeldBytes,
}

impl Hold {
    pub(super) const ALL: [Self; 3] = [Self::Nobody, Self::WholeMemory, Self::HeldBytes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "hold (a): nobody pays",
            Self::WholeMemory => "hold (b): the producer's whole memory",
            Self::HeldBytes => "hold (c): the bytes held",
        }
    }
}

/// An application, variant and method, priced; USD a workflow request.
pub(super) struct Priced {
    /// Which of the files of `apps` it is of.
    pub(super) file: usize,
    pub(super) app: String,
    pub(super) variant: String,
    pub(super) start: String,
    pub(super) method: String,
    /// What it is priced as.
    pub(super) priced_as: &'static str,
    /// By function size (index into [`FUNCTION_SIZES_GB`]) and hold setting.
    totals: BTreeMap<(usize, Hold), Interval>,
    /// Share of the store in the bill at [`HEADLINE_GB`], 0 to 1.
    pub(super) storage_share: f64,
    /// Total by requests an hour at [`HEADLINE_GB`], hold (a).
    pub(super) curve: Vec<(f64, f64)>,
}

impl Priced {
    /// The cost at a function size.
    pub(super) fn total(&self, gb: f64, hold: Hold) -> Option<Interval> {
        let size = FUNCTION_SIZES_GB.iter().position(|known| *known == gb)?;
        self.totals.get(&(size, hold)).copied()
    }
}

/// Prices every row of a raw file of `bench apps`.
pub(super) fn price(file: usize, raw: &str, seed: u64) -> Result<Vec<Priced>> {
    let prices = Prices::bundled();
    let mut priced: Vec<Priced> = Vec::new();
    for (size, gb) in FUNCTION_SIZES_GB.into_iter().enumerate() {
        for (at, row) in bench_rows(raw, gb)?.into_iter().enumerate() {
            let bills: Vec<Bill> = row.requests.iter().map(|operations| bill(operations, &prices)).collect();
            let line = line_of(&row.transfer, &row.method);
            if priced.len() <= at {
                priced.push(Priced {
                    file,
                    app: row.app,
                    variant: row.variant,
                    start: row.start,
                    method: row.method,
                    priced_as: line,
                    totals: BTreeMap::new(),
                    storage_share: 0.0,
                    curve: Vec::new(),
                });
            }
            let row = &mut priced[at];
            for hold in Hold::ALL {
                let totals: Vec<f64> = bills.iter().map(|bill| total(bill, line, hold, gb, HEADLINE_LOAD)).collect();
                if let Some(interval) = interval(&totals, seed) {
                    row.totals.insert((size, hold), interval);
                }
            }
            if gb == HEADLINE_GB
                && let Some(mean) = Bill::mean(&bills)
            {
                let whole = total(&mean, line, Hold::Nobody, gb, HEADLINE_LOAD);
                row.storage_share = 1.0 - mean.methods["inline"].total_usd / whole;
                row.curve = REQUESTS_PER_HOUR.map(|load| (load, total(&mean, line, Hold::Nobody, gb, load))).to_vec();
            }
        }
    }
    Ok(priced)
}

/// The line of a bill that prices a method.
fn line_of(transfer: &str, method: &str) -> &'static str {
    match transfer {
        "s3" if method.contains("express") => "s3_express",
        "s3" => "s3_standard",
        // The smallest node: kindest to the cache at low loads.
        "redis" => "elasticache_t3_micro",
        "inline" => "inline",
        _ => "zipline",
    }
}

/// What one request costs in all.
fn total(bill: &Bill, line: &str, hold: Hold, gb: f64, load: f64) -> f64 {
    if let Some(curve) = bill.curves.iter().find(|curve| curve.name == line) {
        let point = curve.points.iter().find(|point| point.requests_per_hour == load);
        return point.map_or(f64::NAN, |point| point.total_usd);
    }
    let Some(Line { requests_usd, storage_usd, compute_usd, .. }) = bill.methods.get(line) else { return f64::NAN };
    let held = match (line, hold) {
        ("zipline", Hold::WholeMemory) => bill.hold.b_whole_memory_usd.get(&gb.to_string()).copied().unwrap_or(f64::NAN),
        ("zipline", Hold::HeldBytes) => bill.hold.c_held_bytes_usd,
        _ => 0.0,
    };
    requests_usd + storage_usd + compute_usd + held
}
