//! One node: containerd, kubelet, kube-proxy, and where each keeps its files.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::process::Command;
use zipline_testkit::wait;

use super::processes::Processes;
use super::{cgroup, paths};
use crate::binaries::Binaries;
use crate::knative::PAUSE;

/// Addresses of pods, of all nodes.
pub(super) const PODS: &str = "10.244.0.0/16";
const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);

/// The address of a node, in a network that exists inside only.
pub(super) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, number)
}

/// A node of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    number: u8,
    state: PathBuf,
    folder: PathBuf,
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    /// Addresses of its pods.
    pub(super) pods: String,
    /// Name of its cgroup.
    pub(super) cgroup: String,
}

impl Node {
    pub(super) fn new(number: u8, state: &Path) -> Self {
        Self {
            number,
            state: state.into(),
            folder: state.join(format!("node-{number}")),
            name: format!("node-{number}"),
            address: address(number),
            pods: format!("10.244.{number}.0/24"),
            cgroup: format!("{}-{number}", cgroup::of_state(state)),
        }
    }

    /// Its network namespace; none for the first, which is in the one we are in.
    pub(super) fn network(&self) -> Option<PathBuf> {
        (self.number > 1).then(|| Path::new("/run/netns").join(&self.name))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    pub(super) fn start_containerd(&self, processes: &mut Processes, binaries: &Binaries) -> Result<()> {
        fs::create_dir_all(self.folder.join("cni"))?;
        let network = json!({
            "cniVersion": "0.4.0",
            "name": "zipline-e2e",
            "plugins": [{
                // Every packet is routed, also between two pods of one node, so that addresses of Services work among them.
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": self.folder.join("addresses"),
                    "ranges": [[{ "subnet": self.pods }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        });
        fs::write(self.folder.join("cni/10-zipline-e2e.conflist"), network.to_string())?;
        let config = self.folder.join("containerd.toml");
        fs::write(&config, self.containerd_config(binaries))?;
        let name = format!("containerd-{}", self.number);
        processes.start(&name, self.network().as_deref(), "containerd", ["--config".into(), config.display().to_string()])
    }

    fn containerd_config(&self, binaries: &Binaries) -> String {
        let folder = self.folder.display();
        format!(
            r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Where root lacks CAP_SYS_RESOURCE, no process may lower its score: without this no pod starts there.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
            plugins = binaries.plugins().display(),
        )
    }

    /// Brings images to the node.
    pub(super) async fn import(&self, binaries: &Binaries, images: &[PathBuf]) -> Result<()> {
        let ctr = binaries.path("ctr")?;
        let socket = self.socket();
        let call = |arguments: Vec<String>| {
            let mut command = Command::new(&ctr);
            command.arg("--address").arg(&socket).args(["--namespace", "k8s.io"]).args(arguments).kill_on_drop(true);
            async move { command.output().await.context("starting ctr") }
        };
        let answers = async || Ok(call(vec!["version".into()]).await?.status.success());
        wait::until("containerd to answer", CONTAINERD_LIMIT, answers, |answers| *answers).await?;
        for image in images {
            let output = call(vec!["images".into(), "import".into(), image.display().to_string()]).await?;
            ensure!(output.status.success(), "importing {}: {}", image.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    pub(super) fn start_kubelet(&self, processes: &mut Processes) -> Result<()> {
        let config = self.folder.join("kubelet.json");
        fs::write(&config, format!("{:#}", self.kubelet_config()))?;
        let network = self.network();
        let arguments = [
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", paths::pki(&self.state).join(format!("{}.kubeconfig", self.name)).display()),
            format!("--root-dir={}", self.folder.join("kubelet").display()),
            format!("--cert-dir={}", self.folder.join("kubelet-certificates").display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address),
        ];
        processes.start(&format!("kubelet-{}", self.number), network.as_deref(), "kubelet", arguments)?;
        let config = self.folder.join("kube-proxy.json");
        fs::write(&config, format!("{:#}", self.kube_proxy_config()))?;
        let arguments = [format!("--config={}", config.display())];
        processes.start(&format!("kube-proxy-{}", self.number), network.as_deref(), "kube-proxy", arguments)
    }

    fn kubelet_config(&self) -> serde_json::Value {
        let pki = paths::pki(&self.state);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": false }, "x509": { "clientCAFile": pki.join("ca.crt") } },
            "authorization": { "mode": "AlwaysAllow" },
            "tlsCertFile": pki.join(format!("{}.crt", self.name)),
            "tlsPrivateKeyFile": pki.join(format!("{}.key", self.name)),
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": false,
            // A small machine whose images cannot be pulled again.
            "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%" },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "clusterDomain": "cluster.local",
            "clusterDNS": [address(1)],
            "resolvConf": self.state.join("resolv.conf"),
            "podLogsDir": self.folder.join("pod-logs"),
            "volumePluginDir": self.folder.join("volume-plugins"),
            // Secrets reach their mounts at the next round: tests of rotation do not want to wait a minute.
            "syncFrequency": "10s",
            "readOnlyPort": 0,
            "registerNode": true,
        })
    }

    fn kube_proxy_config(&self) -> serde_json::Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name,
            "clusterCIDR": PODS,
            "clientConnection": { "kubeconfig": paths::pki(&self.state).join("kube-proxy.kubeconfig") },
            // These belong to the machine, not to a network namespace.
            "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
            "nftables": { "minSyncPeriod": "100ms", "syncPeriod": "30s" },
        })
    }
}
