//! Functions that die, platforms that meet, ports that are taken: a named error each, and everything still serving.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use rustix::process::Signal;
use zipline_contract::headers;
use zipline_testkit::{Payload, Scratch, Target, census, http as client, wait};

use crate::up::{LIMIT, Up, program};

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn a_call_to_a_function_that_was_killed_can_be_repeated_and_then_frees_its_object() -> Result<()> {
    let up = Up::start().await?;
    up.apply("sha", &[], 0).await?;
    let payload = Payload::new(20 * MIB, 3);
    let reference = up.put("ttl=5m", &payload).await?;
    let mark = up.scratch.join("mark");
    for dies in ["before", "during", "after"] {
        std::fs::write(&mark, "")?;
        let path = format!("/?mark={}&dies={dies}", mark.display());
        let answer = up.send("sha", Request::post(path).header(headers::REFERENCE, &reference)).await?;
        assert!(answer.status.is_server_error(), "dying {dies} reading was answered {}", answer.status);
        // Its process is started again; until then its queue-proxy has nobody to ask.
        let again = async || Ok(up.send("sha", Request::get("/")).await?.status);
        wait::until("the function to be there again", LIMIT, again, |status| *status == StatusCode::OK).await?;
    }
    let answer = up.send("sha", Request::post("/").header(headers::REFERENCE, &reference)).await?;
    assert_eq!(answer.json()?["sha256"], payload.sha256(), "the retry gets it whole");
    let state = Request::head("/v1/objects").header(headers::REFERENCE, &reference).body(client::empty())?;
    let freed = client::send(&up.client()?, state).await?;
    assert_eq!(freed.error(), "reference-exhausted", "{}", freed.status);
    up.at_rest(Duration::from_secs(30)).await
}

