//! Writing copies, and removing them with their objects.
//!
//! A copy of up to 8 MiB is one request; a larger one is uploaded in parts of that size, of which one is sealed while the
//! one before is sent, and appears in the store as a whole or not at all. A write is a task of the node: whoever waits
//! for it may go away, and the copy of an object that ended meanwhile is removed by the same task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::object::{End, ObjectId};
use zipline_core::tier::{CHUNK_TAG_BYTES, DurableName, ENVELOPE_HEAD_BYTES, Envelope, Facts};

use super::Tier;
use crate::error::TransferError;
use crate::node::Inner;
use crate::random;
use crate::stored::{Stored, off_loop};

/// Blocks that are uploaded with one request.
const PART_BLOCKS: u64 = 8;
/// Removals at once.
const REMOVALS_MAX: usize = 8;
/// A write that failed is offered again after it: the store may be back.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What is written: the object's bytes and the copy's form.
struct Copy {
    stored: Arc<Stored>,
    envelope: Arc<Envelope>,
    head: [u8; ENVELOPE_HEAD_BYTES],
}

impl Inner {
    /// Writes the copy of a complete object; the answer tells how that went. The task goes on if nobody waits for it.
    pub(crate) fn store(self: &Arc<Self>, tier: &Arc<Tier>, id: ObjectId) -> oneshot::Receiver<Result<(), TransferError>> {
        let (answer, answered) = oneshot::channel();
        let (inner, tier) = (Arc::clone(self), Arc::clone(tier));
        self.spawn(async move {
            let written = inner.store_now(&tier, id).await;
            answer.send(written).unwrap_or_default();
        });
        answered
    }

    async fn store_now(self: &Arc<Self>, tier: &Arc<Tier>, id: ObjectId) -> Result<(), TransferError> {
        let _working = tier.work(); // The copy of an object that ends meanwhile is removed before the node may end.
        let written = self.write_copy(tier, id).await;
        match written {
            Ok(size) if self.ledger.command(|holdings, _| holdings.stored(id)) => {
                tier.counters.wrote(size);
                Ok(())
            }
            Ok(_) => {
                tier.remove(&DurableName::of(self.epoch, id)).await;
                Err(TransferError::Ended(End::Released))
            }
            Err(TransferError::Read(error)) => {
                tracing::debug!(object = %id, %error, "an object ended before its durable copy was begun");
                Err(error.into())
            }
            Err(error) => {
                tier.counters.failed();
                tracing::warn!(object = %id, %error, "an object was not written to the durable tier");
                Err(error)
            }
        }
    }

    async fn write_copy(self: &Arc<Self>, tier: &Arc<Tier>, id: ObjectId) -> Result<u64, TransferError> {
        let _permit = tier.writes.acquire().await.map_err(std::io::Error::other)?;
        let (stored, facts) = self.ledger.command(|holdings, now| {
            let view = holdings.status(id, None, now)?;
            let facts = Facts {
                size: view.written.bytes,
                sum: view.payload.sum_kind,
                expires: view.expires,
                retrievals: view.owner.retrievals().get(),
                retrievals_left: view.retrievals_left,
                content_type: view.payload.content_type.clone(),
            };
            Ok::<_, TransferError>((Arc::clone(view.payload), facts))
        })?;
        let size = facts.size;
        let key = self.keys.signing(self.config.clock.wall())?;
        let (envelope, head) = Envelope::seal(&key, self.epoch, id, facts, random::salt()?);
        let copy = Arc::new(Copy { stored, envelope: Arc::new(envelope), head });
        tier.write(&DurableName::of(self.epoch, id), &copy).await?;
        Ok(size)
    }
}

