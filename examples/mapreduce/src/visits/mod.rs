//! Sum of revenue by address over the "uservisits" table: the job of the published benchmark.
//!
//! `driver → mapper ×8 → reducer ×2`, an all-to-all shuffle. Input and output are files in every transfer method; what
//! moves between functions are the mappers' sums. Sums are kept in whole millionths, so that no order of additions changes them,
//! and an address belongs to a reducer by a fixed hash, the same in every process.

mod rows;
mod sums;
mod work;

pub(crate) use rows::{Table, generate};
pub(crate) use work::{drive, map, reduce, reference};
