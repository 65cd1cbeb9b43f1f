//! What clients do: call, have things kept, share.

use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use zipline_contract::{ErrorCode, Retry};
use zipline_core::pull::ByteRange;
use zipline_core::reference::{Extent, Narrowing};
use zipline_core::time::{Monotonic, WallTime};

use super::function::narrow;
use crate::coverage::Transition as T;
use crate::exec::NATURE;
use crate::faults::FaultKind;
use crate::plan::{Item, Job, Moment, Reader, Size, Work};
use crate::proxy::Proxy;
use crate::proxy::fetch::Taking;
use crate::proxy::ingress::{Body, Expected, Kept};
use crate::proxy::invoke::{CallError, Payload, invoke};
use crate::proxy::put::{PutOptions, owned};
use crate::wait::{all, race};
use crate::world::World;

/// Where a reader's answer says nothing more than that it has read.
const ANSWER_ONLY: Job = Job::Answer { work: Duration::from_millis(1), bytes: 0 };

/// Does one piece of work from its beginning to its end.
pub(crate) async fn run(proxy: Rc<Proxy>, item: Item) {
    let world = Rc::clone(&proxy.world);
    let deadline = world.now() + item.deadline;
    let work = async {
        match &item.what {
            Work::Call { to, size, job } => {
                let payload = Payload::Own { content: world.number(), size: *size };
                // How it ends is the checkers' business.
                let _ = with_retries(&proxy, *to, payload, job, deadline, item.retries).await;
            }
            Work::Fetch { to, size, retrievals, ttl, readers } => {
                let job = Rc::new(Job::Keep { size: *size, retrievals: *retrievals, ttl: *ttl });
                let own = Size { bytes: 0, declared: true, cut_through: false };
                let payload = Payload::Own { content: 0, size: own };
                if let Ok(Body::Kept(kept)) = with_retries(&proxy, *to, payload, &job, deadline, item.retries).await {
                    read_all(&proxy, &kept, readers, item.deadline).await;
                }
            }
            Work::Share { size, retrievals, ttl, readers } => {
                share(&proxy, *size, *retrievals, *ttl, readers, item.deadline).await;
            }
        }
    };
    if world.strikes_at(FaultKind::Abandon, proxy.process) {
        let patience = world.fault_millis(FaultKind::Abandon, 1, item.deadline.as_millis() as u64);
        race(work, world.sleep(patience)).await;
    } else {
        work.await;
    }
}

/// Calls, and calls again where a retry can help.
async fn with_retries(
    proxy: &Rc<Proxy>,
    to: usize,
    payload: Payload,
    job: &Rc<Job>,
    deadline: Monotonic,
    retries: u32,
) -> Result<Body, CallError> {
    let world = &proxy.world;
    let mut left = retries;
    loop {
        let result = invoke(proxy, to, payload.clone(), Rc::clone(job), deadline).await;
        let again = match &result {
            Ok(_) => false,
            Err(CallError::Named(error)) => error.retry() == Retry::Later,
            Err(CallError::Function(_)) => true,
        };
        if !again || left == 0 || world.now() >= deadline {
            return result;
        }
        left -= 1;
        world.hit(T::CallRetried);
        world.sleep(Duration::from_millis(world.between(1, 500))).await;
    }
}

async fn share(proxy: &Rc<Proxy>, size: Size, retrievals: NonZeroU32, ttl: Duration, readers: &[Reader], deadline: Duration) {
    let world = &proxy.world;
    let content = world.number();
    let options = PutOptions { owner: owned(retrievals), ttl, size, receiver: None, content };
    let Ok(mut writer) = proxy.put(options).await else { return };
    let (object, expires) = (writer.id, writer.expires);
    let kept = |token| Kept { token, content, size: size.bytes, expires };
    let free = async {
        if world.strikes_at(FaultKind::FreeEarly, proxy.process) {
            world.sleep(world.fault_millis(FaultKind::FreeEarly, 1, ttl.as_millis() as u64)).await;
            proxy.free(object);
        }
    };
    let work: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = if size.cut_through {
        let Ok(token) = writer.reference() else { return };
        let kept = kept(token);
        let write = async move {
            if writer.fill().await.is_ok() {
                let _ = writer.finish();
            }
        };
        vec![Box::pin(async move { read_all(proxy, &kept, readers, deadline).await }), Box::pin(write), Box::pin(free)]
    } else {
        if writer.fill().await.is_err() {
            return;
        }
        let Ok(token) = writer.finish() else { return };
        let kept = kept(token);
        vec![Box::pin(async move { read_all(proxy, &kept, readers, deadline).await }), Box::pin(free)]
    };
    all(work).await;
}

