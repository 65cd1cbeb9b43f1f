//! `zipline demo`: MapReduce over real text on a platform of its own, checked against a plain computation.
//!
//! Per transfer method: a platform on free ports in a temporary state directory, or a namespace of a cluster, three services, one job. Then the same
//! answer by one process, compared byte for byte. `examples/mapreduce` is the workflow; this is its stage.

mod cloud;
mod job;
mod report;
mod services;
mod store;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use zipline_contract::Transfer;
use zipline_servers::Server;

use self::cloud::Cluster;
use crate::arguments::transfer_method;
use crate::failure::{Exit, Failure, Outcome};
use crate::format;
use crate::output::{Output, SCHEMA};
use crate::programs;

/// Mappers of the demo: parts of the input, and the most instances their service may have.
const MAPPERS: u32 = 8;
/// Reducers of the demo.
const REDUCERS: u32 = 2;
/// Image of the three services on a cluster, as `cargo xtask image mapreduce` names it.
const IMAGE: &str = concat!("dev.local/zipline/mapreduce:", env!("CARGO_PKG_VERSION"));
/// Most frequent words that are shown.
const TOP: &str = "10";

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How payloads move
    #[arg(long, value_parser = transfer_method(), default_value = Transfer::default().name())]
    transfer: Transfer,
    /// Run the job with every method that can be had here and show them side by side
    #[arg(long, conflicts_with = "transfer")]
    compare: bool,
    /// Language of mappers and reducers
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Count the words of every file below this folder, instead of the sources of Zipline's dependencies
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Also write the result as text: words.txt, index.txt, documents.txt
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// With --cluster: image of the three services
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
    /// For tests: change one byte of the result before it is checked
    #[arg(long, hide = true)]
    corrupt_result: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
        }
    }
}

/// What was chosen to be read, as `zipline-mapreduce documents` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Input {
    documents: u64,
    bytes: u64,
    packages: u64,
    generated_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The head of a result, as `zipline-mapreduce summary` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    words: u64,
    tokens: u64,
    postings: u64,
    top: Vec<TopWord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TopWord {
    word: String,
    count: u64,
    documents: u64,
}

pub(crate) async fn run(arguments: Demo, cluster: Option<String>, output: Output) -> Result<Outcome, Failure> {
    let cluster = match cluster {
        Some(namespace) => {
            check_for_cluster(&arguments)?;
            Some(Cluster::connect(namespace).await?)
        }
        None => None,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::system("listening for SIGINT", &error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::system("listening for SIGTERM", &error))?;
    // Dropping the show ends its platform's processes and removes its folder.
    let outcome = tokio::select! {
        outcome = show(arguments, cluster.as_ref(), output) => outcome,
        _ = interrupt.recv() => Err(Failure::new(Exit::Interrupted, "interrupted", "the demo was interrupted")),
        _ = terminate.recv() => Err(Failure::new(Exit::Interrupted, "interrupted", "the demo was told to end")),
    };
    match &cluster {
        Some(cluster) => cluster.clean_up().await.and(outcome),
        None => outcome,
    }
}

/// What a cluster cannot do as it is.
fn check_for_cluster(arguments: &Demo) -> Result<(), Failure> {
    let refused = |message: &str| Failure::new(Exit::Usage, "usage", message);
    if arguments.lang == Language::Python {
        return Err(refused("on a cluster the demo runs from an image, and the Python mapper and reducer have none")
            .hint("leave out --lang python"));
    }
    if matches!(arguments.transfer, Transfer::S3 | Transfer::Redis) {
        return Err(refused(
            "on a cluster the demo runs with `zipline` and `inline`: a store of this machine is out of its pods' reach",
        ));
    }
    Ok(())
}

async fn show(arguments: Demo, cluster: Option<&Cluster>, output: Output) -> Result<Outcome, Failure> {
    let scratch = tempfile::Builder::new().prefix("zipline-demo-").tempdir();
    let scratch = scratch.map_err(|error| Failure::system("a temporary folder for the demo", &error))?;
    let stage = Stage {
        mapreduce: programs::beside("zipline-mapreduce")?,
        list: scratch.path().join("documents"),
        scratch: scratch.path().to_owned(),
        language: arguments.lang,
        cluster: cluster.map(|cluster| (cluster, arguments.image.as_str())),
        output,
    };
    let input = stage.choose(arguments.input.as_deref()).await?;
    let methods = match arguments.compare {
        true if cluster.is_some() => vec![Transfer::Zipline, Transfer::Inline],
        true => comparable(arguments.lang, output).await,
        false => vec![arguments.transfer],
    };
    let mut runs = Vec::new();
    for method in methods {
        let run = job::run(&stage, method).await?;
        if arguments.corrupt_result {
            corrupt(&run.result)?;
        }
        runs.push(run);
    }
    let reference = stage.reference().await?;
    for run in &mut runs {
        verify(run, &reference, output)?;
    }
    let summary = stage.summary(&reference).await?;
    if let (Some(folder), Some(run)) = (&arguments.output, runs.first()) {
        stage.export(&run.result, folder).await?;
    }
    let place = cluster.map(|cluster| format!(" --cluster={}", cluster.namespace())).unwrap_or_default();
    let report = report::Report { schema: SCHEMA, lang: arguments.lang.name(), place, input, summary, runs };
    report.print(output)
}

/// What every run of a demo shares.
struct Stage<'c> {
    mapreduce: PathBuf,
    list: PathBuf,
    scratch: PathBuf,
    language: Language,
    /// The cluster it runs on, and the image of the services there.
    cluster: Option<(&'c Cluster, &'c str)>,
    output: Output,
}

