//! The program of every test pod: a function, the driver that sends load from inside, and a pod's pause.
//!
//! Without an argument it waits to be ended, which is all that a pod's sandbox needs. `serve` is a function that takes bodies as every
//! HTTP server does; `sdk` is one on Zipline's SDK. Both answer what [`function`] describes. `driver` takes plans.
#![forbid(unsafe_code)]

mod drive;
mod function;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM")?;
    let work = async {
        match std::env::args().nth(1).as_deref() {
            None => std::future::pending().await,
            Some("serve") => function::serve(function::answer).await,
            Some("sdk") => function::serve_by_sdk().await,
            Some("driver") => function::serve(drive::answer).await,
            Some(other) => bail!("{other}: none of serve, sdk, driver"),
        }
    };
    tokio::select! {
        result = work => result,
        _ = terminated.recv() => Ok(()),
    }
}
