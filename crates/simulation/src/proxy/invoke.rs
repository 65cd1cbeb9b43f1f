//! A request on its way out: a large payload becomes an object that belongs to the call.

use core::time::Duration;
use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::object::{ObjectId, Owner};
use zipline_core::time::Monotonic;

use super::Proxy;
use super::fetch::Taking;
use super::ingress::{Answer, Body, Carried, Expected, Request};
use super::put::{PutOptions, Writer};
use crate::check::requests::RequestId;
use crate::content::Chunk;
use crate::coverage::Transition as T;
use crate::faults::FaultKind;
use crate::plan::{Job, Size};
use crate::platform;
use crate::wait::{First, race, timeout_at};

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// Bytes of the caller.
    Own { content: u64, size: Size },
    /// What a reference stands for.
    Reference { token: String, expected: Expected },
}

/// How a call ended, where it was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    Named(ErrorCode),
    /// The function itself answered 5xx.
    Function(u16),
}

/// A call that goes on.
struct Watched {
    proxy: Rc<Proxy>,
    /// `None` once it has ended.
    id: Option<RequestId>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.proxy.world.hit(T::CallCancelled);
            self.proxy.world.check.requests.borrow_mut().given_up(id);
        }
    }
}

/// The payload of a call. Dropping it ends the object.
struct CallObject {
    proxy: Rc<Proxy>,
    id: ObjectId,
}

impl Drop for CallObject {
    fn drop(&mut self) {
        self.proxy.free(self.id);
    }
}

/// Calls a service; the answer's body is read whole.
pub(crate) async fn invoke(
    proxy: &Rc<Proxy>,
    to: usize,
    payload: Payload,
    job: Rc<Job>,
    deadline: Monotonic,
) -> Result<Body, CallError> {
    let world = Rc::clone(&proxy.world);
    let id = world.check.request(|requests| requests.began(deadline.max(world.now())));
    let mut watched = Watched { proxy: Rc::clone(proxy), id };
    let call = answered(proxy, to, payload, job, deadline);
    let result = match timeout_at(&world.exec, deadline, call).await {
        Ok(result) => result,
        Err(_) => {
            world.hit(T::CallTimeout);
            Err(CallError::Named(ErrorCode::CallTimeout))
        }
    };
    if let Some(id) = watched.id.take() {
        world.check.request(|requests| requests.ended(id, world.slack(proxy.process), world.now()));
    }
    world.hit(match &result {
        Ok(_) => T::CallAnswered,
        Err(_) => T::CallNamedError,
    });
    proxy.note(|| format!("its call to service {to} ends: {:?}", result.as_ref().map(|_| ())));
    result
}

async fn answered(proxy: &Rc<Proxy>, to: usize, payload: Payload, job: Rc<Job>, deadline: Monotonic) -> Result<Body, CallError> {
    let answer = match payload {
        Payload::Reference { token, expected } => send(proxy, to, Carried::Reference(token), expected, job, deadline).await?,
        Payload::Own { content, size } => {
            let expected = Expected { content, first: 0, length: size.bytes };
            if size.bytes < proxy.world.settings().inline_threshold || size.bytes == 0 {
                let chunk = Chunk::new(content, 0, u32::try_from(size.bytes).unwrap_or(u32::MAX));
                let carried = if size.bytes == 0 { Carried::Nothing } else { Carried::Inline(chunk) };
                send(proxy, to, carried, expected, job, deadline).await?
            } else {
                swapped(proxy, to, size, expected, job, deadline).await?
            }
        }
    };
    if let Some(error) = answer.error {
        return Err(CallError::Named(error));
    }
    if answer.status >= 500 {
        return Err(CallError::Function(answer.status));
    }
    match answer.body {
        Body::Reference(token, expected) => {
            proxy.world.hit(T::AnswerByReference);
            read_answer(proxy, token.as_str(), expected).await.map_err(CallError::Named)?;
            Ok(Body::Done)
        }
        body => Ok(body),
    }
}

