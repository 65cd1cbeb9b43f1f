//! Consumers of one step of a workflow: a hub sends each its own payload at the same moment and waits for all. Instances are few, so
//! that what grows is the step and not the number of processes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use zipline_sdk::{Call, Client};
use zipline_workflow::{Letter, decode, encode};

use super::KIB;
use crate::cloud::Cloud;
use crate::method::{Arm, Scale};
use crate::micro::{Carried, Carry, Pattern};

/// Bytes to each consumer: above the inline threshold, so that each travels by reference.
const SIZE_BYTES: u64 = 256 * KIB;
const LEAVES: u32 = 8;

/// A platform with a hub and its leaves.
pub(super) struct Width {
    _cloud: Cloud,
    client: Client,
    seed: u64,
}

impl Width {
    pub(super) async fn start(scratch: &Path, seed: u64) -> Result<Self> {
        let program = std::env::current_exe().context("this program's own path")?;
        let cloud = Cloud::start(&scratch.join("platform"))?;
        for (role, instances) in [("hub", 1), ("leaf", LEAVES)] {
            let argument = format!("micro-{role}");
            cloud.apply(&Arm::ours().service(role, &program, &["raw", &argument], Scale::Warm(instances))).await?;
        }
        cloud.ready("hub").await?;
        cloud.ready("leaf").await?;
        let client = cloud.client();
        Ok(Self { _cloud: cloud, client, seed })
    }

    pub(super) async fn whole(&self, x: u64) -> Result<f64> {
        let carry = Carry {
            pattern: Pattern::Scatter,
            size_bytes: SIZE_BYTES,
            degree: u32::try_from(x)?,
            leaf: "leaf".to_owned(),
            seed: self.seed,
        };
        let response = self.client.call(Call::new("hub").payload(encode(&carry, &[], Vec::new())?)).await?;
        let text = || String::from_utf8_lossy(&response.payload).trim_end().to_owned();
        ensure!(response.status.is_success(), "a step with {x} consumers answered {}: {}", response.status, text());
        let answer: Letter<Carried> = decode(&response.payload)?;
        Ok(answer.head.seconds)
    }
}
