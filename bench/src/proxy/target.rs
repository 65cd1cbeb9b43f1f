//! The ways to a function that are compared, each started in a network namespace of its own where that is allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use zipline_contract::doors;
use zipline_testkit::{Keys, Loopback, Program, ProxyOptions, Scratch, Started};

use super::load::{Connection, Protocol};
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::stats;

/// Names the stock queue-proxy's program.
const STOCK: &str = "ZIPLINE_STOCK_QUEUE_PROXY";
/// A proxy must answer after that long.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Between two tries to get the first answer.
const TRY_EVERY: Duration = Duration::from_micros(500);

/// What stands in front of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Hyper,
    Ours,
    Stock,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::Hyper, Self::Ours, Self::Stock];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hyper => "hyper reverse proxy",
            Self::Ours => "zipline-queue-proxy",
            Self::Stock => "stock queue-proxy",
        }
    }
}

/// Where programs may run, and what there is to compare with.
pub(super) struct Places {
    isolated: bool,
    stock: Option<PathBuf>,
    scratch: Scratch,
}

impl Places {
    /// Finds out, and says on standard error what is left out and why.
    pub(super) fn find() -> Result<Self> {
        let isolated = match Namespace::new() {
            Ok(_) => true,
            Err(error) => {
                eprintln!("without network namespaces ({error:#}): everything runs on this machine's loopback");
                false
            }
        };
        let stock = std::env::var_os(STOCK).map(PathBuf::from);
        match (&stock, isolated) {
            (None, _) => eprintln!("no stock queue-proxy: {STOCK} does not name one"),
            (Some(_), false) => eprintln!("no stock queue-proxy: it binds fixed ports on all addresses and needs a namespace"),
            (Some(path), true) => anyhow::ensure!(path.is_file(), "{STOCK}={}: no such file", path.display()),
        }
        Ok(Self { isolated, stock: stock.filter(|_| isolated), scratch: Scratch::new()? })
    }

    /// Whether each target has a network namespace.
    pub(super) const fn isolated(&self) -> bool {
        self.isolated
    }

    /// Starts every target there is for one protocol; each proxy `starts` times, for how long that takes.
    pub(super) async fn targets(&self, protocol: Protocol, starts: usize) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for kind in Kind::ALL {
            if kind != Kind::Stock || self.stock.is_some() {
                targets.push(self.target(kind, protocol, starts).await.with_context(|| kind.name())?);
            }
        }
        Ok(targets)
    }

    async fn target(&self, kind: Kind, protocol: Protocol, starts: usize) -> Result<Target> {
        let namespace = if self.isolated { Namespace::new()? } else { Namespace::current() };
        let (function, function_address) = namespace.inside(|| Process::role(protocol.function(), &[]))?;
        let mut startups = Vec::new();
        let mut started = None;
        for _ in 0..if kind == Kind::Direct { 1 } else { starts } {
            drop(started.take()); // Its ports are the next one's.
            let begun = Instant::now();
            let proxy = self.start(kind, protocol, function_address, &namespace)?;
            first_answer(protocol, &namespace, proxy.address(function_address)).await?;
            startups.push(begun.elapsed().as_secs_f64());
            started = Some(proxy);
        }
        let proxy = started.context("a target is started at least once")?;
        let (address, pid) = (proxy.address(function_address), proxy.pid());
        let at_rest_bytes = pid.map_or(0, |pid| process::memory(pid).resident);
        let startup_seconds = pid.and_then(|_| stats::quantile(&startups, 0.5));
        Ok(Target { kind, address, pid, at_rest_bytes, startup_seconds, namespace, _proxy: proxy, _function: function })
    }

    fn start(&self, kind: Kind, protocol: Protocol, function: SocketAddr, namespace: &Namespace) -> Result<ProxyProcess> {
        match kind {
            Kind::Direct => Ok(ProxyProcess::None),
            Kind::Hyper => {
                let arguments = [function.to_string(), protocol.is_http2().to_string()];
                namespace
                    .inside(|| Process::role("reverse-proxy", &arguments))
                    .map(|(process, at)| ProxyProcess::Role(process, at))
            }
            Kind::Ours => {
                let (program, own) = options(function).program(&self.scratch)?;
                let started = namespace.inside(|| program.start(&self.scratch))?;
                let address = own.port(doors::REQUEST_HTTP1);
                Ok(ProxyProcess::Program { started, address, _own: Some(own) })
            }
            Kind::Stock => {
                let path = self.stock.as_deref().context("the stock program is named")?;
                let started = namespace.inside(|| stock(path, function).start(&self.scratch))?;
                let address = SocketAddr::new(function.ip(), doors::REQUEST_HTTP1);
                Ok(ProxyProcess::Program { started, address, _own: None })
            }
        }
    }
}

