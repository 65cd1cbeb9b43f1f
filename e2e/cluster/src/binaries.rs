//! The ready programs a cluster is made from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Names the folder with the programs.
pub const BINARIES: &str = "ZIPLINE_E2E_BINARIES";
/// Names the folder with our own images, in place of `target/image`.
pub const IMAGES: &str = "ZIPLINE_E2E_IMAGES";

/// What has to lie in the folder itself: programs of one version, which no distribution carries together.
const IN_FOLDER: [&str; 11] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "controller",
    "webhook",
    "autoscaler",
    "activator",
    "queue",
];
/// What may also come from the system's packages.
const IN_FOLDER_OR_SYSTEM: [&str; 9] =
    ["etcd", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "nft", "ip", "unshare", "nsenter"];
/// Our own programs, whose images have to be there; the first is what every pod needs.
pub const OUR_PROGRAMS: [&str; 3] = ["zipline-e2e-function", "zipline-queue-proxy", "zipline-kubernetes"];
/// Images that some tests want beside them, and are skipped without: the demo, and a sidecar of an earlier state.
pub const OPTIONAL_IMAGES: [&str; 2] = ["zipline-mapreduce", "zipline-queue-proxy-before"];
/// Where plugins of the container network lie, if not in the folder's `cni`.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// Where the system keeps programs for root, which a user's `PATH` may not name.
const SYSTEM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A folder in which everything was found.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    plugins: PathBuf,
    images: PathBuf,
}

impl Binaries {
    /// Looks for every program; the error names all that are missing.
    pub fn find(folder: &Path) -> Result<Self> {
        let mut missing: Vec<String> = Vec::new();
        for name in IN_FOLDER {
            if !folder.join(name).is_file() {
                missing.push(format!("{name} in {}", folder.display()));
            }
        }
        for name in IN_FOLDER_OR_SYSTEM {
            if search(folder).all(|folder| !folder.join(name).is_file()) {
                missing.push(format!("{name} in {} or installed", folder.display()));
            }
        }
        if !folder.join("knative").is_dir() {
            missing.push(format!("knative/*.yaml, Knative's own manifests, in {}", folder.display()));
        }
        let own_plugins = folder.join("cni");
        let mut plugin_folders = PLUGIN_FOLDERS.iter().map(PathBuf::from).chain([own_plugins]);
        let plugins = plugin_folders.find(|folder| folder.join("ptp").is_file() && folder.join("host-local").is_file());
        if plugins.is_none() {
            missing.push("the network plugins ptp, host-local and loopback".into());
        }
        let images = images_folder()?;
        for name in OUR_PROGRAMS {
            if !images.join(format!("{name}.tar")).is_file() {
                let program = name.trim_start_matches("zipline-");
                missing.push(format!("{name}.tar in {} (`cargo xtask image {program}` writes it)", images.display()));
            }
        }
        match plugins {
            Some(plugins) if missing.is_empty() => Ok(Self { folder: folder.into(), plugins, images }),
            _ => bail!("a cluster needs what is not there:\n  {}", missing.join("\n  ")),
        }
    }

    /// The path of a program.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        search(&self.folder)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .with_context(|| format!("{name} is gone"))
    }

    /// A `PATH` in which the folder comes first.
    pub fn search_path(&self) -> String {
        search(&self.folder).map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
    }

    /// The folder of the network plugins.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// The archive of one of our images.
    pub fn image(&self, name: &str) -> PathBuf {
        self.images.join(format!("{name}.tar"))
    }

    /// Knative's manifests, in the order of their names.
    pub fn manifests(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("knative");
        let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        found.sort();
        Ok(found)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn search(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::iter::once(folder.to_owned()).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
}

fn images_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(IMAGES) {
        return Ok(folder.into());
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.ancestors().nth(2).context("this crate lies in e2e/cluster")?.join("target/image"))
}
