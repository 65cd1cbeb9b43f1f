//! What a function does once it has read its request.

use core::num::NonZeroU32;
use core::time::Duration;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use zipline_contract::ErrorCode;
use zipline_core::object::Owner;
use zipline_core::reference::Narrowing;

use crate::coverage::Transition as T;
use crate::plan::{Job, Size};
use crate::proxy::Proxy;
use crate::proxy::fetch::Taking;
use crate::proxy::ingress::{Answer, Body, Expected, Kept, Request};
use crate::proxy::invoke::{CallError, Payload, invoke};
use crate::proxy::put::{PutOptions, owned};
use crate::wait::all;

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Does the job of a request, and answers.
pub(crate) async fn run(proxy: &Rc<Proxy>, request: &Request) -> Answer {
    let result = match &*request.job {
        Job::Answer { work, bytes } => {
            proxy.world.sleep(*work).await;
            return answer_with(proxy, request, *bytes).await;
        }
        Job::Forward { to, size, job } => forward(proxy, request, *to, *size, job).await,
        Job::Scatter { to, parts, job } => scatter(proxy, request, *to, parts, job).await,
        Job::Broadcast { to, branches, size, job } => broadcast(proxy, request, *to, *branches, *size, job).await,
        Job::Gather { to, parts, ttl } => gather(proxy, request, *to, parts, *ttl).await,
        Job::Keep { size, retrievals, ttl } => return keep(proxy, *size, *retrievals, *ttl).await,
    };
    match result {
        Ok(()) => Answer::of(Body::Done),
        Err(CallError::Named(error)) => Answer::failed(error),
        Err(CallError::Function(_)) => Answer::function_failed(),
    }
}

/// A large answer stays here until the caller's proxy has it.
async fn answer_with(proxy: &Rc<Proxy>, request: &Request, bytes: u64) -> Answer {
    let world = &proxy.world;
    let content = world.number();
    if bytes < world.settings().inline_threshold || bytes == 0 {
        return Answer::of(Body::Done);
    }
    let size = Size { bytes, declared: true, cut_through: false };
    let ttl = world.now().until(request.deadline).max(Duration::from_millis(1));
    let options = PutOptions { owner: Owner::CallUntilRetrieved, ttl, size, receiver: None, content };
    match proxy.put_whole(options).await {
        Ok((token, ..)) => Answer::of(Body::Reference(token, Expected { content, first: 0, length: bytes })),
        // What cannot be held goes inline.
        Err(_) => Answer::of(Body::Done),
    }
}

async fn forward(proxy: &Rc<Proxy>, request: &Request, to: usize, size: Size, job: &Rc<Job>) -> Result<(), CallError> {
    let payload = Payload::Own { content: proxy.world.number(), size };
    invoke(proxy, to, payload, Rc::clone(job), request.deadline).await.map(|_| ())
}

/// One object a part, one call an object.
async fn scatter(proxy: &Rc<Proxy>, request: &Request, to: usize, parts: &[Size], job: &Rc<Job>) -> Result<(), CallError> {
    let calls = parts.iter().map(|size| {
        let call: Work<'_, Result<(), CallError>> = Box::pin(async move {
            let content = proxy.world.number();
            let ttl = proxy.world.now().until(request.deadline).max(Duration::from_millis(1));
            let options = PutOptions {
                owner: owned(NonZeroU32::MIN),
                ttl,
                size: *size,
                receiver: Some(crate::proxy::ingress::receiver(to)),
                content,
            };
            let (token, ..) = proxy.put_whole(options).await.map_err(CallError::Named)?;
            let expected = Expected { content, first: 0, length: size.bytes };
            let payload = Payload::Reference { token: token.into_string(), expected };
            invoke(proxy, to, payload, Rc::clone(job), request.deadline).await.map(|_| ())
        });
        call
    });
    all(calls.collect()).await.into_iter().collect()
}

