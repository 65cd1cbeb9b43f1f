//! The transfer methods that are compared, each with what its functions and queue-proxies are configured with.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zipline_contract::{ANNOTATION_PREFIX, settings};
use zipline_servers::{Redis, S3, ServerError};

use crate::s3_delay::{self, S3Delay, Service};

/// A method as one run has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Arm {
    /// Its name in tables and raw files.
    pub(crate) name: &'static str,
    /// The SDK's transfer method.
    pub(crate) transfer: &'static str,
    /// How it moves payloads, and with what.
    pub(crate) description: String,
    /// Settings of the queue-proxies, by their annotations' names.
    #[serde(skip)]
    annotations: Vec<(&'static str, String)>,
    /// Variables of the functions.
    #[serde(skip)]
    environment: Vec<(&'static str, String)>,
    /// Whether its requests take so long that it is measured in fewer rounds.
    #[serde(skip)]
    pub(crate) slow: bool,
}

/// The arm that others are compared with.
pub(crate) const OURS: &str = "zipline";

impl Arm {
    fn new(name: &'static str, transfer: &'static str, description: impl Into<String>) -> Self {
        let description = description.into();
        Self { name, transfer, description, annotations: Vec::new(), environment: Vec::new(), slow: false }
    }

    /// A method that parks payloads in a store, which the variables lead to.
    fn store(name: &'static str, transfer: &'static str, description: String, environment: Vec<(&'static str, String)>) -> Self {
        let mut arm = Self::new(name, transfer, description);
        arm.environment = environment;
        // Messages are small and go in requests; the payloads that are attached to them are what a store is for.
        arm.environment.push((settings::STORE_INLINE_BYTES.variable, "1GiB".to_owned()));
        arm
    }

    /// The arm that others are compared with, for a bench that compares none.
    pub(crate) fn ours() -> Self {
        Self::new(OURS, "zipline", "from memory to memory on one machine: a descriptor passes")
    }

    /// A service that runs a program in a role, one request at a time in an instance.
    pub(crate) fn service(&self, name: &str, program: &std::path::Path, arguments: &[&str], scale: Scale) -> Value {
        let mut annotations = Map::new();
        annotations.insert(annotation(settings::TRANSFER.variable), json!(self.transfer));
        annotations.extend(self.annotations.iter().map(|(variable, value)| (annotation(variable), json!(value))));
        let scale = match scale {
            Scale::Warm(instances) => vec![("min-scale", instances), ("max-scale", instances)],
            Scale::Zero(instances) => vec![("min-scale", 0), ("initial-scale", 0), ("max-scale", instances)],
        };
        annotations
            .extend(scale.into_iter().map(|(name, value)| (format!("autoscaling.knative.dev/{name}"), json!(value.to_string()))));
        let env: Vec<_> = self.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": { "name": name },
            "spec": { "template": {
                "metadata": { "annotations": annotations },
                "spec": { "containerConcurrency": 1, "timeoutSeconds": 300, "containers": [
                    { "name": "function", "command": [program], "args": arguments, "env": env },
                ] },
            } },
        })
    }
}

/// Instances of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scale {
    /// As many as it may have, from the start.
    Warm(u32),
    /// None at first, and at most this many.
    Zero(u32),
}

/// `ZIPLINE_NAME` as an annotation of a service's template.
fn annotation(variable: &str) -> String {
    format!("{ANNOTATION_PREFIX}{}", variable.trim_start_matches("ZIPLINE_").to_ascii_lowercase().replace('_', "-"))
}

/// Every method, in the order of tables; the last ones only when they are asked for, or in a full run.
const NAMES: [&str; 9] =
    [OURS, "zipline-tcp", "inline", "redis", "s3", "s3-standard", "s3-express", "s3-standard-half", "s3-standard-double"];
/// How many of them a quick run has.
const QUICK: usize = 7;

/// A method that there is no server for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Missing {
    method: &'static str,
    reason: String,
}

