//! Calls from one process to another: a message there, an answer back, and whatever may become of both.

use std::future::Future;
use std::rc::Rc;

use crate::exec::{NATURE, ProcessId, TaskId};
use crate::faults::FaultKind;
use crate::wait::{Sender, once};
use crate::world::World;

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallBroken {
    /// Nobody is there: nothing was sent.
    Refused,
    /// The connection broke: it may have run.
    Cut,
}

/// Ends the callee's task a little after its caller is gone.
struct Cancels {
    world: Rc<World>,
    /// `None` once it has answered.
    task: Option<TaskId>,
    from: ProcessId,
    to: ProcessId,
}

impl Drop for Cancels {
    fn drop(&mut self) {
        let world = Rc::clone(&self.world);
        let Some(task) = self.task.filter(|_| !world.net.has_vanished(self.from)) else { return };
        let latency = world.latency(self.from, self.to);
        self.world.exec.spawn(NATURE, async move {
            world.sleep(latency).await;
            world.exec.cancel(task);
        });
    }
}

/// Has `handle` run in process `to`, and waits for what it sends.
pub(crate) async fn call<A: 'static, F: Future<Output = ()> + 'static>(
    world: &Rc<World>,
    from: ProcessId,
    to: ProcessId,
    handle: impl FnOnce(Sender<A>) -> F,
) -> Result<A, CallBroken> {
    world.sleep(world.latency(from, to)).await;
    if world.net.has_vanished(to) {
        return std::future::pending().await;
    }
    if !world.exec.is_alive(to) {
        return Err(CallBroken::Refused);
    }
    let (sender, receiver) = once(&world.exec);
    let task = world.exec.spawn(to, handle(sender));
    let mut cancels = Cancels { world: Rc::clone(world), task: Some(task), from, to };
    let answer = receiver.await;
    cancels.task = None;
    world.sleep(world.latency(to, from)).await;
    match answer {
        Some(_) if world.strikes_at(FaultKind::AnswerLost, to) => Err(CallBroken::Cut),
        Some(answer) => Ok(answer),
        None if world.net.has_vanished(to) => std::future::pending().await,
        None => Err(CallBroken::Cut),
    }
}
