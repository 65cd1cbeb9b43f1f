//! Keys and certificates of a cluster: one authority signs them all, and lives as long as the state folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::control_plane::{API_SERVICE, SERVER_PORT};
use super::kubelet::Node;
use super::paths;

/// Who may do what, by the names that Kubernetes' own roles are bound to.
const CLIENTS: [(&str, &str, Option<&str>); 6] = [
    ("admin", "zipline-e2e-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("kubelet-client", "zipline-e2e-kubelet-client", Some("system:masters")),
    ("front-proxy", "front-proxy-client", None),
];

/// The folder with everything that was made.
pub(super) struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// The path of a file in it.
    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Makes everything: certificates and keys as `NAME.crt` and `NAME.key`, kubeconfigs beside them.
pub(super) fn make(state: &Path, nodes: &[Node]) -> Result<Keys> {
    let folder = paths::pki(state);
    fs::create_dir_all(&folder)?;
    let authority = authority(&folder)?;
    let control = &nodes[0];
    let address = control.address.to_string();
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let names = names.into_iter().map(str::to_owned).chain([API_SERVICE.into(), address.clone(), "127.0.0.1".into()]).collect();
    certificate(&folder, &authority, "server", "kube-apiserver", None, names)?;
    for (name, user, group) in CLIENTS {
        certificate(&folder, &authority, name, user, group, Vec::new())?;
    }
    for node in nodes {
        let user = format!("system:node:{}", node.name);
        certificate(
            &folder,
            &authority,
            &node.name,
            &user,
            Some("system:nodes"),
            vec![node.name.clone(), node.address.to_string()],
        )?;
        kubeconfig(&folder, &folder.join(format!("{}.kubeconfig", node.name)), &node.name, &address)?;
    }
    for name in ["controller-manager", "scheduler", "kube-proxy"] {
        kubeconfig(&folder, &folder.join(format!("{name}.kubeconfig")), name, &address)?;
    }
    kubeconfig(&folder, &paths::kubeconfig(state), "admin", &address)?;
    let accounts = KeyPair::generate()?;
    fs::write(folder.join("service-accounts.key"), accounts.serialize_pem())?;
    fs::write(folder.join("service-accounts.pub"), accounts.public_key_pem())?;
    Ok(Keys { folder })
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>> {
    let mut params = named("zipline-e2e-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

fn certificate(
    folder: &Path,
    authority: &Issuer<'_, KeyPair>,
    file: &str,
    user: &str,
    group: Option<&str>,
    names: Vec<String>,
) -> Result<()> {
    let mut params = CertificateParams::new(names).with_context(|| format!("the names of {file}"))?;
    params.distinguished_name = named(user, group).distinguished_name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    fs::write(folder.join(format!("{file}.crt")), params.signed_by(&key, authority)?.pem())?;
    fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}

fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, user);
    params
}

fn kubeconfig(folder: &Path, path: &Path, user: &str, address: &str) -> Result<()> {
    let file = |name: String| folder.join(name).display().to_string();
    let content = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "zipline-e2e", "cluster": {
            "server": format!("https://{address}:{SERVER_PORT}"),
            "certificate-authority": file("ca.crt".into()),
        }}],
        "users": [{ "name": user, "user": {
            "client-certificate": file(format!("{user}.crt")),
            "client-key": file(format!("{user}.key")),
        }}],
        "contexts": [{ "name": "zipline-e2e", "context": { "cluster": "zipline-e2e", "user": user } }],
        "current-context": "zipline-e2e",
    });
    // JSON is YAML.
    fs::write(path, format!("{content:#}")).with_context(|| path.display().to_string())
}
