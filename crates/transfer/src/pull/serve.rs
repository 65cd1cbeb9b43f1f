//! The pull port: who may ask, and what is answered.
//!
//! One task a connection, one request at a time, nothing allocated for a request before its MAC holds but the head's
//! own bytes. A connection that shows no genuine request is closed; so is one that is not understood, since nothing
//! after it could be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use zipline_contract::ErrorCode;
use zipline_contract::limits::PULL_HEAD_BYTES_MAX;
use zipline_core::object::{LeaseId, LeaseRequest, ObjectId, ReadError, Via, View};
use zipline_core::pull::{
    AnswerHead, AnswerRange, Authenticated, Mac, ObjectSize, PullMethod, PullRequest, RangeError, RecordChain, RequestError, Span,
};
use zipline_core::reference::DomainKey;
use zipline_core::trace::TraceContext;

use super::body::{Sender, Sent};
use super::stream::{PullStream, write_all};
use super::tls::TLS_HANDSHAKE;
use super::wire;
use crate::config::{HEAD_TIME_MAX, SERVER_IDLE_MAX};
use crate::counters::Open;
use crate::ledger::ReaderWatch;
use crate::node::Inner;
use crate::span::{Work, WorkSpan};
use crate::stored::Stored;

/// How long accepting pauses when the process has no descriptor left: time for connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections as long as the node lives.
pub(crate) async fn listen(inner: Arc<Inner>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(inner.config.pull_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a pull connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(peer.addr = %peer, limit = inner.config.pull_connections, "too many pull connections; closed");
            continue;
        };
        let inner = Arc::clone(&inner);
        connections.spawn(async move {
            let _permit = permit;
            let _open = Open::count(&inner.counters.connections_served);
            if let Err(error) = serve(&inner, stream, peer).await {
                tracing::debug!(peer.addr = %peer, %error, "a pull connection ended");
            }
        });
    }
}

/// Whether a connection can carry another request.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

async fn serve(inner: &Arc<Inner>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    inner.set_congestion(&stream, peer.ip());
    let Some(mut stream) = encrypt(inner, stream, peer).await? else { return Ok(()) };
    let mut inbox = BytesMut::new();
    let mut idle_max = HEAD_TIME_MAX; // A connection shows what it is for before it may idle.
    loop {
        let Some(length) = head(&mut stream, &mut inbox, idle_max).await? else { return Ok(()) };
        let after = match wire::read_request(inbox.get(..length).unwrap_or_default(), inner.address) {
            Ok(_) if inbox.len() > length => return Err(io::Error::other("a request came before the last was answered")),
            Ok((signed, trace)) => {
                inbox.advance(length);
                match inner.authenticate(signed) {
                    Ok(authenticated) => answer(inner, &mut stream, authenticated, trace).await?,
                    Err(refusal) => refuse(inner, &mut stream, refusal).await?,
                }
            }
            Err(error) => refuse_unread(inner, &mut stream, &error).await?,
        };
        if after == After::Close {
            return Ok(());
        }
        idle_max = SERVER_IDLE_MAX;
    }
}

/// Encrypts where that is required. Who speaks the other way is told so at once, in words that it can read.
async fn encrypt(inner: &Inner, stream: TcpStream, peer: SocketAddr) -> io::Result<Option<PullStream>> {
    let mut first = [0];
    match timeout(HEAD_TIME_MAX, stream.peek(&mut first)).await {
        Ok(Ok(0)) | Err(_) => return Ok(None),
        Ok(came) => came.map(drop)?,
    }
    let failed = || inner.counters.tls_failures.fetch_add(1, Ordering::Relaxed);
    let detail = match (inner.config.tls, first == [TLS_HANDSHAKE]) {
        (false, false) => return Ok(Some(PullStream::Plain(stream))),
        (true, true) => {
            let ring = inner.keys.ring().map_err(io::Error::other)?;
            let accepting = inner.certificates.accept(ring, inner.config.clock.wall(), stream);
            let accepted = timeout(HEAD_TIME_MAX, accepting).await.unwrap_or_else(|late| Err(late.into()));
            return accepted.map(Some).inspect_err(|_| {
                failed();
            });
        }
        (true, false) => "this proxy takes pulls over mutual TLS only (ZIPLINE_PULL_TLS=require), and was asked without",
        (false, true) => "this proxy takes pulls without TLS (ZIPLINE_PULL_TLS=off), and was asked over TLS",
    };
    if failed() == 0 {
        tracing::warn!(peer.addr = %peer, "{detail}; said once, counted always");
    }
    // What was sent is taken from the socket, where it can be: closing over unread bytes would reset the answer away.
    let mut unread = [0; PULL_HEAD_BYTES_MAX];
    stream.try_read(&mut unread).map(drop)?;
    let head = AnswerHead::error(ErrorCode::PullUnauthenticated, detail, inner.epoch);
    respond(&mut PullStream::Plain(stream), &wire::answer_text(&head, None, false)).await.map(|()| None)
}

