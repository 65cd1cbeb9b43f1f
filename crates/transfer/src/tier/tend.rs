//! What is looked at while nothing happens: whether the store answers, and copies that nobody removed.
//!
//! A producer removes its copies when their objects end. One that was killed cannot; nobody else knows when they expired.
//! A copy that is older than the longest ttl has, whatever its ttl was. So every proxy looks now and then at a bounded
//! number of copies, from a random place on, and removes those. Nobody is served an expired copy meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::time::{Instant, sleep};

use super::{Tier, TierError};
use crate::node::Inner;
use crate::random;

/// How often the store is asked whether it is there.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Copies, and marks, that one sweep looks at.
const SWEEP_LOOK_MAX: usize = 10_000;
/// A store's clock may be that far from ours.
const SKEW: Duration = Duration::from_secs(300);
/// A key that no copy has.
const NOTHING: &str = "zipline-check";

/// Looks after the tier as long as the node lives.
pub(crate) async fn tend(inner: Arc<Inner>, tier: Arc<Tier>) {
    let sweep = tier.config.sweep;
    // Not all proxies at once.
    let share = f64::from(random::byte().unwrap_or_default()) / 256.0;
    let mut sweep_at = sweep.map(|every| Instant::now() + every.mul_f64(share));
    loop {
        tier.check().await;
        if let (Some(at), Some(every)) = (sweep_at, sweep)
            && at <= Instant::now()
        {
            if let Err(error) = tier.sweep(&inner).await {
                tracing::debug!(%error, "the durable tier was not swept");
            }
            sweep_at = Some(Instant::now() + every);
        }
        let until_sweep = sweep_at.map_or(CHECK_EVERY, |at| at.saturating_duration_since(Instant::now()));
        sleep(CHECK_EVERY.min(until_sweep)).await;
    }
}

impl Tier {
    async fn check(&self) {
        match self.heard("find", self.config.store.head(&self.path(NOTHING)).await) {
            Ok(_) | Err(TierError::NoCopy { .. }) => {}
            Err(error) => tracing::warn!(%error, "the durable tier can't be used now"),
        }
    }

    async fn sweep(&self, inner: &Inner) -> Result<(), TierError> {
        let from = format!("{:02x}", random::byte().unwrap_or_default());
        let age = inner.config.ttl_max.saturating_add(SKEW);
        let now = inner.config.clock.wall().saturating_sub(age);
        let oldest = i64::try_from(now.unix_millis()).unwrap_or(i64::MAX);
        for kind in ["o", "r"] {
            let (all, offset) = (self.path(kind), self.path(&format!("{kind}/{from}")));
            let mut left = SWEEP_LOOK_MAX;
            self.sweep_from(&all, Some(&offset), &mut left, oldest).await?;
            self.sweep_from(&all, None, &mut left, oldest).await?;
        }
        Ok(())
    }

    async fn sweep_from(&self, all: &Path, offset: Option<&Path>, left: &mut usize, oldest: i64) -> Result<(), TierError> {
        let mut listed = match offset {
            Some(offset) => self.config.store.list_with_offset(Some(all), offset),
            None => self.config.store.list(Some(all)),
        }
        .take(*left);
        while let Some(found) = listed.next().await {
            let found: ObjectMeta = self.heard("find", found)?;
            *left = left.saturating_sub(1);
            if found.last_modified.timestamp_millis() < oldest {
                self.heard("remove", self.config.store.delete(&found.location).await)?;
                self.counters.swept();
            }
        }
        Ok(())
    }
}
