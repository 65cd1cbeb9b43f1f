//! Putting: how a payload gets into the buffer, and who keeps it there.
//!
//! A [`Writer`] takes bytes that pass through this proxy; its object can be referred to, and read block by block, from
//! the start. A descriptor that a function has filled is taken as it is ([`Node::put_descriptor`]). Dropping a writer
//! before [`Writer::finish`] aborts its object; dropping a [`CallObject`] ends the object of a call that is over.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use zipline_contract::PULL_VERSION;
use zipline_contract::limits::{BLOCK_BYTES, RETRIEVALS_MAX};
use zipline_core::object::{NewObject, ObjectId, Owner, Refusal, WriteError};
use zipline_core::pull::{HeaderText, RunningSum, Sum, SumKind};
use zipline_core::reference::{Receiver, Reference, Token};
use zipline_core::tier::Durability;
use zipline_core::time::WallTime;
use zipline_core::trace::TraceContext;
use zipline_sys::{Memfd, SealedMemfd};

use crate::config::{GROW_BYTES_MAX, GROW_BYTES_MIN};
use crate::error::TransferError;
use crate::node::Node;
use crate::random;
use crate::span::{TIER_MEMORY, Work, WorkSpan};
use crate::stored::{Body, Progress, Stored, off_loop};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is put, and for whom.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Whom the object belongs to: a put with its retrievals, or a call.
    pub owner: Owner,
    /// How long it is held; `None`: the node's default.
    pub ttl: Option<Duration>,
    /// Content type that readers are told.
    pub content_type: Option<HeaderText>,
    /// How its blocks are summed.
    pub sum: SumKind,
    /// The only service whose functions may read it.
    pub receiver: Option<Receiver>,
    /// Its size, where it is known before its bytes come. They must then be that many.
    pub size: Option<u64>,
    /// Where the put stands in a trace, if its caller said so.
    pub trace: Option<TraceContext>,
    /// What is promised beyond this instance's life; `None`: the node's default for a put, nothing for a call's payload.
    pub durability: Option<Durability>,
}

impl Default for PutOptions {
    /// One retrieval, for anybody of the trust domain.
    fn default() -> Self {
        Self {
            owner: Owner::Put { retrievals: NonZeroU32::MIN },
            ttl: None,
            content_type: None,
            sum: SumKind::Crc32c,
            receiver: None,
            size: None,
            trace: None,
            durability: None,
        }
    }
}

/// An object that is complete and held.
#[derive(Clone, Debug)]
pub struct Put {
    id: ObjectId,
    /// Its reference.
    pub token: Token,
    /// Its size in bytes.
    pub size: u64,
    /// When it expires.
    pub expires: WallTime,
    /// Until when it is there even if this instance is told to end now; with [`Durability::Always`], even if it is killed.
    pub guaranteed_until: WallTime,
}

/// What an object's references say, whatever its size turns out to be.
#[derive(Clone, Debug)]
struct Terms {
    id: ObjectId,
    owner: Owner,
    sum: SumKind,
    receiver: Option<Receiver>,
    expires: WallTime,
    guaranteed_until: WallTime,
    ttl: Duration,
    durability: Durability,
}

impl Node {
    /// Takes room for a payload and begins its object. Waits for room in order of arrival, bounded in time and number.
    ///
    /// # Errors
    /// No room, no keys, a drain, or options that no put gets.
    pub async fn put(&self, options: PutOptions) -> Result<Writer, TransferError> {
        let mut span = WorkSpan::begin(Work::Put, options.trace);
        span.method("body");
        span.tier(TIER_MEMORY);
        match self.begin_put(options).await {
            Ok((terms, stored, place, room, declared)) => {
                span.waited();
                if let Some(trace) = span.context() {
                    stored.put_in(trace);
                }
                let sums = BlockSums::new(terms.sum);
                Ok(Writer { node: self.clone(), sums, terms, stored, place, room, written: 0, declared, done: false, span })
            }
            Err(error) => {
                span.failed(error.code());
                Err(error)
            }
        }
    }

