//! What goes wrong, and what is left of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use zipline_platform::model::{InstanceView, Phase};
use zipline_platform::{Platform, PlatformError, StateDirError};
use zipline_testkit::{Program, Scratch, census, wait};

use crate::world::{LIMIT, World, config};

/// Names the state directory for [`a_platform_that_is_killed_leaves_no_process`] run as the platform.
const CHILD_VARIABLE: &str = "ZIPLINE_TEST_STATE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_dies_is_started_again_and_its_neighbours_do_not_notice() -> Result<()> {
    let world = World::start().await?;
    world.apply("mortal", &[("autoscaling.knative.dev/min-scale", "1")], "timeoutSeconds: 10").await?;
    world.apply("other", &[("autoscaling.knative.dev/min-scale", "1")], "timeoutSeconds: 10").await?;
    world.ready("mortal").await?;
    world.ready("other").await?;
    let answer = world.get("mortal", "/exit").await?;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(world.get("other", "/").await?.status, 200);
    let restarted =
        |instances: &Vec<InstanceView>| instances.iter().any(|instance| instance.restarts == 1 && instance.state == Phase::Ready);
    wait::until("the function to be started again", LIMIT, async || world.instances().await, restarted).await?;
    assert_eq!(world.get("mortal", "/").await?.status, 200);
    assert!(world.logs("mortal").await?.contains("told to exit"));
    assert_eq!(world.status().await?.instance_crashes, 1);
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_never_starts_is_tried_again_ever_more_slowly_and_says_why() -> Result<()> {
    let world = World::start().await?;
    world.apply_command("broken", &[], "timeoutSeconds: 5", "command: [./no-such-program]").await?;
    let thrice = |instances: &Vec<InstanceView>| instances.iter().any(|instance| instance.restarts >= 3);
    wait::until("three tries", LIMIT, async || world.instances().await, thrice).await?;
    let answer = world.control("GET", "/v1/services/default/broken?wait_ready_seconds=0.1").await?;
    assert_eq!(answer.error(), "service-not-ready");
    let logs = world.logs("broken").await?;
    assert!(logs.contains("no-such-program") && logs.contains("started again in 1s"), "{logs}");
    // Whoever calls it waits no longer than the revision's timeout.
    let answer = world.get("broken", "/").await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_proxy_that_is_killed_takes_its_function_along_and_both_come_back() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[("autoscaling.knative.dev/min-scale", "1")], "timeoutSeconds: 10").await?;
    world.ready("echo").await?;
    let before = world.instances().await?.remove(0);
    kill(before.proxy_pid)?;
    // Until the platform knows that it is dead it may be sent the request, which is then lost with it and answered 502.
    let known = |instances: &Vec<InstanceView>| {
        instances.iter().all(|instance| instance.state != Phase::Ready || instance.proxy_pid != before.proxy_pid)
    };
    wait::until("the queue-proxy's end", LIMIT, async || world.instances().await, known).await?;
    let answer = world.get("echo", "/").await?;
    assert_eq!(answer.status, 200, "held until it is back: {}", answer.text());
    let after = world.instances().await?.remove(0);
    assert_eq!((&after.name, after.restarts), (&before.name, 1));
    assert!(!census::is_running(before.function_pid.context("a pid")? as u32));
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_platform_runs_beside_the_first_but_not_on_its_directory_or_port() -> Result<()> {
    let first = World::start().await?;
    let error = Platform::start(config(first.platform.info().state_dir.clone())?).await.err().context("must be refused")?;
    assert!(matches!(error, PlatformError::State(StateDirError::InUse { .. })), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");

    let second = World::start().await?;
    assert_ne!(first.platform.info().network, second.platform.info().network);
    for world in [&first, &second] {
        world.apply("echo", &[], "timeoutSeconds: 10").await?;
        assert_eq!(world.get("echo", "/").await?.status, 200);
    }
    let scratch = Scratch::new()?;
    let mut taken = config(scratch.join("state"))?;
    taken.ingress = first.platform.info().ingress.trim_start_matches("http://").parse()?;
    let error = Platform::start(taken).await.err().context("must be refused")?;
    assert!(matches!(error, PlatformError::Ingress(_)) && error.to_string().contains("is taken"), "{error}");
    let mut mistaken = config(scratch.join("state"))?;
    mistaken.proxy_settings.insert("ZIPLINE_LEASE_SECONDS".to_owned(), "soon".to_owned());
    let error = Platform::start(mistaken).await.err().context("must be refused")?;
    assert!(error.to_string().contains("ZIPLINE_LEASE_SECONDS: `soon` is not seconds"), "{error}");
    first.end().await;
    assert_eq!(second.get("echo", "/").await?.status, 200, "the second does not notice the first's end");
    second.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_leaves_no_process_and_no_socket() -> Result<()> {
    let world = World::start().await?;
    // It ignores SIGTERM, and has put a descendant out of its process group.
    let container = "command: [sh, -c, \"trap '' TERM; setsid sleep 1000 & exec python3 -u function.py\"]";
    world.apply_command("stubborn", &[("autoscaling.knative.dev/min-scale", "2")], "timeoutSeconds: 10", container).await?;
    let ready = |instances: &Vec<InstanceView>| instances.iter().filter(|i| i.state == Phase::Ready).count() == 2;
    let instances = wait::until("two instances", LIMIT, async || world.instances().await, ready).await?;
    let pids: Vec<u32> = instances
        .iter()
        .flat_map(|instance| [instance.proxy_pid, instance.function_pid])
        .flatten()
        .map(i32::unsigned_abs)
        .collect();
    let lost: Vec<u32> = pids
        .iter()
        .map(|pid| census::descendants(*pid))
        .collect::<Result<Vec<_>>>()?
        .concat()
        .iter()
        .map(|process| process.pid)
        .collect();
    assert!(lost.len() >= 2, "each left one process outside its group: {lost:?}");
    let state = world.platform.info().state_dir.clone();
    let _scratch = world.end().await;
    for pid in pids.iter().chain(&lost) {
        assert!(!census::is_running(*pid), "{pid} is left");
    }
    let left: Vec<_> = std::fs::read_dir(state)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".sock")), "{left:?}");
    Ok(())
}

