//! A cluster in the hands of tests: one for the whole test program, one test at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use zipline_testkit::{binary, skip, wait};

use crate::binaries::{BINARIES, Binaries};
use crate::driver::{Plan, Report};
use crate::knative::{self, CONFIG_MAPS, FUNCTION, SIDECAR_KEY};
use crate::node::paths;
use crate::{Api, up};

/// Names the state folder of a cluster that `zipline-cluster up` keeps, to be used in place of a new one.
pub const STATE: &str = "ZIPLINE_E2E_STATE";
/// Labels what tests make, so that the next test can remove it.
const LABEL: &str = "zipline.dev/e2e";
/// A whole start, on a machine that compiles meanwhile.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Whatever a cluster does for a test is done within it.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Where a cluster comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `KUBECONFIG` names it.
    Kubeconfig,
    /// It was there: [`STATE`] names its folder.
    Running,
    /// It was made for this test program, from the folder that [`BINARIES`] names.
    Made,
}

/// A Kubernetes with Knative.
pub struct Cluster {
    /// Its API.
    pub api: Api,
    /// The kubeconfig for programs that talk to it.
    pub kubeconfig: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
    /// Ends with us, since its standard input does.
    _keeper: Option<Child>,
}

/// The one cluster of this program, for as long as one test uses it.
pub struct Claim {
    cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Claim {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Cluster {
    /// The cluster, or none with the reason printed. What earlier tests left in it is removed.
    pub async fn claim(test: &str) -> Result<Option<Claim>> {
        static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
        static TURN: Mutex<()> = Mutex::const_new(());

        let turn = TURN.lock().await;
        if [STATE, BINARIES, "KUBECONFIG"].iter().all(|variable| std::env::var_os(variable).is_none()) {
            skip(test, "no cluster: neither KUBECONFIG nor ZIPLINE_E2E_BINARIES is set (docs/guide/knative.md says how to)");
            return Ok(None);
        }
        let cluster = CLUSTER.get_or_try_init(Self::find).await?;
        let path = format!("/api/v1/namespaces?labelSelector={LABEL}");
        for namespace in cluster.api.list(&path).await? {
            cluster.api.delete(&format!("/api/v1/namespaces/{}", name_of(&namespace))).await?;
        }
        Ok(Some(Claim { cluster, _turn: turn }))
    }

    async fn find() -> Result<Self> {
        if let Some(state) = std::env::var_os(STATE) {
            return Ok(Self::in_state(Path::new(&state), Origin::Running, None));
        }
        match std::env::var_os(BINARIES) {
            Some(folder) => Self::make(Path::new(&folder)).await,
            None => Self::of_kubeconfig().await,
        }
    }

    async fn make(folder: &Path) -> Result<Self> {
        Binaries::find(folder)?;
        let said = std::env::temp_dir().join(format!("zipline-cluster-{}.out", std::process::id()));
        let mut command = Command::new(binary("zipline-cluster")?);
        command.args(["up", "--while-stdin-is-open", "--nodes", "2", "--binaries"]).arg(folder);
        command.stdin(Stdio::piped()).stdout(File::create(&said)?).stderr(Stdio::inherit());
        let mut keeper = command.spawn().context("starting zipline-cluster")?;
        let look = async || {
            let text = std::fs::read_to_string(&said)?;
            ensure!(keeper.try_wait()?.is_none(), "zipline-cluster ended: {text}");
            let ready = text.lines().find_map(|line| line.strip_prefix(up::READY)?.strip_prefix(' ').map(PathBuf::from));
            ready.with_context(|| text.clone())
        };
        let state = wait::until("the cluster to be ready", START_LIMIT, look, |_| true).await?;
        std::fs::remove_file(&said)?;
        Ok(Self::in_state(&state, Origin::Made, Some(keeper)))
    }

    fn in_state(state: &Path, origin: Origin, keeper: Option<Child>) -> Self {
        Self { api: Api::at(&paths::socket(state)), kubeconfig: paths::kubeconfig_outside(state), origin, _keeper: keeper }
    }

    async fn of_kubeconfig() -> Result<Self> {
        let socket = std::env::temp_dir().join(format!("zipline-kubectl-{}.sock", std::process::id()));
        // The shell waits for the end of its input, which is ours, and takes the proxy along.
        let script = r#"kubectl proxy --unix-socket="$0" --reject-methods='^$' >/dev/null & cat >/dev/null; kill $!; rm -f "$0""#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&socket).stdin(Stdio::piped());
        let keeper = command.spawn().context("starting kubectl proxy")?;
        let api = Api::at(&socket);
        let look = async || api.request(Method::GET, "/version", "application/json", Vec::new()).await?.json();
        wait::until("kubectl proxy to answer", LIMIT, look, |version| version["gitVersion"].is_string()).await?;
        let kubeconfig = std::env::var_os("KUBECONFIG").unwrap_or_default().into();
        Ok(Self { api, kubeconfig, origin: Origin::Kubeconfig, _keeper: Some(keeper) })
    }

    /// The version of the API server.
    pub async fn version(&self) -> Result<String> {
        Ok(self.api.get("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// Which image Knative puts beside functions.
    pub async fn sidecar(&self) -> Result<String> {
        let config = self.api.get(&format!("{CONFIG_MAPS}/config-deployment")).await?;
        Ok(config["data"][SIDECAR_KEY].as_str().unwrap_or_default().to_owned())
    }

    /// Changes the one key that names the sidecar's image, and waits until every revision's Deployment was rolled.
    pub async fn use_sidecar(&self, image: &str) -> Result<()> {
        knative::configure(&self.api, "config-deployment", &json!({ SIDECAR_KEY: image })).await?;
        // What goes away with its namespace is not rolled any more.
        let mut leaving = self.api.list("/api/v1/namespaces").await?;
        leaving.retain(|namespace| namespace["metadata"]["deletionTimestamp"].is_string());
        let leaving: BTreeSet<&str> = leaving.iter().map(name_of).collect();
        let path = "/apis/apps/v1/deployments?labelSelector=serving.knative.dev/revision";
        let stays = |deployment: &&Value| !leaving.contains(deployment["metadata"]["namespace"].as_str().unwrap_or_default());
        let rolled = |list: &Value| {
            let mut deployments = list["items"].as_array().into_iter().flatten().filter(stays);
            deployments.all(|deployment| {
                sidecar_of(&deployment["spec"]["template"]["spec"]) == Some(image) && knative::is_available(deployment)
            })
        };
        self.api.until("every revision to have the sidecar", LIMIT, path, rolled).await.map(|_| ())
    }

    /// A namespace for one test.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<Namespace<'_>> {
        // The last run's may be on its way out.
        let name = format!("{name}-{}", std::process::id());
        let mut namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { LABEL: "true" } },
        });
        for (label, value) in labels {
            namespace["metadata"]["labels"][*label] = (*value).into();
        }
        self.api.create("/api/v1/namespaces", &namespace).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        self.api.until("the namespace's service account", LIMIT, &account, Value::is_object).await?;
        Ok(Namespace { cluster: self, name })
    }
}

/// The image of a pod's queue-proxy.
pub fn sidecar_of(pod: &Value) -> Option<&str> {
    let mut containers = pod["containers"].as_array()?.iter();
    containers.find(|container| container["name"] == "queue-proxy")?["image"].as_str()
}

/// An object's name.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A Knative Service to be made.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    argument: &'static str,
    annotations: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    concurrency: u64,
    timeout_seconds: u64,
}

