//! The control plane: store, API server, controllers, scheduler. One of each, so nobody elects a leader.

use std::path::Path;

use anyhow::Result;
use http::Method;
use zipline_testkit::wait;

use super::kubelet::PODS;
use super::pki::Keys;
use super::processes::Processes;
use super::{START_LIMIT, paths};
use crate::Api;

/// Port of the API server.
pub(super) const SERVER_PORT: u16 = 6443;
/// Addresses of Services.
const SERVICES: &str = "10.96.0.0/16";
/// The first of them, which is the API server's.
pub(super) const API_SERVICE: &str = "10.96.0.1";
const STORE: &str = "http://127.0.0.1:2379";

/// The store, on a disk that nobody needs to trust: the cluster does not outlive a power cut anyway.
pub(super) fn start_store(processes: &mut Processes, state: &Path) -> Result<()> {
    processes.start(
        "etcd",
        None,
        "etcd",
        [
            format!("--data-dir={}", state.join("etcd").display()),
            format!("--listen-client-urls={STORE}"),
            format!("--advertise-client-urls={STORE}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    )
}

/// The API server.
pub(super) fn start_server(processes: &mut Processes, state: &Path, keys: &Keys) -> Result<()> {
    let address = super::kubelet::address(1).to_string();
    let arguments = [
        format!("--etcd-servers={STORE}"),
        format!("--secure-port={SERVER_PORT}"),
        format!("--advertise-address={address}"),
        format!("--cert-dir={}", state.join("server").display()),
        format!("--tls-cert-file={}", keys.path("server.crt")),
        format!("--tls-private-key-file={}", keys.path("server.key")),
        format!("--client-ca-file={}", keys.path("ca.crt")),
        format!("--kubelet-certificate-authority={}", keys.path("ca.crt")),
        format!("--kubelet-client-certificate={}", keys.path("kubelet-client.crt")),
        format!("--kubelet-client-key={}", keys.path("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", keys.path("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", keys.path("service-accounts.key")),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".into(),
        "--allow-privileged=true".into(),
        format!("--requestheader-client-ca-file={}", keys.path("ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--proxy-client-cert-file={}", keys.path("front-proxy.crt")),
        format!("--proxy-client-key-file={}", keys.path("front-proxy.key")),
        "--profiling=false".into(),
    ];
    processes.start("kube-apiserver", None, "kube-apiserver", arguments)
}

/// The socket that everybody here and outside talks to the API server through.
pub(super) fn proxy(processes: &mut Processes, state: &Path) -> Result<Api> {
    let socket = paths::socket(state);
    let arguments = [
        format!("--kubeconfig={}", paths::kubeconfig(state).display()),
        "proxy".into(),
        format!("--unix-socket={}", socket.display()),
        "--accept-hosts=.*".into(),
        "--reject-methods=^$".into(),
    ];
    processes.start("kubectl-proxy", None, "kubectl", arguments)?;
    Ok(Api::at(&socket))
}

/// Waits for the API server.
pub(super) async fn ready(api: &Api) -> Result<()> {
    let look = async || Ok(api.request(Method::GET, "/readyz", "text/plain", Vec::new()).await?.text());
    wait::until("the API server to be ready", START_LIMIT, look, |text| text == "ok").await.map(|_| ())
}

/// Everything that watches the API server from the control plane.
pub(super) fn start_controllers(processes: &mut Processes, state: &Path) -> Result<()> {
    let file = |name: &str| paths::pki(state).join(name).display().to_string();
    let arguments = [
        format!("--kubeconfig={}", file("controller-manager.kubeconfig")),
        format!("--service-account-private-key-file={}", file("service-accounts.key")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--cluster-cidr={PODS}"),
        format!("--cert-dir={}", state.join("controller-manager").display()),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
    ];
    processes.start("kube-controller-manager", None, "kube-controller-manager", arguments)?;
    let arguments = [
        format!("--kubeconfig={}", file("scheduler.kubeconfig")),
        format!("--cert-dir={}", state.join("scheduler").display()),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
    ];
    processes.start("kube-scheduler", None, "kube-scheduler", arguments)
}