/// The next head: it may be waited for, but once it has begun it must come whole.
async fn head(stream: &mut PullStream, inbox: &mut BytesMut, idle_max: Duration) -> io::Result<Option<usize>> {
    if inbox.is_empty() {
        match timeout(idle_max, wire::read_some(stream, inbox)).await {
            Ok(Ok(0)) | Err(_) => return Ok(None),
            Ok(began) => began.map(drop)?,
        }
    }
    timeout_at(Instant::now() + HEAD_TIME_MAX, wire::read_head(stream, inbox)).await?
}

async fn refuse_unread(inner: &Inner, stream: &mut PullStream, error: &RequestError) -> io::Result<After> {
    let head = AnswerHead::error(error.code(), &error.to_string(), inner.epoch);
    respond(stream, &wire::answer_text(&head, None, false)).await?;
    Ok(After::Close)
}

/// Answers a request that is not genuine, or is not of this time: signed only where its MAC held.
async fn refuse(inner: &Inner, stream: &mut PullStream, refusal: zipline_core::pull::Refusal) -> io::Result<After> {
    tracing::debug!(error = %refusal, "a pull was refused");
    let head = AnswerHead::error(refusal.code(), &refusal.to_string(), inner.epoch);
    let mac = refusal.into_signable().and_then(|genuine| {
        let key = inner.keys.accepting(genuine.key, inner.config.clock.wall()).ok()?;
        Some(head.sign(&key, &genuine.mac, genuine.request.object))
    });
    respond(stream, &wire::answer_text(&head, mac.as_ref(), false)).await?;
    Ok(After::Close)
}

async fn respond(stream: &mut PullStream, text: &str) -> io::Result<()> {
    timeout(HEAD_TIME_MAX, write_all(stream, text.as_bytes(), &[], |_| ())).await?
}

async fn answer(
    inner: &Arc<Inner>,
    stream: &mut PullStream,
    asked: Authenticated,
    trace: Option<TraceContext>,
) -> io::Result<After> {
    let Authenticated { request, key, mac } = asked;
    zipline_fault_point::fault_point!("serve.asked");
    let Ok(key) = inner.keys.accepting(key, inner.config.clock.wall()) else { return Ok(After::Close) };
    let said = match request.method {
        PullMethod::Get => {
            let mut span = WorkSpan::begin(Work::Serve, trace);
            span.method("tcp");
            match open(inner, &request) {
                Ok(reading) => return read(inner, stream, &key, &mac, &request, (reading, span)).await,
                Err(refused) => {
                    span.refused(&refused);
                    *refused
                }
            }
        }
        PullMethod::Handover => {
            AnswerHead::error(ErrorCode::ProtocolUnsupported, "descriptors pass on Unix sockets", inner.epoch)
        }
        _ => inner.answer_control(&request),
    };
    let signed = said.sign(&key, &mac, request.object);
    respond(stream, &wire::answer_text(&said, Some(&signed), false)).await?;
    Ok(After::Keep)
}

/// What a read was granted.
struct Reading {
    stored: Arc<Stored>,
    lease: LeaseId,
    span: Span,
    head: AnswerHead,
    watch: ReaderWatch,
}

/// Grants a read, or says why not.
fn open(inner: &Arc<Inner>, request: &PullRequest) -> Result<Reading, Box<AnswerHead>> {
    let refused = |code, detail: String| Box::new(AnswerHead::error(code, &detail, inner.epoch));
    if request.epoch != inner.epoch {
        return Err(Box::new(inner.gone()));
    }
    let Some(lease) = request.lease else {
        return Err(refused(ErrorCode::PullUnauthenticated, "a read needs a lease".into()));
    };
    // Registered before the grant: what the ledger cuts from then on is heard.
    let watch = inner.ledger.watch_reader(request.object, lease);
    let asked = LeaseRequest { lease, slot: request.slot, via: Via::Pull };
    let granted = inner.ledger.command(|holdings, now| {
        let size = holdings.status(request.object, None, now)?.size;
        // Before the grant: a range that is not there costs no attempt.
        let span = request.range.map_or(Ok(Span::WHOLE), |range| range.resolve(size)).map_err(NotOpened::Range)?;
        let view = holdings.grant(request.object, asked, now)?;
        let head = head_of(inner, &view, request.range.map(|_| AnswerRange::of(span, view.size.into())));
        Ok((Arc::clone(view.payload), span, head))
    });
    match granted {
        Ok((stored, span, head)) => Ok(Reading { stored, lease, span, head, watch }),
        Err(NotOpened::Read(error)) => Err(refused(error.code(), error.to_string())),
        Err(NotOpened::Range(error)) => Err(refused(error.code(), error.to_string())),
    }
}

