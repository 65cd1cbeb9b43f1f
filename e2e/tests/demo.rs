//! `zipline demo`: the answer is right, the payloads took the way they should, and a wrong answer is told.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zipline_servers::{Server, install};
use zipline_testkit::{Program, Scratch, skip, wait};

const LIMIT: Duration = Duration::from_secs(180);
/// Documents of the tests' own text, and bytes of each, about.
const DOCUMENTS: usize = 24;
const DOCUMENT_BYTES: usize = 40_000;

/// Runs the demo; its document, and its exit code.
async fn demo(scratch: &Scratch, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
    let program = Program::built("zipline")?.arg("demo").args(arguments).arg("--json").env("TMPDIR", scratch.path());
    let ended = program.run(scratch, LIMIT).await?;
    let document = serde_json::from_str(&ended.stdout()).with_context(|| format!("one document\n{}", ended.tail()))?;
    let left = of_demo(scratch.path())?;
    ensure!(left.is_none(), "the demo left {left:?} behind");
    Ok((document, ended.code()))
}

/// A demo's temporary folder in `folder`.
fn of_demo(folder: &Path) -> Result<Option<PathBuf>> {
    let mut entries = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(entries.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("zipline-demo"))))
}

/// Processes whose environment names `text`, by pid.
fn processes_with(text: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(); // Gone, or not ours.
        environment.windows(text.len()).any(|window| window == text.as_bytes())
    };
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(names).collect()
}

/// A folder of texts with words of all kinds, the same each time.
fn texts(scratch: &Scratch) -> Result<PathBuf> {
    let folder = scratch.join("texts");
    std::fs::create_dir_all(folder.join("below"))?;
    let mut state = 7u64;
    for document in 0..DOCUMENTS {
        let mut text = Vec::new();
        while text.len() < DOCUMENT_BYTES {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = (state >> 33) % 5000;
            let separator: &[u8] = [&b" "[..], b"\n", b"-", b".\t", b"\xc3\xa9"][(state >> 20) as usize % 5];
            text.extend_from_slice(format!("Word_{:X}", word * word % 7919).as_bytes());
            text.extend_from_slice(separator);
        }
        let name = if document % 3 == 0 { format!("below/{document}.txt") } else { format!("{document}.txt") };
        std::fs::write(folder.join(name), text)?;
    }
    std::fs::write(folder.join("empty"), "")?;
    Ok(folder)
}

/// Word counts by the usual tools over the documents of the list.
fn counted_by_tools(list: &Path) -> Result<String> {
    let script = "cut -f3- \"$1\" | while IFS= read -r file; do cat \"$file\"; echo; done \
                  | tr A-Z a-z | tr -c a-z0-9_ '\\n' | sort | uniq -c | awk 'NF > 1 { print $1 \" \" $2 }'";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(list)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("tr, sort and uniq")?;
    ensure!(output.status.success(), "the tools ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn number(value: &Value, member: &str) -> Result<u64> {
    value[member].as_u64().with_context(|| format!("`{member}` is {}", value[member]))
}

/// What holds of a run by any method.
fn check_run(run: &Value, method: &str) -> Result<()> {
    ensure!(run["verified"] == true && run["transfer"] == method, "{run}");
    let edges = run["edges"].as_array().context("edges")?;
    let is_shuffle = |edge: &&Value| {
        let end = |member: &str, kind: &str| edge[member].as_str().is_some_and(|name| name.starts_with(kind));
        end("from", "mapper") && end("to", "reducer")
    };
    let shuffle: Vec<_> = edges.iter().filter(is_shuffle).collect();
    ensure!(shuffle.len() >= 16, "{} shuffle edges", shuffle.len());
    for edge in edges {
        ensure!(edge["method"] == method && number(edge, "bytes")? > 4, "{edge}");
    }
    let shuffled = shuffle.iter().map(|edge| number(edge, "bytes")).sum::<Result<u64>>()?;
    ensure!(shuffled == number(run, "shuffled_bytes")?);
    let (requests, passed) = (number(run, "requests")?, number(run, "activator_payload_bytes")?);
    ensure!(requests >= 11, "{requests} requests");
    match method {
        "zipline" | "s3" | "redis" => {
            ensure!(passed <= 2048 * requests, "{passed} bytes passed the activator in {requests} requests")
        }
        _ => ensure!(passed >= shuffled, "{passed} bytes passed the activator, {shuffled} were shuffled"),
    }
    for phase in run["phases"].as_array().context("phases")? {
        ensure!(phase["name"].is_string() && phase["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{phase}");
    }
    ensure!(number(run, "instances_started")? >= 3);
    Ok(())
}

/// Every run of a comparison: both methods without a store, and those whose server is there.
fn check_runs(methods: &Value) -> Result<()> {
    let methods = methods.as_object().context("methods")?;
    ensure!(methods.contains_key("zipline") && methods.contains_key("inline"), "{:?}", methods.keys());
    methods.iter().try_for_each(|(method, run)| check_run(run, method))
}

#[tokio::test]
async fn all_methods_come_to_the_answer_that_tr_sort_and_uniq_come_to() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = texts(&scratch)?;
    let output = scratch.join("result");
    let (folder, output_text) = (folder.to_string_lossy().into_owned(), output.to_string_lossy().into_owned());
    let (document, code) = demo(&scratch, &["--compare", "--input", &folder, "--output", &output_text]).await?;
    ensure!(code == Some(0) && document["verified"] == true && document["schema"] == 1, "{code:?}: {document}");
    check_runs(&document["methods"])?;
    ensure!(number(&document["input"], "documents")? == DOCUMENTS as u64 + 1);

    let words = std::fs::read_to_string(output.join("words.txt"))?;
    let expected = counted_by_tools(&output.join("documents.txt"))?;
    let differs = words.lines().zip(expected.lines()).find(|(ours, theirs)| ours != theirs);
    ensure!(words == expected, "first difference {differs:?}, {} and {} lines", words.lines().count(), expected.lines().count());
    ensure!(number(&document["result"], "words")? == expected.lines().count() as u64);

    let index = std::fs::read_to_string(output.join("index.txt"))?;
    ensure!(index.lines().count() == words.lines().count());
    let top = &document["result"]["top"][0];
    let (word, count) = (top["word"].as_str().context("a top word")?, number(top, "count")?);
    ensure!(words.lines().any(|line| line == format!("{count} {word}")), "{top}");
    let line = index.lines().find(|line| line.split(' ').next() == Some(word)).context("the top word is in the index")?;
    let documents: Vec<&str> = line.split(' ').skip(1).collect();
    ensure!(documents.len() as u64 == number(top, "documents")?, "{line}");
    let sum: u64 = documents.iter().filter_map(|posting| posting.split_once(':')?.1.parse::<u64>().ok()).sum();
    ensure!(sum == count, "{line}");
    Ok(())
}

#[tokio::test]
async fn python_mappers_and_reducers_come_to_the_same_answer_by_every_method() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = texts(&scratch)?.to_string_lossy().into_owned();
    let (document, code) = demo(&scratch, &["--compare", "--lang", "python", "--input", &folder]).await?;
    ensure!(code == Some(0) && document["verified"] == true && document["lang"] == "python", "{code:?}: {document}");
    check_runs(&document["methods"])?;
    Ok(())
}

