//! What a report says, from the raw files alone.

use std::collections::BTreeMap;

use zipline_cost::{FUNCTION_SIZES_GB, Prices};

use super::OURS;
use super::cost::{HEADLINE_GB, HEADLINE_LOAD, Hold, Priced};
use super::page::{Section, Table};
use super::plot::{Figure, Series};
use super::read::{AppRow, File, MicroRow, ScaleRow, TransferRow, letter};
use crate::output::{bytes, seconds};
use crate::stats::{Interval, exponent};

/// USD of one request, as its million costs: numbers that can be read.
fn per_million(usd: f64) -> String {
    let usd = usd * 1e6;
    if usd < 10.0 { format!("${usd:.2}") } else { format!("${usd:.0}") }
}

fn cost_cell(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "—".to_owned(),
        |cost| format!("{} [{}, {}]", per_million(cost.median), per_million(cost.low), per_million(cost.high)),
    )
}

pub(super) fn times_cell(times: Option<Interval>) -> String {
    times.map_or_else(|| "—".to_owned(), |times| format!("{:.2} [{:.2}, {:.2}]", times.median, times.low, times.high))
}

pub(super) fn find<'p>(priced: &'p [Priced], row: &AppRow, method: &str) -> Option<&'p Priced> {
    priced.iter().find(|priced| {
        priced.file == row.file
            && priced.app == row.app
            && priced.variant == row.variant
            && priced.start == row.start
            && priced.method == method
    })
}

/// Pairs behind a row's ratio, and which of several runs it is of.
fn pairs_cell(times: Option<Interval>, file: usize, files: usize) -> String {
    let pairs =
        times.map(|times| times.samples).filter(|pairs| *pairs > 0).map_or_else(|| "—".to_owned(), |pairs| pairs.to_string());
    if files > 1 { format!("{pairs}, run {}", letter(file)) } else { pairs }
}

/// How many times as much another method costs as ours, in the same run.
pub(super) fn cost_ratio(priced: &[Priced], row: &AppRow, hold: Hold) -> Option<f64> {
    let cost = |method: &str| find(priced, row, method)?.total(HEADLINE_GB, hold).map(|cost| cost.median);
    Some(cost(&row.method)? / cost(OURS)?)
}

/// Applications by methods: time, and three costs.
pub(super) fn headline(rows: &[AppRow], priced: &[Priced], files: usize) -> Section {
    let mut section = Section::new("headline", "Applications: time and cost");
    section.text.push(format!(
        "Time is measured, from the request to its answer; cost is priced from the measured times, bytes and operations, for functions of \
         {HEADLINE_GB} GB, in US dollars a million workflow requests; a cache is a node of the smallest size at {HEADLINE_LOAD} requests an hour. \
         Brackets are 95 % intervals. “Times ours” compares request by request within a round: above 1, Zipline is faster; “pairs” is how many such \
         comparisons stand behind its interval."
    ));
    for start in ["warm", "cold"] {
        let mut table = Table::new(
            format!(
                "{} (instances {})",
                if start == "warm" { "Warm" } else { "From zero" },
                if start == "warm" { "ready" } else { "started for the request" }
            ),
            &[
                "application",
                "variant",
                "method",
                "requests",
                "median time",
                "p99",
                "times ours",
                "pairs",
                "cost, hold (a)",
                "hold (b)",
                "hold (c)",
            ],
        );
        for row in rows.iter().filter(|row| row.start == start) {
            let cost = |hold| cost_cell(find(priced, row, &row.method).and_then(|priced| priced.total(HEADLINE_GB, hold)));
            table.rows.push(vec![
                row.app.clone(),
                row.variant.clone(),
                row.method.clone(),
                row.seconds.samples.to_string(),
                format!("{} [{}, {}]", seconds(row.seconds.median), seconds(row.seconds.low), seconds(row.seconds.high)),
                seconds(row.seconds.p99),
                if row.method == OURS { "1".to_owned() } else { times_cell(row.times_ours) },
                pairs_cell(row.times_ours, row.file, files),
                cost(Hold::Nobody),
                cost(Hold::WholeMemory),
                cost(Hold::HeldBytes),
            ]);
        }
        if !table.rows.is_empty() {
            section.tables.push(table);
        }
    }
    if rows.iter().any(|row| row.app == "video") {
        section.text.push(
            "The video application's network has seeded weights: its cost is the original's, its labels have no meaning."
                .to_owned(),
        );
    }
    section
}

