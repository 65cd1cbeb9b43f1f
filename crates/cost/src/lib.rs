//! What a workflow would cost on a public cloud, computed from measured times, bytes and operation counts.
//!
//! Pure: [`Operations`] and [`Prices`] in, a [`Bill`] out. Prices are data, one dated file with a source a row
//! ([`Prices::bundled`], or a file of the user's); no price stands in code.
//!
//! The formula is per workflow request. The time a transfer takes is billed inside `compute` for every method, so a faster
//! method saves twice. Who pays for memory that is held for a consumer is a switch, and all three settings are always in
//! the bill ([`HoldSettings`]). Kept out on purpose: discounts, free tiers, data transfer out of the region.
#![forbid(unsafe_code)]

mod bench;
mod bill;
mod operations;
mod prices;

pub use bench::{BenchError, BenchRow, bench_rows};
pub use bill::{Bill, CurvePoint, HoldSettings, Line, NodeCurve, bill};
pub use operations::{Hold, Operations, OperationsError, Run};
pub use prices::{Price, Prices, PricesError};

/// Function sizes every bill is given for, in GB.
pub const FUNCTION_SIZES_GB: [f64; 3] = [0.5, 1.0, 2.0];
/// Loads every curve is given for, in workflow requests an hour.
pub const REQUESTS_PER_HOUR: [f64; 5] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