/// A way to the function.
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    /// The proxy's process; none on the direct way.
    pub(super) pid: Option<u32>,
    pub(super) at_rest_bytes: u64,
    /// From starting the process to the first answer through it, median.
    pub(super) startup_seconds: Option<f64>,
    pub(super) namespace: Namespace,
    _proxy: ProxyProcess,
    _function: Process,
}

/// A proxy that ends with this value.
enum ProxyProcess {
    None,
    Role(Process, SocketAddr),
    Program {
        started: Started,
        address: SocketAddr,
        /// Its address is nobody else's meanwhile.
        _own: Option<Loopback>,
    },
}

impl ProxyProcess {
    fn address(&self, function: SocketAddr) -> SocketAddr {
        match self {
            Self::None => function,
            Self::Role(_, address) | Self::Program { address, .. } => *address,
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Role(process, _) => Some(process.id()),
            Self::Program { started, .. } => Some(started.pid()),
        }
    }
}

/// Asks until there is an answer: a refused connection or a refusal means not yet.
async fn first_answer(protocol: Protocol, namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let limit = Instant::now() + START_LIMIT;
    loop {
        let answered = async { Connection::open(protocol, namespace, address).await?.round().await };
        match answered.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > limit => {
                return Err(error).with_context(|| format!("no answer within {START_LIMIT:?}"));
            }
            Err(_) => tokio::time::sleep(TRY_EVERY).await,
        }
    }
}

fn options(function: SocketAddr) -> ProxyOptions {
    knative().iter().fold(ProxyOptions::new("bench", Keys::None).function(function.port()), |options, (variable, value)| {
        options.env(variable, *value)
    })
}

/// What Knative's revision controller sets, the same for both: no concurrency limit, Prometheus metrics, no request log.
const fn knative() -> [(&'static str, &'static str); 6] {
    [
        ("CONTAINER_CONCURRENCY", "0"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_READINESS_PROBE", ""),
        (
            "OBSERVABILITY_CONFIG",
            r#"{"tracing":{"protocol":"none"},"metrics":{"protocol":"none"},"runtime":{},"requestMetrics":{"protocol":"prometheus"},"enableRequestLog":false}"#,
        ),
    ]
}

fn stock(path: &Path, function: SocketAddr) -> Program {
    let own = [
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_SERVICE", "bench"),
        ("SERVING_CONFIGURATION", "bench"),
        ("SERVING_REVISION", "bench-00001"),
        ("SERVING_POD", "bench-00001-deployment"),
        ("SERVING_POD_IP", "127.0.0.1"),
        ("HOST_IP", "127.0.0.1"),
        ("SYSTEM_NAMESPACE", "knative-serving"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "0"),
        ("ENABLE_HTTP2_AUTO_DETECTION", "false"),
        ("ENABLE_HTTP_FULL_DUPLEX", "false"),
        ("ENABLE_MULTI_CONTAINER_PROBES", "false"),
    ];
    let program = Program::at("stock-queue-proxy", path).env("USER_PORT", function.port().to_string());
    own.into_iter().chain(knative()).fold(program, |program, (variable, value)| program.env(variable, value))
}