    async fn begin_put(&self, options: PutOptions) -> Result<Begun, TransferError> {
        let terms = self.terms(&options)?;
        let room = options.size.unwrap_or(GROW_BYTES_MIN.min(self.config().buffer_bytes));
        let reservation = self.ledger().reserve(terms.id, room).await?;
        let on_heap = options.size.is_none_or(|size| size < self.config().heap_threshold_bytes);
        let (body, place) = if on_heap {
            let bytes = options.size.and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
            (Body::Unwritten, Place::Heap(BytesMut::with_capacity(bytes)))
        } else {
            let memfd = Arc::new(Memfd::create("zipline-object")?);
            (Body::Growing(Arc::clone(&memfd)), Place::Memfd(memfd))
        };
        let stored = Arc::new(Stored::new(terms.id, options.content_type, options.sum, body));
        self.insert(&terms, options.size, &stored)?;
        reservation.used();
        zipline_fault_point::fault_point!("put.begun");
        Ok((terms, stored, place, room, options.size))
    }

    /// Takes a payload that a function has filled and sealed, as it is: neither copied, mapped nor read.
    ///
    /// # Errors
    /// As [`Node::put`], and a descriptor that is no immutable payload without holes.
    pub async fn put_descriptor(&self, descriptor: OwnedFd, options: PutOptions) -> Result<Put, TransferError> {
        let mut span = WorkSpan::begin(Work::Put, options.trace);
        span.method("descriptor");
        span.tier(TIER_MEMORY);
        let put = self.take_descriptor(descriptor, options, &mut span).await;
        match &put {
            Ok(put) => {
                span.reference(put.token.fingerprint());
                span.passed(put.size);
                span.settled();
            }
            Err(error) => span.failed(error.code()),
        }
        put
    }

    async fn take_descriptor(&self, descriptor: OwnedFd, options: PutOptions, span: &mut WorkSpan) -> Result<Put, TransferError> {
        let terms = self.terms(&options)?;
        let memfd = SealedMemfd::admit(descriptor, self.config().buffer_bytes)?;
        zipline_fault_point::fault_point!("put.admitted");
        let size = memfd.size();
        if let Some(declared) = options.size
            && declared != size
        {
            return Err(WriteError::OtherSize { declared, written: size }.into());
        }
        let reservation = self.ledger().reserve(terms.id, size).await?;
        span.waited();
        let body = Body::Sealed(Arc::new(memfd));
        let stored = Arc::new(Stored::new(terms.id, options.content_type, options.sum, body));
        if let Some(trace) = span.context() {
            stored.put_in(trace);
        }
        self.insert(&terms, Some(size), &stored)?;
        reservation.used();
        stored.set_progress(Progress::Complete { size });
        self.ledger().command(|holdings, _| holdings.finish(terms.id, size))?;
        self.keep(&terms, size).await
    }

    /// A complete object as it is answered: for [`Durability::Always`] once its durable copy is there. One that cannot be
    /// answered so is freed.
    async fn keep(&self, terms: &Terms, size: u64) -> Result<Put, TransferError> {
        let inner = self.inner();
        if let (Durability::Always, Some(tier)) = (terms.durability, &inner.tier) {
            let unanswered = Unanswered { node: self.clone(), object: Some(terms.id) };
            self.ledger().command(|holdings, _| holdings.begin_store(terms.id));
            inner.store(tier, terms.id).await.map_err(|_| TransferError::Room(Refusal::Draining))??;
            unanswered.answered();
        }
        self.put_of(terms, size)
    }

