//! The manifests of driver, mapper and reducer.

use std::path::Path;

use serde_json::{Value, json};

use super::{Language, MAPPERS, REDUCERS};
use crate::failure::{Exit, Failure};
use crate::programs;

/// Folder of the Python mapper and reducer in the project.
const PYTHON: &str = "examples/mapreduce/python";
/// Folder of the Python SDK in the project.
const PYTHON_SDK: &str = "sdk/python/src";

/// What the three services are called.
pub(super) struct Names {
    pub(super) mapper: String,
    pub(super) reducer: String,
    pub(super) driver: String,
}

impl Names {
    /// On a platform of the demo's own, or with a prefix beside others' services.
    pub(super) fn new(prefix: &str) -> Self {
        let name = |role: &str| format!("{prefix}{role}");
        Self { mapper: name("mapper"), reducer: name("reducer"), driver: name("driver") }
    }

    /// In the order in which they are deployed.
    pub(super) fn all(&self) -> [&str; 3] {
        [&self.mapper, &self.reducer, &self.driver]
    }
}

/// What the services run.
pub(super) enum Program<'p> {
    /// The program on this machine, mapper and reducer in a language.
    Here(&'p Path, Language),
    /// An image with the program.
    Image(&'p str),
}

/// The manifests, in the order of [`Names::all`], each service with these variables.
pub(super) fn manifests(
    names: &Names,
    program: &Program<'_>,
    variables: &[(&str, String)],
) -> Result<Vec<(String, Value)>, Failure> {
    let container = |role: &str| -> Result<Value, Failure> {
        Ok(match program {
            Program::Here(_, Language::Python) if role != "driver" => python(role)?,
            Program::Here(mapreduce, _) => json!({ "name": "function", "command": [mapreduce], "args": [role] }),
            Program::Image(image) => json!({ "name": "function", "image": image, "args": [role] }),
        })
    };
    let with_variables = |mut container: Value| {
        let own = container["env"].as_array().cloned().unwrap_or_default();
        let env = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).chain(own);
        container["env"] = env.collect();
        container
    };
    let deployed = [(&names.mapper, "mapper", MAPPERS), (&names.reducer, "reducer", REDUCERS), (&names.driver, "driver", 1)];
    let manifest =
        |(name, role, scale): (&String, &str, u32)| Ok((name.clone(), service(name, scale, &with_variables(container(role)?))));
    deployed.into_iter().map(manifest).collect()
}

/// A service that runs one request at a time in an instance, and keeps as many instances as it may have: a run is
/// short, and what an instance puts is refused once it is being scaled in.
fn service(name: &str, scale: u32, container: &Value) -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "template": {
            "metadata": { "annotations": {
                "autoscaling.knative.dev/min-scale": scale.to_string(),
                "autoscaling.knative.dev/max-scale": scale.to_string(),
            } },
            "spec": { "containerConcurrency": 1, "timeoutSeconds": 300, "containers": [container] },
        } },
    })
}

fn python(role: &str) -> Result<Value, Failure> {
    let Some(project) = programs::project_with(PYTHON) else {
        let message =
            format!("the Python mapper and reducer, {PYTHON}, are in no folder above this program or the working folder");
        return Err(Failure::new(Exit::System, "program-missing", message).hint("run the demo in a clone of the project"));
    };
    Ok(json!({
        "name": "function",
        "command": ["python3", project.join(PYTHON).join(format!("{role}.py"))],
        "env": [{ "name": "PYTHONPATH", "value": project.join(PYTHON_SDK) }],
    }))
}
