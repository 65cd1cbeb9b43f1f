//! Reading a copy in the place of its producer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::object::ReadError;
use zipline_core::pull::{Span, Wanted};
use zipline_core::tier::{CHUNK_TAG_BYTES, DurableName, ENVELOPE_HEAD_BYTES, Envelope, Facts};

use super::{Tier, TierError};
use crate::error::TransferError;
use crate::node::Inner;
use crate::stored::off_loop;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The bytes of one span, block by block. There is never more than one unverified block.
#[derive(Debug)]
pub(crate) struct TierRead {
    inner: Arc<Inner>,
    tier: Arc<Tier>,
    envelope: Arc<Envelope>,
    body: Option<Body>,
    /// Next block of the copy.
    block: u64,
    /// Next byte of the object.
    at: u64,
    end: u64,
    _permit: OwnedSemaphorePermit,
}

/// What the store sends, of which a piece may be left.
struct Body {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    rest: Bytes,
    idle: Duration,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

impl TierRead {
    /// Opens the copy of what is wanted and asks for its bytes.
    pub(crate) async fn open(inner: &Arc<Inner>, tier: &Arc<Tier>, wanted: &Wanted) -> Result<Self, TransferError> {
        let name = DurableName::of(wanted.epoch, wanted.object);
        let waiting = timeout(tier.config.idle, Arc::clone(&tier.reads).acquire_owned()).await;
        let permit = waiting.map_err(|_| tier.idle())?.map_err(std::io::Error::other)?;
        // The head alone where the bytes lie further behind: their place follows from it.
        let near = wanted.span.first < BLOCK;
        let head_end = ENVELOPE_HEAD_BYTES as u64;
        let near_end = head_end.saturating_add(wanted.span.limit.div_ceil(BLOCK).saturating_mul(BLOCK + CHUNK_TAG_BYTES as u64));
        let mut body = tier.ask(&name, 0..if near { near_end } else { head_end }).await?;
        let mut head = [0; ENVELOPE_HEAD_BYTES];
        tier.fill(&mut body, &mut head).await?;
        let ring = inner.keys.ring()?;
        let envelope =
            Envelope::open(&ring, wanted.epoch, wanted.object, &head, inner.config.clock.wall()).map_err(TierError::from)?;
        if let Some(slot) = wanted.slot
            && tier.is_marked(&name, slot, wanted.lease).await?
        {
            return Err(ReadError::SlotRetrieved { slot }.into());
        }
        let end = wanted.span.end(envelope.facts().size);
        let span = envelope.stored_span(wanted.span.first, end);
        if let Some(span) = span
            && !near
        {
            body = tier.ask(&name, span.first..span.end).await?;
        }
        tracing::debug!(object = %wanted.object, tier = tier.name().as_str(), "a read goes to the durable tier");
        Ok(Self {
            inner: Arc::clone(inner),
            tier: Arc::clone(tier),
            block: span.map_or(0, |span| span.block),
            at: wanted.span.first.min(end),
            end,
            body: span.map(|_| body),
            envelope: Arc::new(envelope),
            _permit: permit,
        })
    }

    /// What the copy says about its object.
    pub(crate) fn facts(&self) -> &Facts {
        self.envelope.facts()
    }

    /// Whether every byte was verified.
    pub(crate) const fn is_whole(&self) -> bool {
        self.at >= self.end
    }

    /// The next verified bytes; `None` after the last. Not cancel-safe: a read whose future was dropped is over.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Bytes>, TransferError> {
        if self.is_whole() {
            return Ok(None);
        }
        let Some(mut body) = self.body.take() else { return Err(TransferError::Incomplete) };
        let (index, length) = (self.block, self.envelope.block_bytes(self.block));
        let mut block = self.inner.blocks.take();
        let sealed = block.space().get_mut(..length + CHUNK_TAG_BYTES).unwrap_or_default();
        self.tier.fill(&mut body, sealed).await?;
        let envelope = Arc::clone(&self.envelope);
        let opened = off_loop(length as u64, move || {
            let sealed = block.space().get_mut(..length + CHUNK_TAG_BYTES).unwrap_or_default();
            Ok(envelope.open_block(index, sealed).map(|()| block.freeze(length)))
        });
        let opened = opened.await?.map_err(TierError::from)?;
        let begins = index * BLOCK;
        let part = |offset: u64| usize::try_from(offset.saturating_sub(begins)).unwrap_or(usize::MAX).min(length);
        let bytes = opened.slice(part(self.at)..part(self.end));
        self.at += bytes.len() as u64;
        self.block += 1;
        self.tier.counters.read_bytes(bytes.len() as u64);
        if self.is_whole() {
            self.tier.counters.read();
        } else {
            self.body = Some(body);
        }
        Ok(Some(bytes))
    }
}

impl Tier {
    /// What a copy says; nothing but its head is read.
    pub(crate) async fn facts(&self, inner: &Inner, wanted: &Wanted) -> Result<Facts, TransferError> {
        let name = DurableName::of(wanted.epoch, wanted.object);
        let mut body = self.ask(&name, 0..ENVELOPE_HEAD_BYTES as u64).await?;
        let mut head = [0; ENVELOPE_HEAD_BYTES];
        self.fill(&mut body, &mut head).await?;
        let (ring, now) = (inner.keys.ring()?, inner.config.clock.wall());
        let envelope = Envelope::open(&ring, wanted.epoch, wanted.object, &head, now).map_err(TierError::from)?;
        Ok(envelope.facts().clone())
    }

    async fn ask(&self, name: &DurableName, bytes: std::ops::Range<u64>) -> Result<Body, TierError> {
        let range = if bytes.end == u64::MAX { GetRange::Offset(bytes.start) } else { GetRange::Bounded(bytes) };
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let answer = self.heard("read", self.config.store.get_opts(&self.copy(name), options).await)?;
        Ok(Body { stream: answer.into_stream(), rest: Bytes::new(), idle: self.config.idle })
    }

    /// Fills all of `space`; a copy that ends before is cut.
    async fn fill(&self, body: &mut Body, mut space: &mut [u8]) -> Result<(), TierError> {
        while !space.is_empty() {
            if body.rest.is_empty() {
                let next = timeout(body.idle, body.stream.next()).await.map_err(|_| self.idle())?;
                body.rest = match next {
                    Some(piece) => self.heard("read", piece)?,
                    None => return Err(zipline_core::tier::EnvelopeError::Form.into()),
                };
            }
            let now = body.rest.split_to(body.rest.len().min(space.len()));
            let (filled, left) = space.split_at_mut(now.len());
            filled.copy_from_slice(&now);
            space = left;
        }
        Ok(())
    }

    fn idle(&self) -> TierError {
        TierError::Idle { tier: self.name().as_str().to_owned(), idle: self.config.idle }
    }
}

/// Where a read of `span` goes on after `delivered` bytes.
pub(crate) const fn after(span: Span, delivered: u64) -> Span {
    Span { first: span.first.saturating_add(delivered), limit: span.limit }
}
