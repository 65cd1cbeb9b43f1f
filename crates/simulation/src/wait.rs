//! What tasks wait for: a time, a bell, an answer, a permit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use zipline_core::time::Monotonic;

use crate::exec::{Exec, TaskId};

/// Waits for a time.
pub(crate) struct Sleep<'a> {
    exec: &'a Exec,
    until: Monotonic,
    armed: bool,
}

impl Exec {
    /// Returns at that time, or at once when it has passed.
    pub(crate) fn sleep_until(&self, until: Monotonic) -> Sleep<'_> {
        Sleep { exec: self, until, armed: false }
    }
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.exec.now() >= self.until {
            return Poll::Ready(());
        }
        if !self.armed && self.until < Monotonic::MAX {
            self.armed = true;
            self.exec.wake_me_at(self.until);
        }
        Poll::Pending
    }
}

/// The time ran out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Waits for `work`, at most until that time.
pub(crate) async fn timeout_at<T>(exec: &Exec, until: Monotonic, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    match race(work, exec.sleep_until(until)).await {
        First::Left(done) => Ok(done),
        First::Right(()) => Err(Elapsed),
    }
}

/// Which of two came first.
pub(crate) enum First<A, B> {
    Left(A),
    Right(B),
}

/// Waits for the first of two; if both are there, for the left one. The other is dropped.
pub(crate) async fn race<A, B>(left: impl Future<Output = A>, right: impl Future<Output = B>) -> First<A, B> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|context| {
        if let Poll::Ready(done) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(done));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}

/// Waits for all of them.
pub(crate) async fn all<T>(work: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut parts: Vec<_> = work.into_iter().map(|part| (Some(part), None)).collect();
    poll_fn(|context| {
        for (part, done) in &mut parts {
            if let Some(working) = part
                && let Poll::Ready(result) = working.as_mut().poll(context)
            {
                (*part, *done) = (None, Some(result));
            }
        }
        if parts.iter().any(|(part, _)| part.is_some()) {
            return Poll::Pending;
        }
        Poll::Ready(parts.iter_mut().filter_map(|(_, done)| done.take()).collect())
    })
    .await
}

/// Tells whoever waits that something may have changed.
#[derive(Default)]
pub(crate) struct Bell {
    waiting: RefCell<Vec<TaskId>>,
}

impl Bell {
    pub(crate) fn ring(&self, exec: &Exec) {
        for task in self.waiting.take() {
            exec.wake(task);
        }
    }

    /// Waits until `ready` answers something; asks whenever the bell rings.
    pub(crate) async fn until<T>(&self, exec: &Exec, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|_| match ready() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.register(exec);
                Poll::Pending
            }
        })
        .await
    }

    /// Wakes the running task when the bell rings next.
    pub(crate) fn register(&self, exec: &Exec) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.contains(&exec.current()) {
            waiting.push(exec.current());
        }
    }
}

struct Once<T> {
    value: RefCell<Option<T>>,
    closed: Cell<bool>,
    task: Cell<Option<TaskId>>,
    exec: Rc<Exec>,
}

/// Gives one answer; dropping it without says that there is none.
pub(crate) struct Sender<T>(Rc<Once<T>>);

/// Waits for one answer.
pub(crate) struct Receiver<T>(Rc<Once<T>>);

/// A place for one answer.
pub(crate) fn once<T>(exec: &Rc<Exec>) -> (Sender<T>, Receiver<T>) {
    let once =
        Rc::new(Once { value: RefCell::new(None), closed: Cell::new(false), task: Cell::new(None), exec: Rc::clone(exec) });
    (Sender(Rc::clone(&once)), Receiver(once))
}

impl<T> Sender<T> {
    pub(crate) fn send(self, value: T) {
        self.0.value.replace(Some(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.set(true);
        if let Some(task) = self.0.task.take() {
            self.0.exec.wake(task);
        }
    }
}

impl<T> Receiver<T> {
    /// The answer, if it is there already.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.value.take()
    }
}

impl<T> Future for Receiver<T> {
    /// `None`: there will be no answer.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(Some(value));
        }
        if self.0.closed.get() {
            return Poll::Ready(None);
        }
        self.0.task.set(Some(self.0.exec.current()));
        Poll::Pending
    }
}

/// A bound on how many do something at once; whoever waits is served in order of arrival.
pub(crate) struct Permits {
    free: Cell<usize>,
    queue: RefCell<VecDeque<u64>>,
    arrivals: Cell<u64>,
    bell: Bell,
    exec: Rc<Exec>,
}

/// One of the permits, given back when dropped.
pub(crate) struct Permit(Rc<Permits>);

struct InQueue<'a> {
    permits: &'a Permits,
    number: u64,
}

impl Permits {
    pub(crate) fn new(exec: &Rc<Exec>, most: usize) -> Rc<Self> {
        Rc::new(Self {
            free: Cell::new(most),
            queue: RefCell::default(),
            arrivals: Cell::new(0),
            bell: Bell::default(),
            exec: Rc::clone(exec),
        })
    }

    pub(crate) async fn acquire(self: &Rc<Self>) -> Permit {
        let number = self.arrivals.get();
        self.arrivals.set(number + 1);
        self.queue.borrow_mut().push_back(number);
        let waiting = InQueue { permits: self, number };
        self.bell.until(&self.exec, || (self.free.get() > 0 && self.queue.borrow().front() == Some(&number)).then_some(())).await;
        self.free.set(self.free.get() - 1);
        drop(waiting);
        Permit(Rc::clone(self))
    }

    pub(crate) fn try_acquire(self: &Rc<Self>) -> Option<Permit> {
        if self.free.get() == 0 || !self.queue.borrow().is_empty() {
            return None;
        }
        self.free.set(self.free.get() - 1);
        Some(Permit(Rc::clone(self)))
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.permits.queue.borrow_mut().retain(|number| *number != self.number);
        self.permits.bell.ring(&self.permits.exec);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.bell.ring(&self.0.exec);
    }
}