enum NotOpened {
    Read(ReadError),
    Range(RangeError),
}

impl From<ReadError> for NotOpened {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// The head of an answer that shows an object.
pub(crate) fn head_of(inner: &Inner, view: &View<'_, Arc<Stored>>, range: Option<AnswerRange>) -> AnswerHead {
    AnswerHead {
        range,
        size: Some(ObjectSize::from(view.size)),
        retrievals_left: Some(view.retrievals_left),
        expires: Some(view.expires),
        content_type: view.payload.content_type.clone(),
        sum: Some(view.payload.sum_kind),
        ..AnswerHead::bare(if range.is_some() { 206 } else { 200 }, inner.epoch)
    }
}

async fn read(
    inner: &Arc<Inner>,
    stream: &mut PullStream,
    key: &DomainKey,
    asked: &Mac,
    request: &PullRequest,
    (reading, mut span): (Reading, WorkSpan),
) -> io::Result<After> {
    let Reading { stored, lease, span: bytes, head, mut watch } = reading;
    let mac = head.sign(key, asked, request.object);
    zipline_fault_point::fault_point!("serve.granted");
    span.of(&stored);
    span.waited();
    let text = wire::answer_text(&head, Some(&mac), true);
    let sender = Sender { inner, stream, stored, lease, chain: RecordChain::new(key, mac), unsent: text.into_bytes() };
    // A reader that is gone leaves its lease: it may come back over another connection before that lapses.
    match sender.send(bytes, &mut watch, &mut span).await? {
        Sent::Whole => {
            span.settled();
            Ok(After::Keep)
        }
        Sent::Stopped => Ok(After::Close),
    }
}

impl Inner {
    /// Whether a proxy of the trust domain asked, once, just now.
    pub(crate) fn authenticate(
        &self,
        signed: zipline_core::pull::SignedRequest,
    ) -> Result<Authenticated, zipline_core::pull::Refusal> {
        let ring = self.keys.ring().map_err(|_| zipline_core::pull::Refusal::Mac)?;
        signed.authenticate(&ring, &mut crate::stored::lock(&self.nonces), self.config.clock.now())
    }

    /// Answers what is no read: state, acknowledgement, release, end.
    pub(crate) fn answer_control(self: &Arc<Self>, request: &PullRequest) -> AnswerHead {
        if request.epoch != self.epoch {
            return self.gone();
        }
        let (object, done) = (request.object, AnswerHead::bare(204, self.epoch));
        match (request.method, request.lease) {
            (PullMethod::Head, lease) => self.state(object, lease),
            (PullMethod::Acknowledge, Some(lease)) => {
                zipline_fault_point::fault_point!("acknowledge.came");
                let acknowledged = self.ledger.command(|holdings, now| holdings.acknowledge(object, lease, now));
                zipline_fault_point::fault_point!("acknowledge.counted");
                match acknowledged {
                    Ok(_) => done,
                    Err(error) => AnswerHead::error(error.code(), &error.to_string(), self.epoch),
                }
            }
            (PullMethod::Release, Some(lease)) => {
                zipline_fault_point::fault_point!("release.came");
                self.ledger.command(|holdings, _| holdings.release(object, lease));
                done
            }
            (PullMethod::Free, _) => {
                zipline_fault_point::fault_point!("release.came");
                self.ledger.command(|holdings, now| holdings.free(object, now));
                done
            }
            // Reading a request has made sure of its lease, and reads are answered elsewhere.
            _ => AnswerHead::error(ErrorCode::PullUnauthenticated, "the request names no lease", self.epoch),
        }
    }

    fn state(self: &Arc<Self>, object: ObjectId, lease: Option<LeaseId>) -> AnswerHead {
        self.ledger.command(|holdings, now| match holdings.status(object, lease, now) {
            Ok(view) => head_of(self, &view, None),
            Err(error) => AnswerHead::error(error.code(), &error.to_string(), self.epoch),
        })
    }

    /// What is said to who asks for an instance before this one.
    pub(crate) fn gone(&self) -> AnswerHead {
        AnswerHead::error(ErrorCode::ProducerGone, "the instance that held the object was restarted", self.epoch)
    }
}
