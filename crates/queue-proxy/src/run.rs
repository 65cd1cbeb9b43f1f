//! A queue-proxy from its start to its end.
//!
//! All ports are bound before any is served. Then one future serves requests, one drives the drain, and signals feed it. When
//! the drain is over, whatever still runs is dropped, which ends it.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use zipline_contract::doors;
use zipline_core::drain::{DrainLimits, Ending, Held};

use crate::admin::{Admin, Doors};
use crate::clock::Clock;
use crate::config::{Config, Sidecar, UserMetrics};
use crate::drain::{Drain, Termination};
use crate::ingress::{BindError, Listener, Port};
use crate::instance::Instance;
use crate::telemetry::Telemetry;
use crate::tls::{self, Certificates, TlsError};
use crate::zipline::{StartError, Zipline};

/// Why a queue-proxy could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port can't be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// One of Zipline's doors can't be opened.
    #[error(transparent)]
    Zipline(#[from] StartError),
    /// Certificates are mounted, and the TLS port can't be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system has no thread, event queue or signal handler left.
    #[error("the system refuses what every program needs: {0}")]
    System(#[from] std::io::Error),
}

/// How a queue-proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a drain, with what was left undone.
    Drained(Ending),
    /// By a second signal, in the middle of the drain.
    Interrupted,
}

/// Runs until the drain that a signal begins is over.
///
/// # Errors
/// The start failed; nothing was served.
pub async fn run(config: Arc<Config>, telemetry: Arc<Telemetry>) -> Result<Ended, RunError> {
    let signals = Signals::catch()?;
    let clock = Clock::start();
    let limits = DrainLimits { quiet: config.zipline.drain_quiet, grace: config.grace() };
    let drain = Drain::new(limits, clock);
    let certificates = Certificates::read(&config.zipline.certificates_dir)?;
    let bound = Bound::open(&config, certificates.is_some())?;
    let zipline = Arc::new(Zipline::start(&config).await?);
    let instance = config.sidecar.as_ref().map(|sidecar| {
        Instance::new(&config, sidecar, (clock, Arc::clone(&drain)), Arc::clone(&zipline), Arc::clone(&telemetry))
    });
    let admin = Admin::new(&config, Arc::clone(&drain), Arc::clone(&zipline), instance.clone());
    admin.serve(bound.doors, Arc::clone(&telemetry))?;
    tracing::info!(namespace = config.identity.namespace, pod = config.identity.pod, "serving");

    let requests = Requests::open(&config, bound.requests, bound.tls, certificates)?;
    let ended = tokio::select! {
        ending = drain.run() => Ended::Drained(ending),
        () = terminate(signals, &drain, &zipline) => Ended::Interrupted,
        never = requests.serve(instance) => match never {},
    };
    drain.leaves(zipline.unread()); // Until the last acknowledgements are in, at most this much is lost.
    zipline_fault_point::fault_point!("drain.over");
    let left = zipline.finish().await;
    let left = Held { objects: left.held_objects, bytes: left.held_bytes };
    drain.leaves(left);
    let ended = match ended {
        Ended::Drained(ending) => Ended::Drained(Ending { held: left, ..ending }),
        Ended::Interrupted => Ended::Interrupted,
    };
    report(ended, left);
    telemetry.finish().await;
    Ok(ended)
}

/// The ports that requests come in by, ready to be served.
struct Requests {
    plain: Option<Listener>,
    tls: Option<(Listener, TlsAcceptor, Arc<Certificates>)>,
}

impl Requests {
    fn open(
        config: &Config,
        plain: Option<Port>,
        tls: Option<Port>,
        certificates: Option<Arc<Certificates>>,
    ) -> Result<Self, RunError> {
        let tls = match (&config.sidecar, tls, certificates) {
            (Some(sidecar), Some(port), Some(certificates)) => {
                let acceptor = tls::acceptor(Arc::clone(&certificates), &sidecar.tls)?;
                Some((port.open()?, acceptor, certificates))
            }
            _ => None,
        };
        Ok(Self { plain: plain.map(Port::open).transpose()?, tls })
    }

