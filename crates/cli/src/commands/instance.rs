//! `zipline instance`: the processes behind the services.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use zipline_platform::model::InstanceView;

use super::service::{Scope, raw};
use crate::control::{Body, encode};
use crate::failure::{Failure, Outcome};
use crate::format;
use crate::output::{Output, write_out};
use crate::running::Running;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List instances with their processes and what they hold
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this service
    service: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

#[derive(Deserialize)]
struct Instances {
    instances: Vec<InstanceView>,
}

pub(crate) async fn run(command: Command, running: &Running, output: Output) -> Result<Outcome, Failure> {
    let Command::List(arguments) = command;
    let control = running.control();
    let mut path = format!("/v1/instances{}", arguments.scope.query(running));
    if let Some(service) = &arguments.service {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(&format!("service={}", encode(service)));
    }
    if output.json {
        return raw(&control, &path, output).await;
    }
    let answer: Instances = control.ask(Method::GET, &path, Body::None).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let rows: Vec<_> = answer.instances.iter().map(|instance| row(instance, now)).collect();
    let head = ["NAME", "NAMESPACE", "REVISION", "STATE", "ADDRESS", ">PROXY", ">FUNCTION", ">RESTARTS", ">HELD", ">AGE"];
    write_out(format::table(&head, &rows).as_bytes())?;
    Ok(Outcome::Yes)
}

fn row(instance: &InstanceView, now_ms: u64) -> Vec<String> {
    let pid = |pid: Option<i32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let held = match &instance.held {
        Some(held) if held.held_objects == 0 => "0".to_owned(),
        Some(held) => format!("{} in {}", format::bytes(held.held_bytes), format::count(held.held_objects)),
        None => "?".to_owned(),
    };
    let age = now_ms.saturating_sub(instance.started_ms.unix_millis()) as f64 / 1000.0;
    vec![
        instance.name.clone(),
        instance.service.namespace.clone(),
        instance.service.revision.clone(),
        format!("{:?}", instance.state).to_lowercase(),
        SocketAddr::new(instance.address, instance.function_port).to_string(),
        pid(instance.proxy_pid),
        pid(instance.function_pid),
        instance.restarts.to_string(),
        held,
        format::seconds(age),
    ]
}
