//! Queue-proxies as processes, each on an address of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Body;
use zipline_contract::{doors, headers};

use crate::{Answer, KeyRing, Loopback, Program, Scratch, Started, Target, free_port, http as client, wait};

const START_LIMIT: Duration = Duration::from_secs(20);

/// How a proxy gets its keys.
#[derive(Clone, Debug)]
pub enum Keys {
    /// None: a plain queue-proxy.
    None,
    /// Over an inherited descriptor, as the local platform does it.
    Inherited(KeyRing),
    /// In a file that [`Proxy::write_keys`] rewrites, as Kubernetes does it.
    File(KeyRing),
}

/// A queue-proxy about to be started. The defaults: service `default/NAME`, no concurrency limit, no readiness probe, whole-request
/// limit 300 s, loopback allowed as peers, quiet period 0, local API on a Unix socket only, no egress.
#[derive(Debug)]
pub struct ProxyOptions {
    service: String,
    namespace: String,
    function_port: Option<u16>,
    keys: Keys,
    advertised: Option<IpAddr>,
    own: Option<Loopback>,
    environment: BTreeMap<String, String>,
}

impl ProxyOptions {
    /// The queue-proxy of one instance of `service`.
    pub fn new(service: &str, keys: Keys) -> Self {
        let defaults = [
            ("CONTAINER_CONCURRENCY", "0"),
            ("QUEUE_SERVING_PORT", "8012"),
            ("QUEUE_SERVING_TLS_PORT", "8112"),
            ("REVISION_TIMEOUT_SECONDS", "300"),
            ("SERVING_LOGGING_CONFIG", ""),
            ("SERVING_LOGGING_LEVEL", ""),
            ("ZIPLINE_PEER_CIDRS", "127.0.0.0/8"),
            ("ZIPLINE_API_PORT", "0"),
            ("ZIPLINE_EGRESS_PORT", "0"),
            ("ZIPLINE_DRAIN_QUIET_SECONDS", "0"),
            // Without root a test could not look into what it started.
            ("ZIPLINE_CORE_DUMPS", if rustix::process::getuid().is_root() { "off" } else { "on" }),
        ];
        let environment = defaults.map(|(variable, value)| (variable.to_owned(), value.to_owned())).into();
        Self {
            service: service.into(),
            namespace: "default".into(),
            function_port: None,
            keys,
            advertised: None,
            own: None,
            environment,
        }
    }

    /// Where its function listens on 127.0.0.1; without it, nothing does.
    pub fn function(mut self, port: u16) -> Self {
        self.function_port = Some(port);
        self
    }

    /// Its namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The address that its references name (`SERVING_POD_IP`), where a [`Relay`](crate::Relay) may stand; its own without it.
    pub fn advertised(mut self, address: IpAddr) -> Self {
        self.advertised = Some(address);
        self
    }

    /// The address it is started at; a free one without it.
    pub fn at(mut self, own: Loopback) -> Self {
        self.own = Some(own);
        self
    }

    /// Sets a variable, in place of a default if there is one.
    pub fn env(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.environment.insert(variable.into(), value.into());
        self
    }

