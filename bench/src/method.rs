//! The transfer methods that are compared, each with what its functions and queue-proxies are configured with.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use zipline_contract::{ANNOTATION_PREFIX, settings};
use zipline_sdk::{Operations, StoreCounters};
use zipline_servers::{Redis, S3, ServerError};

use crate::network::Network;
use crate::s3_delay::{self, S3Delay, Service};
use crate::s3_place::{S3Place, S3Server};

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
/// The same as between machines.
const TCP: &str = "zipline-tcp";

impl Arm {
    fn new(name: &'static str, transfer: &'static str, description: impl Into<String>) -> Self {
        let description = description.into();
        Self { name, transfer, description, annotations: Vec::new(), environment: Vec::new(), slow: false }
    }

    /// Whether a store carries its payloads, which may fail without anything of ours being wrong.
    pub(crate) fn is_store(&self) -> bool {
        matches!(self.transfer, "s3" | "redis")
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
    [OURS, TCP, "inline", "redis", "s3", "s3-standard", "s3-express", "s3-standard-half", "s3-standard-double"];
/// How many of them a quick run has.
const QUICK: usize = 7;

/// A method that there is no server for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) method: &'static str,
    pub(crate) reason: String,
}

/// A request that a function, or what it asked, did not answer as asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(pub(crate) String);

/// Which methods a run has, and with what.
#[derive(Default)]
pub(crate) struct Choice {
    /// By name; none: all that a run of this mode has.
    pub(crate) names: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    /// The S3 server to use; `None`: one that is started here.
    pub(crate) s3: Option<S3Place>,
    pub(crate) network: Network,
}

/// The methods of a run, and the servers they need while it lasts.
pub(crate) struct Methods {
    pub(crate) arms: Vec<Arm>,
    pub(crate) missing: Vec<Missing>,
    redis: Option<Redis>,
    s3: Option<S3Server>,
    s3_named: Option<S3Place>,
    delays: Vec<(&'static str, S3Delay)>,
    network: Network,
    /// A folder a store's method, in which functions keep their counters.
    counters: TempDir,
}

impl Methods {
    /// Makes these methods ready. Without a choice these are all, as far as their servers are installed.
    pub(crate) async fn start(choice: Choice) -> Result<Self> {
        let Choice { names: chosen, quick, seed, s3, network } = choice;
        if let Some(unknown) = chosen.iter().find(|name| !NAMES.contains(&name.as_str())) {
            bail!("method `{unknown}`: known are {}", NAMES.join(", "));
        }
        let default = if quick { &NAMES[..QUICK] } else { &NAMES[..] };
        if network == Network::Shaped && chosen.iter().any(|name| name == TCP) {
            bail!("method `{TCP}`: over --network shaped `{OURS}` is that already");
        }
        let default = default.iter().copied().filter(|name| network == Network::Loopback || *name != TCP).collect::<Vec<_>>();
        let wanted = |name: &&str| match chosen.is_empty() {
            true => default.contains(name),
            false => chosen.iter().any(|chosen| chosen == name),
        };
        let counters = tempfile::Builder::new().prefix("zipline-bench-").tempdir().context("a folder for counters")?;
        let (arms, missing, delays) = (Vec::new(), Vec::new(), Vec::new());
        let mut methods = Self { arms, missing, redis: None, s3: None, s3_named: s3, delays, network, counters };
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
            OURS if self.network == Network::Loopback => Arm::ours(),
            OURS | TCP => {
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
                let description = format!("Redis {}, as it is, without persistence", redis.version());
                let (environment, port) = (redis.environment(), redis.address().port());
                self.network.limit(port)?;
                self.store(name, "redis", description, environment)
            }
            "s3" => {
                let s3 = self.s3().await?;
                let (description, environment) = (format!("{}, as it is", s3.name()), s3.environment());
                self.store(name, "s3", description, environment)
            }
            delayed => self.delayed(delayed, seed).await?,
        })
    }

    /// A method that parks payloads in a store, which the variables lead to.
    fn store(
        &self,
        name: &'static str,
        transfer: &'static str,
        description: String,
        environment: Vec<(&'static str, String)>,
    ) -> Arm {
        let mut arm = Arm::store(name, transfer, description, environment);
        let counters = self.counters.path().join(name).display().to_string();
        arm.environment.push((settings::STORE_COUNTERS.variable, counters));
        arm
    }

    /// S3 behind delays that follow published figures.
    async fn delayed(&mut self, name: &'static str, seed: u64) -> Result<Arm> {
        let (service, factor) = match name {
            "s3-express" => (Service::Express, 1.0),
            "s3-standard-half" => (Service::Standard, 0.5),
            "s3-standard-double" => (Service::Standard, 2.0),
            _ => (Service::Standard, 1.0),
        };
        let network = self.network;
        let s3 = self.s3().await?;
        let relay = S3Delay::start(s3.address()?, service, factor, seed)?;
        network.limit(relay.address().port())?;
        let description = format!("{} behind injected delays as published for {}, times {factor}", s3.name(), service.name());
        let environment = s3.environment_at(relay.address());
        let mut arm = self.store(name, "s3", description, environment);
        arm.slow = true;
        self.delays.push((name, relay));
        Ok(arm)
    }

    async fn s3(&mut self) -> Result<&S3Server> {
        let running = match (self.s3.take(), &self.s3_named) {
            (Some(running), _) => running,
            (None, Some(named)) => S3Server::Named(named.clone()),
            (None, None) => {
                let started = S3::start().await.map_err(hinted)?;
                self.network.limit(started.address().port())?;
                S3Server::Started(started)
            }
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

    /// What functions asked of each store, by method: refused and repeated operations too.
    pub(crate) fn counted(&self) -> Result<BTreeMap<&'static str, Operations>> {
        let mut counted = BTreeMap::new();
        for arm in self.arms.iter().filter(|arm| arm.is_store()) {
            let folder = self.counters.path().join(arm.name);
            if folder.is_dir() {
                let all = StoreCounters::of_folder(&folder)?;
                counted.insert(arm.name, if arm.transfer == "redis" { all.redis } else { all.s3 });
            }
        }
        Ok(counted)
    }
}

/// What is to be said of a store that refused operations for a while; `None` of one that did not.
pub(crate) fn repeated(method: &str, failed: u64, throttled: u64) -> Option<String> {
    (failed > 0).then(|| {
        format!(
            "{method}: {failed} tries were refused for now or did not arrive ({throttled} of them told to slow down) and were repeated; \
             that time is in the samples"
        )
    })
}

fn hinted(error: ServerError) -> anyhow::Error {
    anyhow::anyhow!("{error} (hint: {})", error.hint())
}
