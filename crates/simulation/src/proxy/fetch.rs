//! The consumer's side: from a reference to verified bytes, by the nearest way, under a lease.

use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::object::{LeaseId, LeaseRequest, ObjectId, Via};
use zipline_core::pull::{AnswerHead, ByteRange, Planned, PullMethod, RecordPlan, Span, Wanted, Written, verified};
use zipline_core::reference::{Reference, ReferenceError};

use super::Proxy;
use super::ledger::{ReceiveRoom, Stored};
use super::read::{ANSWER_TIME_MAX, TcpRead};
use crate::check::Invariant;
use crate::content::Chunk;
use crate::coverage::Transition as T;
use crate::exec::TaskId;
use crate::faults::FaultKind;
use crate::net::{Door, End, Head, Matter, Piece};
use crate::wait::timeout_at;

/// How a payload is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Block by block.
    Stream,
    /// At once, into room of the proxy's budget.
    Whole,
}

/// A payload that is being read. Dropping it gives its lease back.
pub(crate) struct Incoming {
    lease: Lease,
    source: Source,
    room: Option<ReceiveRoom>,
    proxy: Rc<Proxy>,
    id: LeaseId,
    pub(crate) span: Span,
    size: Option<u64>,
}

enum Source {
    Tcp(Box<TcpRead>),
    Held(HeldRead),
}

enum Lease {
    Own { proxy: Rc<Proxy>, object: ObjectId, lease: LeaseId },
    Handover { end: End, wanted: Wanted },
    Remote(RemoteLease),
}

impl Proxy {
    /// Opens a reference and asks for its bytes; returns when they are about to come.
    pub(crate) async fn fetch(
        self: &Rc<Self>,
        token: &str,
        range: Option<ByteRange>,
        taking: Taking,
    ) -> Result<Incoming, ErrorCode> {
        let reference = self.opened(token)?;
        if reference.check_receiver(&self.receivers).is_err() {
            self.world.hit(T::ReferenceReceiver);
            return Err(ErrorCode::ReferenceWrongReceiver);
        }
        if reference.receiver.as_ref().is_some_and(|receiver| !self.receivers.contains(receiver)) {
            self.world.check.fails(Invariant::Authentic, format!("{:?} resolves {reference:?}", self.receivers));
        }
        let lease = self.world.lease_id();
        let wanted = Wanted::of(&reference, range, lease, self.receivers.first().cloned()).map_err(|error| error.code())?;
        let (limits, now) = (self.world.settings().reader, self.world.now());
        self.world.check.read(|reads| reads.begun(lease, wanted.object, wanted.slot, wanted.span, limits, now));
        if reference.producer == self.address {
            return if reference.epoch == self.epoch { self.read_own(wanted) } else { Err(ErrorCode::ProducerGone) };
        }
        if self.peers.check(wanted.producer).is_err() {
            self.world.hit(T::ReferenceForbidden);
            return Err(ErrorCode::PeerForbidden);
        }
        if self.world.settings().handover
            && let Some(incoming) = self.take_descriptor(&wanted).await?
        {
            return Ok(incoming);
        }
        self.pull(wanted, taking).await
    }

    fn opened(&self, token: &str) -> Result<Reference, ErrorCode> {
        let now = self.now();
        let opened = self.ring().open(token, now.wall);
        match &opened {
            Ok(reference) if reference.expires <= now.wall => {
                let detail = format!("a reference that expired at {:?} was opened at {:?}", reference.expires, now.wall);
                self.world.check.fails(Invariant::Authentic, detail);
            }
            Ok(_) => {}
            Err(ReferenceError::Expired { .. }) => self.world.hit(T::ReferenceExpired),
            Err(ReferenceError::UnknownKey { .. }) => self.world.hit(T::ReferenceUnknownKey),
            Err(ReferenceError::Invalid(_)) => self.world.hit(T::ReferenceInvalid),
        }
        opened.map_err(|error| error.code())
    }