    /// Sets variables.
    pub fn envs<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.environment.extend(variables.into_iter().map(|(variable, value)| (variable.into(), value.into())));
        self
    }

    /// The program with everything set, to be started by hand where it is expected to refuse.
    pub fn program(self, scratch: &Scratch) -> Result<(Program, Loopback)> {
        let own = Loopback::claim()?;
        let prepared = self.prepare(scratch, &own)?;
        Ok((prepared.program, own))
    }

    /// Starts it and waits until its local API and its admin port answer.
    pub async fn start(mut self, scratch: &Scratch) -> Result<Proxy> {
        let own = self.own.take().map_or_else(Loopback::claim, Ok)?;
        let request_port =
            self.environment.get("QUEUE_SERVING_PORT").and_then(|port| port.parse().ok()).unwrap_or(doors::REQUEST_HTTP1);
        let prepared = self.prepare(scratch, &own)?;
        let process = prepared.program.start(scratch)?;
        let mut proxy = Proxy { process, own, api: prepared.api, keys_file: prepared.keys_file, request_port };
        proxy.ready().await?;
        Ok(proxy)
    }

    fn prepare(mut self, scratch: &Scratch, own: &Loopback) -> Result<Prepared> {
        let unique = own.ip();
        let api = scratch.join(format!("{unique}.api"));
        let pod = format!("{}-{unique}", self.service);
        let revision = format!("{}-00001", self.service);
        let user_port = match self.function_port {
            Some(port) => port,
            None => free_port()?,
        };
        let own_values = [
            ("USER_PORT", user_port.to_string()),
            ("SERVING_NAMESPACE", self.namespace.clone()),
            ("SERVING_SERVICE", self.service.clone()),
            ("SERVING_CONFIGURATION", self.service.clone()),
            ("SERVING_REVISION", revision),
            ("SERVING_POD", pod),
            ("SERVING_POD_IP", self.advertised.unwrap_or(own.ip()).to_string()),
            ("ZIPLINE_BIND", own.ip().to_string()),
            ("ZIPLINE_API_SOCKET", api.to_string_lossy().into_owned()),
        ];
        for (variable, value) in own_values {
            self.environment.entry(variable.into()).or_insert(value);
        }
        let keys_file = scratch.join(format!("{unique}.keys.json"));
        let mut program = Program::built("zipline-queue-proxy")?;
        match &self.keys {
            Keys::None => {}
            Keys::Inherited(ring) => {
                let secrets = scratch.write(&format!("{unique}.secrets"), ring.secrets("testtoken").to_string())?;
                program = program.descriptor_3(File::open(&secrets)?);
                // Read from the descriptor only: the name goes now.
                std::fs::remove_file(secrets)?;
                self.environment.insert("ZIPLINE_SECRETS_FD".into(), "3".into());
            }
            Keys::File(ring) => replace(&keys_file, &ring.document().to_string())?,
        }
        self.environment.entry("ZIPLINE_KEYS_FILE".into()).or_insert(keys_file.to_string_lossy().into_owned());
        for (variable, value) in &self.environment {
            program = program.env(variable, value);
        }
        Ok(Prepared { program, api, keys_file })
    }
}

#[derive(Debug)]
struct Prepared {
    program: Program,
    api: PathBuf,
    keys_file: PathBuf,
}

/// A running queue-proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Its process.
    pub process: Started,
    own: Loopback,
    api: PathBuf,
    keys_file: PathBuf,
    request_port: u16,
}

impl Proxy {
    /// Its own address.
    pub fn ip(&self) -> IpAddr {
        self.own.ip()
    }

    /// Its request port.
    pub fn requests(&self) -> Target {
        Target::Tcp(self.request_address())
    }

    /// Address of its request port.
    pub fn request_address(&self) -> SocketAddr {
        self.own.port(self.request_port)
    }

    /// Address of its pull port (the default one).
    pub fn pull_address(&self) -> SocketAddr {
        self.own.port(doors::PULL)
    }

    /// Another of its ports.
    pub fn port(&self, port: u16) -> Target {
        Target::Tcp(self.own.port(port))
    }

    /// Its local API.
    pub fn api(&self) -> Target {
        Target::Unix(self.api.clone())
    }

    /// Path of its local API's socket.
    pub fn api_path(&self) -> &Path {
        &self.api
    }

    /// Replaces the ring of a proxy that was started with [`Keys::File`].
    pub fn write_keys(&self, ring: &KeyRing) -> Result<()> {
        replace(&self.keys_file, &ring.document().to_string())
    }

