//! Requests on their way to an instance.

use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::balance::{Assignment, Route};
use zipline_core::breaker::Ticket;
use zipline_core::kpa::RequestPath;

use super::{Desk, Platform, Revision};
use crate::check::Invariant;
use crate::coverage::Transition as T;
use crate::exec::ProcessId;
use crate::proxy::ingress::{Answer, Request};
use crate::rpc::{CallBroken, call};
use crate::wait::{Receiver, Sender, once, timeout_at};
use crate::world::World;

/// Sends a request, once: straight to an instance, or through the activator.
pub(crate) async fn route(world: &Rc<World>, from: ProcessId, request: Request) -> Result<Answer, CallBroken> {
    let Some(platform) = world.platform() else { return Err(CallBroken::Refused) };
    let revision = Rc::clone(&platform.revisions[request.service]);
    if revision.path.get() == RequestPath::Serve
        && let Some(pod) = revision.any_ready(world)
    {
        world.hit(T::ActivatorDirect);
        return at_pod(world, from, &revision, pod, request).await;
    }
    let activator = platform.activator;
    call(world, from, activator, |sender| activate(Rc::clone(world), revision, request, sender)).await
}

async fn at_pod(
    world: &Rc<World>,
    from: ProcessId,
    revision: &Revision,
    pod: u32,
    request: Request,
) -> Result<Answer, CallBroken> {
    let proxy = revision.pods.borrow().get(&pod).map(|pod| Rc::clone(&pod.proxy));
    let Some(proxy) = proxy else { return Err(CallBroken::Refused) };
    call(world, from, proxy.process, |sender| Rc::clone(&proxy).handle(request, sender)).await
}

/// A request that counts as in flight.
struct InFlight {
    revision: Rc<Revision>,
    world: Rc<World>,
    life: u32,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let desk = &mut *self.revision.desk.borrow_mut();
        if desk.life == self.life {
            desk.stats.request_out(self.world.now());
        }
    }
}

/// A request's place at an instance.
struct Place {
    revision: Rc<Revision>,
    world: Rc<World>,
    life: u32,
    assignment: Assignment<u32>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.revision.desk.borrow().life == self.life {
            self.revision.finish(&self.world, &self.assignment);
        }
    }
}

/// A request that waits for an instance.
struct Waits<'a> {
    revision: &'a Rc<Revision>,
    world: &'a Rc<World>,
    life: u32,
    /// `None` once it was let in.
    ticket: Option<Ticket>,
    let_in: Receiver<Assignment<u32>>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        if self.revision.desk.borrow().life != self.life {
            return;
        }
        self.world.hit(T::ActivatorAbandoned);
        let left = {
            let Desk { throttler, waiting, line, .. } = &mut *self.revision.desk.borrow_mut();
            waiting.remove(&ticket);
            let waited = throttler.abandon(ticket);
            line.leaves(ticket, waited)
        };
        self.world.check.take(left);
        if let Some(assignment) = self.let_in.take() {
            self.revision.finish(self.world, &assignment);
        }
    }
}

async fn activate(world: Rc<World>, revision: Rc<Revision>, mut request: Request, answer: Sender<Answer>) {
    let (life, ahead) = {
        let desk = &mut *revision.desk.borrow_mut();
        (desk.life, desk.stats.request_in(world.now()))
    };
    let _in_flight = InFlight { revision: Rc::clone(&revision), world: Rc::clone(&world), life };
    if let Some(stat) = ahead {
        revision.pokes.borrow_mut().push(stat);
        revision.poked.ring(&world.exec);
    }
    let place = match revision.place(&world, life, request.deadline).await {
        Ok(place) => place,
        Err(error) => return answer.send(Answer::failed(error)),
    };
    request.proxied = true;
    let Some(platform) = world.platform() else { return };
    let deadline = request.deadline;
    let sent = at_pod(&world, platform.activator, &revision, place.assignment.pod, request);
    answer.send(match timeout_at(&world.exec, deadline, sent).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => Answer::failed(ErrorCode::CalleeUnreachable),
        Err(_) => Answer::failed(ErrorCode::CallTimeout),
    });
}