    async fn pull(self: &Rc<Self>, wanted: Wanted, taking: Taking) -> Result<Incoming, ErrorCode> {
        let room = match (taking, wanted.size) {
            (Taking::Whole, Some(size)) => Some(self.receive(length(wanted.span, size)).await.map_err(|refusal| refusal.code())?),
            _ => None,
        };
        let until = self.world.now() + self.world.settings().reader.idle;
        let Ok(permit) = timeout_at(&self.world.exec, until, self.pulls.acquire()).await else {
            return Err(ErrorCode::PullIdleTimeout);
        };
        // The read's own idle time begins now.
        self.world.check.read(|reads| reads.came(wanted.lease, self.world.now()));
        let lease = RemoteLease { proxy: Rc::clone(self), wanted: wanted.clone(), renewing: None, is_asked: true };
        let (read, head) = TcpRead::open(self, wanted.clone(), permit).await?;
        if wanted.span != Span::WHOLE {
            self.world.hit(T::ReadPart);
        }
        let size = head.size.and_then(|size| size.known());
        if size.is_none() {
            self.world.hit(T::ReadCutThrough);
        }
        let source = Source::Tcp(Box::new(read));
        Ok(self.incoming(Lease::Remote(lease), source, &wanted, size, room))
    }

    fn read_own(self: &Rc<Self>, wanted: Wanted) -> Result<Incoming, ErrorCode> {
        let asked = LeaseRequest { lease: wanted.lease, slot: wanted.slot, via: Via::Handover };
        let shown = self.grant(wanted.object, asked).map_err(|error| error.code())?;
        self.world.hit(T::ReadOwn);
        let lease = Lease::Own { proxy: Rc::clone(self), object: wanted.object, lease: wanted.lease };
        let held = HeldRead { from: From::Stored(Rc::clone(&shown.stored)), plan: RecordPlan::new(wanted.span), is_whole: false };
        Ok(self.incoming(lease, Source::Held(held), &wanted, shown.size, None))
    }

    /// Has the producer hand the object's descriptor over; `None`: it is to be pulled.
    async fn take_descriptor(self: &Rc<Self>, wanted: &Wanted) -> Result<Option<Incoming>, ErrorCode> {
        let world = &self.world;
        let until = world.now() + ANSWER_TIME_MAX;
        let dialled = timeout_at(&world.exec, until, world.connect(self.process, wanted.producer, Door::Handover)).await;
        let Ok(Ok(end)) = dialled else { return Ok(None) };
        let Ok(head) = self.ask_handover(&end, wanted, PullMethod::Handover).await else { return Ok(None) };
        match head.status {
            200 => {}
            421 => return Ok(None),
            _ => return Err(head.error_code().unwrap_or(ErrorCode::ProtocolUnsupported)),
        }
        let Ok(Some(Piece { matter: Matter::Descriptor(chunk), .. })) = timeout_at(&world.exec, until, end.receive()).await
        else {
            return Ok(None);
        };
        world.hit(T::ReadHandover);
        let held = HeldRead { from: From::Descriptor(chunk), plan: RecordPlan::new(wanted.span), is_whole: false };
        let lease = Lease::Handover { end, wanted: wanted.clone() };
        Ok(Some(self.incoming(lease, Source::Held(held), wanted, Some(u64::from(chunk.length)), None)))
    }

    async fn ask_handover(self: &Rc<Self>, end: &End, wanted: &Wanted, method: PullMethod) -> Result<AnswerHead, ErrorCode> {
        let (now, ring) = (self.now(), self.ring());
        let key = ring.sealing(now.wall).ok_or(ErrorCode::ReferenceUnknownKey)?;
        let request = wanted.request(method, now.wall, self.world.nonce());
        let mac = request.sign(key);
        let head = Head { line: Some((method.verb(), request.path())), status: 0, headers: request.headers(key.id(), &mac) };
        end.send(Matter::Head(Box::new(head))).await.map_err(|_| ErrorCode::ProducerUnreachable)?;
        let until = self.world.now() + ANSWER_TIME_MAX;
        let answer = timeout_at(&self.world.exec, until, end.receive()).await;
        let Ok(Some(Piece { matter: Matter::Head(head), .. })) = answer else { return Err(ErrorCode::ProducerUnreachable) };
        let headers = head.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let (head, signed) = AnswerHead::read(head.status, headers).map_err(|error| error.code())?;
        verified(&head, signed.as_ref(), key, &mac, wanted.object).map_err(|error| error.code())?;
        Ok(head)
    }