/// The methods of a run, and the servers they need while it lasts.
pub(crate) struct Methods {
    pub(crate) arms: Vec<Arm>,
    pub(crate) missing: Vec<Missing>,
    redis: Option<Redis>,
    s3: Option<S3>,
    delays: Vec<(&'static str, S3Delay)>,
}

impl Methods {
    /// Makes these methods ready. Without a choice these are all, as far as their servers are installed.
    pub(crate) async fn start(chosen: &[String], quick: bool, seed: u64) -> Result<Self> {
        if let Some(unknown) = chosen.iter().find(|name| !NAMES.contains(&name.as_str())) {
            bail!("method `{unknown}`: known are {}", NAMES.join(", "));
        }
        let default = if quick { &NAMES[..QUICK] } else { &NAMES[..] };
        let wanted = |name: &&str| match chosen.is_empty() {
            true => default.contains(name),
            false => chosen.iter().any(|chosen| chosen == name),
        };
        let mut methods = Self { arms: Vec::new(), missing: Vec::new(), redis: None, s3: None, delays: Vec::new() };
        for name in NAMES.into_iter().filter(|name| wanted(name)) {
            match methods.arm(name, seed).await {
                Ok(arm) => methods.arms.push(arm),
                Err(error) if chosen.is_empty() => {
                    eprintln!("without {name}: {error:#}");
                    methods.missing.push(Missing { method: name, reason: format!("{error:#}") });
                }
                Err(error) => return Err(error.context(format!("method `{name}`"))),
            }
        }
        Ok(methods)
    }

    async fn arm(&mut self, name: &'static str, seed: u64) -> Result<Arm> {
        Ok(match name {
            OURS => Arm::ours(),
            "zipline-tcp" => {
                let mut arm = Arm::new(name, "zipline", "as between machines: consumers pull over TCP, no descriptor passes");
                arm.annotations.push((settings::HANDOVER_DIR.variable, String::new()));
                arm
            }
            "inline" => Arm::new(name, "inline", "in requests and answers"),
            "redis" => {
                let redis = match self.redis.take() {
                    Some(running) => running,
                    None => Redis::start().await.map_err(hinted)?,
                };
                let redis = self.redis.insert(redis);
                Arm::store(
                    name,
                    "redis",
                    format!("Redis {}, as it is, without persistence", redis.version()),
                    redis.environment(),
                )
            }
            "s3" => {
                let s3 = self.s3().await?;
                Arm::store(name, "s3", format!("{}, as it is", s3.version()), s3.environment())
            }
            delayed => self.delayed(delayed, seed).await?,
        })
    }

    /// S3 behind delays that follow published figures.
    async fn delayed(&mut self, name: &'static str, seed: u64) -> Result<Arm> {
        let (service, factor) = match name {
            "s3-express" => (Service::Express, 1.0),
            "s3-standard-half" => (Service::Standard, 0.5),
            "s3-standard-double" => (Service::Standard, 2.0),
            _ => (Service::Standard, 1.0),
        };
        let s3 = self.s3().await?;
        let relay = S3Delay::start(s3.address(), service, factor, seed)?;
        let description = format!("{} behind injected delays as published for {}, times {factor}", s3.version(), service.name());
        let mut arm = Arm::store(name, "s3", description, s3.environment_at(relay.address()));
        arm.slow = true;
        self.delays.push((name, relay));
        Ok(arm)
    }

    async fn s3(&mut self) -> Result<&S3> {
        let running = match self.s3.take() {
            Some(running) => running,
            None => S3::start().await.map_err(hinted)?,
        };
        Ok(self.s3.insert(running))
    }

    /// What each delaying relay did, by method.
    pub(crate) async fn delays(&self) -> Result<BTreeMap<&'static str, s3_delay::Report>> {
        let mut reports = BTreeMap::new();
        for (name, relay) in &self.delays {
            reports.insert(*name, relay.report().await?);
        }
        Ok(reports)
    }
}

fn hinted(error: ServerError) -> anyhow::Error {
    anyhow::anyhow!("{error} (hint: {})", error.hint())
}
