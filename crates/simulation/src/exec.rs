//! One thread, virtual time: runs the tasks of every simulated process, in an order that the seed draws.
//!
//! A task belongs to a process. A process that is frozen has none of its tasks run until it thaws; one that is killed has
//! them dropped, wherever they wait, as a kernel drops what a dead process held. Time stands still while anything can run,
//! and then leaps to the next timer.
//!
//! Futures here are woken by task, not by `Waker`: whatever waits registers [`Exec::current`] and is woken with
//! [`Exec::wake`]. Every future tolerates being polled for nothing.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use zipline_core::time::Monotonic;

use crate::random::Rng;

/// One simulated process: what dies and freezes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId(pub(crate) u32);

/// The world itself: wires, kubelets, clients' patience. Never frozen, never killed.
pub(crate) const NATURE: ProcessId = ProcessId(0);

/// Names a task; a task that ended and one that took its place differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    index: u32,
    generation: u32,
}

type Body = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    generation: u32,
    process: ProcessId,
    body: Option<Body>,
    queued: bool,
    /// Between spawn and end.
    live: bool,
}

#[derive(Clone, Copy, Default)]
struct Process {
    dead: bool,
    frozen_until: Monotonic,
}

/// What a call of [`Exec::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ran a task of this process.
    Ran(ProcessId),
    /// Moved time forward.
    Waited,
    /// Nothing can ever happen again.
    Stuck,
}

/// The tasks and the time.
pub(crate) struct Exec {
    now: Cell<Monotonic>,
    slots: RefCell<Vec<Slot>>,
    vacant: RefCell<Vec<u32>>,
    ready: RefCell<Vec<TaskId>>,
    timers: RefCell<BinaryHeap<Reverse<(Monotonic, u64, TaskId)>>>,
    timers_set: Cell<u64>,
    current: Cell<TaskId>,
    doomed: RefCell<Vec<TaskId>>,
    processes: RefCell<Vec<Process>>,
    order: RefCell<Rng>,
    steps: Cell<u64>,
}

impl Exec {
    pub(crate) fn new(order: Rng) -> Self {
        Self {
            now: Cell::new(Monotonic::from_secs(1)),
            slots: RefCell::default(),
            vacant: RefCell::default(),
            ready: RefCell::default(),
            timers: RefCell::default(),
            timers_set: Cell::new(0),
            current: Cell::new(TaskId { index: u32::MAX, generation: 0 }),
            doomed: RefCell::default(),
            processes: RefCell::new(vec![Process::default()]),
            order: RefCell::new(order),
            steps: Cell::new(0),
        }
    }

    pub(crate) fn now(&self) -> Monotonic {
        self.now.get()
    }

    /// Tasks run so far, each as often as it was polled.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// The task that is running.
    pub(crate) fn current(&self) -> TaskId {
        self.current.get()
    }

    /// A new process, alive.
    pub(crate) fn process(&self) -> ProcessId {
        let mut processes = self.processes.borrow_mut();
        processes.push(Process::default());
        ProcessId(processes.len() as u32 - 1)
    }

    pub(crate) fn is_alive(&self, process: ProcessId) -> bool {
        !self.processes.borrow()[process.0 as usize].dead
    }

    /// Runs none of the process's tasks before that time.
    pub(crate) fn freeze(&self, process: ProcessId, until: Monotonic) {
        let state = &mut self.processes.borrow_mut()[process.0 as usize];
        state.frozen_until = state.frozen_until.max(until);
    }