    /// Serves requests, if there is a function for them, for as long as this is polled.
    async fn serve(self, instance: Option<Arc<Instance>>) -> Infallible {
        if let (Some(instance), Some(plain)) = (instance, self.plain) {
            let tls = async {
                if let Some((listener, acceptor, certificates)) = self.tls {
                    tokio::join!(listener.serve(Arc::clone(&instance), Some(acceptor)), certificates.follow());
                }
            };
            tokio::join!(plain.serve(Arc::clone(&instance), None), tls, instance.upstream.http1.expire());
        }
        std::future::pending().await
    }
}

/// Begins the drain at the first signal; returns at the second.
async fn terminate(mut signals: Signals, drain: &Drain, zipline: &Zipline) {
    let signal = signals.next().await;
    tracing::info!(?signal, "draining");
    zipline_fault_point::fault_point!("drain.begun");
    zipline.quiesce();
    // Before the drain begins: it may be over at once. What has a durable copy may be being read, so it counts here.
    let held = zipline.held();
    drain.holds(Held { objects: held.held_objects, bytes: held.held_bytes });
    drain.terminate(signal);
    tokio::select! {
        _ = signals.next() => return,
        () = zipline.drained() => {
            zipline_fault_point::fault_point!("drain.unheld");
            drain.holds(Held::default());
        }
    }
    signals.next().await;
}

fn report(ended: Ended, left: Held) {
    match ended {
        Ended::Drained(ending) if ending.is_clean() => tracing::info!("drained, nothing is left"),
        Ended::Drained(ending) => tracing::warn!(
            requests = ending.requests,
            upgraded = ending.upgraded,
            held.objects = left.objects,
            held.bytes = left.bytes,
            "the drain ended with something left"
        ),
        Ended::Interrupted => {
            tracing::warn!(held.objects = left.objects, held.bytes = left.bytes, "a second signal ended the drain");
        }
    }
}

/// The ports that are open.
struct Bound {
    requests: Option<Port>,
    tls: Option<Port>,
    doors: Doors,
}

impl Bound {
    fn open(config: &Config, with_tls: bool) -> Result<Self, RunError> {
        let address = config.zipline.bind;
        let open = |door, port| Port::bind(door, address, port);
        let sidecar = config.sidecar.as_ref();
        let user_metrics = sidecar.and_then(|sidecar| match sidecar.observability.user_metrics {
            UserMetrics::Prometheus { address: own, port } => Some((own.or(address), port)),
            UserMetrics::Off | UserMetrics::Export(_) => None,
        });
        Ok(Self {
            requests: sidecar.map(|sidecar| open("request", sidecar.door.port)).transpose()?,
            tls: sidecar.filter(|_| with_tls).map(|sidecar| Ok::<_, RunError>(open("TLS", tls_port(sidecar)?)?)).transpose()?,
            doors: Doors {
                admin: open("admin", doors::ADMIN)?,
                statistics: sidecar.map(|_| open("statistics", doors::STATISTICS)).transpose()?,
                user_metrics: user_metrics.map(|(address, port)| Port::bind("user metrics", address, port)).transpose()?,
            },
        })
    }
}

fn tls_port(sidecar: &Sidecar) -> Result<u16, TlsError> {
    sidecar.door.tls_port.ok_or_else(|| TlsError::Setting {
        variable: "QUEUE_SERVING_TLS_PORT",
        value: "what was given".to_owned(),
        expected: "a port from 1 to 65535",
    })
}

/// The signals that end a program politely.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Termination {
        tokio::select! {
            _ = self.terminate.recv() => Termination::Terminate,
            _ = self.interrupt.recv() => Termination::Interrupt,
        }
    }
}
