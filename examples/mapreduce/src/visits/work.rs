//! The three services of the job, and the same by one process.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, spawn_blocking};
use zipline_sdk::{Client, Failure, Payload, PayloadWriter, Request, Response};
use zipline_workflow::{Attachment, Letter, Work, bad_request, failed, letter};

use super::rows::{each_visit, part_file};
use super::sums::Sums;
use crate::tally::Fnv1a;

/// Mappers or reducers of a job.
const CALLS_MAX: u32 = 256;
/// Bytes that are gathered before they are written into a payload.
const WRITE_BYTES: usize = 256 * 1024;

/// To the driver: run the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Query {
    /// Folder of the table's parts, one a mapper.
    input: PathBuf,
    /// Folder of the results, one file a reducer; this request's own.
    output: PathBuf,
    mappers: u32,
    reducers: u32,
    /// All mappers at once, then all reducers, not one after another.
    parallel: bool,
    /// Services.
    mapper: String,
    reducer: String,
}

/// The driver's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// What each reducer found, in their order.
    results: Vec<Found>,
}

/// To a mapper.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Map {
    input: PathBuf,
    part: u32,
    reducers: u32,
}

/// A mapper's answer, with a part for each reducer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mapped {
    input_bytes: u64,
}

/// To a reducer, with its parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reduce {
    output: PathBuf,
}

/// A reducer's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Found {
    addresses: u64,
    revenue_millionths: u64,
    /// FNV-1a of the result's file.
    digest: String,
}

/// Runs the job.
pub(crate) async fn drive(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Arc::new(Work::begin(&client, "driver"));
    let query: Query = letter(&request)?.head;
    for (what, number) in [("mappers", query.mappers), ("reducers", query.reducers)] {
        if !(1..=CALLS_MAX).contains(&number) {
            return Err(bad_request(format_args!("{what}: {number}, expected 1 to {CALLS_MAX}")));
        }
    }
    let map = |part| (Map { input: query.input.clone(), part, reducers: query.reducers }, Vec::new());
    let maps = (0..query.mappers).map(map).collect();
    let mapped: Vec<Letter<Mapped>> = ask_each(&work, &query.mapper, maps, query.parallel).await?;
    if let Some(odd) = mapped.iter().find(|mapped| mapped.attachments.len() != query.reducers as usize) {
        return Err(failed(format_args!(
            "a mapper answered with {} parts for {} reducers",
            odd.attachments.len(),
            query.reducers
        )));
    }
    let reduce = |reducer: u32| {
        let parts = mapped.iter().map(|mapped| mapped.attachments[reducer as usize].clone()).collect();
        (Reduce { output: result_file(&query.output, reducer) }, parts)
    };
    let reduces = (0..query.reducers).map(reduce).collect();
    let found: Vec<Letter<Found>> = ask_each(&work, &query.reducer, reduces, query.parallel).await?;
    work.answer(&Answer { results: found.into_iter().map(|found| found.head).collect() }, &[])
}

/// Asks a service all of these, at once or one after another; answers in their order.
async fn ask_each<H, A>(
    work: &Arc<Work>,
    service: &str,
    messages: Vec<(H, Vec<Attachment>)>,
    parallel: bool,
) -> Result<Vec<Letter<A>>, Failure>
where
    H: Serialize + Send + Sync + 'static,
    A: serde::de::DeserializeOwned + Send + 'static,
{
    let mut answers = Vec::with_capacity(messages.len());
    if !parallel {
        for (head, attachments) in messages {
            answers.push(work.ask(service, &head, &attachments).await?);
        }
        return Ok(answers);
    }
    let mut asking = JoinSet::new();
    for (at, (head, attachments)) in messages.into_iter().enumerate() {
        let (work, service) = (Arc::clone(work), service.to_owned());
        asking.spawn(async move { Ok::<_, Failure>((at, work.ask(&service, &head, &attachments).await?)) });
    }
    let mut numbered = Vec::new();
    while let Some(answer) = asking.join_next().await {
        numbered.push(answer??);
    }
    numbered.sort_unstable_by_key(|(at, _)| *at);
    Ok(numbered.into_iter().map(|(_, answer)| answer).collect())
}

/// Sums the visits of one part by address, a part for each reducer.
pub(crate) async fn map(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Work::begin(&client, "mapper");
    let Map { input, part, reducers } = letter(&request)?.head;
    if !(1..=CALLS_MAX).contains(&reducers) {
        return Err(bad_request(format_args!("reducers: {reducers}, expected 1 to {CALLS_MAX}")));
    }
    let summed = spawn_blocking(move || {
        let mut sums = Sums::default();
        let input_bytes = each_visit(&part_file(&input, part), |address, revenue| sums.add(address, revenue))?;
        let writer = || PayloadWriter::new().map(|writer| BufWriter::with_capacity(WRITE_BYTES, writer));
        let mut writers = (0..reducers).map(|_| writer()).collect::<Result<Vec<_>, _>>()?;
        sums.write_parts(&mut writers)?;
        let parts = writers.into_iter().map(finish).collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok((input_bytes, parts))
    });
    let (input_bytes, parts) = summed.await?.map_err(bad_request)?;
    let mut attachments = Vec::with_capacity(parts.len());
    for part in parts {
        attachments.push(work.attach_one(part).await?);
    }
    work.answer(&Mapped { input_bytes }, &attachments)
}

fn finish(mut writer: BufWriter<PayloadWriter>) -> anyhow::Result<Payload> {
    writer.flush()?;
    Ok(writer.into_inner().map_err(|error| error.into_error())?.finish()?)
}

/// Adds the parts up and writes the result.
pub(crate) async fn reduce(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Work::begin(&client, "reducer");
    let letter = letter::<Reduce>(&request)?;
    let parts = work.take_all(&letter.attachments).await?;
    let output = letter.head.output;
    let reduced = spawn_blocking(move || {
        let mut sums = Sums::default();
        parts.iter().try_for_each(|part| sums.add_part(part))?;
        write_result(&sums, &output)
    });
    work.answer(&reduced.await?.map_err(bad_request)?, &[])
}

fn result_file(folder: &Path, reducer: u32) -> PathBuf {
    folder.join(format!("result-{reducer:03}"))
}

fn write_result(sums: &Sums, path: &Path) -> anyhow::Result<Found> {
    let table = sums.to_table();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    }
    std::fs::write(path, &table).with_context(|| format!("the result {}", path.display()))?;
    Ok(Found { addresses: sums.len(), revenue_millionths: sums.total(), digest: format!("{:016x}", Fnv1a::of(&table)) })
}

/// The same results by this one process, without services: one map of everything, split at the end.
pub(crate) fn reference(input: &Path, parts: u32, reducers: u32, output: &Path) -> anyhow::Result<Answer> {
    ensure!((1..=CALLS_MAX).contains(&reducers), "reducers: {reducers}, expected 1 to {CALLS_MAX}");
    let mut revenue = std::collections::BTreeMap::<u32, u64>::new();
    for part in 0..parts {
        each_visit(&part_file(input, part), |address, millionths| *revenue.entry(address).or_default() += millionths)?;
    }
    let mut split: Vec<Sums> = (0..reducers).map(|_| Sums::default()).collect();
    for (address, millionths) in revenue {
        split[(Fnv1a::of(&address.to_be_bytes()) % u64::from(reducers)) as usize].add(address, millionths);
    }
    let results = split.iter().zip(0..).map(|(sums, reducer)| write_result(sums, &result_file(output, reducer)));
    Ok(Answer { results: results.collect::<anyhow::Result<_>>()? })
}
