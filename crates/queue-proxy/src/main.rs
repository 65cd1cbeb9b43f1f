//! The sidecar of one function instance.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, Runtime};
use zipline_queue_proxy::config::{Config, Variables};
use zipline_queue_proxy::logging;
use zipline_queue_proxy::run::{Ended, run};
use zipline_queue_proxy::telemetry::Telemetry;

/// `EX_CONFIG` of sysexits: the configuration can't be used.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let config = match Config::parse(&Variables::of_process()) {
        Ok(config) => Arc::new(config),
        Err(error) => {
            eprintln!("zipline-queue-proxy: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let telemetry = match Telemetry::new(&config) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("zipline-queue-proxy: the system has no thread left: {error}");
            return ExitCode::FAILURE;
        }
    };
    zipline_fault_point::enlist(&config.identity.pod);
    logging::init(&config, &telemetry);
    telemetry.complain();
    if !config.zipline.core_dumps
        && let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "core dumps of this process can't be switched off");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let outcome = runtime(config.zipline.worker_threads).map_err(Into::into).and_then(|runtime| {
        // As a task: the future that blocks is woken through the event queue, twice a request, a task by a push.
        let outcome = runtime.block_on(runtime.spawn(run(Arc::clone(&config), telemetry)));
        runtime.shutdown_background();
        outcome.map_err(std::io::Error::from)?
    });
    match outcome {
        Ok(Ended::Drained(_)) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("zipline-queue-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One thread needs no locks between tasks and no wake-ups between threads: it is the fastest way to serve one function.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = if threads <= 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}
