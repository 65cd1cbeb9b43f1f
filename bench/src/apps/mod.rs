//! `bench apps`: the paper's applications as real services on the local platform, over every transfer method.
//!
//! One application after another: its services are deployed once a method, every method's answer is checked against a
//! single-process computation, and only then requests are timed. Methods take turns: each round has one request a method and
//! variant, in an order that shifts from round to round. Answers of timed requests are checked as well.

mod app;
mod report;
mod sample;
mod stage;

use anyhow::Result;

pub(crate) use app::{App, Size};
pub(crate) use report::Report;
pub(crate) use sample::Sample;

use crate::interrupt::Interrupt;
use crate::method::{Arm, Methods};
use crate::output::Progress;
use app::Job;
use report::{Cell, Start};
use stage::Stage;

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
    let methods = Methods::start(&options.methods, options.quick, options.seed).await?;
    let apps: Vec<App> = App::ALL.into_iter().filter(|app| options.apps.is_empty() || options.apps.contains(app)).collect();
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
        let mut stage = Stage::start(&job, scratch.path())?;
        let measured = measure(&mut stage, &methods.arms, &plan, interrupt, &mut report, &mut progress).await;
        interrupt.excuses(measured)?;
    }
    report.finish(interrupt.came(), interrupt.excuses(methods.delays().await)?.unwrap_or_default());
    Ok(report)
}

/// Measures one application over all methods, warm and then from zero.
async fn measure(
    stage: &mut Stage<'_>,
    arms: &[Arm],
    plan: &Plan,
    interrupt: &Interrupt,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let app = stage.job.app;
    let mut timed: Vec<&Arm> = Vec::new();
    for arm in arms {
        stage.deploy(arm, &stage.warm_names(arm), true).await?;
        let mut longest = 0;
        for parallel in [true, false] {
            // The first request also fills what instances keep: the clip, the data set, the network.
            longest = stage.request(arm, &stage.warm_names(arm), parallel, 0).await?.body_bytes_max.max(longest);
            progress.step(&format!("{} over {}, checked", app.name(), arm.name));
            if interrupt.came() {
                return Ok(());
            }
        }
        if arm.transfer == "inline" && longest > INLINE_BYTES_MAX {
            report.refuse(app, arm, longest);
            (2..plan.requests(arm)).for_each(|_| progress.step("refused"));
        } else {
            timed.push(arm);
        }
    }
    for round in 1..=plan.warm {
        let taking_part: Vec<&Arm> = timed.iter().copied().filter(|arm| round <= plan.rounds(arm)).collect();
        for parallel in [false, true] {
            for turn in 0..taking_part.len() {
                let arm = taking_part[(turn + round as usize) % taking_part.len()];
                let sample = stage.request(arm, &stage.warm_names(arm), parallel, round).await?;
                report.add(Cell { app, method: arm.name, parallel, start: Start::Warm }, sample);
                progress.step(&format!("{} over {}, warm", app.name(), arm.name));
                if interrupt.came() {
                    return Ok(());
                }
            }
        }
    }
    for arm in arms {
        stage.delete(&stage.warm_names(arm)).await?;
    }
    for round in 1..=plan.cold {
        for turn in 0..timed.len() {
            let arm = timed[(turn + round as usize) % timed.len()];
            let names = stage.cold_names(arm, round);
            stage.deploy(arm, &names, false).await?;
            let sample = stage.request(arm, &names, true, round).await?;
            report.add(Cell { app, method: arm.name, parallel: true, start: Start::Cold }, sample);
            stage.delete(&names).await?;
            progress.step(&format!("{} over {}, from zero", app.name(), arm.name));
            if interrupt.came() {
                return Ok(());
            }
        }
    }
    Ok(())
}
