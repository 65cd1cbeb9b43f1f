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

/// The services by name, in the order in which they are deployed, each with these variables.
pub(super) fn manifests(
    mapreduce: &Path,
    language: Language,
    variables: &[(&str, String)],
) -> Result<Vec<(&'static str, Value)>, Failure> {
    let rust = |role: &str| json!({ "name": "function", "command": [mapreduce], "args": [role] });
    let (mapper, reducer) = match language {
        Language::Rust => (rust("mapper"), rust("reducer")),
        Language::Python => (python("mapper")?, python("reducer")?),
    };
    let with_variables = |mut container: Value| {
        let own = container["env"].as_array().cloned().unwrap_or_default();
        let env = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).chain(own);
        container["env"] = env.collect();
        container
    };
    let (mapper, reducer) = (with_variables(mapper), with_variables(reducer));
    Ok(vec![
        ("mapper", service("mapper", MAPPERS, &mapper)),
        ("reducer", service("reducer", REDUCERS, &reducer)),
        ("driver", service("driver", 1, &with_variables(rust("driver")))),
    ])
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
