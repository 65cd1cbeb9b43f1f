//! Whether an instance takes requests: its queue-proxy knows, and is asked.
//!
//! Until it is ready it is asked as Knative's activator asks (every 200 ms, 300 ms each), then as a kubelet does: every
//! `periodSeconds`, and unready after `failureThreshold` failures. Whoever could not reach it has it asked at once.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use zipline_contract::headers;

use super::instance::{Instance, Phase};
use super::listeners;
use crate::http_client::{self, Ask};

/// Between two probes of an instance that is not ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// Limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// Limit of a probe of an instance that was ready: a busy machine must not take it out.
const REPROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Kubernetes' defaults for an instance that is ready.
const PERIOD_SECONDS_DEFAULT: u32 = 10;
const FAILURE_THRESHOLD_DEFAULT: u32 = 3;

/// Keeps an instance's phase in step with what its queue-proxy says.
pub(super) async fn follow(instance: &Instance) -> Infallible {
    loop {
        until_ready(instance).await;
        instance.set_phase(Phase::Ready, "ready");
        warn_of_open_listeners(instance).await;
        while_ready(instance).await;
        instance.set_phase(Phase::Starting, "its readiness probe fails");
    }
}

async fn until_ready(instance: &Instance) {
    let mut turns = interval(PROBE_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if instance.status().function_pid.is_some() && answers(instance, PROBE_TIMEOUT).await {
            return;
        }
    }
}

/// Returns once it is no longer ready.
async fn while_ready(instance: &Instance) {
    let probe = &instance.spec.function.readiness;
    let or = |value: u32, default| if value == 0 { default } else { value };
    let period = Duration::from_secs(or(probe.period_seconds, PERIOD_SECONDS_DEFAULT).into());
    let threshold = or(probe.failure_threshold, FAILURE_THRESHOLD_DEFAULT);
    let mut turns = interval(period);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns.reset();
    let mut status = instance.watch();
    let mut failures = 0;
    loop {
        tokio::select! {
            changed = status.wait_for(|status| status.phase != Phase::Ready) => {
                debug_assert!(changed.is_ok(), "an instance outlives its own probing");
                return;
            }
            _ = turns.tick() => {}
            () = instance.doubt.notified() => {}
        }
        failures = if answers(instance, REPROBE_TIMEOUT).await { 0 } else { failures + 1 };
        if failures >= threshold {
            return;
        }
        if failures > 0 {
            // Kubernetes would wait a whole period; on one machine an answer is known sooner.
            instance.doubt();
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}

async fn answers(instance: &Instance, limit: Duration) -> bool {
    let ask = Ask::get(instance.request_address(), "/")
        .header("user-agent", "Knative-Activator-Probe")
        .header(headers::K_NETWORK_PROBE, "queue");
    match timeout(limit, http_client::ask(ask)).await {
        Ok(Ok(answer)) => answer.status.is_success() && answer.body == "queue",
        // Refused, reset, late: it is not there yet, which is what was asked.
        Ok(Err(_)) | Err(_) => false,
    }
}

async fn warn_of_open_listeners(instance: &Instance) {
    let port = instance.function_port();
    let found = tokio::task::spawn_blocking(move || listeners::beyond_loopback(port)).await;
    match found {
        Ok(Ok(addresses)) => {
            for address in addresses {
                instance.log.say(format!(
                    "warning: the function listens on {address}:{port}, where other machines may reach it; \
                     127.0.0.1 is enough on the local platform"
                ));
            }
        }
        Ok(Err(error)) => instance.log.say(format!("where the function listens is not known: {error}")),
        Err(error) => instance.log.say(format!("where the function listens is not known: {error}")),
    }
}