    /// Puts a body at its local API and returns the reference. `query` as `retrievals=2&ttl=10s`, or empty.
    pub async fn put<B>(&self, query: &str, body: B) -> Result<String>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answer = client::send(&self.api(), Request::post(format!("/v1/objects?{query}")).body(body)?).await?;
        ensure!(
            answer.status == StatusCode::CREATED,
            "a put was answered {} {}\n{}",
            answer.status,
            answer.text(),
            self.process.tail()
        );
        Ok(answer.header(headers::REFERENCE).to_owned())
    }

    /// Gets a reference at its local API.
    pub async fn get(&self, reference: &str) -> Result<Answer> {
        client::send(&self.api(), Request::get("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?).await
    }

    /// Asks its local API about a reference.
    pub async fn head(&self, reference: &str) -> Result<Answer> {
        client::send(&self.api(), Request::head("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?).await
    }

    /// Releases a reference at its local API.
    pub async fn release(&self, reference: &str) -> Result<Answer> {
        client::send(&self.api(), Request::delete("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?)
            .await
    }

    /// Its `zipline_*` metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let request = Request::get("/zipline/metrics").body(client::empty())?;
        let answer = client::send(&self.port(doors::ADMIN), request).await?;
        ensure!(answer.status == StatusCode::OK, "metrics were answered {}", answer.status);
        Ok(Metrics::parse(&answer.text()))
    }

    /// Waits until its metrics satisfy `holds`.
    pub async fn metrics_until(&self, what: &str, limit: Duration, holds: impl FnMut(&Metrics) -> bool) -> Result<Metrics> {
        wait::until(what, limit, async || self.metrics().await, holds).await.with_context(|| self.process.tail())
    }

    /// Waits until nothing is held, leased, received or queued.
    pub async fn at_rest(&self, limit: Duration) -> Result<Metrics> {
        use zipline_contract::metrics::{
            HELD_BYTES, HELD_OBJECTS, LEASES, PUT_WAITERS, RECEIVING_BYTES, REQUESTS_QUEUED, REQUESTS_RUNNING,
        };
        let gauges = [HELD_BYTES, HELD_OBJECTS, RECEIVING_BYTES, LEASES, PUT_WAITERS, REQUESTS_QUEUED, REQUESTS_RUNNING];
        let at_rest = |metrics: &Metrics| gauges.iter().all(|gauge| metrics.sum(gauge.name) == 0.0);
        self.metrics_until("the proxy to be at rest", limit, at_rest).await
    }

    async fn ready(&mut self) -> Result<()> {
        let (api, admin) = (self.api(), self.port(doors::ADMIN));
        let process = &mut self.process;
        let answers = wait::until(
            "the queue-proxy to answer",
            START_LIMIT,
            async || {
                if let Some(exit) = process.try_ended()? {
                    return Ok(Err(exit));
                }
                let version = client::send(&api, Request::get("/v1").body(client::empty())?).await?;
                let metrics = client::send(&admin, Request::get("/zipline/metrics").body(client::empty())?).await?;
                ensure!(
                    version.status == StatusCode::OK && metrics.status == StatusCode::OK,
                    "{} and {}",
                    version.status,
                    metrics.status
                );
                Ok(Ok(()))
            },
            |_| true,
        );
        match answers.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(exit)) => bail!("the queue-proxy ended at its start: {exit}\n{}", self.process.tail()),
            Err(error) => Err(error).with_context(|| self.process.tail()),
        }
    }
}

/// A page of Prometheus metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    /// Reads the text format; lines that are not samples are skipped.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self { samples: samples.collect() }
    }

    /// The sum over all label values of a name; 0 where there is none.
    pub fn sum(&self, name: &str) -> f64 {
        let named = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(series, _)| named(series)).map(|(_, value)| value).sum()
    }

    /// The sum over the series of a name that carry `label="value"`; 0 where there is none.
    pub fn labelled(&self, name: &str, label: &str, value: &str) -> f64 {
        let labelled = format!("{label}=\"{value}\"");
        let is_asked = |series: &str| series.split('{').next() == Some(name) && series.contains(&labelled);
        self.samples.iter().filter(|(series, _)| is_asked(series)).map(|(_, value)| value).sum()
    }
}

/// Puts a new file in the place of another in one step, readable by its owner only.
fn replace(path: &Path, content: &str) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let page = "# HELP zipline_pulls_total x\nzipline_pulls_total{result=\"ok\"} 2\nzipline_pulls_total{result=\"buffer-full\"} 3\nzipline_leases 1\n";
        let metrics = Metrics::parse(page);
        assert_eq!((metrics.sum("zipline_pulls_total"), metrics.labelled("zipline_pulls_total", "result", "ok")), (5.0, 2.0));
        assert_eq!((metrics.sum("zipline_leases"), metrics.sum("zipline_lea")), (1.0, 0.0));
    }
}