    fn incoming(
        self: &Rc<Self>,
        lease: Lease,
        source: Source,
        wanted: &Wanted,
        size: Option<u64>,
        room: Option<ReceiveRoom>,
    ) -> Incoming {
        Incoming { lease, source, room, proxy: Rc::clone(self), id: wanted.lease, span: wanted.span, size }
    }
}

impl Incoming {
    /// The next verified bytes; `None` after the last.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Chunk>, ErrorCode> {
        match &mut self.source {
            Source::Tcp(read) => {
                let block = read.next_block().await?;
                if read.is_whole()
                    && let Lease::Remote(lease) = &mut self.lease
                {
                    lease.keep();
                }
                Ok(block)
            }
            Source::Held(held) => {
                let block = held.next_block(&self.proxy).await?;
                let (proxy, id) = (&self.proxy, self.id);
                if let Some(chunk) = block {
                    proxy.world.check.read(|reads| reads.delivered(id, chunk));
                }
                if held.is_whole && block.is_some() {
                    proxy.world.hit(T::ReadWhole);
                    proxy.world.check.read(|reads| reads.whole(id));
                }
                Ok(block)
            }
        }
    }

    /// Takes all of it into room of the proxy's budget.
    pub(crate) async fn receive(&mut self) -> Result<Option<Chunk>, ErrorCode> {
        let known = self.size.map(|size| length(self.span, size));
        let room = match (self.room.take(), &self.source) {
            (Some(room), _) => Some(room),
            (None, Source::Held(_)) => None,
            (None, Source::Tcp(_)) => Some(self.proxy.receive(known.unwrap_or(0)).await.map_err(|refusal| refusal.code())?),
        };
        let mut whole: Option<Chunk> = None;
        let mut taken = known.unwrap_or(0);
        while let Some(block) = self.next_block().await? {
            whole = match whole {
                None => Some(block),
                Some(before) => before.join(block),
            };
            let came = whole.map_or(0, |chunk| u64::from(chunk.length));
            if let Some(room) = room.as_ref().filter(|_| came > taken) {
                taken = came.saturating_mul(2).min(self.proxy.world.settings().limits.receiving.bytes_max).max(came);
                room.grow(taken).await.map_err(|refusal| refusal.code())?;
            }
        }
        self.room = room;
        Ok(whole)
    }

    /// Whether every byte was taken.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.source {
            Source::Tcp(read) => read.is_whole(),
            Source::Held(held) => held.is_whole,
        }
    }

    /// Every byte was accepted: makes the lease a retrieval.
    pub(crate) async fn acknowledge(mut self) -> Result<(), ErrorCode> {
        if !self.is_whole() {
            self.next_block().await?; // What says that these bytes were the last ones may come after them.
        }
        if !self.is_whole() {
            return Err(ErrorCode::PayloadAborted);
        }
        self.proxy.world.check.read(|reads| reads.accepted(self.id));
        match &mut self.lease {
            Lease::Own { proxy, object, lease } => {
                proxy.acknowledge(*object, *lease).map_err(|error| error.code())?;
                Ok(())
            }
            Lease::Handover { end, wanted } => {
                self.proxy.ask_handover(end, wanted, PullMethod::Acknowledge).await?;
                Ok(())
            }
            Lease::Remote(lease) => lease.acknowledge().await,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Self::Own { proxy, object, lease } = self {
            proxy.release(*object, *lease);
        }
    }
}

