//! Rows of the table: made here, the same for the same seed, and read.
//!
//! `sourceIP,destURL,visitDate,adRevenue,userAgent,countryCode,languageCode,searchWord,duration`, about 164 bytes a row.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zipline_workflow::Random;

/// Millionths of one.
const SCALE_DIGITS: usize = 6;
const ROW_BYTES_MAX: u64 = 4096;
const PARTS_MAX: u32 = 256;

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Gecko/20100101",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605",
    "Opera/9.80 (Android 4.1; Linux) Presto/2.11",
];
const COUNTRIES: [(&str, &str); 6] =
    [("DEU", "de-DE"), ("FRA", "fr-FR"), ("USA", "en-US"), ("BRA", "pt-BR"), ("JPN", "ja-JP"), ("IND", "hi-IN")];
const WORDS: [&str; 8] = ["serverless", "memory", "transfer", "zipline", "function", "cloud", "payload", "network"];

/// Which table to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// Rows a part.
    pub(crate) rows: u32,
    pub(crate) parts: u32,
    /// Addresses that visits come from: what the shuffle's size depends on.
    pub(crate) addresses: u32,
    pub(crate) seed: u64,
}

/// The file of a part.
pub(super) fn part_file(folder: &Path, part: u32) -> PathBuf {
    folder.join(format!("part-{part:03}"))
}

/// Writes the parts of a table into a folder.
pub(crate) fn generate(table: &Table, folder: &Path) -> Result<()> {
    ensure!((1..=PARTS_MAX).contains(&table.parts), "parts: {}, expected 1 to {PARTS_MAX}", table.parts);
    ensure!(table.addresses > 0, "addresses: 0, expected 1 or more");
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    for part in 0..table.parts {
        let path = part_file(folder, part);
        let named = || format!("the file {}", path.display());
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).with_context(named)?);
        let mut random = Random::seeded(table.seed.wrapping_add(u64::from(part) << 32));
        for _ in 0..table.rows {
            write_row(&mut out, table, &mut random).with_context(named)?;
        }
        out.flush().with_context(named)?;
    }
    Ok(())
}

fn write_row(out: &mut impl Write, table: &Table, random: &mut Random) -> std::io::Result<()> {
    // A fixed permutation of the numbers below 2^32, so that neighbours do not look alike.
    let address = Ipv4Addr::from((random.below(u64::from(table.addresses)) as u32).wrapping_mul(0x9E37_79B1));
    let (country, language) = COUNTRIES[random.below(COUNTRIES.len() as u64) as usize];
    writeln!(
        out,
        "{address},http://www.example.com/{:012x}/{:08x}.html,{}-{:02}-{:02},0.{:06},{},{country},{language},{},{}",
        random.below(1 << 48),
        random.below(1 << 32),
        1990 + random.below(30),
        1 + random.below(12),
        1 + random.below(28),
        random.below(1_000_000),
        AGENTS[random.below(AGENTS.len() as u64) as usize],
        WORDS[random.below(WORDS.len() as u64) as usize],
        1 + random.below(10),
    )
}

/// Gives address and revenue, in millionths, of every row of a part; returns its bytes.
pub(super) fn each_visit(path: &Path, mut visit: impl FnMut(u32, u64)) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("the part {}", path.display()))?;
    let mut rows = BufReader::with_capacity(1 << 20, file);
    let mut row = Vec::with_capacity(256);
    let (mut bytes, mut number) = (0u64, 0u64);
    loop {
        row.clear();
        number += 1;
        let read = std::io::Read::take(&mut rows, ROW_BYTES_MAX).read_until(b'\n', &mut row)? as u64;
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read;
        let (address, revenue) =
            parse(&row).with_context(|| format!("row {number} of {} has no address and revenue", path.display()))?;
        visit(address, revenue);
    }
}

/// Address and revenue of a row.
fn parse(row: &[u8]) -> Option<(u32, u64)> {
    let mut fields = row.trim_ascii_end().split(|byte| *byte == b',');
    let address = parse_address(fields.next()?)?;
    Some((address, parse_decimal(fields.nth(2)?)?))
}

/// A dotted address.
pub(super) fn parse_address(text: &[u8]) -> Option<u32> {
    let address: Ipv4Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.into())
}

/// A decimal number as whole millionths.
fn parse_decimal(text: &[u8]) -> Option<u64> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    let padding = SCALE_DIGITS.checked_sub(fraction.len())?;
    let digits = whole.iter().chain(fraction).chain(std::iter::repeat_n(&b'0', padding));
    digits.into_iter().try_fold(0u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revenue_is_read_in_whole_millionths() {
        for (text, millionths) in [("0.5", 500_000), ("12", 12_000_000), ("0.000001", 1), ("3.141592", 3_141_592)] {
            assert_eq!(parse_decimal(text.as_bytes()), Some(millionths), "{text}");
        }
        for text in ["0.1234567", "-1", "1e3", "x", "99999999999999999999"] {
            assert_eq!(parse_decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_table_is_the_same_for_the_same_seed_and_has_rows_of_the_usual_size() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let table = Table { rows: 500, parts: 2, addresses: 1000, seed: 42 };
        for folder in ["a", "b"] {
            generate(&table, &scratch.path().join(folder)).expect("made");
        }
        let part = |folder: &str, part| std::fs::read(part_file(&scratch.path().join(folder), part)).expect("read");
        assert_eq!(part("a", 1), part("b", 1));
        assert_ne!(part("a", 0), part("a", 1));
        let bytes = part("a", 0).len() / 500;
        assert!((150..180).contains(&bytes), "{bytes} bytes a row");
        let mut visits = 0;
        let read = each_visit(&part_file(&scratch.path().join("a"), 0), |_, revenue| visits += u32::from(revenue < 1_000_000));
        assert_eq!((read.expect("read"), visits), (part("a", 0).len() as u64, 500));
    }

    #[test]
    fn a_row_without_revenue_is_named() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("part");
        std::fs::write(&path, "1.2.3.4,u,d,0.5,\n1.2.3.4,u\n").expect("written");
        let error = each_visit(&path, |_, _| {}).expect_err("refused");
        assert!(error.to_string().contains("row 2"), "{error}");
    }
}