#[tokio::test]
async fn one_changed_byte_is_found_and_ends_in_exit_code_1() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = texts(&scratch)?.to_string_lossy().into_owned();
    let (document, code) = demo(&scratch, &["--input", &folder, "--corrupt-result"]).await?;
    ensure!(document["verified"] == false && code == Some(1), "{code:?}: {document}");
    Ok(())
}

#[tokio::test]
async fn without_arguments_it_reads_32_mib_of_dependencies_sources() -> Result<()> {
    let scratch = Scratch::new()?;
    let (document, code) = demo(&scratch, &[]).await?;
    ensure!(code == Some(0), "{code:?}: {document}");
    ensure!(number(&document["input"], "bytes")? >= 32 << 20, "{}", document["input"]);
    check_run(&document, "zipline")
}

#[tokio::test]
async fn an_interrupted_demo_leaves_neither_processes_nor_its_folder() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut demo = Program::built("zipline")?.arg("demo").env("TMPDIR", scratch.path()).start(&scratch)?;
    let deployed = async || Ok(demo.stderr().contains("instances ready"));
    wait::until("the services to be deployed", LIMIT, deployed, |deployed| *deployed).await?;
    demo.signal(rustix::process::Signal::INT)?;
    let ended = demo.ended(LIMIT).await?;
    ensure!(ended.code() == Some(130), "{ended}: {}", demo.tail());
    let left = || of_demo(scratch.path());
    ensure!(left()?.is_none(), "the demo left {:?} behind", left()?);
    let folder = scratch.path().to_string_lossy().into_owned();
    let processes = async || Ok(processes_with(&folder));
    wait::until("its processes to be gone", LIMIT, processes, |processes| processes.is_empty()).await?;
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named_in_the_one_document() -> Result<()> {
    let scratch = Scratch::new()?;
    let (document, code) = demo(&scratch, &["--input", "/nonexistent/texts"]).await?;
    let message = document["error"]["message"].as_str().unwrap_or_default();
    ensure!(code == Some(6) && message.contains("/nonexistent/texts"), "{code:?}: {document}");
    Ok(())
}

#[tokio::test]
async fn a_store_in_the_payloads_way_gives_the_same_answer() -> Result<()> {
    for (method, server) in [("s3", Server::S3), ("redis", Server::Redis)] {
        let installed = tokio::task::spawn_blocking(move || install(server, &mut |step| eprintln!("{step}"))).await?;
        if let Err(error) = installed {
            skip(&format!("a_store_in_the_payloads_way_gives_the_same_answer ({method})"), &error.to_string());
            continue;
        }
        let scratch = Scratch::new()?;
        let folder = texts(&scratch)?.to_string_lossy().into_owned();
        let (document, code) = demo(&scratch, &["--transfer", method, "--input", &folder]).await?;
        ensure!(code == Some(0), "{code:?}: {document}");
        check_run(&document, method)?;
        let servers = of_server(scratch.path())?;
        ensure!(servers.is_none(), "the demo left {servers:?} behind");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_installed_is_named_with_the_way_out() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Program::built("zipline")?.args(["demo", "--transfer", "redis", "--json"]).env("TMPDIR", scratch.path());
    let ended = program.env("PATH", "/nonexistent").run(&scratch, LIMIT).await?;
    let document: Value = serde_json::from_str(&ended.stdout()).with_context(|| ended.tail())?;
    ensure!(document["error"]["name"] == "server-missing" && ended.code() == Some(6), "{document}");
    let hint = document["error"]["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains("zipline bench setup"), "{document}");
    Ok(())
}

/// A server's temporary folder in `folder`.
fn of_server(folder: &Path) -> Result<Option<PathBuf>> {
    let mut entries = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(entries.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("zipline-server"))))
}