    /// Whether the process runs none of its tasks now.
    pub(crate) fn is_frozen(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process.0 as usize].frozen_until > self.now.get()
    }

    /// Ends a process: its tasks are dropped before anything else runs.
    pub(crate) fn kill(&self, process: ProcessId) {
        self.processes.borrow_mut()[process.0 as usize].dead = true;
        self.end_tasks(process);
    }

    /// Drops a process's tasks; it lives on.
    pub(crate) fn end_tasks(&self, process: ProcessId) {
        let slots = self.slots.borrow();
        let its = slots.iter().enumerate().filter(|(_, slot)| slot.live && slot.process == process);
        let ids = its.map(|(index, slot)| TaskId { index: index as u32, generation: slot.generation });
        self.doomed.borrow_mut().extend(ids);
    }

    /// Begins a task of a process. One of a dead process never runs.
    pub(crate) fn spawn(&self, process: ProcessId, body: impl Future<Output = ()> + 'static) -> TaskId {
        if !self.is_alive(process) {
            return TaskId { index: u32::MAX, generation: 0 };
        }
        let body: Option<Body> = Some(Box::pin(body));
        let mut slots = self.slots.borrow_mut();
        let index = match self.vacant.borrow_mut().pop() {
            Some(index) => {
                let slot = &mut slots[index as usize];
                *slot = Slot { generation: slot.generation + 1, process, body, queued: true, live: true };
                index
            }
            None => {
                slots.push(Slot { generation: 1, process, body, queued: true, live: true });
                slots.len() as u32 - 1
            }
        };
        let id = TaskId { index, generation: slots[index as usize].generation };
        self.ready.borrow_mut().push(id);
        id
    }

    /// Drops a task before anything else runs. Nothing happens where it has ended.
    pub(crate) fn cancel(&self, task: TaskId) {
        self.doomed.borrow_mut().push(task);
    }

    /// Lets a task run again.
    pub(crate) fn wake(&self, task: TaskId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(task.index as usize)
            && slot.generation == task.generation
            && slot.live
            && !slot.queued
        {
            slot.queued = true;
            self.ready.borrow_mut().push(task);
        }
    }

    /// Wakes the running task at that time.
    pub(crate) fn wake_me_at(&self, at: Monotonic) {
        self.set_timer(at, self.current.get());
    }

    /// Runs one task, or moves time.
    pub(crate) fn step(&self) -> Step {
        self.bury();
        let Some(task) = self.next_ready() else { return self.leap() };
        let (mut body, process) = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[task.index as usize];
            if slot.generation != task.generation || !slot.live {
                return Step::Ran(NATURE);
            }
            let thaws_at = self.processes.borrow()[slot.process.0 as usize].frozen_until;
            if thaws_at > self.now.get() {
                slot.queued = false;
                drop(slots);
                self.set_timer(thaws_at, task);
                return Step::Ran(NATURE);
            }
            slot.queued = false;
            let Some(body) = slot.body.take() else { return Step::Ran(NATURE) };
            (body, slot.process)
        };
        self.steps.set(self.steps.get() + 1);
        self.current.set(task);
        let polled = body.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Pending => self.slots.borrow_mut()[task.index as usize].body = Some(body),
            Poll::Ready(()) => {
                self.vacate(task);
                drop(body);
            }
        }
        self.bury();
        Step::Ran(process)
    }

    /// Drops every task there is.
    pub(crate) fn clear(&self) {
        loop {
            let next = self.slots.borrow_mut().iter_mut().find_map(|slot| slot.body.take());
            let Some(body) = next else { return };
            drop(body);
        }
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.borrow_mut();
        let among = ready.len() as u64;
        match among {
            0 => None,
            1 => ready.pop(),
            _ => Some(ready.swap_remove(self.order.borrow_mut().below(among) as usize)),
        }
    }

    fn leap(&self) -> Step {
        let Some(Reverse((at, _, task))) = self.timers.borrow_mut().pop() else { return Step::Stuck };
        self.now.set(self.now.get().max(at));
        self.wake(task);
        // Whatever is due at the same instant may run in any order.
        loop {
            let next = match self.timers.borrow_mut().peek_mut() {
                Some(timer) if timer.0.0 <= at => std::collections::binary_heap::PeekMut::pop(timer).0.2,
                _ => return Step::Waited,
            };
            self.wake(next);
        }
    }

    fn set_timer(&self, at: Monotonic, task: TaskId) {
        let number = self.timers_set.get();
        self.timers_set.set(number + 1);
        self.timers.borrow_mut().push(Reverse((at, number, task)));
    }

    fn vacate(&self, task: TaskId) -> Option<Body> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(task.index as usize).filter(|slot| slot.generation == task.generation && slot.live)?;
        slot.live = false;
        self.vacant.borrow_mut().push(task.index);
        slot.body.take()
    }

    fn bury(&self) {
        loop {
            let Some(task) = self.doomed.borrow_mut().pop() else { return };
            drop(self.vacate(task)); // Its guards may doom others.
        }
    }
}
