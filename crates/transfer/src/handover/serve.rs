//! The producer's side of a hand-over.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zipline_contract::ErrorCode;
use zipline_contract::limits::MESSAGE_INLINE_BYTES_MAX;
use zipline_core::object::{LeaseId, LeaseRequest, ObjectId, ReadError, Via};
use zipline_core::pull::{AnswerHead, Authenticated, Mac, ObjectSize, PullMethod, PullRequest, SignedRequest};

use super::channel::{Answer, Channel, Request};
use super::socket_path;
use crate::config::{HANDOVER_CONNECTIONS_MAX, HEAD_TIME_MAX, SERVER_IDLE_MAX};
use crate::node::Inner;
use crate::pull::serve::head_of;
use crate::span::{Work, WorkSpan};
use crate::stored::{Body, Stored};

/// Says that the object is to be pulled: it is still being written, on the heap and too large for a message, or on disk.
const PULL_INSTEAD: u16 = 421;

/// The socket's file, removed when the node ends.
#[derive(Debug)]
pub(crate) struct HandoverSocket {
    path: PathBuf,
}

impl HandoverSocket {
    /// Listens on the socket of `address` in `directory`. A file that is left from a process that died is replaced; the
    /// address is bound by us alone, so no living proxy can have it.
    pub(crate) fn bind(directory: &Path, address: std::net::SocketAddr) -> io::Result<(Self, UnixListener)> {
        let path = socket_path(directory, address);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        Ok((Self { path }, listener))
    }
}

impl Drop for HandoverSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the hand-over socket's file could not be removed");
        }
    }
}

/// Accepts connections as long as the node lives.
pub(crate) async fn listen(inner: Arc<Inner>, listener: UnixListener) {
    let permits = Arc::new(Semaphore::new(HANDOVER_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a hand-over connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await; // Out of descriptors: time for some to close.
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(limit = HANDOVER_CONNECTIONS_MAX, "too many hand-over connections; closed");
            continue;
        };
        let inner = Arc::clone(&inner);
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = serve(&inner, stream).await {
                tracing::debug!(%error, "a hand-over connection ended");
            }
        });
    }
}

/// A lease that lives as long as its connection.
struct Held<'a> {
    inner: &'a Arc<Inner>,
    object: ObjectId,
    lease: LeaseId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // After an acknowledgement there is nothing left to give back, and this does nothing.
        self.inner.ledger.command(|holdings, _| holdings.release(self.object, self.lease));
    }
}

async fn serve(inner: &Arc<Inner>, stream: UnixStream) -> io::Result<()> {
    let channel = Channel::new(stream)?;
    let mut held: Option<Held<'_>> = None;
    let mut idle_max = HEAD_TIME_MAX; // A connection shows what it is for before it may idle.
    loop {
        // With a lease: as long as the consumer lives and uses the payload.
        let silence_max = held.is_none().then_some(idle_max);
        let Some((request, _)) = channel.receive::<Request>(silence_max).await? else { return Ok(()) };
        idle_max = SERVER_IDLE_MAX;
        let asked = match read(inner, &request) {
            Ok(asked) => asked,
            Err(refused) => return send(&channel, &refused, None, None).await,
        };
        let Ok(key) = inner.keys.accepting(asked.key, inner.config.clock.wall()) else { return Ok(()) };
        let sign = |head: &AnswerHead| head.sign(&key, &asked.mac, asked.request.object);
        if asked.request.method != PullMethod::Handover {
            let said = inner.answer_control(&asked.request);
            send(&channel, &said, Some(sign(&said)), None).await?;
            if asked.request.method == PullMethod::Acknowledge && said.error.is_none() {
                held = None; // The connection may be kept for the next object.
            }
            continue;
        }
        let trace = request.traceparent.as_deref().and_then(|text| text.parse().ok());
        let mut span = WorkSpan::begin(Work::Serve, trace);
        span.method("descriptor");
        match open(inner, &asked.request) {
            Ok((head, stored, body, lease)) => {
                span.of(&stored);
                span.waited();
                held = Some(Held { inner, object: asked.request.object, lease });
                let mac = sign(&head);
                inner.counters.handovers_made.fetch_add(1, Ordering::Relaxed);
                zipline_fault_point::fault_point!("handover.granted");
                send(&channel, &head, Some(mac), Some(&body)).await?;
                zipline_fault_point::fault_point!("handover.sent");
                span.passed(head.size.and_then(ObjectSize::known).unwrap_or_default());
                span.settled();
            }
            Err(said) => {
                span.refused(&said);
                send(&channel, &said, Some(sign(&said)), None).await?;
            }
        }
    }
}

/// Reads and authenticates a request, or gives the unsigned refusal.
fn read(inner: &Inner, request: &Request) -> Result<Authenticated, Box<AnswerHead>> {
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let refused = |code: ErrorCode, detail: String| Box::new(AnswerHead::error(code, &detail, inner.epoch));
    let signed = SignedRequest::read(&request.method, &request.path, headers, inner.address)
        .map_err(|error| refused(error.code(), error.to_string()))?;
    inner.authenticate(signed).map_err(|error| refused(error.code(), error.to_string()))
}

/// The head, the object, its bytes, and the lease on it.
type Opened = (AnswerHead, Arc<Stored>, Body, LeaseId);

fn open(inner: &Arc<Inner>, request: &PullRequest) -> Result<Opened, Box<AnswerHead>> {
    if request.epoch != inner.epoch {
        return Err(Box::new(inner.gone()));
    }
    let refused = |error: ReadError| Box::new(AnswerHead::error(error.code(), &error.to_string(), inner.epoch));
    let Some(lease) = request.lease else {
        return Err(Box::new(AnswerHead::error(ErrorCode::PullUnauthenticated, "a read needs a lease", inner.epoch)));
    };
    inner.ledger.command(|holdings, now| {
        // Looked at first: what is to be pulled instead costs no attempt.
        let view = holdings.status(request.object, None, now).map_err(refused)?;
        let body = view.payload.body();
        let fits = match &body {
            Body::Sealed(_) => view.written.complete,
            Body::Heap(bytes) => view.written.complete && bytes.len() <= MESSAGE_INLINE_BYTES_MAX,
            Body::Growing(_) | Body::Unwritten | Body::Spilled(_) => false,
        };
        if !fits {
            return Err(Box::new(AnswerHead::bare(PULL_INSTEAD, inner.epoch)));
        }
        let asked = LeaseRequest { lease, slot: request.slot, via: Via::Handover };
        let view = holdings.grant(request.object, asked, now).map_err(refused)?;
        Ok((head_of(inner, &view, None), Arc::clone(view.payload), body, lease))
    })
}

async fn send(channel: &Channel, head: &AnswerHead, mac: Option<Mac>, body: Option<&Body>) -> io::Result<()> {
    let headers = head.headers(mac.as_ref()).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut answer = Answer { status: head.status, headers, body: None };
    let mut descriptor = None;
    match body {
        Some(Body::Sealed(memfd)) => descriptor = Some(memfd.as_fd()),
        Some(Body::Heap(bytes)) => answer.body = Some(STANDARD.encode(bytes)),
        _ => {}
    }
    timeout(HEAD_TIME_MAX, channel.send(&answer, descriptor)).await?
}
