//! One question to a producer and its answer; and what keeps a lease, and gives it back.

use std::io;
use std::sync::Arc;

use bytes::Buf;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use zipline_core::pull::{AnswerHead, Mac, PullError, PullMethod, PullRequest, Wanted, verified};
use zipline_core::reference::KeyId;
use zipline_core::trace::TraceContext;

use super::pool::{Connection, Use};
use super::stream::write_all;
use super::{tls, wire};
use crate::config::ANSWER_TIME_MAX;
use crate::error::TransferError;
use crate::node::Inner;
use crate::random;

/// Sends a request and reads its answer's head, which nobody has checked yet.
pub(crate) async fn exchange(
    connection: &mut Connection,
    request: &PullRequest,
    key: KeyId,
    mac: &Mac,
    trace: Option<TraceContext>,
) -> io::Result<Result<(AnswerHead, Option<Mac>), PullError>> {
    let text = wire::request_text(request, key, mac, trace);
    write_all(&mut connection.stream, text.as_bytes(), &[], |_| ()).await?;
    let Some(length) = wire::read_head(&mut connection.stream, &mut connection.inbox).await? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let answer = wire::read_answer(connection.inbox.get(..length).unwrap_or_default());
    connection.inbox.advance(length);
    Ok(answer.map_err(PullError::from))
}

impl Inner {
    /// Asks the producer what is no read. Every such question may be asked twice, and is, where a pooled connection
    /// turns out to be closed.
    pub(crate) async fn ask(
        &self,
        wanted: &Wanted,
        method: PullMethod,
        trace: Option<TraceContext>,
    ) -> Result<AnswerHead, TransferError> {
        let peer = wanted.producer;
        let unanswered = |source| TransferError::Unanswered { peer, source };
        loop {
            let key = self.keys.signing(self.config.clock.wall())?;
            let mut connection = self.pool.connect(self, peer, Use::Control).await?;
            let request = wanted.request(method, self.config.clock.wall(), random::nonce()?);
            let mac = request.sign(&key);
            let answered = timeout(ANSWER_TIME_MAX, exchange(&mut connection, &request, key.id(), &mac, trace)).await;
            let (head, signed) = match answered {
                Err(_) => return Err(unanswered(io::ErrorKind::TimedOut.into())),
                Ok(Err(source)) if tls::is_disagreement(&source) => return Err(self.no_tls(peer, source)),
                Ok(Err(_)) if connection.reused => continue,
                Ok(Err(error)) => return Err(unanswered(error)),
                Ok(Ok(answer)) => answer.map_err(TransferError::pull(peer))?,
            };
            verified(&head, signed.as_ref(), &key, &mac, wanted.object).map_err(TransferError::pull(peer))?;
            self.pool.park(connection);
            if head.status >= 400 {
                return Err(TransferError::pull(peer)(PullError::refused(&head)));
            }
            return Ok(head);
        }
    }
}

/// A lease at another proxy. It is kept alive once its bytes are all here, and given back when it is dropped.
#[derive(Debug)]
pub(crate) struct RemoteLease {
    inner: Arc<Inner>,
    wanted: Wanted,
    /// Where the read that it is for stands in a trace.
    trace: Option<TraceContext>,
    renewing: Option<AbortHandle>,
    /// It may have been granted: there is something to give back.
    asked: bool,
}

impl RemoteLease {
    pub(crate) fn new(inner: Arc<Inner>, wanted: Wanted, trace: Option<TraceContext>) -> Self {
        Self { inner, wanted, trace, renewing: None, asked: false }
    }

    pub(crate) fn asked(&mut self) {
        self.asked = true;
    }

    /// From now on nothing but the function's own work keeps the read from its end: the producer is told that we live.
    pub(crate) fn keep(&mut self) {
        if self.renewing.is_some() {
            return;
        }
        let (inner, wanted, trace) = (Arc::clone(&self.inner), self.wanted.clone(), self.trace);
        // Not in a set of tasks: this lease owns it, and aborts it when it ends.
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(inner.config.lease / 3).await;
                if let Err(error) = inner.ask(&wanted, PullMethod::Head, trace).await {
                    tracing::debug!(peer.addr = %wanted.producer, %error, "a lease could not be renewed");
                }
            }
        });
        self.renewing = Some(task.abort_handle());
    }

    /// Counts the read as a retrieval.
    pub(crate) async fn acknowledge(mut self) -> Result<(), TransferError> {
        zipline_fault_point::fault_point!("acknowledge.asking");
        let acknowledged = self.inner.ask(&self.wanted, PullMethod::Acknowledge, self.trace).await;
        zipline_fault_point::fault_point!("acknowledge.answered");
        // Also where that failed: it may have arrived, and a release after it would say something else.
        self.asked = false;
        acknowledged.map(|_| ())
    }
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
        }
        if !self.asked {
            return;
        }
        // Bounded: beyond that many the leases lapse by themselves.
        let Ok(permit) = Arc::clone(&self.inner.returns).try_acquire_owned() else { return };
        let (inner, wanted, trace) = (Arc::clone(&self.inner), self.wanted.clone(), self.trace);
        self.inner.spawn(async move {
            let _permit = permit;
            zipline_fault_point::fault_point!("release.asking");
            if let Err(error) = inner.ask(&wanted, PullMethod::Release, trace).await {
                tracing::debug!(peer.addr = %wanted.producer, %error, "a lease could not be given back; it will lapse");
            }
        });
    }
}