impl Service {
    /// A test function that takes bodies as every HTTP server does.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            argument: "serve",
            annotations: Vec::new(),
            environment: Vec::new(),
            concurrency: 0,
            timeout_seconds: 60,
        }
    }

    /// The function on the SDK.
    pub fn by_sdk(mut self) -> Self {
        self.argument = "sdk";
        self
    }

    /// Sets an annotation of the revision: `autoscaling.knative.dev/NAME`.
    pub fn scaling(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((format!("autoscaling.knative.dev/{name}"), value.into()));
        self
    }

    /// Sets an annotation of the revision.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// Sets a variable of the function.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets the hard limit on requests at once.
    pub fn concurrency(mut self, concurrency: u64) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets the limit of a whole request, which is also the grace period.
    pub fn timeout_seconds(mut self, seconds: u64) -> Self {
        self.timeout_seconds = seconds;
        self
    }

    /// The manifest.
    pub fn manifest(&self, namespace: &str) -> Value {
        let annotations: serde_json::Map<String, Value> =
            self.annotations.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let mut environment: Vec<Value> =
            self.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        environment.push(json!({ "name": "POD_NAMESPACE", "value": namespace }));
        json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Service",
            "metadata": { "name": self.name, "namespace": namespace },
            "spec": { "template": {
                "metadata": { "annotations": annotations },
                "spec": {
                    "containerConcurrency": self.concurrency,
                    "timeoutSeconds": self.timeout_seconds,
                    "containers": [{ "image": FUNCTION, "args": [self.argument], "env": environment }],
                },
            }},
        })
    }
}

