//! The SDK held to `conformance/vectors/sdk.json`, against real queue-proxies.
//!
//! Every case runs in a world of its own. All cases are run; the failure names each that did not pass, and at which step.
#![forbid(unsafe_code)]

mod check;
mod function;
mod steps;
mod stores;
mod vectors;
mod world;

use anyhow::{Context, Result, bail};
use zipline_testkit::skip;

use crate::steps::Runner;
use crate::stores::{Stores, Variables};
use crate::vectors::{Case, Vectors};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_does_what_every_sdk_does() -> Result<()> {
    let vectors = Vectors::load()?;
    let only = std::env::var("ZIPLINE_CONFORMANCE_CASE").ok();
    let stores = Stores::start().await;
    let mut failed = Vec::new();
    let mut passed = 0;
    for case in vectors.cases.iter().filter(|case| only.as_ref().is_none_or(|name| *name == case.name)) {
        let Some(variables) = stores.variables(&case.transfer) else {
            skip(&case.name, "its store cannot be had here, or its client is not part of this build");
            continue;
        };
        match run(&vectors, case, &variables).await {
            Ok(()) => passed += 1,
            Err(error) => failed.push(format!("{}: {error:#}", case.name)),
        }
    }
    if !failed.is_empty() {
        bail!("{passed} cases passed, {} failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    anyhow::ensure!(passed > 0, "no case was run");
    Ok(())
}

async fn run(vectors: &Vectors, case: &Case, variables: &Variables) -> Result<()> {
    let environment = vectors.worlds.get(&case.world).with_context(|| format!("world `{}` is not in the file", case.world))?;
    let world = World::start(environment, variables).await?;
    let mut runner = Runner::new(vectors, &world);
    for (number, step) in case.steps.iter().enumerate() {
        let told = runner.run(step).await;
        check::check(vectors, &told, step.expect()).with_context(|| format!("step {} ({step:?})", number + 1))?;
    }
    Ok(())
}