/// A large answer is read from the callee, and acknowledged.
async fn read_answer(proxy: &Rc<Proxy>, token: &str, expected: Expected) -> Result<(), ErrorCode> {
    let mut incoming = proxy.fetch(token, None, Taking::Whole).await?;
    let whole = incoming.receive().await?;
    proxy.has_all(expected, whole);
    // That it is not counted costs nobody anything.
    let _ = incoming.acknowledge().await;
    Ok(())
}

/// The body goes into an object that lives as long as the call; a reference goes with the request.
async fn swapped(
    proxy: &Rc<Proxy>,
    to: usize,
    size: Size,
    expected: Expected,
    job: Rc<Job>,
    deadline: Monotonic,
) -> Result<Answer, CallError> {
    let world = &proxy.world;
    let ttl = world.now().until(deadline).max(Duration::from_millis(1));
    let owner = if expected.content.is_multiple_of(5) { Owner::CallUntilRetrieved } else { Owner::Call };
    let options = PutOptions { owner, ttl, size, receiver: Some(super::receiver_of(to)), content: expected.content };
    let mut writer = proxy.put(options).await.map_err(CallError::Named)?;
    let _object = CallObject { proxy: Rc::clone(proxy), id: writer.id };
    if !size.cut_through {
        writer.fill().await.map_err(CallError::Named)?;
        let token = writer.finish().map_err(CallError::Named)?;
        return send(proxy, to, Carried::Reference(token.into_string()), expected, job, deadline).await;
    }
    let token = writer.reference().map_err(CallError::Named)?;
    let call = send(proxy, to, Carried::Reference(token.into_string()), expected, job, deadline);
    let mut call = core::pin::pin!(call);
    match race(&mut call, write(writer)).await {
        First::Left(answer) => answer, // An early answer: the writer is dropped, and with it the object.
        First::Right(Ok(())) => call.await,
        // A body of unknown or unreachable length ends the request.
        First::Right(Err(error)) => Err(CallError::Named(error)),
    }
}

async fn write(mut writer: Writer) -> Result<(), ErrorCode> {
    writer.fill().await?;
    writer.finish().map(|_| ())
}

/// Sends the request, once; the mesh may do more.
async fn send(
    proxy: &Rc<Proxy>,
    service: usize,
    carried: Carried,
    expected: Expected,
    job: Rc<Job>,
    deadline: Monotonic,
) -> Result<Answer, CallError> {
    let world = &proxy.world;
    let carried = if world.strikes_at(FaultKind::Forge, proxy.process) { forged(proxy, carried) } else { carried };
    let service =
        if world.strikes_at(FaultKind::WrongReceiver, proxy.process) { world.below(world.plan.services.len()) } else { service };
    let once = || {
        let sending = world.check.request(|requests| requests.sent()).unwrap_or(RequestId(0));
        Request { sending, service, carried: carried.clone(), expected, job: Rc::clone(&job), deadline, proxied: false }
    };
    let first = platform::route(world, proxy.process, once());
    let mut answer = if world.strikes_at(FaultKind::Hedge, proxy.process) {
        let second = async {
            world.sleep(world.fault_millis(FaultKind::Hedge, 1, 2_000)).await;
            platform::route(world, proxy.process, once()).await
        };
        match race(first, second).await {
            First::Left(answer) | First::Right(answer) => answer,
        }
    } else {
        first.await
    };
    let failed = answer.as_ref().map_or(true, |answer| answer.status >= 500);
    if failed && world.strikes_at(FaultKind::MeshRetry, proxy.process) {
        answer = platform::route(world, proxy.process, once()).await;
    }
    answer.map_err(|broken| {
        world.hit(T::CallBroken);
        proxy.note(|| format!("its call broke: {broken:?}"));
        CallError::Named(ErrorCode::CalleeUnreachable)
    })
}

/// The reference with one character changed.
fn forged(proxy: &Proxy, carried: Carried) -> Carried {
    let Carried::Reference(mut token) = carried else { return carried };
    let at = proxy.world.faults.draw(FaultKind::Forge, 1, token.len() as u64) as usize - 1;
    let new = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    token.replace_range(at..=at, new);
    Carried::Reference(token)
}
