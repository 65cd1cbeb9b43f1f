//! The producer's doors: who may ask, and what is answered.

use core::time::Duration;
use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::object::{LeaseId, LeaseRequest, ObjectId, Via};
use zipline_core::pull::{
    AnswerHead, AnswerRange, Authenticated, Mac, ObjectSize, PullMethod, PullRequest, RecordChain, Refusal, SignedRequest, Span,
};
use zipline_core::reference::DomainKey;

use super::Proxy;
use super::ledger::{ReaderWatch, Shown};
use super::send::{Sender, Sent};
use crate::check::Invariant;
use crate::content::Chunk;
use crate::coverage::Transition as T;
use crate::net::{Door, End, Head, Matter, Piece};
use crate::wait::{First, race, timeout_at};

/// A head must have come after this.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection without a request is closed after this.
const SERVER_IDLE_MAX: Duration = Duration::from_secs(60);
/// Says that the object is to be pulled.
const PULL_INSTEAD: u16 = 421;

/// Whether a connection can carry another request.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

/// A request that is genuine, with the key that answers it.
struct Asked {
    request: PullRequest,
    key: DomainKey,
    mac: Mac,
}

impl Asked {
    fn sign(&self, head: &AnswerHead) -> Mac {
        head.sign(&self.key, &self.mac, self.request.object)
    }
}

/// What is said to who is not believed; signed where that may be.
type Refused = (AnswerHead, Option<Mac>);

/// What a read was granted.
struct Reading {
    shown: Shown,
    lease: LeaseId,
    span: Span,
    head: AnswerHead,
    watch: ReaderWatch,
}

/// A lease that lives as long as its hand-over connection.
struct HeldLease {
    proxy: Rc<Proxy>,
    object: ObjectId,
    lease: LeaseId,
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.proxy.release(self.object, self.lease);
    }
}

impl Proxy {
    /// Somebody has connected to a door.
    pub(crate) fn accept(self: &Rc<Self>, end: End, door: Door) {
        let proxy = Rc::clone(self);
        match door {
            Door::Pull => {
                let Some(permit) = self.serving.try_acquire() else {
                    self.world.hit(T::ReadConnections);
                    return; // Dropped: closed.
                };
                self.spawn(async move {
                    let _permit = permit;
                    proxy.serve(end).await;
                });
            }
            Door::Handover => self.spawn(async move { proxy.serve_handover(end).await }),
        }
    }

    async fn serve(self: Rc<Self>, end: End) {
        let mut idle_max = HEAD_TIME_MAX;
        loop {
            let until = self.world.now() + idle_max;
            let Ok(Some(piece)) = timeout_at(&self.world.exec, until, end.receive()).await else { return };
            let after = match self.read_request(piece) {
                Ok(asked) => self.answer(&end, asked).await,
                Err(refused) => {
                    let (head, mac) = *refused;
                    // A refusal whose reader is gone is nobody's loss.
                    let _ = end.send(answer_piece(&head, mac.as_ref())).await;
                    After::Close
                }
            };
            if after == After::Close {
                return;
            }
            idle_max = SERVER_IDLE_MAX;
        }
    }

    /// Reads and authenticates a request, or gives the refusal, signed where that may be.
    fn read_request(&self, piece: Piece) -> Result<Asked, Box<Refused>> {
        let unread = || Box::new((AnswerHead::error(ErrorCode::PullUnauthenticated, "no request", self.epoch), None));
        let Piece { matter: Matter::Head(head), tampered } = piece else { return Err(unread()) };
        let Some((verb, path)) = &head.line else { return Err(unread()) };
        let headers = head.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let signed = SignedRequest::read(verb, path, headers, self.address);
        if tampered {
            self.world.hit(T::RequestForged);
        }
        let signed = signed.map_err(|error| Box::new((AnswerHead::error(error.code(), &error.to_string(), self.epoch), None)))?;
        let ring = self.ring();
        let now = self.now();
        let Authenticated { request, key, mac } = match signed.authenticate(&ring, &mut self.nonces.borrow_mut(), now) {
            Ok(authenticated) => authenticated,
            Err(refusal) => return Err(self.refused(refusal, &ring)),
        };
        let check = &self.world.check;
        if tampered {
            check.fails(Invariant::Authentic, format!("a request was changed on the way and believed: {request:?}"));
        }
        let distance = request.time.distance(now.wall);
        if distance > Duration::from_millis(zipline_contract::limits::CLOCK_SKEW_MS_MAX) {
            check.fails(Invariant::Authentic, format!("a request was believed whose time is {distance:?} off"));
        }
        check.read(|reads| reads.authenticated(self.epoch, request.nonce));
        let key = ring.accepting(key, now.wall).ok_or_else(unread)?.clone();
        Ok(Asked { request, key, mac })
    }

