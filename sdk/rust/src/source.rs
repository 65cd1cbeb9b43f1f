//! Streams that are put: how far they came, and why they broke off.
//!
//! hyper reports a body that failed as a broken connection. The stream's own error is noted on the way, so that the
//! caller gets it instead.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use zipline_contract::ErrorCode;

use crate::error::Error;
use crate::payload::Payload;

/// What is known of a stream that is being sent.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Progress>>);

#[derive(Default)]
struct Progress {
    bytes: u64,
    broken: Option<String>,
}

impl Sent {
    fn note(&self, item: &std::io::Result<Bytes>) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match item {
            Ok(bytes) => progress.bytes += bytes.len() as u64,
            Err(error) => progress.broken = Some(error.to_string()),
        }
    }

    /// The outcome; a failure that the stream caused is told as the stream's.
    pub(crate) fn or_source_error<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, progress.broken.take()) {
            (Err(_), Some(reason)) => Err(Error::Source { sent_bytes: progress.bytes, reason }),
            (outcome, _) => outcome,
        }
    }
}

/// A stream whose items are noted.
pub(crate) struct Watched<S> {
    stream: Pin<Box<S>>,
    sent: Sent,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, sent: Sent) -> Self {
        Self { stream: Box::pin(stream), sent }
    }
}

impl<S: Stream<Item = std::io::Result<Bytes>>> Stream for Watched<S> {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.as_mut().poll_next(context);
        if let Poll::Ready(Some(item)) = &polled {
            self.sent.note(item);
        }
        polled
    }
}

/// Reads a stream onto the heap, at most `bytes_max` of it.
pub(crate) async fn collect<S>(stream: S, bytes_max: usize) -> Result<Payload, Error>
where
    S: Stream<Item = std::io::Result<Bytes>>,
{
    let mut stream = std::pin::pin!(stream);
    let mut bytes = BytesMut::new();
    while let Some(item) = stream.next().await {
        let item = item.map_err(|error| Error::Source { sent_bytes: bytes.len() as u64, reason: error.to_string() })?;
        if bytes.len() + item.len() > bytes_max {
            return Err(Error::refused(
                ErrorCode::PayloadTooLarge,
                format!("a stream is collected up to {bytes_max} bytes; this one is longer"),
            ));
        }
        bytes.extend_from_slice(&item);
    }
    Ok(Payload::from(bytes.freeze()))
}
