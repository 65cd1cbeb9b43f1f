//! `zipline cost`: what a workflow would cost on a public cloud, from what it did.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use zipline_cost::{Bill, Operations, Prices, bench_rows, bill};

use crate::failure::{Exit, Failure, Outcome};
use crate::format;
use crate::output::{Output, SCHEMA};

/// Bytes of an input or a price file; the raw file of a full run has some tens of MB.
const INPUT_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct Cost {
    /// What one workflow request did, as JSON; or a raw file of `zipline bench apps`. `-` is standard input
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Another price table than the one that comes with this release
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Memory of every function of a raw file, in GB
    #[arg(long, value_name = "GB", default_value_t = 1.0)]
    function_gb: f64,
}

/// The bills of a bench run.
#[derive(Serialize)]
struct Run<'a> {
    schema: u32,
    region: &'a str,
    dated: &'a str,
    function_gb: f64,
    rows: Vec<Row>,
}

/// The mean bill of a row's requests.
#[derive(Serialize)]
struct Row {
    app: String,
    variant: String,
    start: String,
    method: String,
    transfer: String,
    requests: usize,
    bill: Bill,
}

pub(crate) fn run(cost: &Cost, output: Output) -> Result<Outcome, Failure> {
    let prices = prices(cost.prices.as_deref())?;
    if !cost.function_gb.is_finite() || cost.function_gb <= 0.0 {
        let message = format!("--function-gb is {}; it must be a number above zero", cost.function_gb);
        return Err(Failure::new(Exit::Usage, "usage", message));
    }
    let text = read(&cost.from)?;
    if is_raw_file(&text) {
        return of_run(cost, &prices, &text, output);
    }
    let operations = Operations::from_json(&text).map_err(|error| not_understood(&cost.from, &error))?;
    let bill = bill(&operations, &prices);
    output.result(&bill, || head(&prices) + &self::text(&bill))
}

fn of_run(cost: &Cost, prices: &Prices, text: &str, output: Output) -> Result<Outcome, Failure> {
    let rows = bench_rows(text, cost.function_gb).map_err(|error| not_understood(&cost.from, &error))?;
    let rows = rows.into_iter().filter_map(|row| {
        let bills: Vec<Bill> = row.requests.iter().map(|operations| bill(operations, prices)).collect();
        let bill = Bill::mean(&bills)?;
        let (app, variant, start, method) = (row.app, row.variant, row.start, row.method);
        Some(Row { app, variant, start, method, transfer: row.transfer, requests: bills.len(), bill })
    });
    let (region, dated) = (&prices.region, &prices.dated);
    let run = Run { schema: SCHEMA, region, dated, function_gb: cost.function_gb, rows: rows.collect() };
    output.result(&run, || head(prices) + &run.text())
}

/// A raw file says of which bench it is; operations have no such member.
fn is_raw_file(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|document| document.get("kind").is_some())
}

fn prices(file: Option<&Path>) -> Result<Prices, Failure> {
    let Some(file) = file else { return Ok(Prices::bundled()) };
    Prices::from_json(&read(file)?).map_err(|error| {
        let message = format!("{}: {error}", file.display());
        Failure::new(Exit::Configuration, "prices-invalid", message)
            .hint("docs/reference/cost.md lists the rows; crates/cost/prices.json is the bundled file")
    })
}

fn not_understood(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Usage, "operations-invalid", format!("{}: {error}", file.display()))
        .hint("docs/reference/cost.md says what it may hold")
}

/// Reads a file, or standard input for `-`.
fn read(file: &Path) -> Result<String, Failure> {
    let named = |error: std::io::Error| Failure::system(format_args!("the file {}", file.display()), &error);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(named)?.take(INPUT_BYTES_MAX).read_to_string(&mut text)
    };
    read.map_err(named)?;
    Ok(text)
}

fn head(prices: &Prices) -> String {
    format!("USD for one workflow request, {} list prices of {}\n", prices.region, prices.dated)
}

/// One bill: every method, the settings of held memory, sizes of functions, and caches over load.
fn text(bill: &Bill) -> String {
    let mut rows: Vec<_> = bill.methods.iter().collect();
    rows.sort_by(|(_, one), (_, other)| one.total_usd.total_cmp(&other.total_usd));
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, line)| {
            let parts = [line.requests_usd, line.storage_usd, line.compute_usd, line.hold_usd, line.total_usd];
            [(*name).to_owned()].into_iter().chain(parts.map(usd)).collect()
        })
        .collect();
    let mut text = "\n".to_owned() + &format::table(&["METHOD", ">REQUESTS", ">STORAGE", ">COMPUTE", ">HOLD", ">TOTAL"], &rows);
    text.push_str("(caches at one request an hour; zipline with the holds as given)\n\n");
    text.push_str(&sizes(bill));
    text.push('\n');
    text.push_str(&curves(bill));
    text
}

