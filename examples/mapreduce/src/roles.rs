//! The three services of the job: driver, mapper, reducer.
//!
//! Mappers and reducers put what they made and answer with references; whoever needs the bytes gets them. So every
//! edge of the shuffle moves as the transfer method says, and the code is the same for all methods.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use zipline_sdk::{Call, Client, Failure, PARALLEL_DEFAULT, Payload, PayloadWriter, PutOptions, Request, Response};

use crate::bundle::Documents;
use crate::documents;
use crate::job::{Edge, Map, Mapped, Phase, Ran, Reduce, Reduced, Run, SCHEMA, Stored, answer, check_schema, parse, payload};
use crate::part::{Merged, PartError, merge};
use crate::tally::Tally;
use crate::tokens::each_token;

/// Calls of one kind that a driver has under way at once, and parts of one job.
const CALLS_MAX: u32 = 256;
/// Bytes that are gathered before they are written into a payload.
const WRITE_BYTES: usize = 256 * 1024;

/// Runs a job: calls the mappers, hands their references to the reducers, gets and merges what these made.
pub(crate) async fn drive(client: Client, request: Request) -> Result<Response, Failure> {
    let run: Run = parse(&request.payload)?;
    check_schema(run.schema)?;
    for (what, number) in [("mappers", run.mappers), ("reducers", run.reducers)] {
        if !(1..=CALLS_MAX).contains(&number) {
            return Err(Failure::new(http::StatusCode::BAD_REQUEST, format!("{what}: {number}, expected 1 to {CALLS_MAX}")));
        }
    }
    if !run.inputs.is_empty() && run.inputs.len() != run.mappers as usize {
        let detail = format!("{} inputs for {} mappers", run.inputs.len(), run.mappers);
        return Err(Failure::new(http::StatusCode::BAD_REQUEST, detail));
    }
    let mut phases = Phases::begin();
    let mut edges = Vec::new();

    let maps: Vec<Mapped> = ask(&client, &run.mapper, run.mappers, |part| {
        let input = run.inputs.get(part as usize).cloned();
        payload(&Map { schema: SCHEMA, documents: run.documents.clone(), input, part, reducers: run.reducers })
    })
    .await?;
    phases.end("map");

    if let Some(odd) = maps.iter().find(|mapped| mapped.parts.len() != run.reducers as usize) {
        let detail = format!("service `{}` answered with {} parts for {} reducers", run.mapper, odd.parts.len(), run.reducers);
        return Err(Failure::new(http::StatusCode::BAD_GATEWAY, detail));
    }
    let reduces: Vec<Reduced> = ask(&client, &run.reducer, run.reducers, |reducer| {
        let parts = maps.iter().map(|mapped| mapped.parts[reducer as usize].reference.clone()).collect();
        payload(&Reduce { schema: SCHEMA, parts })
    })
    .await?;
    phases.end("reduce");

    for (mapper, mapped) in maps.iter().enumerate() {
        edges.extend(
            mapped.parts.iter().enumerate().map(|(reducer, part)| edge("mapper", mapper, &format!("reducer-{reducer}"), part)),
        );
    }
    edges.extend(reduces.iter().enumerate().map(|(reducer, reduced)| edge("reducer", reducer, "driver", &reduced.result)));

    let results: Vec<_> = reduces.iter().map(|reduced| reduced.result.reference.clone()).collect();
    let results = client.gather(&results, PARALLEL_DEFAULT).await?;
    let (result, merged) = tokio::task::spawn_blocking(move || merge_payloads(&results)).await??;
    let result_bytes = result.len() as u64;
    let result = client.put(result, PutOptions::default()).await?;
    phases.end("collect");
    answer(&Ran {
        schema: SCHEMA,
        result,
        result_bytes,
        words: merged.words,
        tokens: maps.iter().map(|mapped| mapped.tokens).sum(),
        documents: maps.iter().map(|mapped| mapped.documents).sum(),
        input_bytes: maps.iter().map(|mapped| mapped.input_bytes).sum(),
        edges,
        phases: phases.ended,
    })
}

/// Counts the words of one part of the documents, and puts one part per reducer.
pub(crate) async fn map(client: Client, request: Request) -> Result<Response, Failure> {
    let map: Map = parse(&request.payload)?;
    check_schema(map.schema)?;
    if !(1..=CALLS_MAX).contains(&map.reducers) {
        return Err(Failure::new(
            http::StatusCode::BAD_REQUEST,
            format!("reducers: {}, expected 1 to {CALLS_MAX}", map.reducers),
        ));
    }
    let bundle = match &map.input {
        Some(input) => Some(client.get(input).await?),
        None => None,
    };
    let (parts, mut mapped) = tokio::task::spawn_blocking(move || count_part(&map, bundle.as_deref())).await??;
    let sizes: Vec<_> = parts.iter().map(|part| part.len() as u64).collect();
    let references = client.scatter(parts, PutOptions::default(), PARALLEL_DEFAULT).await?;
    mapped.parts = references.into_iter().zip(sizes).map(|(reference, bytes)| Stored { reference, bytes }).collect();
    answer(&mapped)
}

