//! A pull as the body of a message, and what becomes of its lease.
//!
//! Bytes are delivered as they are verified, at most one block ahead. A body that was delivered to its end gives the
//! pull back ([`Delivered`]), so that its lease can be acknowledged; one that is dropped before, or fails, drops the pull
//! with it, and dropping an [`Incoming`] gives the lease back: the payload may be read again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use zipline_transfer::{Incoming, Payload};

use crate::zipline::problem::Problem;
use crate::zipline::tasks::Tasks;

/// Takes a pull back of which every byte was delivered.
type Delivered = Box<dyn FnOnce(Incoming) + Send>;

/// A pull being delivered.
struct Delivery {
    incoming: Option<Incoming>,
    /// Bytes still to come, where that is known.
    left: Option<u64>,
    delivered: Option<Delivered>,
}

/// The pull's bytes as a body. An error ends it before its length is reached.
pub(crate) fn body(incoming: Incoming, delivered: Delivered) -> impl Body<Data = Bytes, Error = Problem> + Send + 'static {
    let left = incoming.content_length();
    let delivery = Delivery { incoming: Some(incoming), left, delivered: Some(delivered) };
    StreamBody::new(stream::unfold(delivery, async |mut delivery| {
        let frame = delivery.next().await?;
        Some((frame.map(Frame::data), delivery))
    }))
}

impl Delivery {
    async fn next(&mut self) -> Option<Result<Bytes, Problem>> {
        if self.left == Some(0) {
            // Asking on would begin a read that whoever has its length drops in the middle, and the pull would be lost.
            return None;
        }
        let incoming = self.incoming.as_mut()?;
        match incoming.next_block().await {
            Ok(Some(bytes)) => {
                zipline_fault_point::fault_point!("deliver.body");
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Some(Ok(bytes))
            }
            Ok(None) => {
                self.left = Some(0);
                None
            }
            Err(error) => {
                self.incoming = None;
                Some(Err(Problem::from(error)))
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // A message of known length ends without its body being asked once more, so the end is counted and not awaited.
        if let (Some(incoming), Some(delivered), Some(0)) = (self.incoming.take(), self.delivered.take(), self.left) {
            delivered(incoming);
        }
    }
}

/// Settles the lease of a payload that was resolved into a request: it is acknowledged once the function's answer has
/// arrived *and* nobody reads any more, and given back if the request ends otherwise.
#[derive(Clone)]
pub(crate) struct Settlement(Arc<Settling>);

struct Settling {
    state: Mutex<State>,
    acknowledgements: Arc<Tasks>,
}

enum State {
    /// The body or the ticket's redeemer has the pull; `accepted` once the answer came.
    Reading { accepted: bool },
    /// It came back and waits for the answer.
    Read(Box<Read>),
    /// Acknowledged or given back.
    Over,
}

struct Read {
    incoming: Incoming,
    /// Where the function has the payload as a descriptor: the room it takes here.
    _payload: Option<Payload>,
}

impl Settlement {
    /// A settlement of a pull that is being read; acknowledgements run as tasks of `acknowledgements`.
    pub(crate) fn new(acknowledgements: Arc<Tasks>) -> Self {
        Self(Arc::new(Settling { state: Mutex::new(State::Reading { accepted: false }), acknowledgements }))
    }

    /// The reader has all of the pull.
    pub(crate) fn returned(&self, incoming: Incoming, payload: Option<Payload>) {
        let mut state = self.state();
        match &*state {
            State::Reading { accepted: false } => *state = State::Read(Box::new(Read { incoming, _payload: payload })),
            State::Reading { accepted: true } => {
                *state = State::Over;
                drop(state);
                self.acknowledge(incoming);
            }
            State::Read(..) | State::Over => {} // Dropped: given back.
        }
    }

    /// The function's response head arrived, with a status below 500.
    pub(crate) fn accepted(&self) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Reading { .. } => *state = State::Reading { accepted: true },
            State::Read(read) => {
                drop(state);
                self.acknowledge(read.incoming);
            }
            State::Over => {}
        }
    }

    /// The request ended otherwise: the lease is given back, now or when the reader is done.
    pub(crate) fn refused(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Over);
        drop(before);
    }

    fn acknowledge(&self, incoming: Incoming) {
        self.0.acknowledgements.spawn(acknowledged(incoming));
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Acknowledges a pull whose bytes were all delivered. That it fails costs nobody anything: the lease lapses and the
/// payload may be read again.
pub(crate) async fn acknowledged(mut incoming: Incoming) {
    let settled = async {
        if !incoming.is_whole() {
            incoming.next_block().await?; // What says that these bytes were the last ones may come after them.
        }
        incoming.acknowledge().await
    };
    if let Err(error) = settled.await {
        tracing::debug!(%error, "a retrieval could not be acknowledged");
    }
}
