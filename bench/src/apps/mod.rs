//! `bench apps`: the paper's applications as real services on the local platform, over every transfer method.
//!
//! One application after another: its services are deployed once a method, every method's answer is checked against a
//! single-process computation, and only then requests are timed. Methods take turns: each round has one request a method and
//! variant, in an order that is drawn anew. Answers of timed requests are checked as well.

mod app;
mod report;
mod sample;
mod stage;

use anyhow::{Result, ensure};

pub(crate) use app::{App, Size};
pub(crate) use report::Report;
pub(crate) use sample::Sample;

use crate::interrupt::Interrupt;
use crate::machine;
use crate::method::{Arm, Choice, Methods, Unanswered};
use crate::network::Network;
use crate::output::{self, Progress};
use crate::s3_place::S3Place;
use crate::stats::SplitMix;
use app::Job;
use report::{Cell, Start};
use stage::{Names, Stage};

/// The largest request that AWS Lambda takes, and so the largest that `inline` could send there.
pub(crate) const INLINE_BYTES_MAX: u64 = 6_291_456;

/// Rounds that are enough where the difference is plain.
pub(crate) const SLOW_ROUNDS: u32 = 30;

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) size: Option<Size>,
    pub(crate) apps: Vec<App>,
    pub(crate) methods: Vec<String>,
    pub(crate) requests: Option<u32>,
    pub(crate) s3: Option<S3Place>,
    pub(crate) network: Network,
}

/// Requests of a run.
struct Plan {
    size: Size,
    /// Rounds of warm requests, and how many of them slow methods take part in.
    warm: u32,
    warm_slow: u32,
    /// Rounds of requests to services at zero.
    cold: u32,
}

impl Options {
    fn plan(&self) -> Plan {
        let (size, warm, cold) = if self.quick { (Size::Laptop, 5, 2) } else { (Size::Full, 100, 10) };
        let warm = self.requests.unwrap_or(warm);
        Plan { size: self.size.unwrap_or(size), warm, warm_slow: warm.min(SLOW_ROUNDS), cold: cold.min(warm) }
    }
}

impl Plan {
    fn rounds(&self, arm: &Arm) -> u32 {
        if arm.slow { self.warm_slow } else { self.warm }
    }

    /// Requests over one method, those that are only checked included.
    fn requests(&self, arm: &Arm) -> usize {
        (2 * (self.rounds(arm) + 1) + self.cold) as usize
    }
}

/// Runs it; also when interrupted, with what was measured until then.
pub(crate) async fn run(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let plan = options.plan();
    let (names, s3) = (options.methods.clone(), options.s3.clone());
    let methods =
        Methods::start(Choice { names, quick: options.quick, seed: options.seed, s3, network: options.network }).await?;
    let apps: Vec<App> = App::ALL.into_iter().filter(|app| options.apps.is_empty() || options.apps.contains(app)).collect();
    apps.iter().try_for_each(|app| fits(*app, plan.size, methods.arms.len() as u64))?;
    let mut report = Report::new(options, plan.size, &methods);
    let requests: usize = methods.arms.iter().map(|arm| plan.requests(arm)).sum();
    let mut progress = Progress::of(apps.len() * requests);
    for app in apps {
        if interrupt.came() {
            break;
        }
        let scratch = tempfile::Builder::new().prefix("zipline-bench-").tempdir()?;
        let job = Job::prepare(app, plan.size, options.seed, scratch.path())?;
        report.add_job(&job);
        let stage = Stage::start(&job, scratch.path(), options.network)?;
        let (order, report) = (SplitMix(options.seed), &mut report);
        let mut measuring = Measuring { stage, interrupt, report, progress: &mut progress, order, timed: Vec::new() };
        let measured = measuring.all(&methods.arms, &plan).await;
        interrupt.excuses(measured)?;
    }
    let delays = interrupt.excuses(methods.delays().await)?.unwrap_or_default();
    report.finish(interrupt.came(), delays, methods.counted()?);
    Ok(report)
}

/// Fails where an application's instances, of all methods at once, would not fit into the memory that there is.
fn fits(app: App, size: Size, methods: u64) -> Result<()> {
    let needed = methods * app.memory_bytes(size);
    let available = machine::available_bytes().unwrap_or(u64::MAX);
    ensure!(
        needed <= available,
        "{} over {methods} methods takes {} of memory, and {} are free\nhint: name fewer of them with --method (each takes {}), or a smaller --size",
        app.name(),
        output::bytes(needed),
        output::bytes(available),
        output::bytes(app.memory_bytes(size))
    );
    Ok(())
}