async fn read_all(proxy: &Rc<Proxy>, kept: &Kept, readers: &[Reader], deadline: Duration) {
    let reads = readers.iter().map(|reader| {
        let read: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(async move {
            wait_for(proxy, reader.after, kept.expires).await;
            let until = proxy.world.now() + deadline;
            // How it ends is the checkers' business.
            let _ = read_one(proxy, kept, *reader, until).await;
        });
        read
    });
    all(reads.collect()).await;
}

async fn wait_for(proxy: &Proxy, moment: Moment, expires: WallTime) {
    let world = &proxy.world;
    match moment {
        Moment::After(duration) => world.sleep(duration).await,
        Moment::AtExpiry(millis) => {
            let until = WallTime::from_unix_millis(expires.unix_millis().saturating_add_signed(millis));
            // To the millisecond, by this proxy's clock; a jump meanwhile spoils it.
            let now = world.clocks(proxy.process);
            let into = Duration::from_nanos(now.mono.as_nanos() % 1_000_000);
            world.sleep(now.wall.until(until).saturating_sub(into)).await;
        }
    }
}

/// One reader: the client itself, or a service that is sent the reference.
async fn read_one(proxy: &Rc<Proxy>, kept: &Kept, reader: Reader, deadline: Monotonic) -> Result<(), ErrorCode> {
    let (first, length) = part_of(kept.size, reader.range);
    let is_part = length < kept.size || first > 0;
    let mut narrowing = Narrowing { slot: reader.slot, ..Narrowing::default() };
    let wants_narrower = reader.narrowed || reader.service.is_some();
    if let Some(length) = NonZeroU64::new(length).filter(|_| is_part && wants_narrower) {
        narrowing.range = Extent::new(first, length);
    }
    let mut token = kept.token.as_str().to_owned();
    if let Some(part) = narrowing.range.filter(|_| first > 1) {
        // In two steps: the second counts from the first byte that the first one left.
        let outer = NonZeroU64::new(kept.size - first / 2).and_then(|length| Extent::new(first / 2, length));
        token = narrow(proxy, &token, Narrowing { range: outer, ..Narrowing::default() })?;
        narrowing.range = Extent::new(first - first / 2, part.length());
    }
    if narrowing != Narrowing::default() {
        token = narrow(proxy, &token, narrowing)?;
    }
    if let Some(service) = reader.service {
        let expected = Expected { content: kept.content, first, length };
        let payload = Payload::Reference { token, expected };
        let _ = invoke(proxy, service, payload, Rc::new(ANSWER_ONLY), deadline).await;
        return Ok(());
    }
    let range = if is_part && !wants_narrower { ByteRange::closed(first, first + length.max(1) - 1) } else { None };
    let mut incoming = proxy.fetch(&token, range, Taking::Whole).await?;
    let whole = incoming.receive().await?;
    proxy.has_all(Expected { content: kept.content, first, length }, whole);
    if is_part && !wants_narrower {
        return Ok(()); // A ranged read is no retrieval: dropping it gives the lease back.
    }
    incoming.acknowledge().await
}

/// A part of an object, from thousandths.
fn part_of(size: u64, range: Option<(u64, u64)>) -> (u64, u64) {
    let Some((first, length)) = range.filter(|_| size > 0) else { return (0, size) };
    let first = size * first / 1_000;
    let length = (size * length / 1_000).clamp(1, size - first);
    (first, length)
}

/// Begins every item of a schedule at its time, at whatever client there is then.
pub(crate) fn schedule(world: &Rc<World>, items: &[Item]) {
    for item in items {
        let (undone, item, world) = (world.undone(), item.clone(), Rc::clone(world));
        world.exec.clone().spawn(NATURE, async move {
            world.sleep(item.at).await;
            if let Some(client) = world.client() {
                client.clone().spawn(async move {
                    run(client, item).await;
                    drop(undone);
                });
            }
        });
    }
}
