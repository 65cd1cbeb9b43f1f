//! What a seed draws before anything runs: the settings, the services, and the work.

use core::num::NonZeroU32;
use core::time::Duration;
use std::rc::Rc;

use zipline_contract::limits::BLOCK_BYTES;
use zipline_core::kpa::{AutoscalerConfig, KpaSpec};
use zipline_core::object::{HoldingLimits, RoomLimits};
use zipline_core::pull::ReaderLimits;

use crate::random::Rng;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Instances of all services together.
const INSTANCES_MAX: u64 = 64;

/// Everything that the processes are told at their start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: HoldingLimits,
    pub(crate) reader: ReaderLimits,
    pub(crate) connect_timeout: Duration,
    pub(crate) quiet: Duration,
    pub(crate) grace: Duration,
    pub(crate) pull_connections: usize,
    pub(crate) peer_connections: usize,
    pub(crate) pulls: usize,
    pub(crate) inline_threshold: u64,
    /// Descriptors pass between the proxies of one machine.
    pub(crate) handover: bool,
    /// All proxies add up to one budget.
    pub(crate) shared_budget: bool,
    /// Time of a message on its way, at least and at most.
    pub(crate) latency: (Duration, Duration),
    pub(crate) rate: u64,
    pub(crate) window: u64,
}

/// One service.
#[derive(Clone, Debug)]
pub(crate) struct ServicePlan {
    /// Requests that an instance runs at once; 0: no limit.
    pub(crate) concurrency: u32,
    pub(crate) initial: u32,
    /// `None`: the number of instances stays.
    pub(crate) scaling: Option<KpaSpec>,
    pub(crate) start_time: Duration,
}

/// A size, and how it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    /// Whether it is told before the first byte.
    pub(crate) declared: bool,
    /// Whether the reference is used before the last byte is written.
    pub(crate) cut_through: bool,
}

/// What a function does with a request, beyond reading it.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Answers with so many bytes.
    Answer { work: Duration, bytes: u64 },
    /// Calls another service with a payload of its own, and passes on what that answers.
    Forward { to: usize, size: Size, job: Rc<Job> },
    /// Puts one object for each part, and calls with each.
    Scatter { to: usize, parts: Vec<Size>, job: Rc<Job> },
    /// Puts one object with a slot for each branch, and calls with each.
    Broadcast { to: usize, branches: u32, size: Size, job: Rc<Job> },
    /// Calls for parts, each of which is put where it was made, and gets them all.
    Gather { to: usize, parts: Vec<Size>, ttl: Duration },
    /// Puts an object and answers with its reference.
    Keep { size: Size, retrievals: NonZeroU32, ttl: Duration },
}

/// One piece of work of a client.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) at: Duration,
    pub(crate) deadline: Duration,
    pub(crate) retries: u32,
    pub(crate) what: Work,
}

/// What a client does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Calls a service with a payload.
    Call { to: usize, size: Size, job: Rc<Job> },
    /// Has an object put by a function, and gets it after a while.
    Fetch { to: usize, size: Size, retrievals: NonZeroU32, ttl: Duration, readers: Vec<Reader> },
    /// Puts an object itself, has it read by others, and perhaps frees it.
    Share { size: Size, retrievals: NonZeroU32, ttl: Duration, readers: Vec<Reader> },
}

/// One reader of a shared object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    /// Counted from the put.
    pub(crate) after: Moment,
    /// The service that reads; `None`: the client itself.
    pub(crate) service: Option<usize>,
    pub(crate) slot: Option<u32>,
    /// First byte and length, in parts of 1,000 of the size.
    pub(crate) range: Option<(u64, u64)>,
    /// As a narrowed reference, or only as a range of the read.
    pub(crate) narrowed: bool,
}

/// When a reader asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    After(Duration),
    /// So many milliseconds before or after the reference expires.
    AtExpiry(i64),
}

/// One schedule, before its faults.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) services: Vec<ServicePlan>,
    pub(crate) items: Vec<Item>,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0x91a);
        let settings = draw_settings(&mut rng);
        let services = draw_services(&mut rng);
        let mut items = Vec::new();
        let count = rng.spread(1, 12);
        let span = rng.spread(200, 20_000);
        for _ in 0..count {
            items.push(draw_item(&mut rng, services.len(), span));
        }
        Self { settings, services, items }
    }
}