/// The paper's claims beside what was found.
pub(super) fn claims(rows: &[AppRow], priced: &[Priced]) -> Section {
    let mut section = Section::new("claims", "The paper's claims beside these results");
    section.text.push("The paper is arXiv 2309.14821; only the numbers of its abstract are known here.".to_owned());
    let warm = |family: &'static str| rows.iter().filter(move |row| row.start == "warm" && row.method.starts_with(family));
    let span = |values: Vec<f64>| {
        let (low, high) = (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max));
        if values.is_empty() { "not measured".to_owned() } else { format!("{low:.2} to {high:.2} times") }
    };
    let times = |family| span(warm(family).filter_map(|row| Some(row.times_ours?.median)).collect());
    let costs = |family, hold| span(warm(family).filter_map(|row| cost_ratio(priced, row, hold)).collect());
    let mut table = Table::new("Ratios over all applications and variants, warm", &["claim", "paper", "here"]);
    let mut add = |claim: &str, paper: &str, here: String| table.rows.push(vec![claim.to_owned(), paper.to_owned(), here]);
    add("faster than S3", "1.3 to 3.4 times", times("s3"));
    for hold in Hold::ALL {
        add(&format!("cheaper than S3, {}", hold.name()), "2 to 5 times", costs("s3", hold));
    }
    add("faster than ElastiCache (here: Redis)", "2 to 5 %", times("redis"));
    let at_load = |load: f64| {
        let ratio = |row: &AppRow| {
            let at = |method: &str| find(priced, row, method)?.curve.iter().find(|(at, _)| *at == load).map(|(_, cost)| *cost);
            Some(at(&row.method)? / at(OURS)?)
        };
        span(warm("redis").filter_map(ratio).collect())
    };
    for load in [1.0, 100.0, 10_000.0] {
        add(&format!("cheaper than ElastiCache at {load} requests an hour"), "17 to 772 times (load not known)", at_load(load));
    }
    let shares: Vec<f64> = warm("s3").filter_map(|row| Some(100.0 * find(priced, row, &row.method)?.storage_share)).collect();
    add("storage's share of the bill through S3, per cent", "24 to 99", span(shares).replace(" times", ""));
    section.tables.push(table);
    section
}

/// Storage's share, function sizes, and cost over load.
pub(super) fn bill(rows: &[AppRow], priced: &[Priced]) -> Section {
    let shown: Vec<&Priced> = rows.iter().filter_map(|row| find(priced, row, &row.method)).collect();
    let mut section = Section::new("bill", "The bill");
    let prices = Prices::bundled();
    section.text.push(format!(
        "Prices: {}, {}. Whatever is in this section is priced, from measured operations. The time a transfer takes is billed in the functions' time, for every method.",
        prices.region, prices.dated
    ));
    let mut sizes = Table::new(
        "Cost a million requests by function size, hold (a) / (b) / (c), warm",
        &["application", "variant", "method", "0.5 GB", "1 GB", "2 GB", "storage's share at 1 GB"],
    );
    for row in shown.iter().filter(|row| row.start == "warm") {
        let by_size = FUNCTION_SIZES_GB.map(|gb| {
            let cost = |hold| row.total(gb, hold).map_or_else(|| "—".to_owned(), |cost| per_million(cost.median));
            if row.priced_as == "zipline" { Hold::ALL.map(cost).join(" / ") } else { cost(Hold::Nobody) }
        });
        let mut cells = vec![row.app.clone(), row.variant.clone(), row.method.clone()];
        cells.extend(by_size);
        cells.push(format!("{:.0} %", 100.0 * row.storage_share));
        sizes.rows.push(cells);
    }
    section.tables.push(sizes);
    let mut apps: Vec<&str> = Vec::new();
    shown.iter().for_each(|row| {
        if !apps.contains(&row.app.as_str()) {
            apps.push(&row.app)
        }
    });
    for app in apps {
        let of_app = shown.iter().filter(|row| row.app == app && row.start == "warm" && row.variant == "parallel");
        section.figures.push(Figure {
            name: format!("cost-by-load-{app}"),
            title: format!(
                "Cost of a million requests of {app} (parallel, warm, 1 GB functions, hold (a)) over requests an hour"
            ),
            kind: "priced".into(),
            x_label: "workflow requests an hour".into(),
            y_label: "US dollars a million".into(),
            x_text: |x| format!("{x:.0}"),
            y_text: |y| format!("${y:.0}"),
            series: of_app
                .map(|row| Series {
                    name: row.method.clone(),
                    points: row.curve.iter().filter(|(_, usd)| usd.is_finite()).map(|(load, usd)| (*load, usd * 1e6)).collect(),
                })
                .collect(),
        });
    }
    let mut table = Table::new("The prices", &["item", "price in USD", "unit", "source", "published"]);
    table.rows = prices
        .rows()
        .map(|row| vec![row.item.clone(), row.price.to_string(), row.unit.clone(), row.source.clone(), row.published.clone()])
        .collect();
    section.tables.push(table);
    section
}

