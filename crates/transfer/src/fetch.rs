//! Fetching: from a reference to verified bytes, by the nearest way.
//!
//! An object of this node is read where it lies; one of a producer on this machine is handed over as a descriptor; any
//! other is pulled over TCP; where the producer is gone, from the durable tier that the reference names, if this node
//! uses it: from the first byte, or from where a pull broke. Whatever the way, an [`Incoming`] is a lease: [`Incoming::acknowledge`] makes it a
//! retrieval, dropping it gives it back.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;
use zipline_core::object::{LeaseId, LeaseRequest, ObjectId, Via};
use zipline_core::pull::{AnswerHead, ByteRange, HeaderText, ObjectSize, PullError, Span, SumKind, Wanted};
use zipline_core::reference::{Reference, fingerprint};
use zipline_core::time::WallTime;
use zipline_core::trace::TraceContext;

use crate::config::GROW_BYTES_MAX;
use crate::error::TransferError;
use crate::handover::{self, HandoverLease};
use crate::held::HeldRead;
use crate::ledger::{Ledger, ReceiveRoom};
use crate::node::{Inner, Node};
use crate::payload::{Landing, Payload};
use crate::pull::exchange::RemoteLease;
use crate::pull::read::TcpRead;
use crate::random;
use crate::span::{TIER_DURABLE, TIER_MEMORY, Work, WorkSpan};
use crate::tier::{Tier, TierError, TierRead, after, may_lie_there};

/// What is wanted of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchOptions {
    /// Which of the bytes that the reference shows; `None`: all of them.
    pub range: Option<ByteRange>,
    /// How they will be taken.
    pub taking: Taking,
    /// Where the read stands in a trace, if its caller said so.
    pub trace: Option<TraceContext>,
}

/// How a payload is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taking {
    /// Block by block ([`Incoming::next_block`]): costs one block of memory.
    #[default]
    Stream,
    /// At once ([`Incoming::receive`]): room for it is taken before the producer is asked, where its size is known.
    Whole,
}

/// A payload that is being read.
#[derive(Debug)]
pub struct Incoming {
    // Before `node`: a lease that is given back needs it.
    lease: Lease,
    source: Source,
    facts: Facts,
    room: Option<ReceiveRoom>,
    elsewhere: Option<Elsewhere>,
    span: WorkSpan,
    node: Node,
}

#[derive(Debug)]
enum Source {
    Held(HeldRead),
    Tcp(Box<TcpRead>),
    Tier(Box<TierRead>),
}

#[derive(Debug)]
enum Lease {
    Own(OwnLease),
    Handover(Box<HandoverLease>),
    Remote(RemoteLease),
    /// None: the copy is nobody's to lend, and is counted by its acknowledgement.
    Tier,
}

/// Where else a payload may be read when its producer is gone.
#[derive(Debug)]
struct Elsewhere {
    tier: Arc<Tier>,
    wanted: Wanted,
    /// Bytes delivered so far.
    delivered: u64,
}

/// A read that was granted: its lease, its bytes, what is known of them, and room to receive them.
type Granted = (Lease, Source, Facts, Option<ReceiveRoom>);

/// What is asked of a producer.
struct Asked<'a> {
    reference: &'a Reference,
    wanted: &'a Wanted,
    /// Where the bytes that the reference shows begin and end in the object.
    shown: Span,
    taking: Taking,
}

/// What an answer's head says.
#[derive(Clone, Debug)]
struct Facts {
    content_type: Option<HeaderText>,
    retrievals_left: u32,
    expires: WallTime,
    sum: SumKind,
    span: Span,
    size: Option<u64>,
    /// Where the bytes that the reference shows begin and end in the object.
    shown: Span,
}