fn millis(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(rng.spread(low, high))
}

fn draw_settings(rng: &mut Rng) -> Settings {
    let is_tight = rng.chance(0.4);
    let bytes_max = if is_tight { rng.spread(2 * BLOCK, 12 * BLOCK) } else { 1 << 34 };
    let wait_max = if rng.chance(0.15) { Duration::ZERO } else { millis(rng, 50, 5_000) };
    let room = |rng: &mut Rng| RoomLimits {
        bytes_max,
        places_max: if rng.chance(0.3) { rng.spread(2, 12) as usize } else { 200_000 },
        waiters_max: if rng.chance(0.3) { rng.spread(1, 4) as usize } else { 256 },
        wait_max,
    };
    let fast = rng.chance(0.7);
    Settings {
        limits: HoldingLimits {
            held: room(rng),
            receiving: room(rng),
            attempts_extra: rng.pick(&[0, 1, 2, 8]),
            lease: millis(rng, 500, 30_000),
        },
        reader: ReaderLimits { resumes_max: rng.below(5) as u32, idle: millis(rng, 300, 30_000) },
        connect_timeout: millis(rng, 200, 2_000),
        quiet: millis(rng, 1, 3_000),
        grace: millis(rng, 500, 30_000),
        pull_connections: if rng.chance(0.15) { rng.spread(1, 4) as usize } else { 1024 },
        peer_connections: if rng.chance(0.3) { rng.spread(1, 3) as usize } else { 16 },
        pulls: if rng.chance(0.3) { rng.spread(1, 4) as usize } else { 256 },
        inline_threshold: rng.pick(&[0, 1, 64, 32 * 1024]),
        handover: rng.chance(0.25),
        shared_budget: rng.chance(0.2),
        latency: if fast {
            (Duration::from_micros(30), Duration::from_millis(1))
        } else {
            (Duration::from_millis(1), Duration::from_millis(80))
        },
        rate: rng.spread(4_000_000, 10_000_000_000),
        window: rng.spread(2_000, 4_000_000),
    }
}

fn draw_services(rng: &mut Rng) -> Vec<ServicePlan> {
    let count = rng.between(1, 4);
    // Mostly few instances, sometimes as many as there may be.
    let most = rng.spread(1, INSTANCES_MAX) / count;
    let is_scaled = rng.chance(0.35);
    (0..count)
        .map(|_| {
            let concurrency = rng.pick(&[0, 1, 1, 2, 5]);
            let most = rng.between(1, most.max(1)) as u32;
            ServicePlan {
                concurrency,
                initial: most,
                scaling: is_scaled.then(|| draw_scaling(rng, concurrency, most)).flatten(),
                start_time: millis(rng, 1, 3_000),
            }
        })
        .collect()
}

/// The autoscaler's settings as an operator would write them; `None` never, since what is drawn is within every limit.
fn draw_scaling(rng: &mut Rng, concurrency: u32, most: u32) -> Option<KpaSpec> {
    let text = |name: &'static str, value: u64| (name, value.to_string());
    let mut annotations = vec![
        text("autoscaling.knative.dev/max-scale", u64::from(most.max(1))),
        ("autoscaling.knative.dev/window", "6s".to_owned()),
    ];
    if rng.chance(0.3) {
        annotations.push(text("autoscaling.knative.dev/min-scale", rng.between(0, u64::from(most.min(2)))));
    }
    if rng.chance(0.3) {
        annotations.push(text("autoscaling.knative.dev/initial-scale", rng.between(1, u64::from(most))));
    }
    if rng.chance(0.5) {
        annotations.push(text("autoscaling.knative.dev/target", rng.between(1, 4)));
    }
    if rng.chance(0.3) {
        annotations.push(("autoscaling.knative.dev/metric", "rps".to_owned()));
    }
    if rng.chance(0.4) {
        let burst = rng.pick(&["0", "-1", "3"]);
        annotations.push(("autoscaling.knative.dev/target-burst-capacity", burst.to_owned()));
    }
    let config = AutoscalerConfig { scale_to_zero_grace_period: Duration::from_secs(2), ..AutoscalerConfig::default() };
    let annotations = annotations.iter().map(|(name, value)| (*name, value.as_str()));
    KpaSpec::from_annotations(annotations, concurrency, &config).ok().map(|(spec, _)| spec)
}