/// Series of one method each.
fn by_method<R>(rows: &[R], method: impl Fn(&R) -> &str, point: impl Fn(&R) -> Option<(f64, f64)>) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let Some(point) = point(row) else { continue };
        match series.iter_mut().find(|series| series.name == method(row)) {
            Some(found) => found.points.push(point),
            None => series.push(Series { name: method(row).to_owned(), points: vec![point] }),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series
}

fn bytes_text(x: f64) -> String {
    bytes(x.round() as u64)
}

/// Latency and bandwidth against size, and against degree.
pub(super) fn micro(rows: &[MicroRow]) -> Section {
    let mut section = Section::new("micro", "Pipeline, scatter, gather, broadcast");
    section.text.push(
        "Random bytes, a consumer that does no work; from the first byte put until the last consumer had its payload.".to_owned(),
    );
    let of = |pattern: &str| rows.iter().filter(|row| row.pattern == pattern).cloned().collect::<Vec<_>>();
    let pipeline = of("pipeline");
    let figure =
        |name: &str, title: &str, x_label: &str, y_label: &str, x_text: fn(f64) -> String, y_text: fn(f64) -> String, series| {
            Figure {
                name: name.to_owned(),
                title: title.to_owned(),
                kind: "measured".into(),
                x_label: x_label.to_owned(),
                y_label: y_label.to_owned(),
                x_text,
                y_text,
                series,
            }
        };
    section.figures.push(figure(
        "latency-by-size",
        "Latency of a pipeline against payload size",
        "payload",
        "median time",
        bytes_text,
        seconds,
        by_method(&pipeline, |row| row.method.as_str(), |row| Some((row.size_bytes as f64, row.seconds.median))),
    ));
    section.figures.push(figure(
        "bandwidth-by-size",
        "Bandwidth of a pipeline against payload size",
        "payload",
        "GiB a second",
        bytes_text,
        |y| format!("{y:.3}"),
        by_method(&pipeline, |row| row.method.as_str(), |row| Some((row.size_bytes as f64, row.gib_per_second))),
    ));
    for pattern in ["scatter", "gather", "broadcast"] {
        let rows = of(pattern);
        let Some(size) = rows.iter().map(|row| row.size_bytes).filter(|size| *size <= 10 * 1024 * 1024).max() else { continue };
        let at_size: Vec<MicroRow> = rows.into_iter().filter(|row| row.size_bytes == size).collect();
        section.figures.push(figure(
            &format!("{pattern}-by-degree"),
            &format!("Latency of a {pattern} of {} against its degree", bytes(size)),
            "degree",
            "median time",
            |x| format!("{x:.0}"),
            seconds,
            by_method(&at_size, |row| row.method.as_str(), |row| Some((f64::from(row.degree), row.seconds.median))),
        ));
    }
    section.tables.push(micro_table(rows));
    section
}

