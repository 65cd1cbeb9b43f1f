//! A proxy of either kind, started as Knative starts it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use zipline_testkit::{Loopback, Program, Scratch, Started};

/// Ports that Knative fixed.
pub(crate) const REQUESTS: u16 = 8012;
pub(crate) const ADMIN: u16 = 8022;
pub(crate) const STATISTICS: u16 = 9090;
pub(crate) const METRICS: u16 = 9091;
pub(crate) const PROFILING: u16 = 8008;

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(10);

/// A program, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) program: PathBuf,
    pub(crate) is_stock: bool,
}

/// A proxy that runs.
pub(crate) struct Proxy {
    process: Started,
    address: Ipv4Addr,
    _own: Option<Loopback>,
    _scratch: Scratch,
}

/// How a start went.
pub(crate) enum Start {
    Serving(Proxy),
    /// It ended by itself.
    Ended,
}

/// The variables that the revision controller sets. `None` takes one away.
pub(crate) type Variables<'a> = &'a [(&'a str, Option<&'a str>)];

impl Proxy {
    /// Starts it in front of a function at `port`.
    pub(crate) fn start(side: &Side, port: u16, variables: Variables<'_>) -> Result<Self> {
        match Self::launch(side, port, variables)? {
            Start::Serving(proxy) => Ok(proxy),
            Start::Ended => bail!("the proxy ended at its start with {variables:?}"),
        }
    }

    /// Starts it, and waits until it serves or has ended.
    pub(crate) fn launch(side: &Side, port: u16, variables: Variables<'_>) -> Result<Start> {
        let scratch = Scratch::new()?;
        // In a network namespace of its own it has the fixed ports to itself; elsewhere ours takes another address.
        let own = if side.is_stock || is_alone() { None } else { Some(Loopback::claim()?) };
        let address = own.as_ref().map_or(Ipv4Addr::LOCALHOST, |own| match own.ip() {
            std::net::IpAddr::V4(ip) => ip,
            std::net::IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        });
        let mut program = Program::at("queue-proxy", &side.program);
        for (name, value) in environment(port) {
            if !variables.iter().any(|(other, _)| *other == name) {
                program = program.env(name, value);
            }
        }
        for (name, value) in variables {
            if let Some(value) = value {
                program = program.env(name, *value);
            }
        }
        if !side.is_stock {
            let socket = scratch.join("api").to_string_lossy().into_owned();
            program = program.env("ZIPLINE_API_PORT", "0").env("ZIPLINE_EGRESS_PORT", "0").env("ZIPLINE_API_SOCKET", socket);
            if let Some(own) = &own {
                program = program.env("ZIPLINE_BIND", own.ip().to_string());
            }
        }
        let mut process = program.start(&scratch)?;
        let deadline = Instant::now() + START_MAX;
        loop {
            if process.try_ended()?.is_some() {
                return Ok(Start::Ended);
            }
            let listens = |port: u16| TcpStream::connect((address, port)).is_ok();
            let request_port = variables.iter().find(|(name, _)| *name == "QUEUE_SERVING_PORT").and_then(|(_, value)| *value);
            let request_port = request_port.and_then(|port| port.parse().ok()).unwrap_or(REQUESTS);
            if [request_port, ADMIN, STATISTICS].into_iter().all(listens) {
                return Ok(Start::Serving(Self { process, address, _own: own, _scratch: scratch }));
            }
            if Instant::now() > deadline {
                bail!("the proxy neither serves nor ends");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// What it wrote to standard output.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<()> {
        let status = std::process::Command::new("kill").args(["-TERM", &self.process.pid().to_string()]).status();
        if status.context("kill")?.success() { Ok(()) } else { bail!("the proxy is gone") }
    }
}

/// Whether nobody else is in this network: then an address from outside loopback can't be there.
fn is_alone() -> bool {
    std::fs::read_to_string("/proc/net/dev")
        .is_ok_and(|devices| devices.lines().skip(2).all(|line| line.trim().starts_with("lo:")))
}

fn environment(port: u16) -> Vec<(&'static str, String)> {
    let fixed = [
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_SERVICE", "shop"),
        ("SERVING_CONFIGURATION", "shop"),
        ("SERVING_REVISION", "shop-00001"),
        ("SERVING_POD", "shop-00001-deployment-6d4f-xyz"),
        ("SERVING_POD_IP", "10.0.0.7"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("CONTAINER_CONCURRENCY", "0"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "0"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SYSTEM_NAMESPACE", "knative-serving"),
        ("SERVING_READINESS_PROBE", ""),
        ("HOST_IP", "10.0.0.1"),
        ("ENABLE_HTTP2_AUTO_DETECTION", "false"),
        ("ENABLE_HTTP_FULL_DUPLEX", "false"),
        ("ENABLE_MULTI_CONTAINER_PROBES", "false"),
        ("ROOT_CA", ""),
        ("QUEUE_PROXY_TLS_MIN_VERSION", ""),
        ("QUEUE_PROXY_TLS_MAX_VERSION", ""),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", ""),
        ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", ""),
        (
            "OBSERVABILITY_CONFIG",
            r#"{"tracing":{"protocol":"none"},"metrics":{"protocol":"none"},"runtime":{},"requestMetrics":{"protocol":"none"}}"#,
        ),
    ];
    let mut variables: Vec<(&str, String)> = fixed.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    variables.push(("USER_PORT", port.to_string()));
    variables
}
