//! Whether the function is ready, as its readiness probes tell.
//!
//! Callers that ask at the same time share one run of the probes. A run lives as long as somebody waits for it.

mod grpc;
mod http;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, WeakShared, join_all};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::{Probe, ProbeAction};

/// Limit of one try of an aggressive probe.
const AGGRESSIVE_TRY: Duration = Duration::from_millis(100);
/// Time between the beginnings of two tries of an aggressive probe.
const AGGRESSIVE_INTERVAL: Duration = Duration::from_millis(50);
/// Limit of all tries of an aggressive probe together.
const AGGRESSIVE_LIMIT: Duration = Duration::from_secs(10);

/// The readiness probes of one function.
#[derive(Debug)]
pub struct Readiness {
    probes: Arc<[Counting]>,
    /// The run that is under way.
    run: Mutex<Option<WeakShared<BoxFuture<'static, bool>>>>,
}

/// A probe and how often it has succeeded since it last failed.
#[derive(Debug)]
struct Counting {
    probe: Probe,
    detect_http2: bool,
    successes: AtomicU32,
}

/// Why a try did not succeed.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it can't be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(::http::StatusCode),
    #[error("the probe can't be sent: {0}")]
    Request(#[from] ::http::Error),
    #[error("its gRPC health is {0}")]
    Grpc(String),
    #[error("the probe has no action this proxy can take; `exec` and HTTPS are not among them")]
    Impossible,
}

impl Readiness {
    /// Probes of a function; without any it is always ready. `detect_http2`: HTTP probes try h2c first.
    pub fn new(probes: &[Probe], detect_http2: bool) -> Self {
        let counting = |probe: &Probe| Counting { probe: probe.clone(), detect_http2, successes: AtomicU32::new(0) };
        Self { probes: probes.iter().map(counting).collect(), run: Mutex::new(None) }
    }

    /// Runs all probes, or joins the run that is under way. True if all succeed.
    pub async fn is_ready(&self) -> bool {
        if self.probes.is_empty() {
            return true;
        }
        let run = {
            let mut current = self.run.lock().unwrap_or_else(PoisonError::into_inner);
            let under_way = current.as_ref().and_then(WeakShared::upgrade).filter(|run| run.peek().is_none());
            under_way.unwrap_or_else(|| {
                let probes = Arc::clone(&self.probes);
                let run = async move { join_all(probes.iter().map(Counting::succeeds)).await.into_iter().all(|ok| ok) };
                let run = run.boxed().shared();
                *current = run.downgrade();
                run
            })
        };
        run.await
    }
}

impl Counting {
    async fn succeeds(&self) -> bool {
        let outcome = if self.probe.aggressive { self.aggressive().await } else { self.attempt(self.probe.timeout).await };
        if let Err(reason) = &outcome {
            tracing::debug!(%reason, "the function is not ready");
        }
        outcome.is_ok()
    }

    /// Tries again and again, until it succeeded often enough running.
    async fn aggressive(&self) -> Result<(), NotReady> {
        let mut last = NotReady::TimedOut;
        let tries = async {
            let mut ticks = interval(AGGRESSIVE_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match self.attempt(AGGRESSIVE_TRY).await {
                    Ok(()) => {
                        if self.successes.fetch_add(1, Ordering::Relaxed) + 1 >= self.probe.successes {
                            return;
                        }
                    }
                    Err(reason) => {
                        self.successes.store(0, Ordering::Relaxed);
                        last = reason;
                    }
                }
            }
        };
        match timeout(AGGRESSIVE_LIMIT, tries).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => Err(last),
        }
    }

    async fn attempt(&self, limit: Duration) -> Result<(), NotReady> {
        let action = async {
            match &self.probe.action {
                ProbeAction::Http(probe) => http::probe(probe, self.detect_http2, limit).await,
                ProbeAction::Tcp { host, port } => {
                    TcpStream::connect((host.as_str(), *port)).await?;
                    Ok(())
                }
                ProbeAction::Grpc { port, service } => grpc::probe(*port, service).await,
                ProbeAction::Impossible => Err(NotReady::Impossible),
            }
        };
        match self.probe.action {
            ProbeAction::Http(_) => action.await, // It limits each of its requests.
            _ => timeout(limit, action).await.unwrap_or(Err(NotReady::TimedOut)),
        }
    }
}
