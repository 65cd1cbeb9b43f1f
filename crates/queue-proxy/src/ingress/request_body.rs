//! The body of a request to the function over HTTP/2.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::rewrite;
use crate::payload::{PayloadBody, Refusal};
use crate::statistics::ByActivator;

/// A request's body.
pub enum RequestBody {
    /// The client's, frame by frame, trailers included, and where its bytes are counted.
    Client(Incoming, Option<Arc<ByActivator>>),
    /// A payload that takes the place of an empty body.
    Payload {
        /// Its bytes.
        body: PayloadBody,
        /// How many must still come, if that is known.
        owed: Option<u64>,
        /// Where its failure is left.
        failure: Failure,
    },
}

/// Where a payload's failure is left for whoever answers the client.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<Refusal>>>);

impl Failure {
    /// Takes it, if there was one.
    pub fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn leave(&self, refusal: Refusal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

/// Why a request was cut: the stream is reset, which the function can't take for the end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The client's connection or stream broke.
    #[error("the client's request broke off")]
    Client(#[source] hyper::Error),
    /// The payload failed.
    #[error("the payload failed: {0}")]
    Payload(String),
    /// The payload had another length than was announced.
    #[error("the payload had another length than was announced")]
    Length,
}

impl RequestBody {
    /// A payload of `length` bytes, if that is known, and where its failure will be found.
    pub fn payload(body: PayloadBody, length: Option<u64>) -> (Self, Failure) {
        let failure = Failure::default();
        (Self::Payload { body, owed: length, failure: failure.clone() }, failure)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Client(body, by_activator) => Pin::new(body).poll_frame(cx).map_err(Cut::Client).map_ok(|mut frame| {
                if let (Some(by_activator), Some(data)) = (by_activator, frame.data_ref()) {
                    by_activator.received(data.len() as u64);
                }
                frame.trailers_mut().map(rewrite::trailers);
                frame
            }),
            Self::Payload { body, owed, failure } => Pin::new(body).poll_frame(cx).map(|frame| match frame {
                Some(Err(refusal)) => {
                    let text = refusal.to_string();
                    failure.leave(refusal);
                    Some(Err(Cut::Payload(text)))
                }
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match owed.map(|owed| owed.checked_sub(length)) {
                        Some(None) => Some(Err(Cut::Length)),
                        left => {
                            *owed = left.flatten();
                            Some(Ok(frame))
                        }
                    }
                }
                None if owed.is_some_and(|owed| owed > 0) => Some(Err(Cut::Length)),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body, _) => body.is_end_stream(),
            Self::Payload { owed, .. } => *owed == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body, _) => body.size_hint(),
            Self::Payload { owed, .. } => owed.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