fn micro_table(rows: &[MicroRow]) -> Table {
    let mut table = Table::new(
        "Every row (measured)",
        &["pattern", "size", "degree", "method", "median time", "p99", "GiB a second", "times ours", "pairs"],
    );
    table.rows = rows
        .iter()
        .map(|row| {
            vec![
                row.pattern.clone(),
                bytes(row.size_bytes),
                row.degree.to_string(),
                row.method.clone(),
                seconds(row.seconds.median),
                seconds(row.seconds.p99),
                format!("{:.3}", row.gib_per_second),
                if row.method == OURS { "1".to_owned() } else { times_cell(row.times_ours) },
                row.times_ours.map_or_else(|| "—".to_owned(), |times| times.samples.to_string()),
            ]
        })
        .collect();
    table
}

/// Ceilings and ratios.
pub(super) fn transfer(rows: &[TransferRow]) -> Section {
    let mut section = Section::new("transfer", "Between two queue-proxies: raw ceilings and ratios");
    section.text.push(
        "A ceiling is the fastest raw program into the same kind of destination, in the same round. A ratio of 1 is as fast."
            .to_owned(),
    );
    section.figures.push(Figure {
        name: "transfer-by-size".into(),
        title: "Bandwidth between two processes against payload size".into(),
        kind: "measured".into(),
        x_label: "payload".into(),
        y_label: "GiB a second".into(),
        x_text: bytes_text,
        y_text: |y| format!("{y:.2}"),
        series: by_method(rows, |row| row.path.as_str(), |row| Some((row.size_bytes as f64, row.gib_per_second))),
    });
    let mut table = Table::new(
        "Every row (measured)",
        &["path", "size", "median time", "GiB a second", "ratio to its ceiling", "ceiling", "copies", "system calls a GiB"],
    );
    table.rows = rows
        .iter()
        .map(|row| {
            let number = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), |value| format!("{value:.0}"));
            let ratio = row.ratio_to_ceiling.map_or_else(
                || "—".to_owned(),
                |ratio| match row.ratio_interval {
                    Some([low, high]) => format!("{ratio:.2} [{low:.2}, {high:.2}]"),
                    None => format!("{ratio:.2}"),
                },
            );
            vec![
                row.path.clone(),
                bytes(row.size_bytes),
                seconds(row.seconds.median),
                format!("{:.2}", row.gib_per_second),
                ratio,
                row.ceiling.clone().unwrap_or_else(|| "—".to_owned()),
                number(row.copies),
                number(row.system_calls_per_gib),
            ]
        })
        .collect();
    section.tables.push(table);
    section
}

/// Small requests: the table as the file has it.
pub(super) fn proxy(file: &File) -> Section {
    let mut section = Section::new("proxy", "A small request through the queue-proxy");
    section.text.push("Against the function reached directly and through other proxies, in the same run (measured).".to_owned());
    section.tables.push(plain_table("Every row (measured)", file));
    section
}

/// Rows as they stand: every member that is a number or a text is a column.
fn plain_table(caption: &str, file: &File) -> Table {
    let mut columns: Vec<&str> = Vec::new();
    for row in file.plain_rows() {
        let members = row.as_object().into_iter().flatten().filter(|(_, value)| value.is_string() || value.is_number());
        for (name, _) in members {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    let mut table = Table::new(caption, &columns);
    for row in file.plain_rows() {
        let cell = |column: &&str| match &row[*column] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), short),
            _ => "—".to_owned(),
        };
        table.rows.push(columns.iter().map(cell).collect());
    }
    table
}

/// Four digits that matter.
fn short(value: f64) -> String {
    if value == 0.0 || value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value}");
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 9) as usize)
}

