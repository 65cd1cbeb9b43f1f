//! A request on its way to the function: the breaker's slot, the payload, the function, the lease.

use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::breaker::Admission;
use zipline_core::drain::Phase;
use zipline_core::reference::{Receiver, Token};
use zipline_core::stats::RequestEvent;
use zipline_core::time::{Monotonic, WallTime};

use super::fetch::{Incoming, Taking};
use super::{Gate, Proxy};
use crate::check::Invariant;
use crate::check::requests::RequestId;
use crate::content::Chunk;
use crate::coverage::Transition as T;
use crate::faults::FaultKind;
use crate::plan::Job;
use crate::wait::{First, Sender, once, race, timeout_at};
use crate::workload::function;

/// A request between two processes.
#[derive(Clone)]
pub(crate) struct Request {
    /// This sending of it.
    pub(crate) sending: RequestId,
    pub(crate) service: usize,
    pub(crate) carried: Carried,
    /// The bytes that the function is to read.
    pub(crate) expected: Expected,
    pub(crate) job: Rc<Job>,
    pub(crate) deadline: Monotonic,
    /// It came through the activator.
    pub(crate) proxied: bool,
}

/// How a payload travels.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    Nothing,
    Inline(Chunk),
    Reference(String),
}

/// What whoever reads must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) content: u64,
    pub(crate) first: u64,
    pub(crate) length: u64,
}

/// What a request is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Zipline's own error.
    pub(crate) error: Option<ErrorCode>,
    pub(crate) body: Body,
}

/// What an answer carries.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Whatever it is, it came with the head.
    Done,
    /// A large answer, held by the callee.
    Reference(Token, Expected),
    /// An object that the function put for its caller.
    Kept(Kept),
}

/// An object that somebody else put.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) token: Token,
    pub(crate) content: u64,
    pub(crate) size: u64,
    pub(crate) expires: WallTime,
}

impl Answer {
    pub(crate) const fn of(body: Body) -> Self {
        Self { status: 200, error: None, body }
    }

    pub(crate) fn failed(error: ErrorCode) -> Self {
        Self { status: error.http_status(), error: Some(error), body: Body::Done }
    }

    pub(crate) const fn function_failed() -> Self {
        Self { status: 500, error: None, body: Body::Done }
    }
}

/// A request in flight, as the drain and the statistics see it.
struct Visit {
    proxy: Rc<Proxy>,
    proxied: bool,
}

impl Visit {
    fn begin(proxy: &Rc<Proxy>, proxied: bool) -> Self {
        let now = proxy.world.now();
        proxy.drain.borrow_mut().handle_request_started(now);
        proxy.drain_changed.ring(&proxy.world.exec);
        let event = if proxied { RequestEvent::ProxiedIn } else { RequestEvent::ReqIn };
        proxy.stats.borrow_mut().handle_event(now, event);
        proxy.requests.set(proxy.requests.get() + 1);
        Self { proxy: Rc::clone(proxy), proxied }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let proxy = &self.proxy;
        if !proxy.is_alive() {
            return;
        }
        let now = proxy.world.now();
        let event = if self.proxied { RequestEvent::ProxiedOut } else { RequestEvent::ReqOut };
        proxy.stats.borrow_mut().handle_event(now, event);
        proxy.requests.set(proxy.requests.get() - 1);
        proxy.drain.borrow_mut().handle_request_ended(now);
        proxy.drain_changed.ring(&proxy.world.exec);
    }
}

/// A place of the breaker. Dropping it lets the next one in.
struct Place {
    proxy: Rc<Proxy>,
}

