//! Sums by address, and their form between functions: lines `ADDRESS TAB MILLIONTHS`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::rows::parse_address;
use crate::tally::{BuildFnv1a, Fnv1a};

/// Revenue by address.
#[derive(Debug, Default)]
pub(super) struct Sums(HashMap<u32, u64, BuildFnv1a>);

impl Sums {
    pub(super) fn add(&mut self, address: u32, millionths: u64) {
        let sum = self.0.entry(address).or_default();
        *sum = sum.saturating_add(millionths);
    }

    /// Adds what a part says.
    pub(super) fn add_part(&mut self, part: &[u8]) -> Result<()> {
        for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (address, millionths) = parse(line).context("a line of a part is no sum")?;
            self.add(address, millionths);
        }
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// All revenue.
    pub(super) fn total(&self) -> u64 {
        self.0.values().fold(0, |total, sum| total.saturating_add(*sum))
    }

    /// Writes each sum to the part of its reducer.
    pub(super) fn write_parts<W: Write>(&self, parts: &mut [W]) -> io::Result<()> {
        let reducers = parts.len() as u64;
        for (address, sum) in &self.0 {
            let reducer = Fnv1a::of(&address.to_be_bytes()) % reducers;
            writeln!(parts[reducer as usize], "{}\t{sum}", Ipv4Addr::from(*address))?;
        }
        Ok(())
    }

    /// All sums as lines, in the order of the addresses.
    pub(super) fn to_table(&self) -> Vec<u8> {
        let mut sums: Vec<_> = self.0.iter().map(|(address, sum)| (*address, *sum)).collect();
        sums.sort_unstable();
        let mut table = Vec::with_capacity(24 * sums.len());
        for (address, sum) in sums {
            // Writing to a vector does not fail.
            writeln!(table, "{}\t{sum}", Ipv4Addr::from(address)).ok();
        }
        table
    }
}

fn parse(line: &[u8]) -> Option<(u32, u64)> {
    let at = line.iter().position(|byte| *byte == b'\t')?;
    Some((parse_address(&line[..at])?, std::str::from_utf8(&line[at + 1..]).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_what_was_split() {
        let mut sums = Sums::default();
        (0..1000u32).for_each(|n| sums.add(n.wrapping_mul(0x9E37_79B1), u64::from(n)));
        let mut parts = vec![Vec::new(); 3];
        sums.write_parts(&mut parts).expect("memory can be written");
        assert!(parts.iter().all(|part| part.len() > 3000), "every reducer has its share");
        let mut merged = Sums::default();
        parts.iter().for_each(|part| merged.add_part(part).expect("well formed"));
        assert_eq!(merged.to_table(), sums.to_table());
        assert_eq!((merged.len(), merged.total()), (1000, 499_500));
        assert!(merged.add_part(b"1.2.3.4 5\n").is_err());
    }
}
