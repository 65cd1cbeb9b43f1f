//! What a seed draws: a piece of work, and what happens to it.

use zipline_fault_point::{POINTS, Part, Point};
use zipline_testkit::{Behaviour, Fault as WireFault, Side as Flow};

use crate::draw::Draw;
use crate::world::Side;

const MIB: u64 = 1024 * 1024;
/// Empty, inline, around the thresholds, around a block, several blocks.
const SIZES: [u64; 9] = [0, 1, 20_000, 32 * 1024, 100_000, MIB, MIB + 1, 3 * MIB + 17, 8 * MIB];

/// A piece of work with an answer that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Put at the producer, get at the consumer.
    Get,
    /// Put at the producer, resolved into a request to the consumer's function.
    Request,
    /// A call of the producer's function to the consumer's, with a body.
    Call,
    /// Got by the consumer while it is written.
    CutThrough,
    /// One put, three gets at once.
    Broadcast,
    /// Put and got at the producer.
    Own,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A process is killed while one stands at a point.
    Kill { point: &'static Point, nth: u64, victim: Side },
    /// A process is frozen while one stands at a point.
    Stop { point: &'static Point, nth: u64, victim: Side, ms: u64 },
    /// Every connection between the two is reset while one stands at a point.
    Cut { point: &'static Point, nth: u64 },
    /// Whoever asked goes away while a process stands at a point.
    Leave { point: &'static Point, nth: u64 },
    /// The producer is told to end while one stands at a point.
    Term { point: &'static Point, nth: u64 },
    /// The next connections to the pull port are wounded at a byte.
    Pulls { fault: WireFault, times: u64 },
    /// The next connections to the callee are wounded at a byte.
    Calls { fault: WireFault, times: u64 },
    /// The function dies or refuses.
    Function(Behaviour),
    /// A wall clock is wrong.
    Clock { victim: Side, ms: i64 },
    /// No descriptor is left but so many.
    Descriptors { victim: Side, left: u64 },
    /// Packets to the pull port are lost, all of them for a while or one in so many.
    Packets { percent: u64, ms: u64 },
}

/// One fault and the work it meets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) work: Work,
    pub(crate) size: u64,
    pub(crate) payload_seed: u64,
    pub(crate) fault: Fault,
}

impl Step {
    /// The next one of a seed.
    pub(crate) fn draw(draw: &mut Draw, hands_over: bool, has_packets: bool) -> Self {
        let fault = draw_fault(draw, hands_over, has_packets);
        let work = draw_work(draw, &fault);
        // What is to happen in the middle of a body needs one that is no single block.
        let needs_length = matches!(fault, Fault::Pulls { .. } | Fault::Packets { .. })
            || fault.point().is_some_and(|point| POINTS_OF_PULLS.contains(&point.name) || point.name.starts_with("call."));
        let sizes = if needs_length { &SIZES[5..] } else { &SIZES[..] };
        Self { work, size: draw.of(sizes), payload_seed: draw.next(), fault }
    }
}

impl Fault {
    /// The point at which it happens, and at which passing.
    pub(crate) const fn point(&self) -> Option<&'static Point> {
        match self {
            Self::Kill { point, .. }
            | Self::Stop { point, .. }
            | Self::Cut { point, .. }
            | Self::Leave { point, .. }
            | Self::Term { point, .. } => Some(point),
            _ => None,
        }
    }

    pub(crate) const fn nth(&self) -> u64 {
        match self {
            Self::Kill { nth, .. }
            | Self::Stop { nth, .. }
            | Self::Cut { nth, .. }
            | Self::Leave { nth, .. }
            | Self::Term { nth, .. } => *nth,
            _ => 1,
        }
    }

    /// Its row in the table of `docs/guarantees.md`.
    pub(crate) fn row(&self) -> String {
        let name = |side: Side| if side == Side::Producer { "producer" } else { "consumer" };
        match self {
            Self::Kill { point, victim, .. } => format!("kill {} at {}", name(*victim), point.name),
            Self::Stop { point, victim, .. } => format!("stop {} at {}", name(*victim), point.name),
            Self::Cut { point, .. } => format!("cut at {}", point.name),
            Self::Leave { point, .. } => format!("caller leaves at {}", point.name),
            Self::Term { point, .. } => format!("term producer at {}", point.name),
            Self::Pulls { fault, .. } => format!("pull connection: {}", wound(fault)),
            Self::Calls { fault, .. } => format!("call connection: {}", wound(fault)),
            Self::Function(behaviour) => format!("function: {behaviour:?}").split('(').next().unwrap_or_default().to_owned(),
            Self::Clock { victim, .. } => format!("clock of {}", name(*victim)),
            Self::Descriptors { victim, .. } => format!("descriptors of {}", name(*victim)),
            Self::Packets { percent: 100, .. } => "partition".to_owned(),
            Self::Packets { .. } => "packet loss".to_owned(),
        }
    }
}

fn wound(fault: &WireFault) -> &'static str {
    match fault {
        WireFault::None => "none",
        WireFault::Cut(Flow::ToTarget, _) => "cut on the way there",
        WireFault::Cut(Flow::FromTarget, _) => "cut on the way back",
        WireFault::Stall(..) => "stalled",
        WireFault::Corrupt(..) => "a byte changed",
        WireFault::Delay(..) => "delayed",
        WireFault::Refuse => "refused",
    }
}

/// Points on the way of a pull, which a payload of several blocks passes several times.
const POINTS_OF_PULLS: [&str; 8] =
    ["pull.head", "pull.block", "pull.last", "serve.granted", "serve.record", "serve.whole", "deliver.body", "put.body"];

fn draw_fault(draw: &mut Draw, hands_over: bool, has_packets: bool) -> Fault {
    let victim = draw.of(&[Side::Producer, Side::Consumer]);
    match draw.below(if has_packets { 22 } else { 20 }) {
        0..=4 => Fault::Kill { point: point(draw, hands_over), nth: nth(draw), victim },
        5..=7 => Fault::Stop { point: point(draw, hands_over), nth: nth(draw), victim, ms: draw.of(&[50, 700, 2500]) },
        8 | 9 => Fault::Cut { point: point(draw, hands_over), nth: nth(draw) },
        10 | 11 => Fault::Leave { point: point(draw, hands_over), nth: nth(draw) },
        12 | 13 => Fault::Term { point: point(draw, hands_over), nth: nth(draw) },
        14 | 15 => Fault::Pulls { fault: wire_fault(draw, true), times: draw.of(&[1, 2, 6]) },
        16 => Fault::Calls { fault: wire_fault(draw, false), times: 1 },
        17 => Fault::Function(draw.of(&[
            Behaviour::DieBefore,
            Behaviour::DieDuring(1),
            Behaviour::DieDuring(100_000),
            Behaviour::DieAfter,
            Behaviour::Status(503),
        ])),
        18 => Fault::Clock { victim, ms: draw.of(&[-120_000, -20_000, 20_000, 120_000, 3_600_000]) },
        19 => Fault::Descriptors { victim, left: draw.below(4) },
        _ => match draw.below(2) {
            0 => Fault::Packets { percent: 100, ms: draw.of(&[100, 900, 2500]) },
            _ => Fault::Packets { percent: draw.of(&[1, 5, 20]), ms: 3000 },
        },
    }
}

fn nth(draw: &mut Draw) -> u64 {
    draw.of(&[1, 1, 1, 2, 3])
}

fn point(draw: &mut Draw, hands_over: bool) -> &'static Point {
    let is_passed = |point: &&'static Point| {
        let of_handover = point.name.starts_with("handover.");
        let of_others = point.part == Part::Platform
            || ["drain.", "ticket.", "put.admitted"].iter().any(|other| point.name.starts_with(other));
        !of_others && (hands_over || !of_handover)
    };
    let passed: Vec<&'static Point> = POINTS.iter().filter(is_passed).collect();
    passed[draw.below(passed.len() as u64) as usize]
}