impl Proxy {
    /// Takes a request in. Whatever happens, the answer is sent; where it is not, the connection has broken.
    pub(crate) async fn handle(self: Rc<Self>, request: Request, answer: Sender<Answer>) {
        if self.drain.borrow().phase() > Phase::Quiet {
            return; // The port is closed, or about to be: the sender sees a broken connection.
        }
        let _visit = Visit::begin(&self, request.proxied);
        let _place = match self.place(request.deadline).await {
            Ok(place) => place,
            Err(error) => return answer.send(Answer::failed(error)),
        };
        let said = match &request.carried {
            Carried::Reference(token) => match self.fetch(token, None, Taking::Stream).await {
                Ok(incoming) => self.execute(&request, Some(incoming)).await,
                Err(error) => Answer::failed(error),
            },
            Carried::Nothing | Carried::Inline(_) => self.execute(&request, None).await,
        };
        self.note(|| format!("answers {:?} with {} {:?}", request.sending, said.status, said.error));
        answer.send(said);
    }

    /// A place at the function.
    async fn place(self: &Rc<Self>, deadline: Monotonic) -> Result<Option<Place>, ErrorCode> {
        let Some(gate) = &self.breaker else { return Ok(None) };
        let world = &self.world;
        let arrived = gate.borrow_mut().breaker.arrive();
        let ticket = match arrived {
            Ok(Admission::Run) => {
                world.hit(T::BreakerRun);
                let overtakes = gate.borrow().line.len() > 0;
                if overtakes {
                    world.check.fails(Invariant::Order, "a request ran before those who wait".into());
                }
                self.check_gate(gate);
                return Ok(Some(Place { proxy: Rc::clone(self) }));
            }
            Ok(Admission::Wait(ticket)) => ticket,
            Err(_) => {
                world.hit(T::BreakerFull);
                let refused_early = gate.borrow().breaker.waiting() < gate.borrow().places * 10;
                if refused_early {
                    world.check.fails(Invariant::Refusals, "a breaker refused with room in its queue".into());
                }
                return Err(ErrorCode::BufferFull);
            }
        };
        world.hit(T::BreakerWait);
        let (sender, let_in) = once(&world.exec);
        let mut queued = Queued { proxy: self, ticket: Some(ticket), let_in };
        let joined = gate.borrow_mut().line.joins(ticket);
        world.check.take(joined);
        gate.borrow_mut().waiting.insert(ticket, sender);
        self.check_gate(gate);
        match timeout_at(&world.exec, deadline, &mut queued.let_in).await {
            Ok(Some(())) => {
                queued.ticket = None;
                world.hit(T::BreakerLetIn);
                Ok(Some(Place { proxy: Rc::clone(self) }))
            }
            Ok(None) | Err(_) => Err(ErrorCode::CallTimeout),
        }
    }

    fn check_gate(&self, gate: &std::cell::RefCell<Gate>) {
        let Gate { breaker, line, places, .. } = &*gate.borrow();
        self.world.check.take(line.breaker(breaker, *places, *places * 10));
    }

    /// Somebody ran: the next one may.
    fn let_next_in(&self) {
        let Some(gate) = &self.breaker else { return };
        let next = gate.borrow_mut().breaker.finish();
        if let Some(ticket) = next {
            let let_in = gate.borrow_mut().line.let_in(ticket);
            self.world.check.take(let_in);
            let waiter = gate.borrow_mut().waiting.remove(&ticket);
            if let Some(waiter) = waiter {
                waiter.send(());
            }
        }
        self.check_gate(gate);
    }

    /// Has the function run, with the payload as its body; settles the lease.
    async fn execute(self: &Rc<Self>, request: &Request, mut incoming: Option<Incoming>) -> Answer {
        let world = &self.world;
        world.check.request(|requests| requests.executed(request.sending));
        let lives = self.function_lives.get();
        let crash = self.function_bell.until(&world.exec, || (self.function_lives.get() != lives).then_some(()));
        let is_early = world.strikes_at(FaultKind::EarlyAnswer, self.process);
        let run = self.run_function(request, &mut incoming, is_early);
        let answer = match race(crash, run).await {
            First::Left(()) => {
                self.note(|| format!("the function dies with {:?}", request.sending));
                return Answer::failed(ErrorCode::CalleeUnreachable); // Dropping the payload gives the lease back.
            }
            First::Right(answer) => answer,
        };
        if let Some(incoming) = incoming {
            if answer.status < 500 {
                if !incoming.is_whole() {
                    world.hit(T::EarlyAccepted);
                }
                self.settle(incoming);
            } else {
                world.hit(T::LeaseGivenBackBy500);
            }
        }
        answer
    }

