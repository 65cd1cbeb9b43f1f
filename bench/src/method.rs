//! The transfer methods that are compared, each with what its functions and queue-proxies are configured with.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zipline_contract::{ANNOTATION_PREFIX, settings};

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
    fn new(name: &'static str, transfer: &'static str, description: &str) -> Self {
        Self {
            name,
            transfer,
            description: description.to_owned(),
            annotations: Vec::new(),
            environment: Vec::new(),
            slow: false,
        }
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

/// The methods of a run, and what they need while it lasts.
pub(crate) struct Methods {
    pub(crate) arms: Vec<Arm>,
}

/// Every method, in the order of tables.
const NAMES: [&str; 3] = [OURS, "zipline-tcp", "inline"];

impl Methods {
    /// Makes these methods ready; all without a choice.
    pub(crate) fn start(chosen: &[String]) -> Result<Self> {
        if let Some(unknown) = chosen.iter().find(|name| !NAMES.contains(&name.as_str())) {
            bail!("method `{unknown}`: known are {}", NAMES.join(", "));
        }
        let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
        let mut arms = Vec::new();
        for name in NAMES.into_iter().filter(|name| wanted(name)) {
            arms.push(match name {
                OURS => Arm::new(name, "zipline", "from memory to memory on one machine: a descriptor passes"),
                "zipline-tcp" => {
                    let mut arm = Arm::new(name, "zipline", "as between machines: consumers pull over TCP, no descriptor passes");
                    arm.annotations.push((settings::HANDOVER_DIR.variable, String::new()));
                    arm
                }
                _ => Arm::new(name, "inline", "in requests and answers"),
            });
        }
        Ok(Self { arms })
    }
}
