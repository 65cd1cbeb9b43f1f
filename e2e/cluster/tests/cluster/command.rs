//! `zipline service`, `instance`, `object`, `invoke` and `demo` do on a cluster what they do on the local platform.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_e2e_cluster::cluster::{Cluster, LIMIT, Service};
use zipline_e2e_cluster::knative::MAPREDUCE;
use zipline_testkit::{Payload, Scratch};

use crate::zipline::{enabled, has_image, zipline};

const PAYLOAD_BYTES: u64 = 5_000_000;

/// A command against a namespace of the cluster, and the document it prints.
async fn document(cluster: &Cluster, namespace: &str, arguments: &[&str]) -> Result<Value> {
    let place = format!("--cluster={namespace}");
    let text = zipline(cluster, &[&[place.as_str(), "--json"], arguments].concat()).await?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

#[tokio::test]
async fn services_and_objects_are_handled_as_on_the_local_platform() -> Result<()> {
    let Some(cluster) = Cluster::claim("commands").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "commands").await?;
    let run = async |arguments: &[&str]| document(&cluster, &namespace.name, arguments).await;
    let scratch = Scratch::new()?;
    let manifest = scratch.path().join("service.yaml");
    std::fs::write(&manifest, Service::new("shop").scaling("min-scale", "1").manifest(&namespace.name).to_string())?;
    let manifest = manifest.display().to_string();

    let applied = run(&["service", "apply", "-f", &manifest]).await?;
    ensure!(applied["applied"][0]["change"] == "created" && applied["applied"][0]["name"] == "shop", "{applied}");
    let again = run(&["service", "apply", "-f", &manifest]).await?;
    ensure!(again["applied"][0]["change"] == "unchanged", "{again}");
    let listed = run(&["service", "list"]).await?;
    ensure!(listed["services"][0]["name"] == "shop" && listed["services"][0]["ready"] == true, "{listed}");
    let instances = run(&["instance", "list", "shop"]).await?;
    ensure!(instances["instances"][0]["state"] == "ready" && instances["instances"][0]["held"]["held_bytes"] == 0, "{instances}");

    let payload = Payload::new(PAYLOAD_BYTES, 7);
    let file = scratch.path().join("payload");
    std::fs::write(&file, payload.chunks().flatten().collect::<Vec<u8>>())?;
    let file = file.display().to_string();
    let put = run(&["object", "put", &file, "--retrievals", "2"]).await?;
    let reference = put["reference"].as_str().context("a reference")?.to_owned();
    ensure!(put["size"] == PAYLOAD_BYTES, "{put}");
    let stat = run(&["object", "stat", &reference]).await?;
    ensure!(stat["size"] == PAYLOAD_BYTES && stat["retrievals_left"] == 2, "{stat}");
    for body in [["-r", &reference], ["-f", &file]] {
        let answer = run(&[&["invoke", "shop", "--path", "/digest"], &body[..]].concat()).await?;
        let digest: Value = serde_json::from_str(answer["body"].as_str().context("a body")?)?;
        ensure!(answer["status"] == 200 && digest["sha256"] == payload.sha256().as_str(), "{body:?}: {answer}");
    }
    let copy = scratch.path().join("copy").display().to_string();
    run(&["object", "get", &reference, "--output", &copy]).await?;
    ensure!(std::fs::read(&copy)? == std::fs::read(&file)?, "what was got is not what was put");

    let described = run(&["service", "describe", "shop"]).await?;
    let (requests, bytes) = (&described["activator"]["ok"], &described["activator"]["body_bytes_in"]);
    ensure!(requests.as_u64() >= Some(2), "both calls came by the activator: {described}");
    // The one by reference has no body, and the other's was swapped or, before the callee was known, was not.
    ensure!(bytes.as_u64() <= Some(PAYLOAD_BYTES), "{described}");
    let logs = run(&["service", "logs", "shop", "--tail", "5"]).await?;
    ensure!(logs["lines"].is_array(), "{logs}");
    let unknown = document(&cluster, &namespace.name, &["service", "describe", "nobody"]).await;
    ensure!(unknown.is_err_and(|error| format!("{error:#}").contains("service-unknown")), "a service that is not there");
    run(&["service", "delete", "shop", "--wait"]).await?;
    let listed = run(&["service", "list"]).await?;
    ensure!(listed["services"].as_array().is_some_and(Vec::is_empty), "{listed}");
    namespace.remove().await
}

#[tokio::test]
async fn the_demo_counts_on_a_cluster_and_only_inline_do_its_bytes_pass_the_activator() -> Result<()> {
    let Some(cluster) = Cluster::claim("demo").await? else { return Ok(()) };
    if !has_image(&cluster, MAPREDUCE).await? {
        zipline_testkit::skip("demo", "the nodes have no image of its services (cargo xtask image mapreduce)");
        return Ok(());
    }
    let namespace = enabled(&cluster, "demo").await?;
    let shown = document(&cluster, &namespace.name, &["demo", "--compare"]).await?;
    ensure!(shown["verified"] == true, "{shown}");
    let passed = |method: &str| shown["methods"][method]["activator_payload_bytes"].as_u64().context(method.to_owned());
    let shuffled = shown["methods"]["zipline"]["shuffled_bytes"].as_u64().context("shuffled bytes")?;
    println!("shuffled {shuffled} bytes; passed the activator: zipline {}, inline {}", passed("zipline")?, passed("inline")?);
    ensure!(passed("zipline")? < shuffled / 10 && passed("inline")? > shuffled, "{shown}");
    for method in ["zipline", "inline"] {
        ensure!(shown["methods"][method]["requests"] == 11, "a driver, 8 mappers, 2 reducers: {shown}");
        println!("{method}: {}", shown["methods"][method]["phases"]);
    }
    // Its services are gone.
    let services = namespace.serving("services");
    cluster
        .api
        .until("no service to be left", LIMIT, &services, |list| list["items"].as_array().is_some_and(Vec::is_empty))
        .await?;
    namespace.remove().await
}
