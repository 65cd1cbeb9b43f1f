//! One fault: injected, waited for, judged, and what is left of it.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zipline_contract::headers;
use zipline_fault_point::Part;
use zipline_testkit::{Behaviour, Payload, http as client};

use crate::packets::Packets;
use crate::plan::{Fault, Step, Work};
use crate::report::Tally;
use crate::work::{self, DEADLINE, Done, Doors, End};
use crate::world::{Member, REST, Side, World};

/// A stalled connection goes on after this: later than any idle timeout.
const STALLED: Duration = Duration::from_millis(2500);

/// What is under way while a fault happens.
struct Running {
    work: JoinSet<Done>,
    reference: oneshot::Receiver<String>,
    done: Option<Done>,
}

/// Lets one fault happen to one piece of work, and writes down what it did.
pub(crate) async fn run(world: &mut World, step: &Step, id: u64, tally: &mut Tally) -> Result<()> {
    let payload = Payload::new(step.size, step.payload_seed);
    let begun = world.function.seen().len();
    let (put, reference) = oneshot::channel();
    let doors = Doors::of(world);
    let start = |put| {
        let mut work = JoinSet::new();
        work.spawn(work::carry_out(doors, step.work, payload.clone(), id, ttl_seconds(&step.fault), put));
        work
    };
    let mut left = false;
    let mut running;
    let happened = match step.fault.point() {
        Some(point) => {
            let is_producers = point.part == Part::Producer || step.work == Work::Own;
            let holder = if is_producers { Side::Producer } else { Side::Consumer };
            let steered = world.member(holder).steered.clone();
            let mut reached = steered.arm(point.name, step.fault.nth()).await;
            running = Running { work: start(put), reference, done: None };
            let stands = tokio::select! {
                _ = reached.changed() => true,
                _ = running.ended() => false,
            };
            if stands {
                left = at_point(world, &step.fault, holder, &mut running).await?;
            }
            steered.say("disarm").await;
            steered.say("go").await;
            stands
        }
        None => {
            let harm = Harm::begin(world, &step.fault).await?;
            running = Running { work: start(put), reference, done: None };
            let injected = harm.while_it_lasts(world, &mut running).await;
            harm.end(world).await?;
            injected
        }
    };
    if happened {
        tally.happened(&step.fault);
    } else {
        tally.missed += 1;
    }
    let is_hung = !left && timeout(DEADLINE, running.ended()).await.is_err();
    if is_hung {
        tally.hung(format!("{step:?}: no answer within {DEADLINE:?}"));
    }
    let done = running.finish();
    judge(world, step, &done, left || is_hung, tally);
    executed_once(world, begun, id, tally);
    rescue(world, step, &done, &payload, left || is_hung, tally).await;
    aftermath(world, step, done.reference.as_ref().or(done.opened.as_ref()), tally).await;
    Ok(())
}

/// Longer than every clock is wrong; but who leaves may leave with a reference that nobody else knows, and then only expiry
/// frees the object, before [`REST`] is over.
const fn ttl_seconds(fault: &Fault) -> u64 {
    if matches!(fault, Fault::Leave { .. }) { 20 } else { 600 }
}

impl Running {
    async fn ended(&mut self) {
        if self.done.is_none()
            && let Some(Ok(done)) = self.work.join_next().await
        {
            self.done = Some(done);
        }
    }

    /// What is known of it; what still runs is given up.
    fn finish(mut self) -> Done {
        self.work.abort_all();
        let mut done = self.done.take().unwrap_or_default();
        if done.reference.is_none() && done.ends.is_empty() {
            done.reference = self.reference.try_recv().ok();
        }
        done
    }
}