    async fn run_function(self: &Rc<Self>, request: &Request, incoming: &mut Option<Incoming>, is_early: bool) -> Answer {
        let world = &self.world;
        if let Some(incoming) = incoming.as_mut() {
            match self.read_body(request, incoming, is_early).await {
                Ok(()) => {}
                Err(error) => {
                    world.hit(T::BodyCut);
                    return Answer::failed(error);
                }
            }
        } else if let Carried::Inline(chunk) = &request.carried {
            self.has_read(request, Some(*chunk));
        }
        if world.strikes_at(FaultKind::FunctionError, self.process) {
            return Answer::function_failed();
        }
        function::run(self, request).await
    }

    /// The function reads its body.
    async fn read_body(self: &Rc<Self>, request: &Request, incoming: &mut Incoming, is_early: bool) -> Result<(), ErrorCode> {
        let world = &self.world;
        let mut whole: Option<Chunk> = None;
        while let Some(block) = incoming.next_block().await? {
            whole = match whole {
                None => Some(block),
                Some(before) => before.join(block),
            };
            if incoming.is_whole() {
                break;
            }
            if is_early {
                return Ok(()); // The rest is read while the answer is on its way.
            }
            if world.strikes_at(FaultKind::FunctionSlow, self.process) {
                world.sleep(world.fault_millis(FaultKind::FunctionSlow, 100, 40_000)).await;
            }
        }
        self.has_read(request, whole);
        Ok(())
    }

    /// The function has its whole body: it is the one that was sent.
    fn has_read(&self, request: &Request, chunk: Option<Chunk>) {
        self.has_all(request.expected, chunk);
    }

    /// Whoever reads has all of it: it is what was meant.
    pub(crate) fn has_all(&self, expected: Expected, chunk: Option<Chunk>) {
        let Expected { content, first, length } = expected;
        let is_it = match chunk {
            None => length == 0,
            Some(chunk) if chunk.length == 0 => length == 0,
            Some(chunk) => chunk == Chunk::new(content, first, u32::try_from(length).unwrap_or(u32::MAX)),
        };
        if !is_it {
            self.world.check.fails(Invariant::Whole, format!("{expected:?} was meant, {chunk:?} arrived as whole"));
        }
    }

    /// Acknowledges a payload that was accepted, once all of it was read.
    pub(crate) fn settle(self: &Rc<Self>, incoming: Incoming) {
        let proxy = Rc::clone(self);
        self.spawn(async move {
            let mut incoming = incoming;
            while !incoming.is_whole() {
                match incoming.next_block().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            if let Err(error) = incoming.acknowledge().await {
                proxy.note(|| format!("a retrieval could not be acknowledged: {}", error.name()));
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.proxy.is_alive() {
            self.proxy.let_next_in();
        }
    }
}

struct Queued<'a> {
    proxy: &'a Rc<Proxy>,
    /// `None` once it was let in.
    ticket: Option<zipline_core::breaker::Ticket>,
    let_in: crate::wait::Receiver<()>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let (Some(ticket), Some(gate)) = (self.ticket, &self.proxy.breaker) else { return };
        if !self.proxy.is_alive() {
            return;
        }
        let world = &self.proxy.world;
        let waited = gate.borrow_mut().breaker.abandon(ticket);
        gate.borrow_mut().waiting.remove(&ticket);
        let left = gate.borrow_mut().line.leaves(ticket, waited);
        world.check.take(left);
        world.hit(T::BreakerAbandoned);
        if !waited {
            // Let in between its end and now: the place goes to the next.
            world.hit(T::BreakerTooLate);
            self.proxy.let_next_in();
        }
    }
}

/// As whom a service reads.
pub(crate) fn receiver(service: usize) -> Receiver {
    super::receiver_of(service)
}