    fn terms(&self, options: &PutOptions) -> Result<Terms, TransferError> {
        let config = self.config();
        if options.owner.retrievals().get() > RETRIEVALS_MAX {
            let asked = options.owner.retrievals();
            return Err(TransferError::Options(format!(
                "{asked} retrievals are asked for, at most {RETRIEVALS_MAX} are granted"
            )));
        }
        let ttl = options.ttl.unwrap_or(config.put_ttl);
        if ttl > config.ttl_max || ttl.is_zero() {
            let (asked, most) = (ttl.as_secs_f64(), config.ttl_max.as_secs_f64());
            return Err(TransferError::Options(format!("a ttl of {asked} s is asked for; it is above 0 and at most {most} s")));
        }
        let durability = self.durability(options)?;
        let now = config.clock.wall();
        let expires = now.saturating_add(ttl);
        // A tier that does not answer now may not answer at the drain either.
        let outlives_drain = durability == Durability::Drain && self.inner().tier.as_ref().is_some_and(|tier| tier.is_up());
        let guaranteed_until = if outlives_drain { expires } else { expires.min(now.saturating_add(config.grace)) };
        let (sum, receiver) = (options.sum, options.receiver.clone());
        let terms =
            Terms { id: random::object()?, owner: options.owner, sum, receiver, expires, guaranteed_until, ttl, durability };
        self.seal(&terms, None)?; // Without a key that seals nothing is taken that could never be referred to.
        Ok(terms)
    }

    fn durability(&self, options: &PutOptions) -> Result<Durability, TransferError> {
        let of_puts = match options.owner {
            Owner::Put { .. } => self.config().durability,
            Owner::Call | Owner::CallUntilRetrieved => Durability::None,
        };
        let durability = options.durability.unwrap_or(of_puts);
        if durability != Durability::None && self.inner().tier.is_none() {
            let asked = durability.name();
            return Err(TransferError::Options(format!(
                "durability={asked} is asked for, and this proxy has no durable tier (ZIPLINE_TIER)"
            )));
        }
        Ok(durability)
    }

    fn insert(&self, terms: &Terms, size: Option<u64>, stored: &Arc<Stored>) -> Result<(), TransferError> {
        let new = NewObject { owner: terms.owner, size, ttl: terms.ttl, expires: terms.expires, durability: terms.durability };
        self.ledger()
            .command(|holdings, now| holdings.insert(terms.id, new, Arc::clone(stored), now))
            .map_err(|_| TransferError::Room(Refusal::IdTaken))
    }

    fn seal(&self, terms: &Terms, size: Option<u64>) -> Result<Token, TransferError> {
        let reference = Reference {
            pull_version: PULL_VERSION,
            producer: self.address(),
            epoch: self.epoch(),
            object: terms.id,
            size,
            sum: terms.sum,
            expires: terms.expires,
            retrievals: terms.owner.retrievals(),
            slot: None,
            receiver: terms.receiver.clone(),
            range: None,
            tier: self.inner().tier.as_ref().filter(|_| terms.durability != Durability::None).map(|tier| tier.name().clone()),
        };
        self.keys().seal(&reference, self.config().clock.wall())
    }

    /// A put whose answer is still under way.
    pub fn unanswered(&self, put: &Put) -> Unanswered {
        Unanswered { node: self.clone(), object: Some(put.id) }
    }

    fn put_of(&self, terms: &Terms, size: u64) -> Result<Put, TransferError> {
        let token = self.seal(terms, Some(size))?;
        let is_stored = terms.durability == Durability::Always;
        let guaranteed_until = if is_stored { terms.expires } else { terms.guaranteed_until };
        Ok(Put { id: terms.id, token, size, expires: terms.expires, guaranteed_until })
    }
}

/// A complete object whose put is not answered yet: nobody has its reference. Dropped before [`Unanswered::answered`], it is freed.
#[derive(Debug)]
pub struct Unanswered {
    node: Node,
    object: Option<ObjectId>,
}

impl Unanswered {
    /// The answer has left: whoever asked may have the reference, and the object stays until it is read, released or expires.
    pub fn answered(mut self) {
        self.object = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(object) = self.object {
            self.node.ledger().command(|holdings, now| holdings.free(object, now));
        }
    }
}