fn wire_fault(draw: &mut Draw, may_corrupt: bool) -> WireFault {
    let flow = draw.of(&[Flow::ToTarget, Flow::FromTarget, Flow::FromTarget]);
    let byte = match flow {
        Flow::ToTarget => draw.below(600),
        Flow::FromTarget => draw.of(&[0, 1, 100, 500, 1000, 60_000, MIB, MIB + 700, 2 * MIB]) + draw.below(64),
    };
    match draw.below(if may_corrupt { 5 } else { 4 }) {
        0 | 1 => WireFault::Cut(flow, byte),
        2 => WireFault::Stall(flow, byte),
        3 => WireFault::Refuse,
        _ => WireFault::Corrupt(flow, byte),
    }
}

/// Work that meets the fault.
fn draw_work(draw: &mut Draw, fault: &Fault) -> Work {
    let name = fault.point().map_or("", |point| point.name);
    let stage = name.split('.').next().unwrap_or_default();
    match (stage, fault) {
        ("call", _) | (_, Fault::Calls { .. }) => Work::Call,
        _ if ["deliver.connecting", "deliver.connected", "deliver.done", "answer.head"].contains(&name) => {
            draw.of(&[Work::Request, Work::Call])
        }
        (_, Fault::Function(_)) => draw.of(&[Work::Request, Work::Call]),
        _ if name == "put.answering" => draw.of(&[Work::Get, Work::Request, Work::Own]),
        ("put", _) => draw.of(&[Work::Get, Work::Request, Work::Call, Work::Own, Work::CutThrough]),
        _ => draw.of(&[Work::Get, Work::Get, Work::Request, Work::Request, Work::Call, Work::CutThrough, Work::Broadcast]),
    }
}
