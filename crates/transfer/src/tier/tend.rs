//! What is looked at while nothing happens: whether the store answers, and copies that nobody removed.
//!
//! A producer removes its copies when their objects end. One that was killed cannot; nobody else knows when they expired.
//! A copy that is older than the longest ttl that *any* proxy may be configured to allow has, whatever its ttl was: the
//! proxies that share a bucket need not share that setting. So every proxy looks now and then at a bounded number of
//! copies, from a random place on, and removes those. Nobody is served an expired copy meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::time::{Instant, sleep};
use zipline_contract::settings;
use zipline_core::time::WallTime;

use super::{Tier, TierError};
use crate::node::Inner;
use crate::random;

/// How often the store is asked whether it is there.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Copies, and marks, that one sweep looks at.
const SWEEP_LOOK_MAX: usize = 10_000;
/// The longest ttl of any proxy, in seconds: the end of the range of `ZIPLINE_TTL_SECONDS_MAX`.
const TTL_SECONDS_LONGEST: f64 = match settings::TTL_SECONDS_MAX.range {
    Some((_, longest)) => longest,
    None => panic!("the longest ttl has a limit"), // When this is compiled.
};
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
        let oldest = oldest_of_use(inner.config.clock.wall());
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
            if found.last_modified.timestamp_millis() < oldest && self.delete(&found.location).await? {
                self.counters.swept();
            }
        }
        Ok(())
    }
}

/// When a copy must have been written to be of use to anybody, Unix milliseconds.
fn oldest_of_use(now: WallTime) -> i64 {
    let age = Duration::from_secs_f64(TTL_SECONDS_LONGEST).saturating_add(SKEW);
    i64::try_from(now.saturating_sub(age).unix_millis()).unwrap_or(i64::MIN) // A time that can't be: nothing is older.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_of_use_for_as_long_as_any_proxy_may_have_promised_it() {
        let now = WallTime::from_unix_millis(1_800_000_000_000);
        let longest_ms = (TTL_SECONDS_LONGEST * 1000.0) as i64;
        assert!(oldest_of_use(now) < 1_800_000_000_000 - longest_ms);
        assert_eq!(oldest_of_use(WallTime::from_unix_millis(0)), 0);
    }
}