/// How cost grows with work: `cost ~ x^exponent`, over the whole range, and where it grows fastest.
pub(super) fn scale(rows: &[ScaleRow]) -> Section {
    let mut section = Section::new("scale", "As work grows");
    section.text.push("The exponent is that of a least-squares line through the logarithms: 1 is in proportion. The steepest step is where the curve bends most (measured).".to_owned());
    let mut curves: BTreeMap<&str, Vec<&ScaleRow>> = BTreeMap::new();
    for row in rows {
        curves.entry(&row.curve).or_default().push(row);
    }
    let mut table = Table::new("Exponents (measured)", &["curve", "from", "to", "exponent", "steepest step", "its exponent"]);
    for (curve, mut rows) in curves {
        rows.sort_by(|a, b| a.x.total_cmp(&b.x));
        let points: Vec<(f64, f64)> = rows.iter().map(|row| (row.x, row.seconds.median)).collect();
        let steps = points.windows(2).filter_map(|pair| Some((pair, exponent(pair)?)));
        let steepest = steps.max_by(|a, b| a.1.total_cmp(&b.1));
        let unit = &rows[0].unit;
        table.rows.push(vec![
            curve.to_owned(),
            points.first().map_or_else(String::new, |(x, _)| format!("{x} {unit}")),
            points.last().map_or_else(String::new, |(x, _)| format!("{x} {unit}")),
            exponent(&points).map_or_else(|| "—".to_owned(), |exponent| format!("{exponent:.2}")),
            steepest.map_or_else(|| "—".to_owned(), |(pair, _)| format!("{} to {}", pair[0].0, pair[1].0)),
            steepest.map_or_else(|| "—".to_owned(), |(_, exponent)| format!("{exponent:.2}")),
        ]);
        section.figures.push(Figure {
            name: format!("scale-{curve}"),
            title: format!("Time of the whole against {curve}"),
            kind: "measured".into(),
            x_label: unit.clone(),
            y_label: "median time".into(),
            x_text: |x| format!("{x:.0}"),
            y_text: seconds,
            series: vec![Series { name: curve.to_owned(), points }],
        });
    }
    section.tables.push(table);
    section
}

/// Where Zipline loses, found by the same numbers as everything above.
pub(super) fn losses(apps: &[AppRow], priced: &[Priced], micro: &[MicroRow], transfer: &[TransferRow]) -> Section {
    let mut section = Section::new("losses", "Where Zipline loses");
    section.text.push(
        "Everything above where another method is faster with its whole 95 % interval, or cheaper, and every path below 0.9 of its ceiling. \
         Made from the same rows, without a choice."
            .to_owned(),
    );
    let mut table = Table::new("Losses", &["where", "against", "by how much", "kind"]);
    let mut add = |place: String, against: &str, much: String, kind: &str| {
        table.rows.push(vec![place, against.to_owned(), much, kind.to_owned()])
    };
    for row in apps.iter().filter(|row| !row.method.starts_with(OURS)) {
        let place = format!("{}, {}, {}", row.app, row.variant, row.start);
        if let Some(times) = row.times_ours.filter(|times| times.high < 1.0) {
            add(
                place.clone(),
                &row.method,
                format!("time {:.2} [{:.2}, {:.2}] of ours", times.median, times.low, times.high),
                "measured",
            );
        }
        for hold in Hold::ALL {
            if let Some(ratio) = cost_ratio(priced, row, hold).filter(|ratio| *ratio < 0.995) {
                add(format!("{place}, {}", hold.name()), &row.method, format!("cost {ratio:.2} of ours"), "priced");
            }
        }
    }
    for row in micro.iter().filter(|row| !row.method.starts_with(OURS)) {
        if let Some(times) = row.times_ours.filter(|times| times.high < 1.0) {
            let place = format!("{} of {} to {}", row.pattern, bytes(row.size_bytes), row.degree);
            add(
                place,
                &row.method,
                format!("time {:.2} [{:.2}, {:.2}] of ours", times.median, times.low, times.high),
                "measured",
            );
        }
    }
    for row in transfer {
        if let (Some(ratio), Some(ceiling)) = (row.ratio_to_ceiling.filter(|ratio| *ratio < 0.9), &row.ceiling) {
            add(format!("{} of {}", row.path, bytes(row.size_bytes)), ceiling, format!("{ratio:.2} of it"), "measured");
        }
    }
    if table.rows.is_empty() {
        section.text.push("Nothing of what was measured.".to_owned());
    } else {
        section.tables.push(table);
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponent_is_that_of_the_power() {
        let points: Vec<(f64, f64)> = [1.0, 10.0, 100.0].map(|x: f64| (x, 3.0 * x.powf(1.25))).to_vec();
        assert!((exponent(&points).expect("three points") - 1.25).abs() < 1e-9);
        assert_eq!(exponent(&[(1.0, 1.0)]), None);
    }

    #[test]
    fn numbers_keep_the_digits_that_matter() {
        let texts = [0.0, 12.0, 0.001_234_56, 123.456, 98_765.432].map(short);
        assert_eq!(texts, ["0", "12", "0.001235", "123.5", "98765"]);
    }
}
