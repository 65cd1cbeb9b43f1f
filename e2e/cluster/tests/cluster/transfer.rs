//! Payloads go from pod to pod, and only the control message goes through the activator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use zipline_e2e_cluster::cluster::{Cluster, Driver, LIMIT, Namespace, Origin, Service, name_of};
use zipline_e2e_cluster::driver::Plan;

use crate::all_succeeded;
use crate::zipline::{enabled, metric};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Above the inline threshold, so it goes by reference.
const BY_REFERENCE: u64 = 100 * KIB;

/// One call of the producer's function, which sends a payload and says what came of it.
pub(crate) async fn send(
    driver: &Driver<'_>,
    namespace: &Namespace<'_>,
    from: &str,
    to: &str,
    bytes: u64,
    via: &str,
) -> Result<serde_json::Value> {
    let path = format!("/send?to={to}&bytes={bytes}&via={via}&seed={bytes}");
    let mut plan = Plan::post(namespace.url(from, &path), 0, 1);
    plan.limit_seconds = 300.0;
    let report = driver.drive(&plan).await?;
    all_succeeded(&report).with_context(|| format!("{bytes} bytes via {via}"))?;
    let answer = report.answers[0].json();
    ensure!(answer["whole"] == true, "{bytes} bytes via {via} did not arrive as they were sent: {answer}");
    Ok(answer)
}

pub(crate) async fn pod_of(namespace: &Namespace<'_>, service: &str) -> Result<String> {
    Ok(name_of(&namespace.pods(service).await?.pop().with_context(|| format!("a pod of {service}"))?).to_owned())
}

pub(crate) fn sized(name: &str) -> Service {
    Service::new(name).scaling("min-scale", "1").timeout_seconds(300).annotation("zipline.dev/buffer-bytes", "3GiB")
}

#[tokio::test]
async fn a_byte_to_a_gibibyte_arrive_whole_by_every_way_and_large_ones_straight_from_the_producer() -> Result<()> {
    let Some(cluster) = Cluster::claim("sizes and ways").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "ways").await?;
    namespace.apply(&sized("producer")).await?;
    namespace.apply(&sized("consumer")).await?;
    namespace.apply(&sized("mapped").by_sdk()).await?;
    let driver = namespace.driver().await?;
    // An egress learns from an answer that the other side is ours: the first call goes inline.
    send(&driver, &namespace, "producer", "consumer", BY_REFERENCE, "egress").await?;
    let (producer, consumer) = (pod_of(&namespace, "producer").await?, pod_of(&namespace, "consumer").await?);
    let received = async || metric(&cluster, &namespace, &consumer, "zipline_pull_bytes_total", "received").await;
    for bytes in [1, BY_REFERENCE, MIB, 64 * MIB, KIB * MIB] {
        for via in ["header", "egress", "invoke", "sdk"] {
            let before = received().await?;
            let answer = send(&driver, &namespace, "producer", "consumer", bytes, via).await?;
            let pulled = received().await? - before;
            println!("{bytes} bytes via {via}: {:.0} ms, {pulled:.0} bytes pulled", answer["ms"].as_f64().unwrap_or_default());
            let by_reference = bytes >= BY_REFERENCE || via == "header";
            ensure!(pulled == if by_reference { bytes as f64 } else { 0.0 }, "{bytes} bytes via {via}: {pulled} were pulled");
        }
    }
    let answer = send(&driver, &namespace, "producer", "mapped", 64 * MIB, "sdk").await?;
    ensure!(answer["answer"]["mapped"] == true, "a function on the SDK gets its payload as mapped memory: {answer}");
    let sent = metric(&cluster, &namespace, &producer, "zipline_pull_bytes_total", "sent").await?;
    ensure!(sent >= (3 * KIB * MIB) as f64, "the producer's queue-proxy sent {sent} bytes");
    namespace.remove().await
}

#[tokio::test]
async fn an_object_outlives_the_quiet_of_its_revision_and_the_revision_goes_to_zero_after_it() -> Result<()> {
    let Some(cluster) = Cluster::claim("hold").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "hold").await?;
    namespace.apply(&Service::new("holder")).await?;
    namespace.apply(&Service::new("reader").scaling("min-scale", "1")).await?;
    let driver = namespace.driver().await?;
    let produced = driver.drive(&Plan::post(namespace.url("holder", "/produce?bytes=1000000&ttl=120"), 0, 1)).await?;
    all_succeeded(&produced)?;
    let produced = produced.answers[0].json();
    let holder = pod_of(&namespace, "holder").await?;
    // Three times what an idle revision is given: stable window, grace, and the ticks between.
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < patience {
        ensure!(pod_of(&namespace, "holder").await? == holder, "the holder was replaced");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut plan = Plan::post(namespace.url("reader", "/digest"), 0, 1);
    plan = plan.header("zipline-reference", produced["reference"].as_str().context("a reference")?);
    let read = driver.drive(&plan).await?;
    all_succeeded(&read)?;
    ensure!(read.answers[0].json()["sha256"] == produced["sha256"], "{:?}", read.answers);
    namespace.at_zero("holder", LIMIT).await?;
    namespace.remove().await
}

#[tokio::test]
async fn keys_rotated_under_load_fail_no_request() -> Result<()> {
    let Some(cluster) = Cluster::claim("rotation").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "rotate").await?;
    namespace.apply(&sized("producer")).await?;
    namespace.apply(&sized("consumer")).await?;
    let driver = namespace.driver().await?;
    let url = namespace.url("producer", &format!("/send?to=consumer&bytes={BY_REFERENCE}&via=header"));
    let load = driver.start(&Plan::post(url, 0, 600).rate(10.0)).await?;
    crate::zipline::zipline(&cluster, &["rotate-keys", "-n", &namespace.name]).await?;
    let report = load.ended().await?;
    all_succeeded(&report)?;
    ensure!(report.answers.iter().all(|answer| answer.json()["whole"] == true), "{:?}", report.answers);
    namespace.remove().await
}

