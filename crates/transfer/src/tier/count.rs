//! Counting retrievals in the store, once the producer cannot.
//!
//! An object with one retrieval left is removed by its acknowledgement. Of one with more, every acknowledgement leaves a
//! mark, named by its slot or its lease, and whoever finds as many marks as there were retrievals left removes copy and
//! marks. Two that acknowledge at the same moment both count, and readers that began before the last mark finish: the
//! count bounds an object's life, as it does at a producer, but is not exact. Nothing removes a copy too early.

use futures_util::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use zipline_contract::limits::TIER_MARKS_MAX;
use zipline_core::object::LeaseId;
use zipline_core::pull::Wanted;
use zipline_core::tier::{DurableName, Facts};

use super::{Tier, TierError};

impl Tier {
    /// A read of the copy is whole and accepted.
    pub(crate) async fn acknowledge(&self, wanted: &Wanted, facts: &Facts) -> Result<(), TierError> {
        let name = DurableName::of(wanted.epoch, wanted.object);
        let left = usize::try_from(facts.retrievals_left).unwrap_or(usize::MAX);
        if left > 1 {
            let mark = self.path(&name.mark(wanted.slot, wanted.lease));
            self.heard("count", self.config.store.put(&mark, PutPayload::new()).await)?;
            if left > TIER_MARKS_MAX || self.marks(&name).await? < left {
                return Ok(());
            }
        }
        self.end(wanted, facts).await
    }

    /// Ends the copy for everybody, with its marks.
    pub(crate) async fn end(&self, wanted: &Wanted, facts: &Facts) -> Result<(), TierError> {
        let name = DurableName::of(wanted.epoch, wanted.object);
        if self.delete(&self.copy(&name)).await? {
            self.counters.removed();
        }
        if facts.retrievals_left > 1 {
            self.remove_marks(&name).await?;
        }
        Ok(())
    }

    /// Whether the slot was retrieved.
    pub(super) async fn is_marked(&self, name: &DurableName, slot: u32, lease: LeaseId) -> Result<bool, TierError> {
        let mark = self.path(&name.mark(Some(slot), lease));
        match self.heard("count", self.config.store.head(&mark).await) {
            Ok(_) => Ok(true),
            Err(TierError::NoCopy { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn marks(&self, name: &DurableName) -> Result<usize, TierError> {
        let mut listed = self.config.store.list(Some(&self.path(&name.marks()))).take(TIER_MARKS_MAX);
        let mut marks = 0;
        while let Some(mark) = listed.next().await {
            self.heard("count", mark)?;
            marks += 1;
        }
        Ok(marks)
    }

    async fn remove_marks(&self, name: &DurableName) -> Result<(), TierError> {
        let mut listed = self.config.store.list(Some(&self.path(&name.marks()))).take(TIER_MARKS_MAX);
        while let Some(mark) = listed.next().await {
            let mark = self.heard("count", mark)?;
            self.delete(&mark.location).await?;
        }
        Ok(())
    }
}
