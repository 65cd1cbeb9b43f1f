//! MapReduce as a workflow of scaled functions: word frequency and an inverted index over real text.
//!
//! One program, three services (`driver`, `mapper`, `reducer`) and the tools around them. A newcomer reads [`roles`]
//! first: it is the whole workflow. `README.md` beside it documents the messages and the part format.
#![forbid(unsafe_code)]

mod bundle;
mod corpus;
mod documents;
mod job;
mod part;
mod reference;
mod report;
mod roles;
mod tally;
mod tokens;
mod visits;

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use zipline_workflow::serve;

#[derive(Parser)]
#[command(name = "zipline-mapreduce", version, about = "MapReduce as a workflow of scaled functions")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the driver: runs jobs
    Driver,
    /// Serve as a mapper: counts the words of a part of the documents
    Mapper,
    /// Serve as a reducer: merges parts
    Reducer,
    /// Serve as the driver of the visits' job
    VisitsDriver,
    /// Serve as a mapper of the visits' job: sums revenue by address
    VisitsMapper,
    /// Serve as a reducer of the visits' job
    VisitsReducer,
    /// Make a table of visits
    Visits {
        /// Folder of its parts
        output: PathBuf,
        /// Rows a part
        #[arg(long, default_value_t = 50_000)]
        rows: u32,
        #[arg(long, default_value_t = 8)]
        parts: u32,
        /// Addresses that visits come from
        #[arg(long, default_value_t = u32::MAX)]
        addresses: u32,
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Compute the answer of the visits' job in this one process; prints JSON
    VisitsReference {
        /// Folder of the parts
        input: PathBuf,
        #[arg(long, default_value_t = 8)]
        parts: u32,
        #[arg(long, default_value_t = 2)]
        reducers: u32,
        /// Folder of the results
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Choose the documents of a job and write their list; prints JSON
    Documents {
        /// Every file below this folder; without it, the sources of this project's dependencies
        #[arg(long, value_name = "DIR")]
        input: Option<PathBuf>,
        /// Whose dependencies
        #[arg(long, value_name = "CARGO_TOML", conflicts_with = "input")]
        manifest: Option<PathBuf>,
        /// Bytes of dependencies to reach, generated where there are fewer
        #[arg(long, default_value_t = 32 * 1024 * 1024)]
        bytes_min: u64,
        /// Parts to deal them out to
        #[arg(long)]
        parts: u32,
        /// Folder for generated documents
        #[arg(long, value_name = "DIR")]
        scratch: PathBuf,
        /// Where the list goes
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
    },
    /// Write the documents of one part into one file
    Bundle {
        /// List of documents
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
        /// Which part
        #[arg(long)]
        part: u32,
        /// Where they go
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Compute the result in this one process
    Reference {
        /// List of documents
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
        /// Where the result goes
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the head of a result as JSON
    Summary {
        /// The result
        result: PathBuf,
        /// How many of the most frequent words
        #[arg(long, default_value_t = 10)]
        top: usize,
    },
    /// Write a result's tables as text: words.txt, index.txt, documents.txt
    Export {
        /// The result
        result: PathBuf,
        /// List of documents
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
        /// Where they go
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Driver => serve(roles::drive),
        Command::Mapper => serve(roles::map),
        Command::Reducer => serve(roles::reduce),
        Command::VisitsDriver => serve(visits::drive),
        Command::VisitsMapper => serve(visits::map),
        Command::VisitsReducer => serve(visits::reduce),
        Command::Visits { output, rows, parts, addresses, seed } => {
            visits::generate(&visits::Table { rows, parts, addresses, seed }, &output)
        }
        Command::VisitsReference { input, parts, reducers, output } => {
            print(&visits::reference(&input, parts, reducers, &output)?)
        }
        Command::Documents { input, manifest, bytes_min, parts, scratch, list } => {
            let corpus = match input {
                Some(folder) => corpus::of_folder(&folder)?,
                None => corpus::of_dependencies(manifest.as_deref(), bytes_min, &scratch)?,
            };
            documents::deal(&corpus.files, parts, &list)?;
            let bytes = corpus.files.iter().map(|(_, bytes)| bytes).sum();
            print(&Chosen { documents: corpus.files.len(), bytes, origin: corpus.origin })
        }
        Command::Bundle { list, part, output } => write(&output, |out| bundle::write(&list, part, out)),
        Command::Reference { list, output } => write(&output, |out| reference::compute(&list, out)),
        Command::Summary { result, top } => print(&report::summarise(&read(&result)?, top)?),
        Command::Export { result, list, output } => report::export(&read(&result)?, &list, &output),
    }
}

#[derive(Serialize)]
struct Chosen {
    documents: usize,
    bytes: u64,
    #[serde(flatten)]
    origin: corpus::Origin,
}

fn write(path: &std::path::Path, content: impl FnOnce(&mut BufWriter<std::fs::File>) -> Result<()>) -> Result<()> {
    let named = || format!("the file {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).with_context(named)?);
    content(&mut out)?;
    out.flush().with_context(named)
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("the file {}", path.display()))
}

fn print(document: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out).context("writing to standard output")
}