impl Node {
    /// Opens a reference and asks for its bytes. Returns when they are about to come, with what is known about them.
    ///
    /// # Errors
    /// A reference that is none, expired, another service's; a producer that may not be dialled, cannot be reached or
    /// refuses, where no durable tier has the object; no room.
    pub async fn fetch(&self, token: &str, options: FetchOptions) -> Result<Incoming, TransferError> {
        let mut span = WorkSpan::begin(Work::Pull, options.trace);
        span.reference(fingerprint(token));
        match self.grant(token, options, &span).await {
            Ok(((lease, source, facts, room), elsewhere)) => {
                span.waited();
                span.tier(source.tier());
                Ok(Incoming { lease, source, facts, room, elsewhere, span, node: self.clone() })
            }
            Err(error) => {
                span.failed(error.code());
                Err(error)
            }
        }
    }

    /// Has the read granted, by the nearest way: by the producer, else from the durable tier.
    async fn grant(
        &self,
        token: &str,
        options: FetchOptions,
        span: &WorkSpan,
    ) -> Result<(Granted, Option<Elsewhere>), TransferError> {
        let reference = self.open(token)?;
        reference.check_receiver(&self.config().receivers)?;
        zipline_fault_point::fault_point!("resolve.opened");
        let wanted = self.wanted(&reference, options.range)?;
        let shown = reference.range.map_or(Span::WHOLE, |range| Span { first: range.first(), limit: range.end() });
        span.peer(wanted.producer);
        let asked = Asked { reference: &reference, wanted: &wanted, shown, taking: options.taking };
        let granted = self.grant_by_producer(asked, span).await;
        let Some(tier) = self.tier_of(&reference).map(Arc::clone) else { return Ok((granted?, None)) };
        let granted = match granted {
            Err(lost) if may_lie_there(&lost) => {
                span.method("store");
                self.grant_in_tier(&tier, &wanted, shown, lost).await?
            }
            granted => granted?,
        };
        Ok((granted, Some(Elsewhere { tier, wanted, delivered: 0 })))
    }

    async fn grant_by_producer(&self, asked: Asked<'_>, span: &WorkSpan) -> Result<Granted, TransferError> {
        let Asked { reference, wanted, shown, taking } = asked;
        if self.is_own(reference)? {
            span.method("own");
            return self.read_own(wanted, shown);
        }
        let inner = self.inner();
        inner.config.peers.check(wanted.producer)?;
        if let Some(directory) = &inner.config.handover_dir
            && let Some((lease, head, stored)) = handover::take(inner, directory, wanted, span.context()).await?
        {
            span.method("descriptor");
            let facts = Facts::of(&head, wanted, shown)?;
            let held = HeldRead::new(stored, wanted.span, Arc::clone(&inner.blocks), inner.config.pull_idle_timeout);
            return Ok((Lease::Handover(Box::new(lease)), Source::Held(held), facts, None));
        }
        span.method("tcp");
        self.pull(wanted.clone(), shown, taking, span.context()).await
    }

    /// Reads what the producer does not give any more, for the reason `lost`.
    async fn grant_in_tier(
        &self,
        tier: &Arc<Tier>,
        wanted: &Wanted,
        shown: Span,
        lost: TransferError,
    ) -> Result<Granted, TransferError> {
        let read = match TierRead::open(self.inner(), tier, wanted).await {
            Err(TransferError::Tier(TierError::NoCopy { .. })) => return Err(lost),
            read => read?,
        };
        let copy = read.facts();
        let facts = Facts {
            content_type: copy.content_type.clone(),
            retrievals_left: copy.retrievals_left,
            expires: copy.expires,
            sum: copy.sum,
            span: wanted.span,
            size: Some(copy.size),
            shown,
        };
        Ok((Lease::Tier, Source::Tier(Box::new(read)), facts, None))
    }

    /// The durable tier in which the object may lie, if this node uses it.
    pub(crate) fn tier_of(&self, reference: &Reference) -> Option<&Arc<Tier>> {
        self.inner().tier.as_ref().filter(|tier| reference.tier.as_ref() == Some(tier.name()))
    }

