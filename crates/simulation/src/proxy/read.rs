//! One read over TCP: drives the states of core's `PullReader` over simulated connections.

use core::time::Duration;
use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::pull::{
    AnswerHead, AwaitingBytes, AwaitingRecord, BytesStep, DeliveredStep, Mac, PullError, PullMethod, PullReader, PullRequest,
    RecordStep, Verified, Wanted, verified,
};
use zipline_core::reference::KeyId;

use super::Proxy;
use super::pool::{Connection, Use};
use crate::check::Invariant;
use crate::content::Chunk;
use crate::coverage::Transition as T;
use crate::exec::NATURE;
use crate::faults::FaultKind;
use crate::net::{Broken, Door, End, Head, Matter, Piece};
use crate::wait::{Permit, timeout_at};

/// A question to a producer must be answered after this.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A read that was granted.
pub(super) struct TcpRead {
    proxy: Rc<Proxy>,
    wanted: Wanted,
    state: Option<State>,
    connection: Option<Connection>,
    is_whole: bool,
    permit: Option<Permit>,
}

enum State {
    Awaiting(AwaitingRecord),
    /// The last block is with whoever reads.
    Delivering(Verified),
}

/// The next block, or a reader that is to ask again.
enum Payload {
    Block(Chunk),
    Again(PullReader),
}

impl TcpRead {
    /// Asks for the bytes and awaits the answer's head.
    pub(super) async fn open(proxy: &Rc<Proxy>, wanted: Wanted, permit: Permit) -> Result<(Self, AnswerHead), ErrorCode> {
        let reader = PullReader::new(wanted.clone(), proxy.world.settings().reader, proxy.world.now());
        let mut read =
            Self { proxy: Rc::clone(proxy), wanted, state: None, connection: None, is_whole: false, permit: Some(permit) };
        let (state, head) = read.ask(reader).await?;
        read.state = Some(State::Awaiting(state));
        Ok((read, head))
    }

    /// The next verified bytes; `None` after the last.
    pub(super) async fn next_block(&mut self) -> Result<Option<Chunk>, ErrorCode> {
        let now = self.proxy.world.now();
        let state = match self.state.take() {
            None if self.is_whole => return Ok(None),
            None => return Err(ErrorCode::PayloadAborted),
            Some(State::Awaiting(state)) => state,
            Some(State::Delivering(block)) => match block.delivered(now) {
                DeliveredStep::Record(state) => {
                    self.proxy.world.check.read(|reads| reads.taken(self.wanted.lease, now));
                    state
                }
                DeliveredStep::Finished(_) => return Err(ErrorCode::PayloadAborted), // The last block ended the read.
            },
        };
        let block = self.step(state).await;
        if block.is_err() || self.is_whole {
            self.permit = None;
            if let Some(connection) = self.connection.take().filter(|_| self.is_whole) {
                self.proxy.park(connection);
            }
        }
        block
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.is_whole
    }

    async fn step(&mut self, mut state: AwaitingRecord) -> Result<Option<Chunk>, ErrorCode> {
        let world = Rc::clone(&self.proxy.world);
        loop {
            let Ok(piece) = timeout_at(&world.exec, state.idle_at(), self.receive()).await else {
                return Err(self.failed(state.timed_out()));
            };
            let Some(Piece { matter: Matter::Record(wire), tampered }) = piece else {
                state = self.again(self.broke(state.broken())).await?;
                continue;
            };
            self.lives();
            let step = state.record(&wire);
            if tampered {
                self.not_believed("a record's head", matches!(step, RecordStep::Again(_) | RecordStep::Failed(_)));
                world.hit(T::RecordForged);
            }
            let awaiting = match step {
                RecordStep::Bytes(awaiting) => awaiting,
                RecordStep::Heartbeat(next) => {
                    world.hit(T::ReadHeartbeat);
                    state = next;
                    continue;
                }
                RecordStep::Finished(_) => {
                    world.hit(T::ReadEmptyLast);
                    self.whole();
                    return Ok(None);
                }
                RecordStep::Again(reader) => {
                    if !tampered {
                        world.hit(T::ReadAborted);
                    }
                    state = self.again(Ok(reader)).await?;
                    continue;
                }
                RecordStep::Failed(error) => return Err(self.failed(error)),
            };
            match self.payload(awaiting).await? {
                Payload::Block(chunk) => return Ok(Some(chunk)),
                Payload::Again(reader) => state = self.again(Ok(reader)).await?,
            }
        }
    }

