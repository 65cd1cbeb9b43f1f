//! A platform of a test's own, in this process, and its functions.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use zipline_platform::model::{InstanceView, ServiceView, Status};
use zipline_platform::{Ending, PROXY_BINARY_VARIABLE, Platform, PlatformConfig};
use zipline_testkit::{Answer, Scratch, Target, http as client, wait};

/// How long a state may take to come on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A function that answers with its pid after `?sleep=SECONDS`, echoes bodies, and ends on `/exit`.
const FUNCTION: &str = r#"
import http.server, json, os, sys, time
from urllib.parse import urlparse, parse_qs

class Function(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/exit":
            print("told to exit", flush=True)
            os._exit(3)
        time.sleep(float(parse_qs(url.query).get("sleep", ["0"])[0]))
        self.answer(json.dumps({"pid": os.getpid(), "headers": {k.lower(): v for k, v in self.headers.items()},
                                "env": dict(os.environ)}).encode())

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        self.answer(self.rfile.read(size))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

print("function up", os.environ.get("VERSION", "1"), flush=True)
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer((os.environ.get("LISTEN", "127.0.0.1"), int(os.environ["PORT"])), Function).serve_forever()
"#;

/// A platform and its scratch directory.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) scratch: Scratch,
    ingress: Target,
    control: Target,
}

impl World {
    /// A platform with a stable window of 6 s, a grace period of 1 s and a quiet period of 1 s.
    pub(crate) async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = config(scratch.join("state"))?;
        scratch.write("function.py", FUNCTION)?;
        let platform = Platform::start(config).await?;
        let address = platform.info().ingress.trim_start_matches("http://").parse().context("an address")?;
        let control = Target::Unix(platform.info().control_socket.clone());
        Ok(Self { platform, scratch, ingress: Target::Tcp(address), control })
    }

    /// Applies the service `default/NAME` of the Python function; `pod` are lines of its pod, `annotations` of its template.
    pub(crate) async fn apply(&self, name: &str, annotations: &[(&str, &str)], pod: &str) -> Result<()> {
        self.apply_command(name, annotations, pod, "command: [python3, -u, function.py]").await
    }

    /// The same with another container.
    pub(crate) async fn apply_command(&self, name: &str, annotations: &[(&str, &str)], pod: &str, container: &str) -> Result<()> {
        let annotations: String = annotations.iter().map(|(key, value)| format!("        {key}: \"{value}\"\n")).collect();
        let pod: String = pod.lines().map(|line| format!("      {line}\n")).collect();
        let container: String = container.lines().map(|line| format!("          {line}\n")).collect();
        let yaml = format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  template:\n    metadata:\n      \
             annotations:\n        example.com/test: \"1\"\n{annotations}    spec:\n{pod}      containers:\n        -\n{container}"
        );
        let answer = self.control_with("POST", &format!("/v1/apply?base_dir={}", self.scratch.path().display()), yaml).await?;
        ensure!(answer.status.is_success(), "{}", answer.text());
        Ok(())
    }

    /// Sends a request to `default/NAME`.
    pub(crate) async fn get(&self, name: &str, path: &str) -> Result<Answer> {
        let request = Request::get(path).header("host", format!("{name}.default.localhost")).body(client::empty())?;
        client::send(&self.ingress, request).await
    }

    /// Sends any request to the ingress.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Answer> {
        client::send(&self.ingress, request.map(client::full)).await
    }

    /// Asks the control API.
    pub(crate) async fn control(&self, method: &str, path: &str) -> Result<Answer> {
        self.control_with(method, path, String::new()).await
    }

    pub(crate) async fn control_with(&self, method: &str, path: &str, body: String) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("host", "zipline").body(client::full(body))?;
        client::send(&self.control, request).await
    }

    pub(crate) async fn service(&self, name: &str) -> Result<ServiceView> {
        self.asked(&format!("/v1/services/default/{name}")).await
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        self.asked("/v1/status").await
    }

    pub(crate) async fn instances(&self) -> Result<Vec<InstanceView>> {
        let answer = self.control("GET", "/v1/instances").await?;
        Ok(serde_json::from_value(answer.json()?["instances"].clone())?)
    }

    async fn asked<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.control("GET", path).await?;
        ensure!(answer.status.is_success(), "{}", answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Waits until the service is ready.
    pub(crate) async fn ready(&self, name: &str) -> Result<()> {
        let answer = self.control("GET", &format!("/v1/services/default/{name}?wait_ready_seconds=60")).await?;
        ensure!(answer.status.is_success(), "{}", answer.text());
        Ok(())
    }

    /// Waits until there is no instance.
    pub(crate) async fn until_no_instance(&self) -> Result<()> {
        let none = wait::until("no instance to be left", LIMIT, async || self.instances().await, Vec::is_empty);
        none.await.map(|_| ())
    }

    pub(crate) async fn logs(&self, name: &str) -> Result<String> {
        Ok(self.control("GET", &format!("/v1/services/default/{name}/logs")).await?.text())
    }

    /// Ends the platform as Ctrl-C does, and answers its directory.
    pub(crate) async fn end(self) -> Scratch {
        self.platform.shut_down(Ending::Quick).await;
        self.scratch
    }
}

/// The configuration of a test's platform.
pub(crate) fn config(state: PathBuf) -> Result<PlatformConfig> {
    let mut config = match std::env::var_os(PROXY_BINARY_VARIABLE) {
        Some(_) => PlatformConfig::from_environment(state)?,
        None => PlatformConfig {
            proxy_binary: zipline_testkit::binary("zipline-queue-proxy")?,
            ..PlatformConfig::from_environment(state)?
        },
    };
    config.ingress.set_port(0);
    let autoscaler = [("stable-window", "6s"), ("scale-to-zero-grace-period", "1s")];
    config.autoscaler = autoscaler.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    config.proxy_settings.insert("ZIPLINE_DRAIN_QUIET_SECONDS".to_owned(), "1".to_owned());
    Ok(config)
}