    async fn pull(
        &self,
        wanted: Wanted,
        shown: Span,
        taking: Taking,
        trace: Option<TraceContext>,
    ) -> Result<Granted, TransferError> {
        let inner = self.inner();
        let room = match (taking, wanted.size) {
            (Taking::Whole, Some(size)) => Some(inner.ledger.receive(length(wanted.span, size)).await?),
            _ => None,
        };
        let idle = inner.config.pull_idle_timeout;
        let permit = match timeout(idle, Arc::clone(&inner.pulls).acquire_owned()).await {
            Ok(permit) => permit.map_err(std::io::Error::other)?,
            Err(_) => return Err(TransferError::pull(wanted.producer)(PullError::Idle { offset: wanted.span.first, idle })),
        };
        let mut lease = RemoteLease::new(Arc::clone(inner), wanted.clone(), trace);
        let (read, head) = TcpRead::open(inner, wanted.clone(), trace, permit, &mut lease).await?;
        let facts = Facts::of(&head, &wanted, shown)?;
        Ok((Lease::Remote(lease), Source::Tcp(Box::new(read)), facts, room))
    }

    fn read_own(&self, wanted: &Wanted, shown: Span) -> Result<Granted, TransferError> {
        let inner = self.inner();
        let asked = LeaseRequest { lease: wanted.lease, slot: wanted.slot, via: Via::Handover };
        let (stored, facts) = inner.ledger.command(|holdings, now| {
            let view = holdings.grant(wanted.object, asked, now)?;
            let facts = Facts {
                content_type: view.payload.content_type.clone(),
                retrievals_left: view.retrievals_left,
                expires: view.expires,
                sum: view.payload.sum_kind,
                span: wanted.span,
                size: view.size,
                shown,
            };
            Ok::<_, TransferError>((Arc::clone(view.payload), facts))
        })?;
        let lease = Lease::Own(OwnLease { ledger: Arc::clone(&inner.ledger), object: wanted.object, lease: wanted.lease });
        let held = HeldRead::new(stored, wanted.span, Arc::clone(&inner.blocks), inner.config.pull_idle_timeout);
        Ok((lease, Source::Held(held), facts, None))
    }

    pub(crate) fn wanted(&self, reference: &Reference, range: Option<ByteRange>) -> Result<Wanted, TransferError> {
        Ok(Wanted::of(reference, range, random::lease()?, self.config().receivers.first().cloned())?)
    }

    /// Whether this node holds it. An address of ours with another epoch is that of an instance before this one.
    pub(crate) fn is_own(&self, reference: &Reference) -> Result<bool, TransferError> {
        match (reference.producer == self.address(), reference.epoch == self.epoch()) {
            (true, true) => Ok(true),
            (true, false) => Err(TransferError::ProducerGone),
            (false, _) => Ok(false),
        }
    }
}

impl Incoming {
    /// The next verified bytes, at most 1 MiB; `None` after the last. Not cancel-safe: once a call was dropped, the read
    /// is over.
    ///
    /// # Errors
    /// The producer is gone, refuses, or is silent for too long; bytes that did not match their sums twice.
    pub async fn next_block(&mut self) -> Result<Option<Bytes>, TransferError> {
        let block = match self.read_block().await {
            Err(lost) => self.go_elsewhere(lost).await,
            block => block,
        };
        match &block {
            Ok(block) => {
                let bytes = block.as_ref().map_or(0, |bytes| bytes.len() as u64);
                self.span.passed(bytes);
                if let Some(elsewhere) = &mut self.elsewhere {
                    elsewhere.delivered += bytes;
                }
            }
            Err(error) => self.span.failed(error.code()),
        }
        if self.is_whole() {
            self.span.settled();
        }
        block
    }

