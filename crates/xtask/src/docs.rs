//! `cargo xtask docs`: the files that are made from the contract's tables.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use zipline_contract::settings::Unit;
use zipline_contract::{ErrorCode, metrics, settings};

use crate::{python_constants, root};

/// Writes every generated file, or with `check` compares; false where one is stale.
pub(crate) fn run(check: bool) -> Result<bool> {
    let root = root()?;
    let mut all_current = true;
    for (path, content) in generated() {
        let full = root.join(path);
        let is_current = fs::read_to_string(&full).is_ok_and(|found| found == content);
        match (is_current, check) {
            (true, _) => println!("current  {path}"),
            (false, true) => {
                println!("STALE    {path}");
                all_current = false;
            }
            (false, false) => {
                fs::create_dir_all(full.parent().context("a generated file lies in a folder")?)?;
                fs::write(&full, content).with_context(|| format!("writing {path}"))?;
                println!("written  {path}");
            }
        }
    }
    if !all_current {
        println!("hint: `cargo xtask docs` writes them");
    }
    Ok(all_current)
}

fn generated() -> [(&'static str, String); 4] {
    [
        ("docs/reference/settings.md", settings_page()),
        ("docs/reference/errors.md", errors_page()),
        ("docs/reference/metrics.md", metrics_page()),
        ("sdk/python/src/zipline_sdk/_generated.py", python_constants::module()),
    ]
}

/// The line that tells where a page comes from.
fn origin(source: &str) -> String {
    format!("<!-- Made from {source} by `cargo xtask docs`; edit that. -->\n\n")
}

fn settings_page() -> String {
    let mut page = String::from("# Settings\n\n") + &origin("crates/contract/src/settings.rs");
    page += "Environment variables of `zipline-queue-proxy`, and those it or the local platform sets for functions.\n\
        Beside them it reads the variables that Knative gives a queue-proxy. An unknown `ZIPLINE_*` name is a warning, a value that\n\
        cannot be read or lies outside its range ends the program with code 78 before a port is bound.\n\n\
        | variable | unit | default | range | meaning |\n| --- | --- | --- | --- | --- |\n";
    for setting in settings::ALL {
        let unit = match setting.unit {
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::Count => "count",
            Unit::Port => "port",
            Unit::Text => "text",
        };
        let default = if setting.default.is_empty() { "—".into() } else { format!("`{}`", setting.default) };
        let range = setting.range.map_or_else(String::new, |(low, high)| format!("{low} to {high}"));
        row(&mut page, &[&format!("`{}`", setting.variable), unit, &default, &range, setting.meaning]);
    }
    page
}

fn errors_page() -> String {
    let mut page = String::from("# Errors\n\n") + &origin("crates/contract/src/errors.rs");
    page += "Every error that a queue-proxy answers, with the header `Zipline-Error: NAME` and a body of problem details (RFC 9457) whose\n\
        `type` is `urn:zipline:error:NAME`. *Retry* says whether the same request can succeed later, *fault* who must act.\n\
        SDKs raise an error class a name.\n\n\
        | name | HTTP | gRPC | retry | fault | meaning | what to do |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for code in ErrorCode::ALL {
        let http = code.http_status().to_string();
        let grpc = format!("{} ({})", code.grpc_name(), code.grpc_status());
        let name = format!("<a id=\"{0}\"></a>`{0}`", code.name());
        row(&mut page, &[&name, &http, &grpc, code.retry().name(), code.fault().name(), code.title(), code.hint()]);
    }
    page
}

fn metrics_page() -> String {
    let mut page = String::from("# Metrics\n\n") + &origin("crates/contract/src/metrics.rs");
    page += "Prometheus metrics, at `http://ADDRESS:8022/zipline/metrics` of a queue-proxy (and on 9091 where Knative asks for user metrics).\n\
        Those of the activator and of instances are the local platform's own.\n\n\
        | name | kind | labels | what it counts |\n| --- | --- | --- | --- |\n";
    for metric in metrics::ALL {
        let kind = match metric.kind {
            metrics::Kind::Counter => "counter",
            metrics::Kind::Gauge => "gauge",
            metrics::Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        row(&mut page, &[&format!("`{}`", metric.name), kind, &labels.join(", "), metric.help]);
    }
    page
}

fn row(page: &mut String, cells: &[&str]) {
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(page, "| {} ", cell.replace('|', "\\|"));
    }
    page.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_current() {
        assert!(run(true).unwrap(), "stale files: run `cargo xtask docs`");
    }
}