const fn length(span: Span, size: u64) -> u64 {
    span.end(size).saturating_sub(span.first)
}

/// A read of bytes that lie on this machine.
struct HeldRead {
    from: From,
    plan: RecordPlan,
    is_whole: bool,
}

enum From {
    Stored(Rc<Stored>),
    Descriptor(Chunk),
}

impl HeldRead {
    async fn next_block(&mut self, proxy: &Proxy) -> Result<Option<Chunk>, ErrorCode> {
        let exec = &proxy.world.exec;
        loop {
            if self.is_whole {
                return Ok(None);
            }
            let (content, written) = match &self.from {
                From::Descriptor(chunk) => (chunk.content, Written { bytes: u64::from(chunk.length), complete: true }),
                From::Stored(stored) => (stored.content, stored.written().ok_or(ErrorCode::PayloadAborted)?),
            };
            match (self.plan.next(written), &self.from) {
                (Planned::Record { offset, length, last, .. }, _) => {
                    self.is_whole = last;
                    return Ok(Some(Chunk::new(content, offset, length)));
                }
                (Planned::Wait { .. }, From::Stored(stored)) => {
                    let changed = stored.bell().until(exec, || (stored.written() != Some(written)).then_some(()));
                    let until = exec.now() + proxy.world.settings().reader.idle;
                    timeout_at(exec, until, changed).await.map_err(|_| ErrorCode::PullIdleTimeout)?;
                }
                (Planned::Wait { .. } | Planned::Done, _) => return Err(ErrorCode::PayloadAborted),
            }
        }
    }
}

/// A lease at another proxy: kept alive once its bytes are all here, given back when dropped.
struct RemoteLease {
    proxy: Rc<Proxy>,
    wanted: Wanted,
    renewing: Option<TaskId>,
    is_asked: bool,
}

impl RemoteLease {
    /// From now on nothing but the function's own work keeps the read from its end.
    fn keep(&mut self) {
        if self.renewing.is_some() {
            return;
        }
        let (proxy, wanted) = (Rc::clone(&self.proxy), self.wanted.clone());
        let task = self.proxy.world.exec.spawn(self.proxy.process, async move {
            loop {
                proxy.world.sleep(proxy.world.settings().limits.lease / 3).await;
                if proxy.ask(&wanted, PullMethod::Head).await.is_ok() {
                    proxy.world.hit(T::LeaseRenewed);
                }
            }
        });
        self.renewing = Some(task);
    }

    async fn acknowledge(&mut self) -> Result<(), ErrorCode> {
        let acknowledged = self.proxy.ask(&self.wanted, PullMethod::Acknowledge).await;
        // Also where that failed: it may have arrived, and a release after it would say something else.
        self.is_asked = false;
        if self.proxy.world.strikes_at(FaultKind::Misbehave, self.proxy.process) {
            let _ = self.proxy.ask(&self.wanted, PullMethod::Acknowledge).await;
        }
        acknowledged.map(|_| ())
    }
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        let world = Rc::clone(&self.proxy.world);
        if let Some(renewing) = self.renewing.take() {
            world.exec.cancel(renewing);
        }
        if !self.is_asked || !self.proxy.is_alive() {
            return;
        }
        let Some(permit) = self.proxy.returns.try_acquire() else { return };
        let (proxy, wanted) = (Rc::clone(&self.proxy), self.wanted.clone());
        self.proxy.spawn(async move {
            let _permit = permit;
            if let Err(error) = proxy.ask(&wanted, PullMethod::Release).await {
                proxy.note(|| format!("{} could not be given back: {}", wanted.lease, error.name()));
            } else if proxy.world.strikes_at(FaultKind::Misbehave, proxy.process) {
                // Refused, unless it had lapsed before: then it is a lie that nobody can tell.
                proxy.world.check.read(|reads| reads.lies(wanted.lease));
                let _ = proxy.ask(&wanted, PullMethod::Acknowledge).await;
            }
        });
    }
}
