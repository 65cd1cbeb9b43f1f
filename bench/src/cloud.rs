//! The platform that functions of a bench run on: another process of this program, on free ports, its state in a folder of its own.
//!
//! It ends when its input does, and so with this process, however that ends; every function and queue-proxy ends with it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use zipline_contract::settings;
use zipline_platform::model::Info;
use zipline_platform::{Ending, Platform, PlatformConfig};
use zipline_sdk::{Client, Config, Endpoint, Transfer};

/// How long a service may take to become ready.
const READY_SECONDS: u32 = 120;

/// A platform that runs.
pub(crate) struct Cloud {
    child: Child,
    info: Info,
}

impl Cloud {
    /// Starts a platform with its state in that folder.
    pub(crate) fn start(state: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("the bench cannot find its own program")?;
        let mut child = Command::new(program)
            .args(["raw", "cloud"])
            .arg(state)
            .process_group(0) // Ctrl-C is for the bench, which ends its platform when it has written what was measured.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the platform could not be started")?;
        let out = child.stdout.take().context("the platform's output is piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(info) => Ok(Self { child, info }),
            Err(_) => {
                let status = child.wait()?;
                bail!("the platform did not start ({status}); its message stands above");
            }
        }
    }

    /// Applies a service. JSON is YAML.
    pub(crate) async fn apply(&self, manifest: &Value) -> Result<()> {
        self.ask(Method::POST, "/v1/apply?base_dir=/", manifest.to_string()).await.map(drop)
    }

    /// Waits until a service takes requests.
    pub(crate) async fn ready(&self, name: &str) -> Result<()> {
        let path = format!("/v1/services/default/{name}?wait_ready_seconds={READY_SECONDS}");
        self.ask(Method::GET, &path, String::new()).await.map(drop)
    }

    /// Deletes a service; returns when its last instance is gone.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/v1/services/default/{name}?wait"), String::new()).await.map(drop)
    }

    /// The port of its ingress.
    pub(crate) fn ingress_port(&self) -> Result<u16> {
        let port = self.info.ingress.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok());
        port.with_context(|| format!("the platform's ingress is at {}", self.info.ingress))
    }

    /// A client of the platform's client proxy, whose requests carry their bodies.
    pub(crate) fn client(&self) -> Client {
        let config = Config::new(Endpoint::Unix(self.info.client_socket.clone()));
        Client::new(Config { transfer: Transfer::Inline, ..config })
    }

    /// Sends a request to the control API and reads its answer.
    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Bytes> {
        let what = || format!("{method} {path} at the platform");
        let stream = UnixStream::connect(&self.info.control_socket).await.with_context(what)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(what)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder().method(&method).uri(path).header(http::header::HOST, "zipline");
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await.with_context(what)?;
        let status = response.status();
        let answer = response.into_body().collect().await.with_context(what)?.to_bytes();
        if !status.is_success() {
            bail!("{} answered {status}: {}", what(), String::from_utf8_lossy(&answer).trim_end());
        }
        Ok(answer)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // The sign to end, in order.
        // Fails only when the process is gone already, which is what is wanted.
        self.child.wait().ok();
    }
}

/// Is the platform, until standard input ends.
pub(crate) async fn serve(state: PathBuf) -> Result<()> {
    let mut config = PlatformConfig::from_environment(state)?;
    config.ingress = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // Cold starts are measured on services that begin at zero.
    config.autoscaler.insert("allow-zero-initial-scale".to_owned(), "true".to_owned());
    // Nothing comes any more when the bench ends its platform or deletes a service.
    config.proxy_settings.insert(settings::DRAIN_QUIET_SECONDS.variable.to_owned(), "0".to_owned());
    let platform = Platform::start(config).await?;
    println!("{}", serde_json::to_string(platform.info())?);
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
    // Whether input ended or broke, nobody is there any more.
    ended.await?.ok();
    platform.shut_down(Ending::Quick).await;
    Ok(())
}