    /// Reads and verifies one record's payload.
    async fn payload(&mut self, mut awaiting: AwaitingBytes) -> Result<Payload, ErrorCode> {
        let world = Rc::clone(&self.proxy.world);
        let mut came: Option<Chunk> = None;
        let filled = |came: &Option<Chunk>| came.map_or(0, |chunk| chunk.length as usize);
        while filled(&came) < awaiting.length() {
            let Ok(piece) = timeout_at(&world.exec, awaiting.idle_at(), self.receive()).await else {
                return Err(self.failed(awaiting.timed_out()));
            };
            let Some(Piece { matter: Matter::Bytes(chunk), .. }) = piece else {
                return self.broke(awaiting.broken()).map(Payload::Again).map_err(|error| self.failed(error));
            };
            self.lives();
            came = match came {
                None => Some(chunk),
                Some(before) => before.join(chunk),
            };
            awaiting.progressed(world.now());
            world.check.read(|reads| reads.came(self.wanted.lease, world.now()));
        }
        let Some(chunk) = came else { return Err(ErrorCode::PayloadCorrupt) };
        // Short ones as bytes, long ones by the sum that was made where they landed.
        let step = match chunk.bytes() {
            Some(bytes) => awaiting.verify(&bytes),
            None => {
                let sum = chunk.sum(awaiting.sum_kind());
                awaiting.verify_sum(chunk.length as usize, sum)
            }
        };
        if chunk.damage.is_some() {
            world.hit(T::BlockCorrupt);
        }
        match step {
            BytesStep::Verified(verified) => {
                world.check.read(|reads| reads.delivered(self.wanted.lease, chunk));
                if verified.is_last() {
                    self.whole();
                } else {
                    self.state = Some(State::Delivering(verified));
                }
                Ok(Payload::Block(chunk))
            }
            BytesStep::Again(reader) => {
                world.hit(T::BlockAskedAgain);
                Ok(Payload::Again(reader))
            }
            BytesStep::Failed(error) => Err(self.failed(error)),
        }
    }

    fn whole(&mut self) {
        self.is_whole = true;
        self.proxy.world.hit(T::ReadWhole);
        self.proxy.world.check.read(|reads| reads.whole(self.wanted.lease));
    }

    async fn receive(&self) -> Option<Piece> {
        match &self.connection {
            Some(connection) => connection.end.receive().await,
            None => None,
        }
    }

    /// Something came: had it been idle for too long, the read should have ended.
    fn lives(&self) {
        let world = &self.proxy.world;
        let slack = world.slack(self.proxy.process);
        world.check.read(|reads| reads.lives(self.wanted.lease, slack, world.now()));
    }

    fn not_believed(&self, what: &str, holds: bool) {
        if !holds {
            let lease = self.wanted.lease;
            self.proxy.world.check.fails(Invariant::Authentic, format!("{what} of read {lease} was changed and believed"));
        }
    }

    /// Goes on over a new connection.
    async fn again(&mut self, reader: Result<PullReader, PullError>) -> Result<AwaitingRecord, ErrorCode> {
        let reader = reader.map_err(|error| self.failed(error))?;
        let world = &self.proxy.world;
        world.hit(if reader.position() > self.wanted.span.first { T::ReadResumedMidObject } else { T::ReadResumed });
        self.ask(reader).await.map(|(state, _)| state)
    }