#[tokio::test]
async fn a_second_platform_on_the_same_state_directory_is_refused_by_the_firsts_pid_and_elsewhere_both_run() -> Result<()> {
    let first = Up::start().await?;
    let mut refused = program(&first.state, 0)?.start(&first.scratch)?;
    let status = refused.ended(LIMIT).await?;
    assert!(!status.success());
    let said = refused.stderr() + &refused.stdout();
    assert!(said.contains(&first.process.pid().to_string()), "the first's pid is named: {said}");
    assert!(said.contains("state-in-use") || said.contains("hint"), "{said}");

    let second = Up::start().await?;
    assert_ne!(first.info["network"], second.info["network"], "each has addresses of its own");
    for up in [&first, &second] {
        up.apply("sha", &[], 0).await?;
        assert_eq!(up.send("sha", Request::get("/")).await?.status, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named_and_leaves_nothing_behind() -> Result<()> {
    let scratch = Scratch::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let mut refused = program(&scratch.join("state"), port)?.start(&scratch)?;
    let status = refused.ended(LIMIT).await?;
    let said = refused.stderr() + &refused.stdout();
    assert!(!status.success() && said.contains(&port.to_string()), "{status} {said}");
    assert!(census::descendants(refused.pid())?.is_empty());
    Ok(())
}

#[tokio::test]
async fn ctrl_c_ends_idle_instances_and_the_client_proxy_without_killing_any() -> Result<()> {
    // Far longer than anybody gets before it is killed.
    let mut up = Up::start_with(["--set", "ZIPLINE_DRAIN_QUIET_SECONDS=30"]).await?;
    up.apply("sha", &[("autoscaling.knative.dev/min-scale", "2")], 0).await?;
    let reference = up.put("", &Payload::new(MIB, 1)).await?;
    assert_eq!(up.send("sha", Request::post("/").header(headers::REFERENCE, &reference)).await?.status, StatusCode::OK);
    let logs = std::path::PathBuf::from(up.info["logs_dir"].as_str().context("logs_dir")?);
    up.process.signal(Signal::INT)?;
    assert!(up.process.ended(LIMIT).await?.success(), "{}", up.process.tail());
    let texts = texts_under(&logs)?;
    assert!(texts.len() >= 3, "{} logs: two instances and the client proxy have one each", texts.len());
    for text in texts {
        assert!(!text.contains("was killed"), "somebody did not end by itself:\n{text}");
    }
    Ok(())
}

/// Every file in a folder and the folders in it.
fn texts_under(folder: &std::path::Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            texts.extend(texts_under(&path)?);
        } else {
            texts.push(std::fs::read_to_string(path)?);
        }
    }
    Ok(texts)
}

#[tokio::test]
async fn an_asked_for_end_with_a_drain_waits_until_what_instances_hold_was_read() -> Result<()> {
    let mut up = Up::start().await?;
    up.apply("holder", &[], 0).await?;
    let held = up.send("holder", Request::get("/?put=100000&ttl=60s&wait=0")).await?.json()?;
    let reference = held["reference"].as_str().context("a reference")?;
    let logs = std::path::PathBuf::from(up.info["logs_dir"].as_str().context("logs_dir")?);
    let control = Target::Unix(up.info["control_socket"].as_str().context("control_socket")?.into());
    let asked = client::send(&control, Request::post("/v1/shutdown?drain").body(client::empty())?).await?;
    assert_eq!((asked.status, asked.json()?["pid"].as_u64()), (StatusCode::ACCEPTED, Some(u64::from(up.process.pid()))));

    let stopping = async || up.instances("holder").await;
    let holds = |instances: &Vec<serde_json::Value>| {
        instances.iter().any(|instance| instance["state"] == "stopping" && instance["held"]["held_objects"] == 1)
    };
    wait::until("the instance to drain with what it holds", LIMIT, stopping, holds).await?;
    assert!(up.process.try_ended()?.is_none(), "{}", up.process.tail());
    let get = Request::get("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?;
    let read = client::send(&up.client()?, get).await?;
    assert_eq!((read.status, read.body.len()), (StatusCode::OK, 100_000), "{}", read.error());
    assert!(up.process.ended(LIMIT).await?.success(), "{}", up.process.tail());
    for text in texts_under(&logs)? {
        assert!(!text.contains("was killed") && !text.contains("is lost"), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn no_child_outlives_a_platform_that_was_killed() -> Result<()> {
    let up = Up::start().await?;
    up.apply("sha", &[("autoscaling.knative.dev/min-scale", "2")], 0).await?;
    let two = async || Ok(up.instances("sha").await?.iter().filter(|instance| instance["state"] == "ready").count());
    wait::until("two ready instances", LIMIT, two, |ready| *ready == 2).await?;
    let children = census::descendants(up.process.pid())?;
    assert!(children.len() >= 5, "two functions, two queue-proxies and the client proxy: {children:?}");
    up.process.signal(Signal::KILL)?;
    let left = async || Ok(children.iter().filter(|child| census::is_running(child.pid)).count());
    wait::until("the children to be gone", Duration::from_secs(10), left, |left| *left == 0).await.map(|_| ())
}

#[tokio::test]
async fn yaml_that_is_wrong_is_refused_with_every_mistake_and_the_platform_goes_on() -> Result<()> {
    let up = Up::start().await?;
    let bad = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  template:\n    spec:\n      containerConcurrency: -1\n      conteiners: []\n";
    let file = up.scratch.write("bad.yaml", bad)?;
    let mut applied = zipline_testkit::Program::built("zipline")?
        .args(["--json", "--state"])
        .arg(&up.state)
        .args(["service", "apply", "-f"])
        .arg(file)
        .start(&up.scratch)?;
    let status = applied.ended(LIMIT).await?;
    let said = applied.stderr() + &applied.stdout();
    assert!(!status.success(), "{said}");
    for mistake in ["conteiners", "containerConcurrency"] {
        assert!(said.contains(mistake), "{mistake} is not named in {said}");
    }
    up.apply("sha", &[], 0).await?;
    let payload = Payload::new(MIB, 1);
    let reference = up.put("", &payload).await?;
    let answer = up.send("sha", Request::post("/").header(headers::REFERENCE, &reference)).await?;
    assert_eq!(answer.json().context("the function's answer")?["sha256"], payload.sha256());
    Ok(())
}