/// A namespace of one test.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace<'_> {
    /// The path of a collection of Knative's Services or their parts: `services`, `revisions`, …
    pub fn serving(&self, kind: &str) -> String {
        format!("/apis/serving.knative.dev/v1/namespaces/{}/{kind}", self.name)
    }

    /// The path of a collection of core objects.
    pub fn core(&self, kind: &str) -> String {
        format!("/api/v1/namespaces/{}/{kind}", self.name)
    }

    /// Makes or changes a Knative Service and waits until it is ready; returns its newest revision.
    pub async fn apply(&self, service: &Service) -> Result<String> {
        let path = format!("{}/{}", self.serving("services"), service.name);
        let manifest = service.manifest(&self.name);
        let applied = async || self.cluster.api.apply(&path, &manifest).await;
        // The first may come before Knative's webhook is known to every node.
        wait::until("Knative to accept the Service", LIMIT, applied, |_| true).await?;
        let ready = |service: &Value| {
            let (generation, status) = (&service["metadata"]["generation"], &service["status"]);
            *generation == status["observedGeneration"]
                && status["latestCreatedRevisionName"] == status["latestReadyRevisionName"]
                && crate::node::is_ready(service)
        };
        let service = self.cluster.api.until("the Service to be ready", LIMIT, &path, ready).await?;
        Ok(service["status"]["latestReadyRevisionName"].as_str().unwrap_or_default().to_owned())
    }

    /// The address of a Knative Service in the cluster.
    pub fn url(&self, service: &str, path: &str) -> String {
        format!("http://{service}.{}.svc.cluster.local{path}", self.name)
    }

    /// Pods of a Knative Service that were not told to end.
    pub async fn pods(&self, service: &str) -> Result<Vec<Value>> {
        let path = format!("{}?labelSelector=serving.knative.dev/service={service}", self.core("pods"));
        let mut pods = self.cluster.api.list(&path).await?;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(pods)
    }

    /// Waits until that many pods of a Knative Service are ready, and no others are there, not even on their way out.
    pub async fn settled(&self, service: &str, count: usize, limit: Duration) -> Result<Vec<String>> {
        let path = format!("{}?labelSelector=serving.knative.dev/service={service}", self.core("pods"));
        let holds = |list: &Value| {
            let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            pods.len() == count && pods.iter().all(crate::node::is_ready)
        };
        let list = self.cluster.api.until(&format!("{count} pods of {service}"), limit, &path, holds).await?;
        Ok(list["items"].as_array().into_iter().flatten().map(|pod| name_of(pod).to_owned()).collect())
    }

    /// Waits until no pod of a Knative Service is wanted: those on their way out may still be there.
    pub async fn at_zero(&self, service: &str, limit: Duration) -> Result<()> {
        let path =
            format!("/apis/apps/v1/namespaces/{}/deployments?labelSelector=serving.knative.dev/service={service}", self.name);
        let holds = |list: &Value| {
            let mut deployments = list["items"].as_array().into_iter().flatten();
            deployments.all(|deployment| deployment["spec"]["replicas"] == 0 && deployment["status"]["readyReplicas"].is_null())
        };
        self.cluster.api.until(&format!("{service} at zero"), limit, &path, holds).await.map(|_| ())
    }

    /// Waits until requests to a revision go through the activator (`Proxy`) or straight to its pods (`Serve`).
    pub async fn mode(&self, revision: &str, mode: &str, limit: Duration) -> Result<()> {
        let path =
            format!("/apis/networking.internal.knative.dev/v1alpha1/namespaces/{}/serverlessservices/{revision}", self.name);
        self.cluster.api.until(&format!("mode {mode}"), limit, &path, |service| service["spec"]["mode"] == mode).await.map(|_| ())
    }

    /// Starts a pod that sends load.
    pub async fn driver(&self) -> Result<Driver<'_>> {
        self.driver_on("driver", None).await
    }

    /// Starts a pod that sends load, on a node.
    pub async fn driver_on(&self, name: &str, node: Option<&str>) -> Result<Driver<'_>> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": self.name },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "driver", "image": FUNCTION, "args": ["driver"], "ports": [{ "containerPort": 8080 }],
                    "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                }],
            },
        });
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        self.cluster.api.create(&self.core("pods"), &pod).await?;
        let path = format!("{}/{name}", self.core("pods"));
        self.cluster.api.until("the driver", LIMIT, &path, crate::node::is_ready).await?;
        Ok(Driver { api: &self.cluster.api, path: format!("{}/{name}:8080/proxy", self.core("pods")) })
    }

    /// Removes the namespace with everything in it; it is not waited for.
    pub async fn remove(self) -> Result<()> {
        self.cluster.api.delete(&format!("/api/v1/namespaces/{}", self.name)).await
    }
}

/// A pod that sends load from inside the cluster.
pub struct Driver<'a> {
    api: &'a Api,
    path: String,
}

/// Load that is under way.
pub struct Load<'a> {
    driver: &'a Driver<'a>,
    id: u64,
}

impl Driver<'_> {
    /// Begins.
    pub async fn start(&self, plan: &Plan) -> Result<Load<'_>> {
        let path = format!("{}/drive", self.path);
        let answer = self.api.request(Method::POST, &path, "application/json", serde_json::to_vec(plan)?).await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        Ok(Load { driver: self, id: answer.json()?["id"].as_u64().context("an id")? })
    }

    /// Sends everything and returns what came of it.
    pub async fn drive(&self, plan: &Plan) -> Result<Report> {
        self.start(plan).await?.ended().await
    }
}

impl Load<'_> {
    /// What came of it so far.
    pub async fn report(&self) -> Result<Report> {
        Ok(serde_json::from_value(self.driver.api.get(&format!("{}/report?id={}", self.driver.path, self.id)).await?)?)
    }

    /// Waits for its end; the plan's own limits bound it.
    pub async fn ended(&self) -> Result<Report> {
        loop {
            let path = format!("{}/ended?id={}", self.driver.path, self.id);
            let report: Report = serde_json::from_value(self.driver.api.get(&path).await?)?;
            if report.done {
                return Ok(report);
            }
        }
    }
}

/// Names of pods, for messages.
pub fn names(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| name_of(pod).to_owned()).collect()
}
