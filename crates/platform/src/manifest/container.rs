//! The one container of a revision: a local process.

use std::path::{Path, PathBuf};

use super::fields::{Field, Fields};
use super::node::Place;
use super::probe::{self, Probe};
use super::report::Report;

/// Knative's port when a container names none.
const PORT_DEFAULT: u16 = 8080;
/// Variables that Knative sets itself and refuses from users.
const RESERVED_VARIABLES: [&str; 4] = ["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"];

/// The protocol between queue-proxy and function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}

/// A function's process and how it is spoken to.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FunctionSpec {
    /// Program and leading arguments; never empty. `$(NAME)` stands for a variable.
    pub command: Vec<String>,
    /// Further arguments, likewise.
    pub args: Vec<String>,
    /// Environment in the order given; values may refer to earlier ones.
    pub env: Vec<(String, String)>,
    /// Absolute.
    pub working_dir: PathBuf,
    /// How the function is spoken to.
    pub protocol: Protocol,
    /// When an instance is ready.
    pub readiness: Probe,
}

pub(super) fn read(field: Field, base_dir: &Path, report: &mut Report) -> Option<FunctionSpec> {
    let mut fields = field.fields(report)?;
    let command = read_command(&mut fields, report);
    let args = fields.take("args").and_then(|field| field.texts(report)).unwrap_or_default();
    let env = fields.take("env").map(|field| read_env(field, report)).unwrap_or_default();
    let working_dir = fields.take("workingDir").and_then(|field| field.text(report));
    let port = fields.take("ports").map_or_else(ContainerPort::default, |field| read_ports(field, report));
    let readiness = match fields.take("readinessProbe") {
        Some(field) => probe::read(field, &port.for_probe(), report),
        None => Some(Probe::default()),
    };
    if let Some(name) = fields.take("name") {
        // Names tell containers of one pod apart; there is one.
        let _one = name.text(report);
    }
    ignore_or_refuse(&mut fields, report);
    fields.finish(report);
    Some(FunctionSpec {
        command: command?,
        args,
        env,
        working_dir: base_dir.join(working_dir.as_deref().unwrap_or(".")),
        protocol: port.protocol,
        readiness: readiness?,
    })
}

fn read_command(fields: &mut Fields, report: &mut Report) -> Option<Vec<String>> {
    let image = fields.take("image");
    let path = format!("{}.command", fields.path);
    let command = match fields.take("command") {
        Some(field) => {
            let place = field.place;
            let command = field.texts(report)?;
            if command.first().is_none_or(String::is_empty) {
                report.error(&path, place, "names no program");
                return None;
            }
            command
        }
        None => {
            let place = image.as_ref().map_or(fields.place, |field| field.place);
            report.error_with_hint(
                &path,
                place,
                "is missing: the local platform runs programs of this machine, not images",
                "add `command: [program, …]`; `image` may stay for Kubernetes",
            );
            return None;
        }
    };
    if let Some(field) = image {
        report.warn(&field.path, field.place, format!("is ignored: `{}` is run instead", command[0]));
    }
    Some(command)
}

fn read_env(field: Field, report: &mut Report) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for item in field.items(report).unwrap_or_default() {
        let Some(mut fields) = item.fields(report) else { continue };
        let name = fields.require("name", report).map(|field| (field.path.clone(), field.place, field.text(report)));
        let value = fields.take("value").map_or_else(|| Some(String::new()), |field| field.text(report));
        fields.refuse("valueFrom", "give the value itself", report);
        fields.finish(report);
        let (Some((path, place, Some(name))), Some(value)) = (name, value) else { continue };
        if RESERVED_VARIABLES.contains(&name.as_str()) {
            report.error(&path, place, format!("`{name}` is set by the platform"));
        } else if name.is_empty() || name.contains(['=', '\0']) {
            report.error(&path, place, format!("`{}` is not a variable's name", name.escape_debug()));
        } else if value.contains('\0') {
            report.error(&path, place, format!("the value of `{name}` has a zero byte"));
        } else {
            env.push((name, value));
        }
    }
    env
}

struct ContainerPort {
    number: u16,
    name: Option<String>,
    protocol: Protocol,
}

impl Default for ContainerPort {
    fn default() -> Self {
        Self { number: PORT_DEFAULT, name: None, protocol: Protocol::Http1 }
    }
}

impl ContainerPort {
    fn for_probe(&self) -> probe::FunctionPort<'_> {
        probe::FunctionPort { number: self.number, name: self.name.as_deref() }
    }
}

fn read_ports(field: Field, report: &mut Report) -> ContainerPort {
    let (path, place) = (field.path.clone(), field.place);
    let Some(mut items) = field.items(report) else { return ContainerPort::default() };
    if items.len() > 1 {
        report.error(&path, place, format!("must name one port, not {}", items.len()));
    }
    let Some(mut fields) = items.pop().and_then(|item| item.fields(report)) else { return ContainerPort::default() };
    let number = fields.take("containerPort").and_then(|field| {
        let (path, place) = (field.path.clone(), field.place);
        let number = field.whole(0..=65_535, report).and_then(|number| u16::try_from(number).ok()).filter(|n| *n != 0)?;
        report.warn(&path, place, format!("is not {number} here: each instance gets a free port of its own in $PORT"));
        Some(number)
    });
    if let Some(field) = fields.take("protocol") {
        let (path, place) = (field.path.clone(), field.place);
        if field.text(report).is_some_and(|protocol| protocol != "TCP") {
            report.error(&path, place, "must be TCP");
        }
    }
    let name = fields.take("name").map(|field| (field.path.clone(), field.place, field.text(report)));
    fields.finish(report);
    let (protocol, name) = match name {
        Some((path, place, Some(name))) => (protocol_of(&name, &path, place, report), Some(name)),
        _ => (Protocol::Http1, None),
    };
    ContainerPort { number: number.unwrap_or(PORT_DEFAULT), name, protocol }
}

fn protocol_of(name: &str, path: &str, place: Place, report: &mut Report) -> Protocol {
    match name {
        "h2c" => Protocol::H2c,
        "http1" | "" => Protocol::Http1,
        other => {
            report.error(path, place, format!("must be `http1` or `h2c`, not `{other}`"));
            Protocol::Http1
        }
    }
}

fn ignore_or_refuse(fields: &mut Fields, report: &mut Report) {
    fields.ignore("imagePullPolicy", "no image is pulled", report);
    fields.ignore("resources", "processes are not confined; autoscaling does not look at them", report);
    fields.ignore("securityContext", "functions run as plain processes of your own user, with its rights", report);
    fields.ignore("livenessProbe", "a function is started again when it ends, not when a probe fails", report);
    fields.ignore("startupProbe", "an instance gets requests once its readiness probe succeeds, however long that takes", report);
    for name in ["terminationMessagePath", "terminationMessagePolicy"] {
        fields.ignore(name, "the end of a function's log is kept", report);
    }
    fields.refuse("envFrom", "write the variables out under `env`", report);
    fields.refuse("volumeMounts", "functions see this machine's files; name them by path", report);
    fields.refuse("volumeDevices", "functions see this machine's devices", report);
    fields.refuse("lifecycle", "do it in the function, on its start or on SIGTERM", report);
    for name in ["stdin", "stdinOnce", "tty"] {
        fields.refuse(name, "functions read no terminal", report);
    }
}