impl Stage<'_> {
    async fn choose(&self, folder: Option<&Path>) -> Result<Input, Failure> {
        let step = self.output.step("choosing the text");
        let mut command = Command::new(&self.mapreduce);
        command
            .args(["documents", "--parts", &MAPPERS.to_string(), "--list"])
            .arg(&self.list)
            .arg("--scratch")
            .arg(&self.scratch);
        match (folder, programs::project_with("Cargo.lock")) {
            (Some(folder), _) => drop(command.arg("--input").arg(folder)),
            (None, Some(project)) => drop(command.arg("--manifest").arg(project.join("Cargo.toml"))),
            (None, None) => {}
        }
        let input: Input = programs::document(&mut command).await?;
        let source = match (folder, input.packages) {
            (Some(folder), _) => format!("below {}", folder.display()),
            (None, 0) => "generated".to_owned(),
            (None, packages) => format!("the sources of {packages} of Zipline's dependencies"),
        };
        step.done(&format!("{} in {} files, {source}", format::bytes(input.bytes), format::count(input.documents)));
        if let Some(note) = &input.note {
            self.output.note(&format!("    {note}"));
        }
        Ok(input)
    }

    /// The right result, by one process without a platform.
    async fn reference(&self) -> Result<PathBuf, Failure> {
        let step = self.output.step("computing the answer in one process, to check");
        let path = self.scratch.join("reference");
        let mut command = Command::new(&self.mapreduce);
        programs::run(command.arg("reference").arg("--list").arg(&self.list).arg("--output").arg(&path)).await?;
        step.done("");
        Ok(path)
    }

    async fn summary(&self, result: &Path) -> Result<Summary, Failure> {
        programs::document(Command::new(&self.mapreduce).arg("summary").arg(result).args(["--top", TOP])).await
    }

    async fn export(&self, result: &Path, folder: &Path) -> Result<(), Failure> {
        let mut command = Command::new(&self.mapreduce);
        command.arg("export").arg(result).arg("--list").arg(&self.list).arg("--output").arg(folder);
        programs::run(&mut command).await.map(drop)
    }
}

/// Every method; without those, and that is said, whose server or client is not there.
async fn comparable(language: Language, output: Output) -> Vec<Transfer> {
    let mut methods = vec![Transfer::Zipline, Transfer::Inline];
    for (method, server, module) in [(Transfer::S3, Server::S3, "boto3"), (Transfer::Redis, Server::Redis, "redis")] {
        let name = method.name();
        if let Err(error) = store::at_hand(method, server) {
            output.note(&format!("without `{name}`: {error}\nhint: {}", error.hint()));
        } else if language == Language::Python && !has_module(module).await {
            output.note(&format!("without `{name}`: Python has no module `{module}`\nhint: `pip install {module}`"));
        } else {
            methods.push(method);
        }
    }
    methods
}

/// Whether the Python that runs the functions has a module.
async fn has_module(module: &str) -> bool {
    programs::run(Command::new("python3").args(["-c", &format!("import {module}")])).await.is_ok()
}

/// Compares a run's result with the right one, byte for byte.
fn verify(run: &mut job::Run, reference: &Path, output: Output) -> Result<(), Failure> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| Failure::system(format_args!("the file {}", path.display()), &error));
    let (result, right) = (read(&run.result)?, read(reference)?);
    run.verified = result == right;
    if !run.verified {
        let common = result.iter().zip(&right).take_while(|(got, right)| got == right).count();
        output.note(&format!(
            "the result under `{}` is not the answer: {} bytes where {} are right, the first difference at byte {common}",
            run.method,
            result.len(),
            right.len()
        ));
    }
    Ok(())
}

/// Changes the byte in the middle of a result.
fn corrupt(result: &Path) -> Result<(), Failure> {
    let named = |error| Failure::system(format_args!("the file {}", result.display()), &error);
    let mut bytes = std::fs::read(result).map_err(named)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    std::fs::write(result, bytes).map_err(named)
}