/// Does what is to be done while a process stands at a point; true when whoever asked has left.
async fn at_point(world: &mut World, fault: &Fault, holder: Side, running: &mut Running) -> Result<bool> {
    match *fault {
        Fault::Kill { victim, .. } => world.member_mut(victim).kill()?,
        Fault::Stop { victim, ms, .. } => {
            world.member(victim).signal(Signal::STOP)?;
            world.member(holder).steered.say("go").await;
            // The time it is frozen is the fault; work that ends without it ends the wait.
            let _ended = timeout(Duration::from_millis(ms), running.ended()).await;
            world.member(victim).signal(Signal::CONT)?;
        }
        Fault::Cut { .. } => {
            world.pulls.cut();
            world.calls.cut();
        }
        Fault::Term { .. } => world.producer.signal(Signal::TERM)?,
        Fault::Leave { .. } => {
            running.work.shutdown().await;
            return Ok(true);
        }
        _ => {}
    }
    Ok(false)
}

/// A fault that lasts while the work is done.
enum Harm {
    Wire { calls: bool, before: usize },
    Function,
    Clock(Side),
    Descriptors(Side, Rlimit),
    Packets(Packets, Duration),
}

impl Harm {
    async fn begin(world: &World, fault: &Fault) -> Result<Self> {
        Ok(match *fault {
            Fault::Pulls { fault, times } => {
                world.pulls.hold();
                world.pulls.next((0..times).map(|_| fault));
                Self::Wire { calls: false, before: world.pulls.accepted() }
            }
            Fault::Calls { fault, times } => {
                world.calls.hold();
                world.calls.next((0..times).map(|_| fault));
                Self::Wire { calls: true, before: world.calls.accepted() }
            }
            Fault::Function(behaviour) => {
                world.function.behave(behaviour);
                Self::Function
            }
            Fault::Clock { victim, ms } => {
                world.member(victim).steered.set_clock(ms).await;
                Self::Clock(victim)
            }
            Fault::Descriptors { victim, left } => {
                let pid = world.member(victim).proxy.process.pid();
                let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
                let limit = Rlimit { current: Some(open + left), maximum: None };
                Self::Descriptors(victim, limits(pid, limit)?)
            }
            Fault::Packets { percent, ms } => {
                let packets = Packets::lose(world.pulls.address().ip(), percent)?;
                Self::Packets(packets, Duration::from_millis(ms))
            }
            _ => Self::Function,
        })
    }

    /// Waits for the work, or as long as the fault lasts; whether it happened at all.
    async fn while_it_lasts(&self, world: &World, running: &mut Running) -> bool {
        let lasts = match self {
            Self::Wire { .. } => STALLED,
            Self::Packets(_, lasts) => *lasts,
            _ => DEADLINE,
        };
        let _ended = timeout(lasts, running.ended()).await;
        match self {
            Self::Wire { calls: false, before, .. } => world.pulls.accepted() > *before,
            Self::Wire { calls: true, before, .. } => world.calls.accepted() > *before,
            _ => true,
        }
    }

    async fn end(self, world: &World) -> Result<()> {
        match self {
            Self::Wire { .. } => {
                for relay in [&world.pulls, &world.calls] {
                    relay.mend();
                    relay.release();
                }
            }
            Self::Function => world.function.behave(Behaviour::Sha256),
            Self::Clock(side) => world.member(side).steered.set_clock(0).await,
            Self::Descriptors(side, before) => {
                limits(world.member(side).proxy.process.pid(), before)?;
            }
            Self::Packets(packets, _) => drop(packets),
        }
        Ok(())
    }
}

fn limits(pid: u32, limit: Rlimit) -> Result<Rlimit> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id is positive")?;
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    Ok(prlimit(Some(pid), Resource::Nofile, Rlimit { maximum: hard, ..limit })?)
}