/// Gets the parts, merges them, and puts the result.
pub(crate) async fn reduce(client: Client, request: Request) -> Result<Response, Failure> {
    let reduce: Reduce = parse(&request.payload)?;
    check_schema(reduce.schema)?;
    let parts = client.gather(&reduce.parts, PARALLEL_DEFAULT).await?;
    let (result, merged) = tokio::task::spawn_blocking(move || merge_payloads(&parts)).await??;
    let bytes = result.len() as u64;
    let reference = client.put(result, PutOptions::default()).await?;
    answer(&Reduced { result: Stored { reference, bytes }, words: merged.words })
}

/// Calls a service `number` times at once and reads its answers.
async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    service: &str,
    number: u32,
    message: impl Fn(u32) -> Result<Payload, Failure>,
) -> Result<Vec<T>, Failure> {
    let calls: Vec<_> =
        (0..number).map(|index| Ok(Call::new(service).payload(message(index)?))).collect::<Result<_, Failure>>()?;
    let answers = client.call_each(calls, number as usize).await?;
    let read = |(index, response): (usize, &Response)| {
        if !response.status.is_success() {
            let text = String::from_utf8_lossy(&response.payload).trim_end().to_owned();
            let detail = format!("service `{service}` answered call {index} with {}: {text}", response.status);
            return Err(Failure::new(http::StatusCode::BAD_GATEWAY, detail));
        }
        serde_json::from_slice(&response.payload)
            .map_err(|error| Failure::new(http::StatusCode::BAD_GATEWAY, format!("service `{service}`, answer {index}: {error}")))
    };
    answers.iter().enumerate().map(read).collect()
}

/// Counts the documents of one part, out of a bundle or where they lie; the answer's references are still missing.
fn count_part(map: &Map, bundle: Option<&[u8]>) -> Result<(Vec<Payload>, Mapped), Failure> {
    let mut tally = Tally::default();
    let mut mapped = Mapped { parts: Vec::new(), documents: 0, input_bytes: 0, tokens: 0 };
    match bundle {
        Some(bundle) => count_bundle(bundle, &mut tally, &mut mapped)?,
        None => count_files(map, &mut tally, &mut mapped)?,
    }
    mapped.tokens = tally.tokens();
    let writer = || PayloadWriter::new().map(|writer| BufWriter::with_capacity(WRITE_BYTES, writer));
    let mut writers = (0..map.reducers).map(|_| writer()).collect::<Result<Vec<_>, _>>()?;
    tally.write(&mut writers)?;
    let parts = writers.into_iter().map(finish).collect::<Result<_, _>>()?;
    Ok((parts, mapped))
}

fn count_files(map: &Map, tally: &mut Tally, mapped: &mut Mapped) -> Result<(), Failure> {
    let all = documents::read(Path::new(&map.documents))
        .map_err(|error| Failure::new(http::StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    for document in all.iter().filter(|document| document.part == map.part) {
        let failed = |error: std::io::Error| {
            Failure::new(http::StatusCode::INTERNAL_SERVER_ERROR, format!("document {}: {error}", document.path.display()))
        };
        tally.begin_document(document.number);
        mapped.documents += 1;
        let file = std::fs::File::open(&document.path).map_err(failed)?;
        mapped.input_bytes += each_token(file, |word| tally.count(word)).map_err(failed)?;
    }
    Ok(())
}

fn count_bundle(bundle: &[u8], tally: &mut Tally, mapped: &mut Mapped) -> Result<(), Failure> {
    let unreadable = |error: PartError| Failure::new(http::StatusCode::BAD_REQUEST, error.to_string());
    for document in Documents::of(bundle).map_err(unreadable)? {
        let (number, text) = document.map_err(unreadable)?;
        tally.begin_document(number);
        mapped.documents += 1;
        mapped.input_bytes += each_token(text, |word| tally.count(word))?;
    }
    Ok(())
}

fn merge_payloads(parts: &[Payload]) -> Result<(Payload, Merged), Failure> {
    let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
    let mut writer = BufWriter::with_capacity(WRITE_BYTES, PayloadWriter::new()?);
    let merged = merge(&parts, &mut writer)?;
    Ok((finish(writer)?, merged))
}

fn finish(mut writer: BufWriter<PayloadWriter>) -> Result<Payload, Failure> {
    writer.flush()?;
    let writer = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(writer.finish()?)
}

fn edge(kind: &str, index: usize, to: &str, part: &Stored) -> Edge {
    Edge { from: format!("{kind}-{index}"), to: to.to_owned(), method: part.reference.method().to_owned(), bytes: part.bytes }
}

/// Steps one after another, timed.
struct Phases {
    ended: Vec<Phase>,
    begun: Instant,
}

impl Phases {
    fn begin() -> Self {
        Self { ended: Vec::new(), begun: Instant::now() }
    }

    fn end(&mut self, name: &str) {
        self.ended.push(Phase { name: name.to_owned(), seconds: self.begun.elapsed().as_secs_f64() });
        self.begun = Instant::now();
    }
}
