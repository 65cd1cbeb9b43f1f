//! `zipline bench setup`: the servers that Zipline is compared with.

use std::fmt::Write;

use anyhow::{Result, bail};
use serde::Serialize;
use zipline_servers::{Installed, Server, find, install};

/// What there is after the set-up.
#[derive(Serialize)]
struct Report {
    schema: u32,
    servers: Vec<Installed>,
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Missing {
    server: Server,
    reason: String,
    hint: &'static str,
}

/// Installs what is missing, or with `check` only says what is.
pub(crate) fn run(check: bool, json: bool) -> Result<()> {
    let mut report = Report { schema: crate::output::SCHEMA, servers: Vec::new(), missing: Vec::new() };
    for server in Server::ALL {
        let outcome = if check { find(server) } else { install(server, &mut |step| eprintln!("{step}")) };
        match outcome {
            Ok(installed) => report.servers.push(installed),
            Err(error) => report.missing.push(Missing { server, reason: error.to_string(), hint: error.hint() }),
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    if report.missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> = report.missing.iter().map(|missing| missing.server.name()).collect();
    bail!("{} missing", missing.join(" and "))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for installed in &report.servers {
        // Writing to a string does not fail.
        writeln!(text, "{:10} {:18} {}", installed.server.name(), installed.version, installed.program.display()).ok();
    }
    for missing in &report.missing {
        writeln!(text, "{:10} {}\n{:10} hint: {}", missing.server.name(), missing.reason, "", missing.hint).ok();
    }
    text
}