/// Whether each end is a delivery, a named error, or what the fault explains.
fn judge(world: &World, step: &Step, done: &Done, is_given_up: bool, tally: &mut Tally) {
    let spoken_to_is_gone = world.producer.is_gone || world.consumer.is_gone || matches!(step.fault, Fault::Term { .. });
    let has_no_descriptor = matches!(step.fault, Fault::Descriptors { .. });
    for end in &done.ends {
        match end {
            End::Delivered => tally.delivered(step.size),
            End::Named(name) => tally.named(name),
            // The head was sent before the payload failed: cut before its length, which is how HTTP says so.
            End::CutShort(_) => tally.named("cut-before-its-length"),
            End::Unanswered(_) if spoken_to_is_gone => tally.named("own-proxy-gone"),
            End::Unanswered(_) if has_no_descriptor => tally.named("no-descriptor-for-the-caller"),
            End::Unanswered(why) | End::Wrong(why) => tally.lost(format!("{step:?}: {why}")),
        }
    }
    if is_given_up && done.ends.is_empty() {
        tally.left += 1;
    }
}

/// A request was sent once, and must not have reached the function twice.
fn executed_once(world: &World, begun: usize, id: u64, tally: &mut Tally) {
    let path = format!("/work/{id}");
    let times = world.function.seen().iter().skip(begun).filter(|seen| seen.path == path).count();
    if times > 1 {
        tally.duplicates += times as u64 - 1;
        tally.complain(format!("the function saw {path} {times} times"));
    }
}

/// What was put and not delivered must still be there, unless its holder ended or its reader has it.
async fn rescue(world: &World, step: &Step, done: &Done, payload: &Payload, is_given_up: bool, tally: &mut Tally) {
    let Some(reference) = &done.reference else { return };
    let is_delivered = !done.ends.is_empty() && done.ends.iter().all(|end| *end == End::Delivered);
    if is_delivered || world.producer.is_gone || matches!(step.fault, Fault::Term { .. }) {
        return;
    }
    let seen = world.function.seen();
    let was_taken = seen.iter().any(|seen| seen.whole && seen.sha256 == payload.sha256());
    match timeout(DEADLINE, work::get(&world.witness.proxy.api(), reference, payload)).await {
        Ok(End::Delivered) => tally.rescued += 1,
        // Accepted by the function, or by a caller that left with all of it.
        Ok(End::Named(name)) if name == "reference-exhausted" && (was_taken || is_given_up) => {}
        // Its writer broke off, or left before it was whole: nobody was promised these bytes.
        Ok(End::Named(name)) if name == "payload-aborted" && step.work == Work::CutThrough => {}
        Ok(End::CutShort(_)) if is_given_up && step.work == Work::CutThrough => {}
        Ok(end) => tally.lost(format!("{step:?}: ended {:?}, and then it was not there: {end:?}", done.ends)),
        Err(_) => tally.hung(format!("{step:?}: asking again was not answered within {DEADLINE:?}")),
    }
}

/// Everything that lives is back where it began.
async fn aftermath(world: &mut World, step: &Step, reference: Option<&String>, tally: &mut Tally) {
    if let (Some(reference), false) = (reference, world.producer.is_gone)
        && let Ok(request) = Request::delete("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())
    {
        // A producer that is ending may not answer; what it then holds is its own to report.
        let _released = timeout(REST, client::send(&world.witness.proxy.api(), request)).await;
    }
    if matches!(step.fault, Fault::Term { .. })
        && !world.producer.is_gone
        && tally.faults_of_last
        && let Err(error) = world.producer.ends().await
    {
        tally.hung(format!("{step:?}: {error:#}"));
        world.producer.is_gone = true;
    }
    for (name, member) in world.members() {
        if !member.is_gone {
            check(name, member, step, tally).await;
        }
    }
}

async fn check(name: &str, member: &Member, step: &Step, tally: &mut Tally) {
    if let Err(error) = member.gives_back().await {
        tally.leaked_bytes(format!("{step:?}: {name}: {error:#}"));
    }
    if let Err(error) = member.closes_what_it_opened().await {
        tally.leaked_descriptors(format!("{step:?}: {name}: {error:#}"));
    }
}
