//! Where one application is measured: a platform, and its services once a method.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_sdk::{Call, Client};
use zipline_workflow::{Letter, decode, encode};

use super::app::Job;
use super::sample::Sample;
use crate::cloud::Cloud;
use crate::method::{Arm, Scale, Unanswered};
use crate::network::Network;

/// The platform of one application.
pub(super) struct Stage<'j> {
    pub(super) job: &'j Job,
    cloud: Cloud,
    client: Client,
    requests: u64,
}

/// What a method's services are called: `ROLE-SUFFIX`.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

impl Names {
    fn service(&self, role: &str) -> String {
        format!("{role}-{}", self.0)
    }
}

impl<'j> Stage<'j> {
    /// Starts a platform for it.
    pub(super) fn start(job: &'j Job, scratch: &Path, network: Network) -> Result<Self> {
        let cloud = Cloud::start(&scratch.join("platform"))?;
        network.limit(cloud.ingress_port()?)?;
        let client = cloud.client();
        Ok(Self { job, cloud, client, requests: 0 })
    }

    /// Names of the services that are kept warm.
    pub(super) fn warm_names(&self, arm: &Arm) -> Names {
        Names(arm.name.to_owned())
    }

    /// Names of services that are there for one request.
    pub(super) fn cold_names(&self, arm: &Arm, round: u32) -> Names {
        Names(format!("{}-{round}", arm.name))
    }

    /// Deploys the application's services with a method: with all their instances, or at zero.
    pub(super) async fn deploy(&self, arm: &Arm, names: &Names, warm: bool) -> Result<()> {
        for role in &self.job.roles {
            let scale = if warm { Scale::Warm(role.instances) } else { Scale::Zero(role.instances) };
            let manifest = arm.service(&names.service(role.name), &self.job.program, &[role.argument], scale);
            self.cloud.apply(&manifest).await?;
        }
        for role in &self.job.roles {
            self.cloud.ready(&names.service(role.name)).await?;
        }
        Ok(())
    }

    /// Deletes these services.
    pub(super) async fn delete(&self, names: &Names) -> Result<()> {
        for role in &self.job.roles {
            self.cloud.delete(&names.service(role.name)).await?;
        }
        Ok(())
    }

    /// Makes one request, checks its answer, and reads what it took.
    pub(super) async fn request(&mut self, arm: &Arm, names: &Names, parallel: bool, round: u32) -> Result<Sample> {
        self.requests += 1;
        let output = self.requests.to_string();
        let head = self.job.request(parallel, &output, |role| names.service(role));
        let call = Call::new(names.service(self.job.entry())).payload(encode(&head, &[], Vec::new())?);
        let started = Instant::now();
        let response = self.client.call(call).await?;
        let seconds = started.elapsed().as_secs_f64();
        let what = || format!("{} over {}", self.job.app.name(), arm.name);
        if !response.status.is_success() {
            let text = String::from_utf8_lossy(&response.payload);
            return Err(Unanswered(format!("{} answered {}: {}", what(), response.status, text.trim_end())).into());
        }
        let answer: Letter<Value> = decode(&response.payload).with_context(what)?;
        ensure!(
            answer.head == self.job.expected,
            "{}: the answer is not the one that a single process computes\nanswer:   {}\nexpected: {}",
            what(),
            answer.head,
            self.job.expected
        );
        self.job.clean(&output)?;
        Ok(Sample::of(round, seconds, &answer.journal))
    }
}
