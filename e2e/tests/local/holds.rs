//! What holding objects does to scaling, on the real platform.

use std::time::Duration;

use anyhow::Result;
use http::Request;
use zipline_core::kpa::LogRecord;
use zipline_testkit::wait;

use crate::up::{LIMIT, Up};

#[tokio::test]
async fn a_driver_blocked_in_one_call_while_it_holds_keeps_one_instance() -> Result<()> {
    let up = Up::start().await?;
    up.apply("driver", &[("autoscaling.knative.dev/target-utilization-percentage", "100")], 1).await?;
    // Longer than the stable window, so that the average is all this one call.
    let answer = up.send("driver", Request::get("/?put=100000&ttl=60s&wait=10")).await?;
    assert!(answer.status.is_success(), "{}", answer.text());
    let wanted = decided(&up, "driver")?;
    assert!(wanted.contains(&1), "{wanted:?}");
    assert!(wanted.iter().all(|want| *want <= 1), "one call at target 1 asked for more: {wanted:?}");
    Ok(())
}

#[tokio::test]
async fn a_revision_scaled_by_rps_that_holds_is_not_scaled_to_zero_until_its_object_expires() -> Result<()> {
    let up = Up::start().await?;
    up.apply("holder", &[("autoscaling.knative.dev/metric", "rps")], 0).await?;
    let answer = up.send("holder", Request::get("/?put=100000&ttl=20s&wait=0")).await?;
    assert!(answer.status.is_success(), "{}", answer.text());
    // Without the hold it would be at zero 6 s + 1 s after its request; the object lives 20 s.
    let held = async || {
        anyhow::Ok(
            up.instances("holder").await?.iter().filter_map(|instance| instance["held"]["held_objects"].as_u64()).sum::<u64>(),
        )
    };
    let mut least = usize::MAX;
    loop {
        let ready = up.instances("holder").await?.iter().filter(|instance| instance["state"] == "ready").count();
        if held().await? == 0 {
            break;
        }
        least = least.min(ready);
        tokio::task::yield_now().await;
    }
    assert!(least >= 1 && least != usize::MAX, "an instance left while it held: {least}");
    let gone = wait::until(
        "the revision to go to zero after the expiry",
        LIMIT,
        async || up.instances("holder").await,
        |left: &Vec<serde_json::Value>| left.is_empty(),
    );
    gone.await.map(|_| ())?;
    up.at_rest(Duration::from_secs(30)).await
}

/// The instances that every decision for a service asked for.
fn decided(up: &Up, service: &str) -> Result<Vec<u32>> {
    let ticks = up.decisions(service)?.into_iter().filter_map(|(_, record)| match record {
        LogRecord::Tick(tick) => tick.decision.decided,
        LogRecord::Start { .. } => None,
    });
    Ok(ticks.map(|decision| decision.desired_pods).collect())
}
