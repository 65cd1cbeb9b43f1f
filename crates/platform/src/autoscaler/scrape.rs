//! Asks queue-proxies: their statistics for the autoscaler, and what they hold.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zipline_contract::doors;
use zipline_core::kpa::{ScrapePlan, average_over_population};
use zipline_core::stats::Stat;

use crate::clock;
use crate::http_client::{self, Ask};
use crate::supervisor::Instance;

/// Limit of one scrape: less than the second in which the next begins.
const SCRAPE_LIMIT: Duration = Duration::from_millis(400);
/// Limit of asking what an instance holds.
const HELD_LIMIT: Duration = Duration::from_millis(500);

/// One report that stands for all of these instances; `None` when too few answer, and the second has no data.
pub(super) async fn scrape(instances: Vec<Arc<Instance>>, stable_window: Duration) -> Option<Stat> {
    let now = clock::now();
    let ages: Vec<Duration> = instances.iter().map(|instance| now.since(instance.started)).collect();
    let plan = ScrapePlan::new(&ages, stable_window, |n| if n <= 1 { 0 } else { rand::random_range(0..n) });
    let (first, spare) = plan.order.split_at(plan.order.len().min(plan.needed as usize));
    let mut answers: Vec<Stat> = join_all(first.iter().map(|i| ask(&instances[*i]))).await.into_iter().flatten().collect();
    let missing = first.len() - answers.len();
    if missing > 0 && !spare.is_empty() {
        let more = join_all(spare.iter().take(missing).map(|i| ask(&instances[*i]))).await;
        answers.extend(more.into_iter().flatten());
    }
    match average_over_population(&answers, u32::try_from(instances.len()).unwrap_or(u32::MAX)) {
        Ok(stat) => stat,
        Err(error) => {
            tracing::debug!(%error, "a second without data");
            None
        }
    }
}

async fn ask(instance: &Instance) -> Option<Stat> {
    let ask = Ask::get(instance.port(doors::STATISTICS), "/metrics").header("accept", "application/protobuf");
    let answer = timeout(SCRAPE_LIMIT, http_client::ask(ask)).await.ok()?.ok()?;
    if !answer.status.is_success() {
        return None;
    }
    Stat::from_bytes(&answer.body).ok()
}

/// What an instance holds for its consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Bytes of objects.
    pub held_bytes: u64,
    /// Objects.
    pub held_objects: u64,
    /// Leases granted and not ended.
    pub leases: u64,
}

/// Asks the queue-proxy at an address what it holds; `None` when it does not say.
pub(crate) async fn held(address: Ipv4Addr) -> Option<Held> {
    let ask = Ask::get((address, doors::ADMIN).into(), "/zipline/status");
    let answer = timeout(HELD_LIMIT, http_client::ask(ask)).await.ok()?.ok()?;
    if !answer.status.is_success() {
        return None;
    }
    serde_json::from_slice(&answer.body).ok()
}