impl Tier {
    async fn write(&self, name: &DurableName, copy: &Arc<Copy>) -> Result<(), TransferError> {
        let (path, parts) = (self.copy(name), copy.parts());
        let first = copy.part(0).await?;
        if parts == 1 {
            self.heard("write", self.config.store.put(&path, first).await)?;
            return Ok(());
        }
        let mut upload = self.heard("write", self.config.store.put_multipart(&path).await)?;
        let uploaded = self.upload(upload.as_mut(), copy, first, parts).await;
        if uploaded.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(?name, %error, "parts of a copy that was given up are left for the store to remove");
        }
        uploaded
    }

    async fn upload(
        &self,
        upload: &mut dyn MultipartUpload,
        copy: &Arc<Copy>,
        first: PutPayload,
        parts: u64,
    ) -> Result<(), TransferError> {
        let mut sealed = first;
        for next in 1..parts {
            let (sent, following) = tokio::join!(upload.put_part(sealed), copy.part(next));
            self.heard("write", sent)?;
            sealed = following?;
        }
        self.heard("write", upload.put_part(sealed).await)?;
        self.heard("write", upload.complete().await)?;
        Ok(())
    }

    /// Removes a copy; one that is not there is removed. What fails is left for `tend`.
    pub(super) async fn remove(&self, name: &DurableName) {
        match self.delete(&self.copy(name)).await {
            Ok(true) => self.counters.removed(),
            Ok(false) => {}
            Err(error) => {
                self.counters.failed();
                tracing::warn!(?name, %error, "a copy was not removed from the durable tier; a sweep will find it");
            }
        }
    }
}

impl Copy {
    fn parts(&self) -> u64 {
        self.envelope.facts().size.div_ceil(BLOCK_BYTES as u64).div_ceil(PART_BLOCKS).max(1)
    }

    /// One part, sealed on another thread.
    async fn part(self: &Arc<Self>, part: u64) -> std::io::Result<PutPayload> {
        let copy = Arc::clone(self);
        off_loop(self.envelope.facts().size, move || copy.seal_part(part)).await
    }

    fn seal_part(&self, part: u64) -> std::io::Result<PutPayload> {
        let mut payload = Vec::new();
        if part == 0 {
            payload.push(Bytes::copy_from_slice(&self.head));
        }
        let first = part * PART_BLOCKS;
        for index in first..first + PART_BLOCKS {
            let length = self.envelope.block_bytes(index);
            if length == 0 {
                break;
            }
            let mut block = vec![0; length + CHUNK_TAG_BYTES];
            let (bytes, tag) = block.split_at_mut(length);
            self.stored.read_at(bytes, index * BLOCK_BYTES as u64)?;
            tag.copy_from_slice(&self.envelope.seal_block(index, bytes));
            payload.push(block.into());
        }
        Ok(payload.into_iter().collect())
    }
}

/// At a drain: writes what was promised to outlive it, a bounded number at once, until the node ends.
pub(crate) async fn drain(inner: Arc<Inner>, tier: Arc<Tier>) {
    let mut writing = JoinSet::new();
    loop {
        let mut changed = std::pin::pin!(inner.ledger.changed());
        changed.as_mut().enable();
        while writing.len() < tier.config.transfers
            && let Some(id) = inner.ledger.next_to_store()
        {
            let (inner, tier) = (Arc::clone(&inner), Arc::clone(&tier));
            writing.spawn(async move {
                if inner.store_now(&tier, id).await.is_err() {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    inner.ledger.command(|holdings, _| holdings.store_failed(id));
                }
            });
        }
        tokio::select! {
            Some(_) = writing.join_next(), if !writing.is_empty() => {}
            () = changed => {}
        }
    }
}

/// Removes the copies of objects that ended, as long as the node lives.
pub(crate) async fn remove_forgotten(inner: Arc<Inner>, tier: Arc<Tier>) {
    let mut removals = JoinSet::new();
    loop {
        let mut forgotten = std::pin::pin!(inner.ledger.forgotten());
        forgotten.as_mut().enable();
        while removals.len() < REMOVALS_MAX
            && let Some((id, working)) = inner.ledger.next_forgotten(|| tier.work())
        {
            let (tier, name) = (Arc::clone(&tier), DurableName::of(inner.epoch, id));
            removals.spawn(async move {
                let _working = working;
                tier.remove(&name).await;
            });
        }
        tokio::select! {
            Some(_) = removals.join_next(), if !removals.is_empty() => {}
            () = forgotten, if removals.len() < REMOVALS_MAX => {}
        }
    }
}