    fn refused(&self, refusal: Refusal, ring: &zipline_core::reference::KeyRing) -> Box<Refused> {
        self.note(|| format!("refuses a request: {refusal}"));
        match refusal {
            Refusal::Replayed => self.world.hit(T::RequestReplayed),
            Refusal::ClockSkew { .. } => self.world.hit(T::RequestSkewed),
            _ => {}
        }
        let head = AnswerHead::error(refusal.code(), &refusal.to_string(), self.epoch);
        let mac = refusal.into_signable().and_then(|genuine| {
            let key = ring.accepting(genuine.key, self.now().wall)?;
            Some(head.sign(key, &genuine.mac, genuine.request.object))
        });
        Box::new((head, mac))
    }

    async fn answer(self: &Rc<Self>, end: &End, asked: Asked) -> After {
        let said = match asked.request.method {
            PullMethod::Get => match self.open(&asked.request) {
                Ok(reading) => return self.send_body(end, &asked, reading).await,
                Err(refused) => *refused,
            },
            PullMethod::Handover => AnswerHead::error(ErrorCode::ProtocolUnsupported, "another door", self.epoch),
            _ => self.answer_control(&asked.request),
        };
        let mac = asked.sign(&said);
        match end.send(answer_piece(&said, Some(&mac))).await {
            Ok(()) => After::Keep,
            Err(_) => After::Close,
        }
    }

    fn open(self: &Rc<Self>, request: &PullRequest) -> Result<Reading, Box<AnswerHead>> {
        let refused = |code: ErrorCode, detail: String| Box::new(AnswerHead::error(code, &detail, self.epoch));
        if request.epoch != self.epoch {
            return Err(Box::new(self.gone()));
        }
        let Some(lease) = request.lease else { return Err(refused(ErrorCode::PullUnauthenticated, "no lease".into())) };
        // Registered before the grant: what is cut from then on is heard.
        let watch = self.watch_reader(request.object, lease);
        let size = self.status(request.object, None).map_err(|error| refused(error.code(), error.to_string()))?.size;
        let span = match request.range.map_or(Ok(Span::WHOLE), |range| range.resolve(size)) {
            Ok(span) => span,
            Err(error) => {
                self.world.hit(T::ReadRange);
                return Err(refused(error.code(), error.to_string()));
            }
        };
        let asked = LeaseRequest { lease, slot: request.slot, via: Via::Pull };
        let shown = self.grant(request.object, asked).map_err(|error| refused(error.code(), error.to_string()))?;
        let head = self.head_of(&shown, request.range.map(|_| AnswerRange::of(span, shown.size.into())));
        Ok(Reading { shown, lease, span, head, watch })
    }

    async fn send_body(self: &Rc<Self>, end: &End, asked: &Asked, reading: Reading) -> After {
        let Reading { shown, lease, span, head, mut watch } = reading;
        let mac = asked.sign(&head);
        match race(watch.cut(), end.send(answer_piece(&head, Some(&mac)))).await {
            First::Right(Ok(())) => {}
            First::Right(Err(_)) | First::Left(()) => return After::Close,
        }
        let chain = RecordChain::new(&asked.key, mac);
        let sender = Sender { proxy: Rc::clone(self), end, stored: shown.stored, lease, chain };
        match sender.send(span, &mut watch).await {
            Sent::Whole => After::Keep,
            Sent::Stopped => After::Close,
        }
    }