    async fn ask(&mut self, mut reader: PullReader) -> Result<(AwaitingRecord, AnswerHead), ErrorCode> {
        let proxy = Rc::clone(&self.proxy);
        let world = &proxy.world;
        loop {
            self.connection = None; // Before waiting for another: its permit may be the one that is waited for.
            let connecting = proxy.connection(self.wanted.producer, Use::Read);
            let connection = match timeout_at(&world.exec, reader.idle_at(), connecting).await {
                Ok(connection) => self.connection.insert(connection?),
                Err(_) => return Err(self.failed(reader.timed_out())),
            };
            let now = proxy.now();
            let ring = proxy.ring();
            let key = ring.sealing(now.wall).ok_or(ErrorCode::ReferenceUnknownKey)?;
            world.check.read(|reads| reads.asked(self.wanted.lease, world.slack(proxy.process), now.mono));
            proxy.note(|| format!("asks for {} from byte {}", self.wanted.object, reader.position()));
            let (request, mac, awaiting) = reader.ask(key, now.wall, world.nonce());
            let exchange = proxy.exchange(&connection.end, &request, key.id(), &mac);
            let answered = match timeout_at(&world.exec, awaiting.idle_at(), exchange).await {
                Err(_) => return Err(self.failed(awaiting.timed_out())),
                Ok(answered) => answered,
            };
            let (head, signed, tampered) = match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(Broken) => {
                    reader = self.broke(awaiting.broken()).map_err(|error| self.failed(error))?;
                    world.hit(T::ReadResumed);
                    continue;
                }
            };
            let believed = awaiting.head(&head, signed.as_ref());
            if tampered {
                world.hit(T::AnswerForged);
                let holds = matches!(&believed, Err(PullError::Forged | PullError::Unsigned { .. } | PullError::Answer(_)));
                self.not_believed("an answer's head", holds);
            }
            return match believed {
                Ok(state) => Ok((state, head)),
                Err(error) => {
                    if let (PullError::Refused { .. }, Some(connection)) = (&error, self.connection.take()) {
                        proxy.park(connection);
                    }
                    Err(self.failed(error))
                }
            };
        }
    }

    /// A connection broke: whether the read may go on is core's to say, how often the books'.
    fn broke(&self, again: Result<PullReader, PullError>) -> Result<PullReader, PullError> {
        if again.is_ok() {
            self.proxy.world.check.read(|reads| reads.broke(self.wanted.lease));
        }
        again
    }

    fn failed(&self, error: PullError) -> ErrorCode {
        let world = &self.proxy.world;
        match &error {
            PullError::Idle { .. } => world.hit(T::ReadIdle),
            PullError::Broken { .. } => world.hit(T::ReadResumesOver),
            _ => {}
        }
        self.lives();
        self.proxy.note(|| format!("read {} fails: {error}", self.wanted.lease));
        error.code()
    }
}

type Answered = Result<Result<(AnswerHead, Option<Mac>, bool), PullError>, Broken>;

impl Proxy {
    /// Sends a request and reads its answer's head, which nobody has checked yet.
    pub(super) async fn exchange(self: &Rc<Self>, end: &End, request: &PullRequest, key: KeyId, mac: &Mac) -> Answered {
        let line = Some((request.method.verb(), request.path()));
        let head = Head { line, status: 0, headers: request.headers(key, mac) };
        if self.world.strikes_at(FaultKind::Replay, NATURE) {
            self.replay(request, head.clone());
        }
        end.send(Matter::Head(Box::new(head))).await?;
        let Some(Piece { matter: Matter::Head(head), tampered }) = end.receive().await else { return Err(Broken) };
        let headers = head.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        Ok(AnswerHead::read(head.status, headers).map(|(head, mac)| (head, mac, tampered)).map_err(PullError::from))
    }

    /// Somebody else sends the same bytes again, after a while.
    fn replay(&self, request: &PullRequest, head: Head) {
        let world = Rc::clone(&self.world);
        let to = request.dialled;
        let after = world.fault_millis(FaultKind::Replay, 1, 58_000);
        world.exec.clone().spawn(NATURE, async move {
            world.sleep(after).await;
            let Ok(end) = world.connect(NATURE, to, Door::Pull).await else { return };
            // Whatever becomes of it is the attacker's.
            let _ = end.send(Matter::Head(Box::new(head))).await;
            let _ = timeout_at(&world.exec, world.now() + ANSWER_TIME_MAX, end.receive()).await;
        });
    }

    /// Asks the producer what is no read. Where a kept connection turns out to be closed, it is asked again.
    pub(super) async fn ask(self: &Rc<Self>, wanted: &Wanted, method: PullMethod) -> Result<AnswerHead, ErrorCode> {
        let world = &self.world;
        loop {
            let connection = self.connection(wanted.producer, Use::Control).await?;
            let (now, ring) = (self.now(), self.ring());
            let key = ring.sealing(now.wall).ok_or(ErrorCode::ReferenceUnknownKey)?;
            let request = wanted.request(method, now.wall, world.nonce());
            let mac = request.sign(key);
            let exchange = self.exchange(&connection.end, &request, key.id(), &mac);
            let answered = timeout_at(&world.exec, world.now() + ANSWER_TIME_MAX, exchange).await;
            let (head, signed, tampered) = match answered {
                Ok(Err(Broken)) if connection.reused => continue,
                Err(_) | Ok(Err(Broken)) => return Err(ErrorCode::ProducerUnreachable),
                Ok(Ok(answer)) => answer.map_err(|error| error.code())?,
            };
            let believed = verified(&head, signed.as_ref(), key, &mac, wanted.object);
            if tampered && believed.is_ok() {
                world.check.fails(Invariant::Authentic, format!("a changed answer to {method:?} was believed"));
            }
            believed.map_err(|error| error.code())?;
            self.park(connection);
            return if head.status >= 400 { Err(PullError::refused(&head).code()) } else { Ok(head) };
        }
    }
}