/// One application being measured.
struct Measuring<'r> {
    stage: Stage<'r>,
    interrupt: &'r Interrupt,
    report: &'r mut Report,
    progress: &'r mut Progress,
    /// Draws the order of a round.
    order: SplitMix,
    /// Methods that take part.
    timed: Vec<&'r Arm>,
}

impl<'r> Measuring<'r> {
    /// Measures over all methods, warm and then from zero, until it is done or a signal comes.
    async fn all(&mut self, arms: &'r [Arm], plan: &Plan) -> Result<()> {
        self.check(arms, plan).await?;
        self.warm(plan).await?;
        if self.interrupt.came() {
            return Ok(());
        }
        for arm in arms {
            self.stage.delete(&self.stage.warm_names(arm)).await?;
        }
        self.cold(plan).await
    }

    /// Deploys every method's services and checks an answer of both variants; none of it is timed.
    async fn check(&mut self, arms: &'r [Arm], plan: &Plan) -> Result<()> {
        let app = self.stage.job.app;
        self.timed = arms.iter().collect();
        for arm in arms {
            let names = self.stage.warm_names(arm);
            self.stage.deploy(arm, &names, true).await?;
            let mut longest = 0;
            for parallel in [true, false] {
                // The first request also fills what instances keep: the clip, the data set, the network.
                let Some(sample) = self.request(arm, &names, parallel, 0).await? else { break };
                longest = sample.body_bytes_max.max(longest);
                self.progress.step(&format!("{} over {}, checked", app.name(), arm.name));
                if self.interrupt.came() {
                    return Ok(());
                }
            }
            if arm.transfer == "inline" && longest > INLINE_BYTES_MAX {
                self.report.refuse(app, arm, longest);
                self.timed.retain(|other| other.name != arm.name);
                (2..plan.requests(arm)).for_each(|_| self.progress.step("refused"));
            }
        }
        Ok(())
    }

    async fn warm(&mut self, plan: &Plan) -> Result<()> {
        let app = self.stage.job.app;
        for round in 1..=plan.warm {
            for parallel in [false, true] {
                for arm in self.turns(|arm| round <= plan.rounds(arm)) {
                    if self.interrupt.came() {
                        return Ok(());
                    }
                    let names = self.stage.warm_names(arm);
                    if let Some(sample) = self.request(arm, &names, parallel, round).await? {
                        self.report.add(Cell { app, method: arm.name, parallel, start: Start::Warm }, sample);
                    }
                    self.progress.step(&format!("{} over {}, warm", app.name(), arm.name));
                }
            }
        }
        Ok(())
    }

    async fn cold(&mut self, plan: &Plan) -> Result<()> {
        let app = self.stage.job.app;
        for round in 1..=plan.cold {
            for arm in self.turns(|_| true) {
                if self.interrupt.came() {
                    return Ok(());
                }
                let names = self.stage.cold_names(arm, round);
                self.stage.deploy(arm, &names, false).await?;
                if let Some(sample) = self.request(arm, &names, true, round).await? {
                    self.report.add(Cell { app, method: arm.name, parallel: true, start: Start::Cold }, sample);
                }
                self.stage.delete(&names).await?;
                self.progress.step(&format!("{} over {}, from zero", app.name(), arm.name));
            }
        }
        Ok(())
    }

    /// The methods of a round in an order of its own: whoever comes before does not always come before.
    fn turns(&mut self, takes_part: impl Fn(&Arm) -> bool) -> Vec<&'r Arm> {
        let mut turns: Vec<&'r Arm> = self.timed.iter().copied().filter(|arm| takes_part(arm)).collect();
        self.order.shuffle(&mut turns);
        turns
    }

    /// A request's sample; `None` where a store failed, whose method is left out of this application from here on.
    async fn request(&mut self, arm: &Arm, names: &Names, parallel: bool, round: u32) -> Result<Option<Sample>> {
        match self.stage.request(arm, names, parallel, round).await {
            Err(error) if arm.is_store() && error.is::<Unanswered>() && !self.interrupt.came() => {
                self.timed.retain(|other| other.name != arm.name);
                self.report.leave_out(arm, format!("{error:#}; left out from there on"));
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }
}