#[tokio::test]
async fn a_payload_in_flight_survives_the_deletion_of_its_producer() -> Result<()> {
    let Some(cluster) = Cluster::claim("producer deleted").await? else { return Ok(()) };
    let namespace = enabled(&cluster, "leaving").await?;
    namespace.apply(&sized("leaver")).await?;
    namespace.apply(&sized("reader")).await?;
    let driver = namespace.driver().await?;
    let produced = driver.drive(&Plan::post(namespace.url("leaver", "/produce?bytes=50000000&ttl=120"), 0, 1)).await?;
    all_succeeded(&produced)?;
    let produced = produced.answers[0].json();
    let holder = pod_of(&namespace, "leaver").await?;
    cluster.api.delete_with(&format!("{}/{holder}", namespace.core("pods")), &serde_json::json!({})).await?;
    let mut plan = Plan::post(namespace.url("reader", "/digest"), 0, 1);
    plan = plan.header("zipline-reference", produced["reference"].as_str().context("a reference")?);
    let read = driver.drive(&plan).await?;
    all_succeeded(&read).context("the pod is told to end, but holds what was not read yet")?;
    ensure!(read.answers[0].json()["sha256"] == produced["sha256"], "{:?}", read.answers);
    namespace.remove().await
}

#[tokio::test]
async fn payloads_cross_from_one_node_to_the_other() -> Result<()> {
    let Some(cluster) = Cluster::claim("between nodes").await? else { return Ok(()) };
    if cluster.api.list("/api/v1/nodes").await?.len() < 2 {
        zipline_testkit::skip("between nodes", "the cluster has one node");
        return Ok(());
    }
    let namespace = enabled(&cluster, "nodes").await?;
    namespace.apply(&sized("producer")).await?;
    namespace.apply(&Service::new("spread").scaling("min-scale", "4").scaling("target-burst-capacity", "-1")).await?;
    let driver = namespace.driver().await?;
    let url = namespace.url("producer", &format!("/send?to=spread&bytes={MIB}&via=header"));
    let report = driver.drive(&Plan::post(url, 0, 40)).await?;
    all_succeeded(&report)?;
    ensure!(report.answers.iter().all(|answer| answer.json()["whole"] == true), "{:?}", report.answers);
    let node = |pod: &serde_json::Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let producer = node(&namespace.pods("producer").await?.pop().context("a producer")?);
    let mut pulled_elsewhere = 0.0;
    for pod in namespace.pods("spread").await? {
        let pulled = metric(&cluster, &namespace, name_of(&pod), "zipline_pull_bytes_total", "received").await?;
        println!("producer on {producer}, {} on {}: {pulled:.0} bytes pulled", name_of(&pod), node(&pod));
        pulled_elsewhere += if node(&pod) == producer { 0.0 } else { pulled };
    }
    ensure!(pulled_elsewhere > 0.0, "no pod on another node pulled anything");
    namespace.remove().await
}

#[tokio::test]
async fn a_killed_queue_proxy_comes_back_and_its_references_say_that_their_producer_is_gone() -> Result<()> {
    let Some(cluster) = Cluster::claim("queue-proxy killed").await? else { return Ok(()) };
    if cluster.origin == Origin::Kubeconfig {
        zipline_testkit::skip("queue-proxy killed", "its process can only be killed on a cluster of this machine");
        return Ok(());
    }
    let namespace = enabled(&cluster, "killed").await?;
    namespace.apply(&sized("holder")).await?;
    namespace.apply(&sized("reader")).await?;
    let driver = namespace.driver().await?;
    let produced = driver.drive(&Plan::post(namespace.url("holder", "/produce?bytes=1000000&ttl=120"), 0, 1)).await?;
    all_succeeded(&produced)?;
    let holder = pod_of(&namespace, "holder").await?;
    kill_queue_proxy(&holder)?;
    let path = format!("{}/{holder}", namespace.core("pods"));
    let restarted = |pod: &serde_json::Value| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        let mut of_proxy = statuses.into_iter().flatten().filter(|status| status["name"] == "queue-proxy");
        of_proxy.any(|status| status["restartCount"] == 1 && status["ready"] == true)
    };
    cluster.api.until("the queue-proxy to be back", LIMIT, &path, restarted).await?;
    let reference = produced.answers[0].json()["reference"].as_str().context("a reference")?.to_owned();
    let read = driver.drive(&Plan::post(namespace.url("reader", "/digest"), 0, 1).header("zipline-reference", reference)).await?;
    let answer = read.answers.first().context("an answer")?;
    ensure!(answer.status == 410 && answer.headers["zipline-error"] == "producer-gone", "{answer:?}");
    // And the pod produces again.
    send(&driver, &namespace, "holder", "reader", MIB, "header").await?;
    namespace.remove().await
}

/// Kills the queue-proxy of a pod, as the kernel would that is out of memory.
pub(crate) fn kill_queue_proxy(pod: &str) -> Result<()> {
    let wanted = format!("SERVING_POD={pod}");
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            let pid = entry.file_name().to_string_lossy().parse()?;
            let pid = rustix::process::Pid::from_raw(pid).context("a process id is positive")?;
            return Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?);
        }
    }
    anyhow::bail!("no process has {wanted}")
}