/// One object with a slot a branch.
async fn broadcast(
    proxy: &Rc<Proxy>,
    request: &Request,
    to: usize,
    branches: u32,
    size: Size,
    job: &Rc<Job>,
) -> Result<(), CallError> {
    let content = proxy.world.number();
    let ttl = proxy.world.now().until(request.deadline).max(Duration::from_millis(1));
    let retrievals = NonZeroU32::new(branches).unwrap_or(NonZeroU32::MIN);
    let options = PutOptions { owner: owned(retrievals), ttl, size, receiver: None, content };
    let (token, ..) = proxy.put_whole(options).await.map_err(CallError::Named)?;
    let expected = Expected { content, first: 0, length: size.bytes };
    let calls = (0..branches).map(|slot| {
        let token = token.clone();
        let call: Work<'_, Result<(), CallError>> = Box::pin(async move {
            let narrowing = Narrowing { slot: Some(slot), ..Narrowing::default() };
            let token = narrow(proxy, token.as_str(), narrowing).map_err(CallError::Named)?;
            let payload = Payload::Reference { token, expected };
            invoke(proxy, to, payload, Rc::clone(job), request.deadline).await.map(|_| ())
        });
        call
    });
    all(calls.collect()).await.into_iter().collect()
}

/// Has parts made elsewhere, and gets them all.
async fn gather(proxy: &Rc<Proxy>, request: &Request, to: usize, parts: &[Size], ttl: Duration) -> Result<(), CallError> {
    let calls = parts.iter().map(|size| {
        let call: Work<'_, Result<(), CallError>> = Box::pin(async move {
            let job = Rc::new(Job::Keep { size: *size, retrievals: NonZeroU32::MIN, ttl });
            let own = Size { bytes: 0, declared: true, cut_through: false };
            let payload = Payload::Own { content: 0, size: own };
            let Body::Kept(kept) = invoke(proxy, to, payload, job, request.deadline).await? else { return Ok(()) };
            get(proxy, &kept).await.map_err(CallError::Named)
        });
        call
    });
    all(calls.collect()).await.into_iter().collect()
}

/// Puts an object for whoever asked.
async fn keep(proxy: &Rc<Proxy>, size: Size, retrievals: NonZeroU32, ttl: Duration) -> Answer {
    let content = proxy.world.number();
    let options = PutOptions { owner: owned(retrievals), ttl, size, receiver: None, content };
    match proxy.put_whole(options).await {
        Ok((token, expires)) => Answer::of(Body::Kept(Kept { token, content, size: size.bytes, expires })),
        Err(error) => Answer::failed(error),
    }
}

/// Gets a whole object, and acknowledges it.
pub(crate) async fn get(proxy: &Rc<Proxy>, kept: &Kept) -> Result<(), ErrorCode> {
    let mut incoming = proxy.fetch(kept.token.as_str(), None, Taking::Whole).await?;
    let whole = incoming.receive().await?;
    proxy.has_all(Expected { content: kept.content, first: 0, length: kept.size }, whole);
    incoming.acknowledge().await
}

/// Has the proxy make a narrower reference.
pub(crate) fn narrow(proxy: &Rc<Proxy>, token: &str, narrowing: Narrowing) -> Result<String, ErrorCode> {
    let (now, ring) = (proxy.now(), proxy.ring());
    let reference = ring.open(token, now.wall).map_err(|error| error.code())?;
    let narrowed = reference.clone().narrow(narrowing).map_err(|error| {
        proxy.world.hit(T::NarrowRefused);
        error.code()
    })?;
    proxy.world.hit(T::ReferenceNarrowed);
    let is_within = narrowed.expires <= reference.expires
        && (reference.slot.is_none() || narrowed.slot == reference.slot)
        && (reference.receiver.is_none() || narrowed.receiver == reference.receiver)
        && reference
            .range
            .is_none_or(|range| narrowed.range.is_some_and(|part| part.first() >= range.first() && part.end() <= range.end()));
    if !is_within {
        proxy.world.check.fails(crate::check::Invariant::Authentic, format!("{reference:?} was widened to {narrowed:?}"));
    }
    let sealed = ring.seal(&narrowed, now.wall, proxy.world.random_bytes()).map_err(|error| error.code())?;
    Ok(sealed.into_string())
}