impl Revision {
    async fn place(
        self: &Rc<Self>,
        world: &Rc<World>,
        life: u32,
        deadline: zipline_core::time::Monotonic,
    ) -> Result<Place, ErrorCode> {
        let placed = |assignment| Place { revision: Rc::clone(self), world: Rc::clone(world), life, assignment };
        let arrived = self.desk.borrow_mut().throttler.arrive(|n| world.below(n));
        let ticket = match arrived {
            Ok(Route::To(assignment)) => {
                world.hit(T::ActivatorRouted);
                let place = placed(assignment);
                self.check_assigned(world, &place.assignment);
                let overtakes = self.desk.borrow().line.len() > 0;
                if overtakes {
                    world.check.fails(Invariant::Order, "a request was sent on before those who wait".into());
                }
                return Ok(place);
            }
            Ok(Route::Wait(ticket)) => ticket,
            Err(_) => return Err(ErrorCode::BufferFull),
        };
        world.hit(T::ActivatorWait);
        let (sender, let_in) = once(&world.exec);
        let joined = {
            let Desk { waiting, line, .. } = &mut *self.desk.borrow_mut();
            waiting.insert(ticket, sender);
            line.joins(ticket)
        };
        world.check.take(joined);
        let mut waits = Waits { revision: self, world, life, ticket: Some(ticket), let_in };
        self.check(world);
        match timeout_at(&world.exec, deadline, &mut waits.let_in).await {
            Ok(Some(assignment)) => {
                waits.ticket = None;
                world.hit(T::ActivatorLetIn);
                Ok(placed(assignment))
            }
            Ok(None) | Err(_) => Err(ErrorCode::CallTimeout),
        }
    }

    /// Somebody at an instance has ended.
    fn finish(&self, world: &World, assignment: &Assignment<u32>) {
        let next = self.desk.borrow_mut().throttler.finish(assignment, |n| world.below(n));
        if let Some((ticket, assignment)) = next {
            self.let_in(world, ticket, assignment);
        }
        self.check(world);
    }

    fn let_in(&self, world: &World, ticket: Ticket, assignment: Assignment<u32>) {
        self.check_assigned(world, &assignment);
        let (checked, waiter) = {
            let Desk { line, waiting, .. } = &mut *self.desk.borrow_mut();
            (line.let_in(ticket), waiting.remove(&ticket))
        };
        world.check.take(checked);
        if let Some(waiter) = waiter {
            waiter.send(assignment);
        }
    }

    /// Tells the activator which instances are ready.
    pub(super) fn publish_ready(&self, world: &World) {
        let ready: Vec<u32> =
            self.pods.borrow().iter().filter(|(_, pod)| pod.is_ready.get()).map(|(number, _)| *number).collect();
        let let_in = {
            let Desk { throttler, ready: known, .. } = &mut *self.desk.borrow_mut();
            *known = ready.iter().copied().collect();
            throttler.set_pods(ready, |n| world.below(n))
        };
        for (ticket, assignment) in let_in {
            self.let_in(world, ticket, assignment);
        }
        self.check(world);
    }

    fn any_ready(&self, world: &World) -> Option<u32> {
        let ready: Vec<u32> = self.desk.borrow().ready.iter().copied().collect();
        ready.get(world.below(ready.len())).copied()
    }

    fn check(&self, world: &World) {
        let checked = {
            let desk = self.desk.borrow();
            let in_flight = desk.throttler.pods().map(|(_, load)| load.in_flight);
            desk.line.activator(in_flight, self.plan.concurrency, desk.throttler.waiting())
        };
        world.check.take(checked);
    }

    fn check_assigned(&self, world: &World, assignment: &Assignment<u32>) {
        let is_ready = self.desk.borrow().ready.contains(&assignment.pod);
        if !is_ready {
            let detail = format!("a request goes to instance {}, which is not ready", assignment.pod);
            world.check.fails(Invariant::Order, detail);
        }
    }
}

impl Platform {
    /// The activator dies with all that it carries, and begins again.
    pub(crate) fn restart_activator(&self, world: &World) {
        world.note(self.activator, || "dies, and begins again".into());
        for revision in &self.revisions {
            let life = revision.desk.borrow().life + 1;
            revision.desk.replace(Desk::new(&revision.plan, life));
        }
        world.exec.end_tasks(self.activator);
        for revision in &self.revisions {
            revision.publish_ready(world);
        }
    }
}