/// Writes one object, in order. Dropped before [`Writer::finish`], it aborts the object.
#[derive(Debug)]
pub struct Writer {
    node: Node,
    terms: Terms,
    stored: Arc<Stored>,
    place: Place,
    sums: BlockSums,
    /// Bytes of the budget that the object has.
    room: u64,
    written: u64,
    declared: Option<u64>,
    done: bool,
    span: WorkSpan,
}

/// An object that was begun: its terms, its bytes to be, the room it has, and its size where that was declared.
type Begun = (Terms, Arc<Stored>, Place, u64, Option<u64>);

#[derive(Debug)]
enum Place {
    Heap(BytesMut),
    Memfd(Arc<Memfd>),
}

impl Writer {
    /// The object's reference, before it is complete: who reads it then follows the writer.
    ///
    /// # Errors
    /// When no key of the ring may seal now.
    pub fn reference(&self) -> Result<Token, TransferError> {
        self.node.seal(&self.terms, self.declared)
    }

    /// When the object expires.
    pub fn expires(&self) -> WallTime {
        self.terms.expires
    }

    /// Until when it is there even if this instance is told to end now.
    pub fn guaranteed_until(&self) -> WallTime {
        self.terms.guaranteed_until
    }

    /// A guard for the call that the object belongs to: dropping it ends the object.
    pub fn call_object(&self) -> CallObject {
        CallObject { node: self.node.clone(), object: self.terms.id }
    }

    /// Appends bytes. Waits for room where the size was not declared. Not cancel-safe: drop the writer with the future.
    ///
    /// # Errors
    /// More bytes than declared, no room, or the object has ended meanwhile (freed, expired).
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TransferError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let wrote = self.write_some(bytes).await;
        if let Err(error) = &wrote {
            self.span.failed(error.code());
        }
        wrote
    }

    async fn write_some(&mut self, bytes: Bytes) -> Result<(), TransferError> {
        zipline_fault_point::fault_point!("put.body");
        let total = self.written.saturating_add(bytes.len() as u64);
        if let Some(declared) = self.declared
            && total > declared
        {
            // Before the bytes take memory that nothing was reserved for.
            return Err(WriteError::TooMuch { written: total, room: declared }.into());
        }
        self.take_room(total).await?;
        if let Place::Heap(heap) = &mut self.place {
            if total < self.node.config().heap_threshold_bytes || self.declared.is_some() {
                heap.extend_from_slice(&bytes);
                return self.wrote(total);
            }
            // It outgrows the heap: what it has so far goes first.
            let before = std::mem::take(heap).freeze();
            let memfd = Arc::new(Memfd::create("zipline-object")?);
            self.stored.set_body(Body::Growing(Arc::clone(&memfd)));
            self.place = Place::Memfd(memfd);
            self.append(before, 0).await?;
        }
        self.append(bytes, self.written).await?;
        self.wrote(total)
    }

    /// The last byte was written. From now on only readers, the owner and the clock end the object.
    ///
    /// # Errors
    /// Fewer bytes than declared, or the object has ended meanwhile.
    pub async fn finish(mut self) -> Result<Put, TransferError> {
        let put = self.complete().await;
        match &put {
            Ok(put) => {
                self.span.reference(put.token.fingerprint());
                self.span.settled();
            }
            Err(error) => self.span.failed(error.code()),
        }
        put
    }

    async fn complete(&mut self) -> Result<Put, TransferError> {
        let size = self.written;
        if let Some(declared) = self.declared
            && declared != size
        {
            return Err(WriteError::OtherSize { declared, written: size }.into());
        }
        let body = match &mut self.place {
            Place::Heap(heap) => Body::Heap(std::mem::take(heap).freeze()),
            Place::Memfd(memfd) => {
                // Sealing looks at every page, and waits for readers that are just reading one.
                let memfd = Arc::clone(memfd);
                Body::Sealed(Arc::new(off_loop(u64::MAX, move || memfd.seal_shared()).await?))
            }
        };
        if let (Body::Sealed(_), Some((block, sum))) = (&body, self.sums.tail()) {
            self.stored.keep_sum(block, sum);
        }
        self.stored.set_body(body);
        zipline_fault_point::fault_point!("put.sealed");
        self.node.ledger().command(|holdings, _| holdings.finish(self.terms.id, size))?;
        self.done = true;
        self.stored.set_progress(Progress::Complete { size });
        zipline_fault_point::fault_point!("put.held");
        self.node.keep(&self.terms, size).await
    }

    async fn take_room(&mut self, total: u64) -> Result<(), TransferError> {
        if total <= self.room {
            return Ok(());
        }
        let step = self.room.clamp(GROW_BYTES_MIN, GROW_BYTES_MAX);
        // The last step may not fit the whole buffer where the payload itself still does.
        let wanted = self.room.saturating_add(step).max(total);
        let wanted = wanted.min(self.node.config().buffer_bytes).max(total);
        self.node.ledger().grow(self.terms.id, wanted, wanted - self.room).await?;
        self.room = wanted;
        Ok(())
    }

    /// Writes to the memfd and sums, on another thread where that takes long.
    async fn append(&mut self, bytes: Bytes, offset: u64) -> Result<(), TransferError> {
        let Place::Memfd(memfd) = &self.place else { return Ok(()) };
        let memfd = Arc::clone(memfd);
        let mut sums = self.sums.take();
        let stored = Arc::clone(&self.stored);
        let length = bytes.len() as u64;
        self.sums = off_loop(length, move || {
            memfd.write_all_at(&bytes, offset)?;
            sums.update(&bytes, |block, sum| stored.keep_sum(block, sum));
            Ok(sums)
        })
        .await?;
        Ok(())
    }

    fn wrote(&mut self, total: u64) -> Result<(), TransferError> {
        self.node.ledger().command(|holdings, _| holdings.written(self.terms.id, total))?;
        let before = self.written;
        self.written = total;
        self.span.passed(total - before);
        if matches!(self.place, Place::Memfd(_)) && total / BLOCK > before / BLOCK {
            self.stored.set_progress(Progress::Writing { bytes: total - total % BLOCK });
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            self.node.ledger().command(|holdings, now| holdings.abort(self.terms.id, now));
        }
    }
}