fn sizes(bill: &Bill) -> String {
    let columns: Vec<String> = bill.compute_by_function_gb.keys().map(|gb| format!(">{gb} GB")).collect();
    let head: Vec<&str> = ["FUNCTION SIZE"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    let row = |name: &str, costs: &BTreeMap<String, f64>| {
        [name.to_owned()].into_iter().chain(costs.values().map(|cost| usd(*cost))).collect::<Vec<_>>()
    };
    let same = |cost: f64| bill.compute_by_function_gb.keys().map(|gb| (gb.clone(), cost)).collect();
    format::table(
        &head,
        &[
            row("compute", &bill.compute_by_function_gb),
            row("hold (a): nobody pays", &same(bill.hold.a_nobody_usd)),
            row("hold (b): the producer's whole memory", &bill.hold.b_whole_memory_usd),
            row("hold (c): the bytes held", &same(bill.hold.c_held_bytes_usd)),
        ],
    )
}

fn curves(bill: &Bill) -> String {
    let Some(first) = bill.curves.first() else { return String::new() };
    let columns: Vec<String> =
        first.points.iter().map(|point| format!(">{}", format::count(point.requests_per_hour as u64))).collect();
    let head: Vec<&str> = ["REQUESTS AN HOUR"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    let rows: Vec<_> = bill
        .curves
        .iter()
        .map(|curve| {
            let costs = curve.points.iter().map(|point| usd(point.total_usd));
            [curve.name.to_owned()].into_iter().chain(costs).collect()
        })
        .collect();
    format::table(&head, &rows)
}

impl Run<'_> {
    /// Each row under the prices of what its method stands for.
    fn text(&self) -> String {
        let mut rows = Vec::new();
        for row in &self.rows {
            for (priced, line) in row.bill.methods.iter().filter(|(priced, _)| stands_for(priced, &row.transfer)) {
                let what = [&row.app, &row.variant, &row.start, &row.method].map(Clone::clone);
                let parts = [line.requests_usd, line.storage_usd, line.compute_usd, line.hold_usd, line.total_usd];
                rows.push(what.into_iter().chain([(*priced).to_owned()]).chain(parts.map(usd)).collect());
            }
        }
        let head = ["APP", "VARIANT", "START", "METHOD", "PRICED AS", ">REQUESTS", ">STORAGE", ">COMPUTE", ">HOLD", ">TOTAL"];
        let note =
            "(means; functions of GB as given; caches at one request an hour; holds (c): the bytes held. --json has it all)\n";
        format!("\n{}{}", format::table(&head, &rows), note.replace("GB as given", &format!("{} GB", self.function_gb)))
    }
}

/// Whether a bill's line is one of those that an SDK's transfer method stands for.
fn stands_for(priced: &str, transfer: &str) -> bool {
    match transfer {
        "redis" => priced.starts_with("elasticache_"),
        other => priced == other || priced.strip_prefix(other).is_some_and(|rest| rest.starts_with('_')),
    }
}

/// Dollars with three significant digits, in the unit that suits them.
fn usd(dollars: f64) -> String {
    match dollars {
        0.0 => "0".to_owned(),
        d if d < 0.999_5e-9 => format!("{:.3} n$", d * 1e9),
        d if d < 0.999_5e-6 => format!("{} n$", digits(d * 1e9)),
        d if d < 0.999_5e-3 => format!("{} \u{b5}$", digits(d * 1e6)),
        d if d < 0.999_5 => format!("{} m$", digits(d * 1e3)),
        d => format!("{} $", digits(d)),
    }
}

fn digits(number: f64) -> String {
    let after = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.after$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_have_three_digits_and_a_unit() {
        let all = [0.0, 86.4e-6, 0.017, 5.4, 288.36e-6, 1.25e-9].map(usd);
        assert_eq!(all, ["0", "86.4 \u{b5}$", "17.0 m$", "5.40 $", "288 \u{b5}$", "1.25 n$"]);
    }

    #[test]
    fn a_methods_lines_are_those_that_it_stands_for() {
        assert!(stands_for("s3_express", "s3") && stands_for("s3_standard", "s3") && stands_for("inline", "inline"));
        assert!(stands_for("elasticache_t3_micro", "redis") && !stands_for("s3_standard", "redis"));
        assert!(!stands_for("inline", "zipline"));
    }

    #[test]
    fn a_bill_shows_every_method_setting_size_and_load() {
        let operations = r#"{"puts": 16, "gets": 16, "bytes": 70900000, "functions": [{"gb": 2, "seconds": 1}],
            "holds": [{"gb": 2, "seconds": 3.824}]}"#;
        let operations = Operations::from_json(operations).expect("well formed");
        let text = text(&bill(&operations, &Prices::bundled()));
        for words in ["86.4 \u{b5}$", "288 \u{b5}$", "127 \u{b5}$", "hold (b)", "0.5 GB", "10,000", "elasticache_m5_large"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }
}
