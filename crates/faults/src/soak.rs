//! Hours of it: worlds that live from the first fault to the last, and are then as they were at the beginning.
//!
//! Each job keeps one world, whose processes are frozen, cut off, misled and starved but never killed, and lets every fifth
//! fault happen in another that may die. At the end the lasting processes must hold and lease nothing, and have the
//! descriptors, threads, files and memory that they had after their warm-up.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use zipline_testkit::{census, wait};

use crate::draw::Draw;
use crate::packets;
use crate::plan::{Fault, Step};
use crate::report::Tally;
use crate::step;
use crate::world::{Member, REST, World};

/// Faults before what a process has is taken for what it needs: caches and allocators have filled by then.
const WARM_UP: u64 = 20;
/// Anonymous memory that a process may have gained over its warm-up: blocks kept for the next read, and fragments.
const MEMORY_GAIN_MAX: u64 = 16 * 1024 * 1024;

/// What one lasting process has.
#[derive(Clone, Copy, Debug)]
struct Possessions {
    anonymous_bytes: u64,
    threads: u64,
}

/// Lets faults happen for so long, in as many worlds as there are jobs.
pub(crate) async fn run(lasts: Duration, seed: u64, jobs: usize) -> Result<Tally> {
    let until = Instant::now() + lasts;
    let mut running = JoinSet::new();
    for job in 0..jobs as u64 {
        running.spawn_local(one(seed.wrapping_add(job), until));
    }
    let mut tally = Tally::default();
    while let Some(ended) = running.join_next().await {
        tally.add(ended.context("a job panicked")??);
    }
    Ok(tally)
}

async fn one(seed: u64, until: Instant) -> Result<Tally> {
    let mut draw = Draw::new(seed);
    let hands_over = draw.below(3) == 0;
    let mut tally = Tally::of_one_run();
    let mut lasting = World::start(hands_over).await?;
    let (mut before, mut files) = (Vec::new(), 0);
    let mut number = 0;
    while Instant::now() < until || number <= WARM_UP {
        if number == WARM_UP {
            before = lasting.members().map(|(_, member)| possessions(member)).into_iter().collect::<Result<Vec<_>>>()?;
            files = files_in(lasting.folder());
        }
        number += 1;
        tally.faults_of_last = false;
        if number.is_multiple_of(5) {
            let step = Step::draw(&mut draw, hands_over, packets::at_hand());
            step::run(&mut World::start(hands_over).await?, &step, number, &mut tally).await?;
        } else {
            let step = loop {
                let step = Step::draw(&mut draw, hands_over, packets::at_hand());
                if !matches!(step.fault, Fault::Kill { .. } | Fault::Term { .. }) {
                    break step;
                }
            };
            step::run(&mut lasting, &step, number, &mut tally).await?;
        }
    }
    for ((name, member), before) in lasting.members().into_iter().zip(before) {
        compare(name, member, before, &mut tally).await;
    }
    let left = files_in(lasting.folder());
    if left > files {
        tally.leaked_descriptors(format!("{left} files where there were {files}"));
    }
    Ok(tally)
}

async fn compare(name: &str, member: &Member, before: Possessions, tally: &mut Tally) {
    let look = async || possessions(member);
    let is_back =
        |now: &Possessions| now.threads <= before.threads && now.anonymous_bytes <= before.anonymous_bytes + MEMORY_GAIN_MAX;
    match wait::until("memory and threads of the beginning", REST, look, is_back).await {
        Ok(now) => tally.kept(name, before.anonymous_bytes, now.anonymous_bytes),
        Err(error) => tally.leaked_bytes(format!("{name} had {before:?}: {error:#}")),
    }
}

fn possessions(member: &Member) -> Result<Possessions> {
    let pid = member.proxy.process.pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("a process's threads")?.count() as u64;
    Ok(Possessions { anonymous_bytes: census::memory(pid)?.anonymous_bytes, threads })
}

fn files_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_in(&entry.path()) } else { 1 }).sum()
}