/// The sums of an object's blocks, as its bytes pass by.
#[derive(Debug)]
struct BlockSums {
    kind: SumKind,
    running: RunningSum,
    /// Bytes summed in all.
    bytes: u64,
}

impl BlockSums {
    fn new(kind: SumKind) -> Self {
        Self { kind, running: kind.start(), bytes: 0 }
    }

    /// Moves the state out, for work on another thread; it comes back unless that fails, which ends the writer.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.kind))
    }

    fn update(&mut self, mut bytes: &[u8], mut whole: impl FnMut(usize, Sum)) {
        while !bytes.is_empty() {
            let left = BLOCK - self.bytes % BLOCK;
            let (now, later) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
            self.running.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK) {
                let running = std::mem::replace(&mut self.running, self.kind.start());
                whole(usize::try_from(self.bytes / BLOCK - 1).unwrap_or(usize::MAX), running.finish());
            }
            bytes = later;
        }
    }

    /// The last block, if it is shorter than a whole one.
    fn tail(&self) -> Option<(usize, Sum)> {
        if self.bytes.is_multiple_of(BLOCK) {
            return None;
        }
        Some((usize::try_from(self.bytes / BLOCK).ok()?, self.running.finish()))
    }
}

/// Keeps the payload of a call; dropping it ends the object: the call's answer has come, or the call is given up.
#[derive(Debug)]
pub struct CallObject {
    node: Node,
    object: ObjectId,
}

impl CallObject {
    /// Whether somebody reads the object now.
    pub fn is_being_read(&self) -> bool {
        self.node.ledger().command(|holdings, _| holdings.is_being_read(self.object))
    }
}

impl Drop for CallObject {
    fn drop(&mut self) {
        self.node.ledger().command(|holdings, now| holdings.free(self.object, now));
    }
}