/// Runs this test binary again as a platform, and kills that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_that_is_killed_leaves_no_process() -> Result<()> {
    if let Some(state) = std::env::var_os(CHILD_VARIABLE) {
        return be_the_platform(Path::new(&state)).await;
    }
    let scratch = Scratch::new()?;
    scratch.write("function.py", "import time\nwhile True: time.sleep(1)\n")?;
    let program = Program::at("platform", &std::env::current_exe()?)
        .args(["--exact", "faults::a_platform_that_is_killed_leaves_no_process", "--nocapture"])
        .env(CHILD_VARIABLE, scratch.path());
    let mut program = ["PATH", "ZIPLINE_QUEUE_PROXY"]
        .into_iter()
        .fold(program, |program, name| match std::env::var_os(name) {
            Some(value) => program.env(name, value),
            None => program,
        })
        .start(&scratch)?;
    let pid = program.pid();
    // The client proxy, and both processes of two instances.
    let enough = |processes: &Vec<census::Process>| processes.len() >= 5;
    let children = wait::until("its children", LIMIT, async || census::descendants(pid), enough).await?;
    kill(Some(pid as i32))?;
    wait::until("its end", LIMIT, async || program.try_ended(), Option::is_some).await?;
    for child in children {
        let ended = |running: &bool| !running;
        wait::until(&format!("{child:?} to end"), LIMIT, async || Ok(census::is_running(child.pid)), ended).await?;
    }
    Ok(())
}

async fn be_the_platform(scratch: &Path) -> Result<()> {
    let platform = Platform::start(config(scratch.join("state"))?).await?;
    let yaml = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: { name: one }\nspec:\n  template:\n    metadata:\n      \
                annotations: { autoscaling.knative.dev/min-scale: \"2\" }\n    spec:\n      containers: [{ command: [python3, function.py] }]\n";
    platform.apply(yaml, scratch)?;
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}

/// Kills by number. A program that does it would be a child of this process, which the platform takes for a lost one.
fn kill(pid: Option<i32>) -> Result<()> {
    let pid = pid.and_then(rustix::process::Pid::from_raw).context("a pid")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}