fn draw_item(rng: &mut Rng, services: usize, span: u64) -> Item {
    Item {
        at: Duration::from_millis(rng.below(span)),
        deadline: millis(rng, 1_000, 60_000),
        retries: rng.below(3) as u32,
        what: match rng.below(10) {
            0..=4 => {
                Work::Call { to: rng.below(services as u64) as usize, size: draw_size(rng), job: draw_job(rng, services, 0) }
            }
            5 | 6 => {
                let (size, retrievals, ttl) = (draw_size(rng), draw_retrievals(rng), draw_ttl(rng));
                let readers = draw_readers(rng, services, retrievals, ttl);
                Work::Fetch { to: rng.below(services as u64) as usize, size, retrievals, ttl, readers }
            }
            _ => {
                let (size, retrievals, ttl) = (draw_size(rng), draw_retrievals(rng), draw_ttl(rng));
                let readers = draw_readers(rng, services, retrievals, ttl);
                Work::Share { size, retrievals, ttl, readers }
            }
        },
    }
}

fn draw_retrievals(rng: &mut Rng) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(rng.pick(&[0, 0, 0, 1, 2, 3, 7]))
}

fn draw_ttl(rng: &mut Rng) -> Duration {
    millis(rng, 300, 40_000)
}

fn draw_readers(rng: &mut Rng, services: usize, retrievals: NonZeroU32, ttl: Duration) -> Vec<Reader> {
    // As many as there are retrievals, fewer, or more.
    let count = rng.below(u64::from(retrievals.get()) + 3);
    let with_slots = rng.chance(0.4);
    (0..count)
        .map(|number| {
            let is_at_expiry = rng.chance(0.12);
            let is_part = rng.chance(0.2);
            Reader {
                after: if is_at_expiry {
                    Moment::AtExpiry(rng.pick(&[-1, 0, 0, 1]))
                } else {
                    Moment::After(Duration::from_millis(rng.below(ttl.as_millis() as u64 * 5 / 4)))
                },
                service: rng.chance(0.5).then(|| rng.below(services as u64) as usize),
                // Now and then two share one.
                slot: with_slots.then(|| (number as u32 + rng.pick(&[0, 0, 0, 1])) % retrievals.get()),
                range: is_part.then(|| (rng.below(1_000), rng.between(1, 1_000))),
                narrowed: rng.chance(0.5),
            }
        })
        .collect()
}

fn draw_size(rng: &mut Rng) -> Size {
    let blocks = rng.between(1, 4) * BLOCK;
    let bytes = match rng.below(12) {
        0 => 0,
        1..=5 => rng.spread(1, 2_000),
        6 => blocks - 1,
        7 => blocks,
        8 => blocks + 1,
        _ => rng.spread(1_000, 4 * BLOCK),
    };
    let declared = rng.chance(0.6);
    Size { bytes, declared, cut_through: rng.chance(0.4) }
}

/// Depth at which functions only answer.
const DEPTH_MAX: u32 = 4;

fn draw_job(rng: &mut Rng, services: usize, depth: u32) -> Rc<Job> {
    let to = rng.below(services as u64) as usize;
    let choice = if depth >= DEPTH_MAX { 0 } else { rng.below(10 + u64::from(depth) * 6) };
    let parts = |rng: &mut Rng| {
        let count = rng.spread(1, 16);
        (0..count).map(|_| draw_size(rng)).collect()
    };
    Rc::new(match choice {
        1..=3 => Job::Forward { to, size: draw_size(rng), job: draw_job(rng, services, depth + 1) },
        4 => Job::Scatter { to, parts: parts(rng), job: draw_job(rng, services, DEPTH_MAX) },
        5 => {
            let branches = rng.spread(1, 16) as u32;
            Job::Broadcast { to, branches, size: draw_size(rng), job: draw_job(rng, services, DEPTH_MAX) }
        }
        6 => Job::Gather { to, parts: parts(rng), ttl: draw_ttl(rng) },
        _ => Job::Answer { work: millis(rng, 1, 3_000), bytes: rng.pick(&[0, 10, 40_000, 2_000_000]) },
    })
}
