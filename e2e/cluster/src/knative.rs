//! Stock Knative: its programs as images, its own manifests, and the few keys that a test cluster sets.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use zipline_image::Image;

use crate::binaries::{Binaries, OPTIONAL_IMAGES, OUR_PROGRAMS};
use crate::glue::ingress;
use crate::{Api, node};

/// Knative's own namespace.
pub const NAMESPACE: &str = "knative-serving";
/// Path of its ConfigMaps.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/knative-serving/configmaps";
/// The key that names the sidecar's image.
pub const SIDECAR_KEY: &str = "queue-sidecar-image";
/// The stock sidecar's image.
pub const STOCK_SIDECAR: &str = "dev.local/knative/queue:stock";
/// What a node holds a pod's namespaces with: the test function's image, which does nothing when it is told nothing.
pub const PAUSE: &str = FUNCTION;
/// The test function's image.
pub const FUNCTION: &str = concat!("dev.local/zipline/e2e-function:", env!("CARGO_PKG_VERSION"));
/// Our sidecar's image.
pub const SIDECAR: &str = concat!("dev.local/zipline/queue-proxy:", env!("CARGO_PKG_VERSION"));
/// An earlier state of our sidecar, where its image is at hand: for tests of mixed versions.
pub const SIDECAR_BEFORE: &str = "dev.local/zipline/queue-proxy:before";
/// The image of the services of `zipline demo`.
pub const MAPREDUCE: &str = concat!("dev.local/zipline/mapreduce:", env!("CARGO_PKG_VERSION"));
/// The image of our webhook and controller.
pub const CONTROLLER: &str = concat!("dev.local/zipline/controller:", env!("CARGO_PKG_VERSION"));

/// Knative's programs that run in the cluster.
const PROGRAMS: [&str; 5] = ["controller", "webhook", "autoscaler", "activator", "queue"];
const READY_LIMIT: Duration = Duration::from_secs(240);
/// What its manifests call an image: by import path in the repository, by digest in a release.
const IMAGE_MARK: &str = "knative.dev/serving/cmd/";

/// Writes an archive of each of Knative's programs; returns them with ours.
pub fn images(binaries: &Binaries, state: &Path) -> Result<Vec<PathBuf>> {
    let folder = state.join("images");
    fs::create_dir_all(&folder)?;
    // The first is what every pod needs.
    let mut archives: Vec<PathBuf> = OUR_PROGRAMS.iter().map(|program| binaries.image(program)).collect();
    archives.extend(OPTIONAL_IMAGES.iter().map(|name| binaries.image(name)).filter(|archive| archive.is_file()));
    for program in PROGRAMS {
        let content = fs::read(binaries.path(program)?).with_context(|| program.to_owned())?;
        let archive = folder.join(format!("{program}.tar"));
        // Knative builds its images with ko, which puts the program at /ko-app.
        Image::of_program(&image_name(program), program, content).write(fs::File::create(&archive)?)?;
        archives.push(archive);
    }
    Ok(archives)
}

fn image_name(program: &str) -> String {
    format!("dev.local/knative/{program}:stock")
}

/// Applies Knative and waits until it is ready.
pub async fn install(binaries: &Binaries, state: &Path, api: &Api, ingress_address: Ipv4Addr) -> Result<()> {
    let folder = state.join("knative");
    fs::create_dir_all(&folder)?;
    for manifest in binaries.manifests()? {
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let own = folder.join(manifest.file_name().context("a manifest has a name")?);
        fs::write(&own, with_our_images(&text))?;
        apply(binaries, state, &own).await?;
        established(api).await?;
    }
    ingress_service(api, ingress_address).await?;
    configure(api, "config-network", &json!({ "ingress-class": ingress::CLASS })).await?;
    configure(api, "config-autoscaler", &json!({ "stable-window": "6s", "scale-to-zero-grace-period": "1s" })).await?;
    for program in ["controller", "webhook", "autoscaler", "activator"] {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{program}");
        api.until("Knative's deployments to be ready", READY_LIMIT, &path, is_available).await?;
    }
    Ok(())
}

/// Sets keys of one of Knative's ConfigMaps; `null` removes one.
pub async fn configure(api: &Api, config_map: &str, keys: &Value) -> Result<()> {
    let path = format!("{CONFIG_MAPS}/{config_map}");
    let deadline = tokio::time::Instant::now() + READY_LIMIT;
    loop {
        // Knative's webhook looks at each change, and may not be up yet; a refusal of its own is final.
        match api.patch(&path, &json!({ "data": keys })).await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() > deadline || !error.to_string().contains("failed calling webhook") => {
                bail!(error)
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Whether a Deployment runs as its manifest says.
pub fn is_available(deployment: &Value) -> bool {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    deployment["metadata"]["generation"] == status["observedGeneration"]
        && status["updatedReplicas"].as_u64().unwrap_or(0) == wanted
        && status["replicas"].as_u64().unwrap_or(0) == wanted
        && status["availableReplicas"].as_u64().unwrap_or(0) == wanted
}

async fn apply(binaries: &Binaries, state: &Path, manifest: &Path) -> Result<()> {
    let mut command = Command::new(binaries.path("kubectl")?);
    command.arg(format!("--kubeconfig={}", node::paths::kubeconfig(state).display()));
    command.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(manifest).kill_on_drop(true);
    let output = command.output().await.context("starting kubectl")?;
    ensure!(output.status.success(), "applying {}: {}", manifest.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn established(api: &Api) -> Result<()> {
    let all = |list: &Value| {
        let each = list["items"].as_array().into_iter().flatten();
        each.filter(|definition| {
            let conditions = definition["status"]["conditions"].as_array();
            !conditions.into_iter().flatten().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        })
        .count()
            == 0
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.until("Knative's definitions", READY_LIMIT, path, all).await.map(|_| ())
}

/// Replaces every image of Knative's by the one that was made of its program here.
fn with_our_images(manifest: &str) -> String {
    let mut text = String::with_capacity(manifest.len());
    for line in manifest.split_inclusive('\n') {
        let named = line.find(IMAGE_MARK).filter(|_| line.contains("mage: "));
        match (named, line.find(": ")) {
            (Some(at), Some(colon)) => {
                let rest = &line[at + IMAGE_MARK.len()..];
                let program = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
                text.push_str(&format!("{}: {}\n", &line[..colon], image_name(program)));
            }
            _ => text.push_str(line),
        }
    }
    text
}

/// A name and an address in the cluster for the ingress, which runs beside it.
async fn ingress_service(api: &Api, address: Ipv4Addr) -> Result<()> {
    let (name, namespace) = (ingress::SERVICE, NAMESPACE);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
    });
    api.apply(&format!("/api/v1/namespaces/{namespace}/services/{name}"), &service).await?;
    let endpoints = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
    });
    api.apply(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"), &endpoints).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_the_repository_and_of_a_release_are_replaced_and_nothing_else() {
        let manifest = "        image: ko://knative.dev/serving/cmd/activator\n  queue-sidecar-image: gcr.io/knative-releases/knative.dev/serving/cmd/queue@sha256:00ff\n# see knative.dev/serving/cmd/queue\n";
        let expected = "        image: dev.local/knative/activator:stock\n  queue-sidecar-image: dev.local/knative/queue:stock\n# see knative.dev/serving/cmd/queue\n";
        assert_eq!(with_our_images(manifest), expected);
    }
}
