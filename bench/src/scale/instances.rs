//! Instances of one service on the local platform: from none, each serving a request at the same moment, to none again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use zipline_sdk::{Call, Client};
use zipline_workflow::encode;

use crate::cloud::Cloud;
use crate::method::{Arm, Scale};
use crate::micro::Task;

/// What an instance takes, function and queue-proxy together.
const EACH_BYTES: u64 = 48 * 1024 * 1024;
const SERVICE: &str = "crowd";
/// How long an instance is held by its request, so that no two requests meet in one: the platform gives an instance one at a time.
const HELD_MILLIS: u64 = 20;

/// Memory that `x` of them take.
pub(super) fn memory_bytes(x: u64) -> u64 {
    x * EACH_BYTES
}

/// A platform without a service.
pub(super) struct Instances {
    cloud: Cloud,
    client: Client,
    program: PathBuf,
}

impl Instances {
    pub(super) fn start(scratch: &Path) -> Result<Self> {
        let cloud = Cloud::start(&scratch.join("platform"))?;
        let client = cloud.client();
        Ok(Self { cloud, client, program: std::env::current_exe().context("this program's own path")? })
    }

    pub(super) async fn whole(&self, x: u64) -> Result<f64> {
        let count = u32::try_from(x)?;
        let started = Instant::now();
        self.cloud.apply(&Arm::ours().service(SERVICE, &self.program, &["raw", "micro-leaf"], Scale::Warm(count))).await?;
        self.cloud.ready(SERVICE).await?;
        let call = |_| Ok(Call::new(SERVICE).payload(encode(&Task::Rest { millis: HELD_MILLIS }, &[], Vec::new())?));
        let calls = (0..count).map(call).collect::<Result<Vec<_>>>()?;
        let answers = self.client.call_each(calls, count as usize).await?;
        ensure!(answers.iter().all(|answer| answer.status.is_success()), "an instance refused");
        self.cloud.delete(SERVICE).await?;
        Ok(started.elapsed().as_secs_f64())
    }
}
