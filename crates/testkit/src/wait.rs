//! Waiting for a state, with a deadline, and printing what was seen instead.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How often a state is looked at. It bounds how late a test notices, never whether it passes.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `holds` is true of what was observed and returns it; fails after `limit` with the last thing observed.
///
/// An observation that fails counts as "not yet", and its error is what was seen.
pub async fn until<T: Debug>(
    what: &str,
    limit: Duration,
    mut observe: impl AsyncFnMut() -> Result<T>,
    mut holds: impl FnMut(&T) -> bool,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("nothing");
    loop {
        // An observation that hangs must not outlast the deadline either.
        last = match tokio::time::timeout_at(deadline, observe()).await {
            Ok(Ok(seen)) if holds(&seen) => return Ok(seen),
            Ok(Ok(seen)) => format!("{seen:?}"),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("an observation that did not end; before it: {last}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}; seen instead: {last}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