    async fn read_block(&mut self) -> Result<Option<Bytes>, TransferError> {
        match &mut self.source {
            Source::Held(held) => held.next_block().await,
            Source::Tcp(read) => {
                let block = read.next_block().await?;
                if read.is_whole()
                    && let Lease::Remote(lease) = &mut self.lease
                {
                    lease.keep();
                }
                Ok(block)
            }
            Source::Tier(read) => read.next_block().await,
        }
    }

    /// Goes on in the durable tier, behind what was delivered, where the producer is gone.
    async fn go_elsewhere(&mut self, lost: TransferError) -> Result<Option<Bytes>, TransferError> {
        let is_pull = matches!(self.source, Source::Tcp(_));
        let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| is_pull && may_lie_there(&lost)) else { return Err(lost) };
        let span = after(elsewhere.wanted.span, elsewhere.delivered);
        let wanted = Wanted { span, ..elsewhere.wanted.clone() };
        let mut read = match TierRead::open(self.node.inner(), &elsewhere.tier, &wanted).await {
            Err(TransferError::Tier(TierError::NoCopy { .. })) => return Err(lost),
            read => read?,
        };
        let next = read.next_block().await?;
        self.span.tier(TIER_DURABLE);
        self.source = Source::Tier(Box::new(read));
        self.lease = Lease::Tier; // The producer's is dropped: if it lives after all, it is told.
        Ok(next)
    }

    /// Takes all of it: the descriptor that holds it, or a copy within this node's budget. The lease stays; so does, of
    /// a payload that was handed over or is this node's own, the producer's memory.
    ///
    /// # Errors
    /// As [`Incoming::next_block`], and no room.
    pub async fn receive(&mut self) -> Result<Payload, TransferError> {
        let heap_max = self.node.config().heap_threshold_bytes;
        if let Source::Held(held) = &mut self.source {
            let room = match self.facts.size {
                size if !held.copies(size) => None,
                size => Some(self.node.ledger().receive(size.map_or(0, |size| length(self.facts.span, size))).await?),
            };
            let payload = Payload::new(held.receive(heap_max).await?, room);
            self.span.passed(payload.size());
            self.span.settled();
            return Ok(payload);
        }
        let known = self.content_length();
        let room = match self.room.take() {
            Some(room) => room,
            None => self.node.ledger().receive(known.unwrap_or(0)).await?,
        };
        let mut landing = Landing::new(known, heap_max)?;
        let (mut came, mut taken) = (0_u64, known.unwrap_or(0));
        // While one block is copied on another thread, the next one comes.
        let mut next = self.next_block().await?;
        while let Some(block) = next.take() {
            came = came.saturating_add(block.len() as u64);
            if came > taken {
                taken = came.saturating_add(came.min(GROW_BYTES_MAX)).min(self.node.config().buffer_bytes).max(came);
                room.grow(taken).await?;
            }
            if self.is_whole() {
                return Ok(Payload::new(landing.finish_with(block, heap_max).await?, Some(room)));
            }
            let (appended, following) = tokio::join!(landing.append(block, heap_max), self.next_block());
            appended?;
            next = following?;
        }
        Ok(Payload::new(landing.finish().await?, Some(room)))
    }

    /// Every byte was verified and accepted: makes the lease a retrieval.
    ///
    /// # Errors
    /// [`TransferError::Incomplete`] where not every byte was taken: the lease is then given back. An object that ended
    /// first, or a producer that does not answer: then it is not known whether it counted.
    pub async fn acknowledge(self) -> Result<(), TransferError> {
        if !self.is_whole() {
            return Err(TransferError::Incomplete);
        }
        match self.lease {
            Lease::Own(lease) => lease.acknowledge(),
            Lease::Handover(lease) => lease.acknowledge(self.node.inner()).await,
            Lease::Remote(lease) => match (lease.acknowledge().await, self.elsewhere) {
                // The producer went away between the last byte and now: its copy is what is left to be counted.
                (Err(lost), Some(elsewhere)) if may_lie_there(&lost) => elsewhere.acknowledge(self.node.inner()).await,
                (acknowledged, _) => acknowledged,
            },
            Lease::Tier => match self.elsewhere {
                Some(elsewhere) => elsewhere.acknowledge(self.node.inner()).await,
                None => Err(TransferError::Incomplete), // Who reads a copy knows where it is.
            },
        }
    }

    /// Whether every byte was taken.
    pub fn is_whole(&self) -> bool {
        match &self.source {
            Source::Held(held) => held.is_whole(),
            Source::Tcp(read) => read.is_whole(),
            Source::Tier(read) => read.is_whole(),
        }
    }

    /// How many bytes come, if that was known when the read began.
    pub fn content_length(&self) -> Option<u64> {
        self.facts.size.map(|size| length(self.facts.span, size))
    }

    /// Offset of the first byte, counted from the first that the reference shows.
    pub fn first(&self) -> u64 {
        self.facts.span.first.saturating_sub(self.facts.shown.first)
    }

    /// How many bytes the reference shows, if that was known when the read began.
    pub fn shown_size(&self) -> Option<u64> {
        self.facts.size.map(|size| length(self.facts.shown, size))
    }

    /// The content type that the object was put with.
    pub fn content_type(&self) -> Option<&str> {
        self.facts.content_type.as_ref().map(HeaderText::as_str)
    }

    /// Retrievals that the object granted when the read began.
    pub fn retrievals_left(&self) -> u32 {
        self.facts.retrievals_left
    }

    /// When the object expires.
    pub fn expires(&self) -> WallTime {
        self.facts.expires
    }

    /// How the object is summed.
    pub fn sum(&self) -> SumKind {
        self.facts.sum
    }

    /// Whether the bytes are read where they lie on this machine, not pulled over TCP.
    pub fn is_local(&self) -> bool {
        matches!(self.source, Source::Held(_))
    }
}

