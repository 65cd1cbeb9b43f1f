//! Waiting for a place in the breaker.
//!
//! Who runs, waits and is refused is decided by `zipline_core::breaker`; here waiting is a future and running a guard.
//! Dropping either gives the place back, and the next in line is woken.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use zipline_core::breaker::{self, Admission, QueueFull, Ticket};

/// A limit on how many requests the function works on at once.
#[derive(Debug)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    decisions: breaker::Breaker,
    /// Those who wait; as many as the breaker's queue has.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place: the request runs while this lives.
#[derive(Debug)]
pub struct Slot {
    breaker: Arc<Breaker>,
}

impl Breaker {
    /// Lets `concurrency` requests run and ten times as many wait.
    pub fn new(concurrency: NonZeroU32) -> Arc<Self> {
        let decisions = breaker::Breaker::for_instance(concurrency);
        Arc::new(Self { state: Mutex::new(State { decisions, waiting: HashMap::new() }) })
    }

    /// Waits for a place, first come first served. Safe to cancel: the place in the queue is given up.
    ///
    /// # Errors
    /// [`QueueFull`] at once if as many wait as may.
    pub async fn slot(self: &Arc<Self>) -> Result<Slot, QueueFull> {
        let (ticket, woken) = {
            let mut state = self.state();
            match state.decisions.arrive()? {
                Admission::Run => return Ok(Slot { breaker: Arc::clone(self) }),
                Admission::Wait(ticket) => {
                    let (wake, woken) = oneshot::channel();
                    state.waiting.insert(ticket, wake);
                    (ticket, woken)
                }
            }
        };
        let turn = Turn { breaker: self, ticket, is_mine: false };
        // The sender lives in `waiting` until it is used, so the channel can't end without a word.
        Ok(turn.take_once(woken).await)
    }

    /// How many run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.decisions.running(), state.decisions.waiting())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way; a poisoned lock still guards sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self) {
        let mut state = self.state();
        if let Some(next) = state.decisions.finish()
            && let Some(wake) = state.waiting.remove(&next)
        {
            drop(state);
            // Whoever no longer listens finds its place taken when it abandons it, and passes it on.
            wake.send(()).ok();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.breaker.finish();
    }
}

/// A place in the queue.
struct Turn<'a> {
    breaker: &'a Arc<Breaker>,
    ticket: Ticket,
    is_mine: bool,
}

impl Turn<'_> {
    async fn take_once(mut self, woken: oneshot::Receiver<()>) -> Slot {
        woken.await.ok();
        self.is_mine = true;
        Slot { breaker: Arc::clone(self.breaker) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_mine {
            return;
        }
        let mut state = self.breaker.state();
        state.waiting.remove(&self.ticket);
        let waited = state.decisions.abandon(self.ticket);
        drop(state);
        if !waited {
            self.breaker.finish(); // It was let in and did not live to see it.
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn slot_now(breaker: &Arc<Breaker>) -> Result<Slot, QueueFull> {
        match poll(pin!(breaker.slot())) {
            Poll::Ready(slot) => slot,
            Poll::Pending => panic!("a place was free"),
        }
    }

    #[test]
    fn a_place_goes_to_the_next_in_line() {
        let breaker = Breaker::new(NonZeroU32::MIN);
        let first = slot_now(&breaker).expect("a place");
        let mut second = Box::pin(breaker.slot());
        let mut third = Box::pin(breaker.slot());
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        assert_eq!(breaker.load(), (1, 2));
        drop(first);
        assert!(poll(third.as_mut()).is_pending());
        assert!(matches!(poll(second.as_mut()), Poll::Ready(Ok(_))));
    }

    #[test]
    fn who_leaves_the_queue_or_a_place_it_never_saw_gives_it_back() {
        let breaker = Breaker::new(NonZeroU32::MIN);
        let first = slot_now(&breaker).expect("a place");
        let mut second = Box::pin(breaker.slot());
        let mut third = Box::pin(breaker.slot());
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        drop(first); // The second is let in, but is dropped before it is polled again.
        drop(second);
        let Poll::Ready(Ok(slot)) = poll(third.as_mut()) else { panic!("its turn has come") };
        assert_eq!(breaker.load(), (1, 0));
        drop(slot);
        assert_eq!(breaker.load(), (0, 0));
    }

    #[test]
    fn the_eleventh_in_line_is_refused() {
        let breaker = Breaker::new(NonZeroU32::MIN);
        let _first = slot_now(&breaker).expect("a place");
        let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(breaker.slot())).collect();
        assert!(waiting.iter_mut().all(|turn| poll(turn.as_mut()).is_pending()));
        assert_eq!(slot_now(&breaker).map(|_| ()), Err(QueueFull));
    }
}
