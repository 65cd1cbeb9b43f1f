//! From zero to many and back, and the log of how that was decided.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use zipline_core::kpa::{LogRecord, replay};
use zipline_platform::DecisionRecord;
use zipline_platform::model::{InstanceView, Phase, ServiceView};
use zipline_testkit::{census, wait};

use crate::world::{LIMIT, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_from_yaml_to_many_instances_to_none_and_serves_again_from_zero() -> Result<()> {
    let world = World::start().await?;
    let annotations = [("autoscaling.knative.dev/max-scale", "3"), ("autoscaling.knative.dev/target-burst-capacity", "-1")];
    world.apply("echo", &annotations, "containerConcurrency: 1").await?;
    world.ready("echo").await?;

    // More at once than one instance takes, for long enough that the autoscaler sees it.
    let load = try_join_all((0..8).map(|_| async {
        let mut pids = BTreeSet::new();
        for _ in 0..4 {
            let answer = world.get("echo", "/?sleep=1").await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            pids.insert(answer.json()?["pid"].as_u64().context("a pid")?);
        }
        Ok::<_, anyhow::Error>(pids)
    }));
    let pids: BTreeSet<u64> = load.await?.into_iter().flatten().collect();
    assert_eq!(pids.len(), 3, "as many functions as max-scale allows, not {pids:?}");
    let service = world.service("echo").await?;
    assert_eq!(service.activator.ok, 32);

    world.until_no_instance().await?;
    let functions: Vec<_> = pids.iter().filter(|pid| census::is_running(**pid as u32)).collect();
    assert!(functions.is_empty(), "{functions:?} still run");
    assert_eq!(world.service("echo").await?.instances, <_>::default());

    let answer = world.get("echo", "/").await?;
    assert_eq!(answer.status, 200, "held while scaling from zero: {}", answer.text());
    assert!(!pids.contains(&answer.json()?["pid"].as_u64().context("a pid")?));

    let decisions = std::fs::read_to_string(&world.platform.info().decision_log)?;
    let mut records: BTreeMap<String, Vec<LogRecord>> = BTreeMap::new();
    for line in decisions.lines() {
        let record: DecisionRecord = serde_json::from_str(line).with_context(|| line.to_owned())?;
        records.entry(record.revision).or_default().push(record.record);
    }
    let records = records.remove("echo-00001").context("decisions about the revision")?;
    let ticks = records.len() - 1;
    assert!(ticks >= 5, "{ticks} ticks");
    assert_eq!(replay(records)?, ticks, "every logged decision comes out the same again");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_of_a_service_that_began_at_zero_is_decided_about_at_once() -> Result<()> {
    let world = World::start().await?;
    let allow =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: config-autoscaler }\ndata: { allow-zero-initial-scale: \"true\" }\n";
    let answer = world.control_with("POST", "/v1/apply?base_dir=/", allow.to_owned()).await?;
    assert!(answer.status.is_success(), "{}", answer.text());
    world.apply("lazy", &[("autoscaling.knative.dev/initial-scale", "0")], "timeoutSeconds: 10").await?;
    let log = world.platform.info().decision_log.clone();
    let ticks = || {
        let mut ticks = Vec::new();
        for line in std::fs::read_to_string(&log).unwrap_or_default().lines() {
            let record: DecisionRecord = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if let LogRecord::Tick(tick) = record.record {
                ticks.push(tick);
            }
        }
        Ok::<_, anyhow::Error>(ticks)
    };
    // Just after a turn, so that the next one by the clock is as far away as it can be.
    let before = ticks()?.len();
    let turned = wait::until("the next turn", LIMIT, async || ticks(), |ticks| ticks.len() > before).await?;
    let answer = world.get("lazy", "/").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let next = *ticks()?.get(turned.len()).context("a decision about the request")?;
    assert_eq!(next.decision.scale.replicas, Some(1), "{next:?}");
    let last = turned.last().context("a turn")?;
    let apart = next.input.at.since(last.input.at);
    assert!(apart < zipline_core::kpa::TICK_INTERVAL, "it waited for its turn, {apart:?} after the last");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_service_is_unknown_at_once_and_leaves_no_process() -> Result<()> {
    let world = World::start().await?;
    world.apply("gone", &[("autoscaling.knative.dev/min-scale", "2")], "timeoutSeconds: 10").await?;
    let two = |instances: &Vec<_>| instances.iter().filter(|i: &&InstanceView| i.state == Phase::Ready).count() == 2;
    let instances = wait::until("two ready instances", LIMIT, async || world.instances().await, two).await?;
    let answer = world.control("DELETE", "/v1/services/default/gone").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = world.get("gone", "/").await?;
    assert_eq!(answer.status, 404, "{}", answer.text());
    let answer = world.control("DELETE", "/v1/services/default/gone?wait").await?;
    assert!(answer.status == 404 || answer.json()?["instances_left"] == 0, "{}", answer.text());
    for pid in instances.iter().flat_map(|instance| [instance.proxy_pid, instance.function_pid]).flatten() {
        assert!(!census::is_running(pid as u32), "{pid} still runs");
    }
    assert_eq!(world.control("GET", "/v1/services/default/gone").await?.error(), "service-unknown");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_revision_takes_over_when_it_is_ready_and_never_when_it_is_broken() -> Result<()> {
    let world = World::start().await?;
    let container =
        |version: &str| format!("command: [python3, -u, function.py]\nenv: [{{ name: VERSION, value: \"{version}\" }}]");
    world.apply_command("app", &[], "timeoutSeconds: 10", &container("one")).await?;
    world.ready("app").await?;
    assert_eq!(world.get("app", "/").await?.json()?["env"]["VERSION"], "one");

    world.apply_command("app", &[], "timeoutSeconds: 10", "command: [sh, -c, exit 7]").await?;
    let broken = |service: &ServiceView| service.reason.as_deref().is_some_and(|reason| reason.contains("is started again in"));
    let service = wait::until("the broken revision to crash", LIMIT, async || world.service("app").await, broken).await?;
    assert_eq!((service.routed_revision.as_deref(), service.latest_revision.as_str()), (Some("app-00001"), "app-00002"));
    assert_eq!(world.get("app", "/").await?.json()?["env"]["VERSION"], "one");

    world.apply_command("app", &[], "timeoutSeconds: 10", &container("three")).await?;
    world.ready("app").await?;
    assert_eq!(world.get("app", "/").await?.json()?["env"]["VERSION"], "three");
    let alone = |service: &ServiceView| service.revisions.len() == 1;
    wait::until("the old revisions to go", LIMIT, async || world.service("app").await, alone).await?;
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_config_autoscaler_is_in_force_at_once_unless_a_service_contradicts_it() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[("autoscaling.knative.dev/initial-scale", "2")], "timeoutSeconds: 10").await?;
    let two = |service: &ServiceView| service.instances.ready == 2;
    wait::until("two instances", LIMIT, async || world.service("echo").await, two).await?;
    let config_map =
        |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: config-autoscaler }}\ndata: {data}\n");
    let keep_one = config_map("{ enable-scale-to-zero: \"false\" }");
    let answer = world.control_with("POST", "/v1/apply?base_dir=/", keep_one).await?;
    assert_eq!(answer.json()?["config_autoscaler"], true, "{}", answer.text());
    let one = |service: &ServiceView| {
        let scale = service.revisions[0].scale;
        service.instances.ready == 1 && scale.is_some_and(|scale| scale.want == Some(1) && scale.stable == Some(0.0))
    };
    wait::until("one instance without any load", LIMIT, async || world.service("echo").await, one).await?;

    let refused = world.control_with("POST", "/v1/apply?base_dir=/", config_map("{ max-scale-up-rate: \"0.5\" }")).await?;
    assert_eq!((refused.status.as_u16(), refused.error()), (400, "manifest-invalid"));
    world.end().await;
    Ok(())
}
