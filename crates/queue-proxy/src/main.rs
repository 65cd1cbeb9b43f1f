//! The sidecar of one function instance.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use zipline_queue_proxy::config::{Config, Variables};

/// `EX_CONFIG` of sysexits: the configuration can't be used.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    match Config::parse(&Variables::of_process()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zipline-queue-proxy: {error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