    fn head_of(&self, shown: &Shown, range: Option<AnswerRange>) -> AnswerHead {
        AnswerHead {
            range,
            size: Some(ObjectSize::from(shown.size)),
            retrievals_left: Some(shown.retrievals_left),
            expires: Some(shown.expires),
            sum: Some(shown.stored.kind),
            ..AnswerHead::bare(if range.is_some() { 206 } else { 200 }, self.epoch)
        }
    }

    /// Answers what is no read.
    fn answer_control(self: &Rc<Self>, request: &PullRequest) -> AnswerHead {
        if request.epoch != self.epoch {
            return self.gone();
        }
        let (object, done) = (request.object, AnswerHead::bare(204, self.epoch));
        match (request.method, request.lease) {
            (PullMethod::Head, lease) => match self.status(object, lease) {
                Ok(shown) => self.head_of(&shown, None),
                Err(error) => AnswerHead::error(error.code(), &error.to_string(), self.epoch),
            },
            (PullMethod::Acknowledge, Some(lease)) => match self.acknowledge(object, lease) {
                Ok(_) => done,
                Err(error) => AnswerHead::error(error.code(), &error.to_string(), self.epoch),
            },
            (PullMethod::Release, Some(lease)) => {
                self.release(object, lease);
                done
            }
            (PullMethod::Free, _) => {
                self.free(object);
                done
            }
            _ => AnswerHead::error(ErrorCode::PullUnauthenticated, "the request names no lease", self.epoch),
        }
    }

    fn gone(&self) -> AnswerHead {
        self.world.hit(T::ReadGone);
        AnswerHead::error(ErrorCode::ProducerGone, "the instance that held the object was restarted", self.epoch)
    }

    async fn serve_handover(self: Rc<Self>, end: End) {
        let mut held: Option<HeldLease> = None;
        loop {
            if held.is_some() {
                end.readable().await;
            }
            let until = self.world.now() + HEAD_TIME_MAX;
            let Ok(Some(piece)) = timeout_at(&self.world.exec, until, end.receive()).await else { return };
            let Ok(asked) = self.read_request(piece) else { return };
            if asked.request.method != PullMethod::Handover {
                let said = self.answer_control(&asked.request);
                if end.send(answer_piece(&said, Some(&asked.sign(&said)))).await.is_err() {
                    return;
                }
                continue;
            }
            let (said, descriptor) = match self.hand_over(&asked.request) {
                Ok((head, lease, chunk)) => {
                    held = Some(HeldLease { proxy: Rc::clone(&self), object: asked.request.object, lease });
                    (head, Some(chunk))
                }
                Err(said) => (*said, None),
            };
            let sent = end.send(answer_piece(&said, Some(&asked.sign(&said)))).await;
            let sent = match descriptor {
                Some(chunk) if sent.is_ok() => end.send(Matter::Descriptor(chunk)).await,
                _ => sent,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn hand_over(self: &Rc<Self>, request: &PullRequest) -> Result<(AnswerHead, LeaseId, Chunk), Box<AnswerHead>> {
        if request.epoch != self.epoch {
            return Err(Box::new(self.gone()));
        }
        let refused = |code: ErrorCode, detail: String| Box::new(AnswerHead::error(code, &detail, self.epoch));
        let Some(lease) = request.lease else { return Err(refused(ErrorCode::PullUnauthenticated, "no lease".into())) };
        // Looked at first: what is to be pulled instead costs no attempt.
        let shown = self.status(request.object, None).map_err(|error| refused(error.code(), error.to_string()))?;
        let Some(written) = shown.stored.written().filter(|written| written.complete) else {
            return Err(Box::new(AnswerHead::bare(PULL_INSTEAD, self.epoch)));
        };
        let asked = LeaseRequest { lease, slot: request.slot, via: Via::Handover };
        let shown = self.grant(request.object, asked).map_err(|error| refused(error.code(), error.to_string()))?;
        let length = u32::try_from(written.bytes).unwrap_or(u32::MAX);
        Ok((self.head_of(&shown, None), lease, Chunk::new(shown.stored.content, 0, length)))
    }
}

fn answer_piece(head: &AnswerHead, mac: Option<&Mac>) -> Matter {
    Matter::Head(Box::new(Head { line: None, status: head.status, headers: head.headers(mac) }))
}
