//! What goes wrong, how likely, and what is left out when a failure is being shrunk.
//!
//! A seed switches each kind of fault off, or draws how likely it is. Every kind has its own dice, and rolls them also for
//! what is left out: so a schedule without one of its faults is otherwise as like the whole one as can be.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::random::Rng;

macro_rules! kinds {
    ($($variant:ident $name:literal $low:literal $high:literal $doc:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind { $(#[doc = $doc] $variant,)* }

        impl FaultKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in reports and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            /// Lowest and highest probability each time that it could strike.
            const fn range(self) -> (f64, f64) {
                match self { $(Self::$variant => ($low, $high),)* }
            }
        }
    };
}

kinds! {
    Cut "cut" 0.01 0.5 "A connection breaks after a byte drawn beforehand; both ends learn of it";
    HalfCut "half-cut" 0.01 0.3 "As cut, but only the receiving end learns of it";
    Delay "delay" 0.01 0.3 "A message takes up to seconds longer";
    Slow "slow" 0.01 0.3 "A connection carries few bytes a second, and its buffers are small";
    Flip "flip" 0.005 0.2 "A byte changes on the way: of a head, of a record's head, or of the payload";
    Replay "replay" 0.01 0.5 "Somebody on the wire sends a request again, on a connection of his own";
    Duplicate "duplicate" 0.02 0.5 "A connection is attempted twice; the second one stays silent";
    Refuse "refuse" 0.01 0.2 "A connection is refused though somebody listens";
    Partition "partition" 0.0003 0.004 "A process is cut off from all others for a while";
    Crash "crash" 0.0001 0.004 "The process that just ran dies, with everything it holds; its peers are told";
    Vanish "vanish" 0.0001 0.003 "The process that just ran dies with its machine: nobody is told";
    Recycle "recycle" 0.2 1.0 "An instance that starts gets the address of one that died";
    FunctionCrash "function-crash" 0.0002 0.004 "The function of the process that just ran dies and is restarted; its queue-proxy lives";
    Freeze "freeze" 0.0002 0.004 "The process that just ran runs nothing for up to seconds";
    ClockJump "clock-jump" 0.0002 0.004 "The wall clock of the process that just ran jumps, ahead or back";
    LateTimer "late-timer" 0.01 0.4 "A timer fires late";
    ActivatorCrash "activator-crash" 0.0001 0.001 "The activator dies with every request that it carries, and starts again";
    AutoscalerCrash "autoscaler-crash" 0.0001 0.001 "The autoscaler dies with everything it has measured, and starts again";
    ScrapeLost "scrape-lost" 0.02 0.6 "An instance's statistics do not reach the autoscaler";
    ScrapeLate "scrape-late" 0.02 0.4 "An instance's statistics reach the autoscaler late";
    ProbeLost "probe-lost" 0.02 0.4 "A readiness probe is lost: the instance is not ready for a while";
    AnswerLost "answer-lost" 0.01 0.2 "The connection of a call breaks after the function has answered";
    WriterStall "writer-stall" 0.02 0.4 "Whoever writes a payload pauses for up to a minute";
    WriterFail "writer-fail" 0.01 0.3 "Whoever writes a payload fails before its end";
    FunctionError "function-error" 0.01 0.4 "A function answers 500 to what it has read";
    FunctionSlow "function-slow" 0.02 0.4 "A function pauses between the blocks that it reads";
    EarlyAnswer "early-answer" 0.02 0.4 "A function answers before it has read everything";
    Abandon "abandon" 0.01 0.3 "A caller gives its call up";
    Hedge "hedge" 0.02 0.4 "The mesh sends a call a second time while the first is on its way";
    MeshRetry "mesh-retry" 0.1 0.8 "The mesh sends a failed call again";
    Forge "forge" 0.02 0.3 "A reference is changed before it is used";
    WrongReceiver "wrong-receiver" 0.02 0.3 "A reference made for one service is sent to another";
    Rotate "rotate" 0.2 1.0 "The trust domain gets a new key, which reaches each process at another time";
    ScaleIn "scale-in" 0.0003 0.005 "An operator has the fewest-held instance of a service stopped";
    Misbehave "misbehave" 0.05 0.5 "A consumer acknowledges a read that it has given back, or twice";
    FreeEarly "free-early" 0.02 0.3 "The owner frees an object that others may still read";
}

const KINDS: usize = FaultKind::ALL.len();

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault of a schedule: its kind, and which of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// Counted from 0 within its kind.
    pub number: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.number)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no fault; one is KIND:NUMBER, such as cut:0");
        let (kind, number) = text.split_once(':').ok_or_else(error)?;
        let kind = FaultKind::ALL.iter().find(|known| known.name() == kind).ok_or_else(error)?;
        Ok(Self { kind: *kind, number: number.parse().map_err(|_| error())? })
    }
}

struct Dice {
    probability: f64,
    rng: Rng,
    rolled: u32,
}

/// The faults of one schedule.
pub(crate) struct Faults {
    dice: RefCell<[Dice; KINDS]>,
    only: Option<BTreeSet<Fault>>,
    struck: RefCell<Vec<Fault>>,
    is_over: Cell<bool>,
}

/// One in so many schedules has no fault at all.
const CALM_ONE_IN: u64 = 24;

impl Faults {
    /// The faults that `seed` draws; of those only the named ones, if any are named.
    pub(crate) fn new(seed: u64, only: Option<BTreeSet<Fault>>) -> Self {
        let mut draw = Rng::new(seed, 0xfa);
        let is_calm = draw.below(CALM_ONE_IN) == 0;
        let share = draw.pick(&[0.08, 0.2, 0.4]);
        let dice = core::array::from_fn(|index| {
            let (low, high) = FaultKind::ALL[index].range();
            let is_on = draw.chance(share) && !is_calm;
            let probability = (low.ln() + (high.ln() - low.ln()) * draw.unit()).exp();
            Dice { probability: if is_on { probability } else { 0.0 }, rng: Rng::new(seed, 0x1000 + index as u64), rolled: 0 }
        });
        Self { dice: RefCell::new(dice), only, struck: RefCell::default(), is_over: Cell::new(false) }
    }

    /// Whether a fault of that kind strikes here and now.
    pub(crate) fn strikes(&self, kind: FaultKind) -> bool {
        let dice = &mut self.dice.borrow_mut()[kind as usize];
        if dice.probability == 0.0 || self.is_over.get() || !dice.rng.chance(dice.probability) {
            return false;
        }
        let fault = Fault { kind, number: dice.rolled };
        dice.rolled += 1;
        if self.only.as_ref().is_some_and(|only| !only.contains(&fault)) {
            return false;
        }
        self.struck.borrow_mut().push(fault);
        true
    }

    /// A number for a fault of that kind: how long, how far.
    pub(crate) fn draw(&self, kind: FaultKind, low: u64, high: u64) -> u64 {
        self.dice.borrow_mut()[kind as usize].rng.spread(low, high)
    }

    /// Nothing strikes any more.
    pub(crate) fn end(&self) {
        self.is_over.set(true);
    }

    /// What has struck, in order.
    pub(crate) fn struck(&self) -> Vec<Fault> {
        self.struck.borrow().clone()
    }

    /// Whether that kind can strike in this schedule.
    pub(crate) fn has(&self, kind: FaultKind) -> bool {
        self.dice.borrow()[kind as usize].probability > 0.0
    }
}