impl Source {
    /// Where the bytes lie, as far as is known here: a producer does not say.
    fn tier(&self) -> &'static str {
        match self {
            Self::Held(held) => held.tier(),
            Self::Tcp(_) => TIER_MEMORY,
            Self::Tier(_) => TIER_DURABLE,
        }
    }
}

impl Elsewhere {
    async fn acknowledge(&self, inner: &Arc<Inner>) -> Result<(), TransferError> {
        let facts = self.tier.facts(inner, &self.wanted).await?;
        Ok(self.tier.acknowledge(&self.wanted, &facts).await?)
    }
}

impl Facts {
    fn of(head: &AnswerHead, wanted: &Wanted, shown: Span) -> Result<Self, TransferError> {
        let missing = |what| TransferError::pull(wanted.producer)(PullError::Contradicts(what));
        Ok(Self {
            content_type: head.content_type.clone(),
            retrievals_left: head.retrievals_left.ok_or_else(|| missing("retrievals left"))?,
            expires: head.expires.ok_or_else(|| missing("expiry"))?,
            sum: wanted.sum,
            span: wanted.span,
            size: head.size.and_then(ObjectSize::known),
            shown,
        })
    }
}

const fn length(span: Span, size: u64) -> u64 {
    span.end(size).saturating_sub(span.first)
}

/// A lease on an object of this node.
#[derive(Debug)]
struct OwnLease {
    ledger: Arc<Ledger>,
    object: ObjectId,
    lease: LeaseId,
}

impl OwnLease {
    fn acknowledge(&self) -> Result<(), TransferError> {
        self.ledger.command(|holdings, now| holdings.acknowledge(self.object, self.lease, now))?;
        Ok(())
    }
}

impl Drop for OwnLease {
    fn drop(&mut self) {
        // After an acknowledgement there is nothing left to give back, and this does nothing.
        self.ledger.command(|holdings, _| holdings.release(self.object, self.lease));
    }
}
