//! What runs in the cluster: webhook, certificates, keys, and (where asked for) pod deletion costs.
//!
//! Several replicas may run: each decides from what lies in the cluster and writes only over what it has read, so that two
//! that decide at once make one change.

pub mod certificates;
mod deletion_cost;
mod keys;
mod metrics;
mod trust;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::admission::Rules;
use crate::admission::serve::{Webhook, serve};
use crate::names::{METRICS_PORT, WEBHOOK_PORT};
use crate::rotation::Policy;
use certificates::{CertificateError, Served};

pub(crate) use keys::{random, read as read_ring, write as write_ring};

/// What the controller is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the webhook does to pods.
    pub rules: Rules,
    /// How often keys change.
    pub policy: Policy,
    /// Whether to write pod deletion costs.
    pub deletion_cost: bool,
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The cluster refused.
    #[error("{what}: {error}")]
    Cluster {
        /// What was asked of it.
        what: String,
        /// Its answer.
        error: Box<kube::Error>,
    },
    /// A port can't be opened.
    #[error("port {port} can't be opened: {error}")]
    Port {
        /// Which.
        port: u16,
        /// What the kernel said.
        error: io::Error,
    },
    /// There is no certificate to serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A task ended that never should.
    #[error("{0} ended; the whole controller is started again")]
    Ended(&'static str),
}

/// Runs until it is told to end.
///
/// # Errors
/// When it can't begin, or a part of it ends.
pub async fn run(client: Client, settings: Settings) -> Result<(), ControllerError> {
    let webhook = Webhook::new(settings.rules);
    let state = Arc::new(metrics::State::new(Arc::clone(&webhook)));
    let metrics_door = bind(METRICS_PORT).await?;
    let webhook_door = bind(WEBHOOK_PORT).await?;
    let bundle = trust::current(&client, wall_ms()).await?;
    let served = Served::new(&bundle)?;
    let mut parts: JoinSet<Result<(), ControllerError>> = JoinSet::new();
    let tls = served.server_config()?;
    parts.spawn(async move {
        serve(webhook_door, tls, webhook).await;
        Err(ControllerError::Ended("the webhook's door"))
    });
    let scraped = Arc::clone(&state);
    parts.spawn(async move {
        metrics::serve(metrics_door, scraped).await;
        Err(ControllerError::Ended("the metrics' door"))
    });
    parts.spawn(trust::keep(client.clone(), served, Arc::clone(&state)));
    parts.spawn(keys::keep(client.clone(), settings.policy, Arc::clone(&state)));
    if settings.deletion_cost {
        parts.spawn(deletion_cost::keep(client, Arc::clone(&state)));
    }
    tracing::info!(port = WEBHOOK_PORT, "the controller is up");
    tokio::select! {
        ended = parts.join_next() => match ended {
            Some(Ok(result)) => result,
            _ => Err(ControllerError::Ended("a part of the controller panicked and")),
        },
        () = told_to_end() => {
            tracing::info!("told to end");
            Ok(())
        }
    }
}

/// Waits for SIGTERM or SIGINT; for ever where they can't be listened to, which is said.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => {
            tracing::warn!("signals can't be listened to: the controller ends only by SIGKILL");
            std::future::pending::<()>().await;
        }
    }
}

/// Every address of either family.
async fn bind(port: u16) -> Result<TcpListener, ControllerError> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let bound = match TcpListener::bind(any).await {
        Ok(bound) => Ok(bound),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await, // No IPv6 on this node.
    };
    bound.map_err(|error| ControllerError::Port { port, error })
}

/// For `map_err`: the cluster refused `what`.
fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ControllerError {
    let what = what.into();
    move |error| ControllerError::Cluster { what, error: Box::new(error) }
}

/// Whether the API server answered with this HTTP status.
fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Wall time, Unix milliseconds.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
