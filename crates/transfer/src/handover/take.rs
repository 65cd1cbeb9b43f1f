//! The consumer's side of a hand-over.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zipline_contract::limits::MESSAGE_INLINE_BYTES_MAX;
use zipline_core::pull::{AnswerHead, PullError, PullMethod, Wanted, verified};
use zipline_core::trace::TraceContext;
use zipline_sys::SealedMemfd;

use super::channel::{Answer, Channel, Request};
use super::socket_path;
use crate::config::ANSWER_TIME_MAX;
use crate::error::TransferError;
use crate::node::Inner;
use crate::random;
use crate::stored::{Body, Progress, Stored};

/// The connection of a payload that was handed over: the lease itself. Dropping it gives the lease back.
#[derive(Debug)]
pub(crate) struct HandoverLease {
    channel: Channel,
    wanted: Wanted,
    /// Where the read stands in a trace.
    trace: Option<TraceContext>,
}

/// Asks for the object's descriptor. `None`: it is to be pulled, because its producer is not on this machine, or does
/// not hand this one over.
pub(crate) async fn take(
    inner: &Inner,
    directory: &Path,
    wanted: &Wanted,
    trace: Option<TraceContext>,
) -> Result<Option<(HandoverLease, AnswerHead, Arc<Stored>)>, TransferError> {
    let taking = async {
        loop {
            let (channel, reused) = match inner.handovers.take(wanted.producer) {
                Some(channel) => (channel, true),
                None => match connect(&socket_path(directory, wanted.producer)).await? {
                    Some(channel) => (channel, false),
                    None => return Ok(None),
                },
            };
            let lease = HandoverLease { channel, wanted: wanted.clone(), trace };
            zipline_fault_point::fault_point!("handover.asking");
            match lease.ask(inner, PullMethod::Handover).await {
                // Closed meanwhile. Asking twice is no second attempt: the lease is the same.
                Err(Failed::Io(_)) if reused => {}
                Err(failed) => return Err(failed),
                Ok((answer, head, descriptor)) => return Ok(Some((lease, answer, head, descriptor))),
            }
        }
    };
    let taken = match timeout(ANSWER_TIME_MAX, taking).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(Failed::Pull(error))) => return Err(TransferError::pull(wanted.producer)(error)),
        Ok(Err(Failed::Transfer(error))) => return Err(error),
        // What is wrong with the socket need not be wrong with the pull port.
        Ok(Err(Failed::Io(error))) => {
            tracing::debug!(peer.addr = %wanted.producer, %error, "hand-over failed; pulling instead");
            return Ok(None);
        }
        Err(_) => {
            tracing::debug!(peer.addr = %wanted.producer, "hand-over was not answered in time; pulling instead");
            return Ok(None);
        }
    };
    let Some((lease, answer, head, descriptor)) = taken else { return Ok(None) };
    if head.status != 200 {
        inner.handovers.keep(wanted.producer, lease.channel); // There is no lease on it.
        return Ok(None);
    }
    let body = match (descriptor, answer.body) {
        (Some(descriptor), _) => Body::Sealed(Arc::new(SealedMemfd::admit(descriptor, u64::MAX)?)),
        (None, Some(text)) => Body::Heap(decode(&text).ok_or(TransferError::Incomplete)?.into()),
        (None, None) => return Ok(None),
    };
    let size = match &body {
        Body::Sealed(memfd) => memfd.size(),
        Body::Heap(bytes) => bytes.len() as u64,
        Body::Growing(_) | Body::Unwritten | Body::Spilled(_) => 0, // None of these was just made.
    };
    let contradicts = |what| TransferError::pull(wanted.producer)(PullError::Contradicts(what));
    if head.size.and_then(zipline_core::pull::ObjectSize::known) != Some(size) {
        return Err(contradicts("size"));
    }
    if head.epoch != wanted.epoch {
        return Err(contradicts("epoch"));
    }
    inner.counters.handovers_taken.fetch_add(1, Ordering::Relaxed);
    zipline_fault_point::fault_point!("handover.taken");
    let stored = Arc::new(Stored::new(wanted.object, head.content_type.clone(), wanted.sum, body));
    stored.set_progress(Progress::Complete { size });
    Ok(Some((lease, head, stored)))
}

/// A connection to the producer's socket; `None` where there is none.
async fn connect(path: &Path) -> Result<Option<Channel>, Failed> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(Channel::new(stream)?)),
        // No such file: another machine. Refused: its process died, as the pull will find out.
        Err(error) => {
            tracing::trace!(path = %path.display(), %error, "no hand-over");
            Ok(None)
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| bytes.len() <= MESSAGE_INLINE_BYTES_MAX)
}

enum Failed {
    Io(io::Error),
    Pull(PullError),
    Transfer(TransferError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl HandoverLease {
    /// Counts the read as a retrieval.
    pub(crate) async fn acknowledge(self, inner: &Inner) -> Result<(), TransferError> {
        let peer = self.wanted.producer;
        let asked = timeout(ANSWER_TIME_MAX, self.ask(inner, PullMethod::Acknowledge)).await;
        match asked {
            Ok(Ok(_)) => {
                inner.handovers.keep(peer, self.channel);
                Ok(())
            }
            Ok(Err(Failed::Pull(error))) => Err(TransferError::pull(peer)(error)),
            Ok(Err(Failed::Transfer(error))) => Err(error),
            Ok(Err(Failed::Io(source))) => Err(TransferError::Unanswered { peer, source }),
            Err(_) => Err(TransferError::Unanswered { peer, source: io::ErrorKind::TimedOut.into() }),
        }
    }

    async fn ask(&self, inner: &Inner, method: PullMethod) -> Result<(Answer, AnswerHead, Option<std::os::fd::OwnedFd>), Failed> {
        let key = inner.keys.signing(inner.config.clock.wall()).map_err(Failed::Transfer)?;
        let request = self.wanted.request(method, inner.config.clock.wall(), random::nonce()?);
        let mac = request.sign(&key);
        let headers = request.headers(key.id(), &mac).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let traceparent = self.trace.map(|trace| trace.to_string());
        let message = Request { method: method.verb().to_owned(), path: request.path(), headers, traceparent };
        self.channel.send(&message, None).await?;
        let answered = self.channel.receive::<Answer>(None).await?;
        let (answer, descriptor) = answered.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let fields = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let (head, signed) = AnswerHead::read(answer.status, fields).map_err(|error| Failed::Pull(error.into()))?;
        verified(&head, signed.as_ref(), &key, &mac, self.wanted.object).map_err(Failed::Pull)?;
        if head.status >= 400 && head.error.is_some() {
            return Err(Failed::Pull(PullError::refused(&head)));
        }
        Ok((answer, head, descriptor))
    }
}
