//! What a bench does on a full disk, without a store, with a store that refuses, on a small machine, without root, and when it is
//! interrupted: a clear message, nothing half-written, no process left.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zipline_testkit::{Program, Scratch, Started, binary, skip, wait};

use crate::{LIMIT, bench, document, processes_with, rows};

/// The smallest run there is: a hub that calls a leaf.
const SMALL: [&str; 6] = ["--quick", "--requests", "1", "--pattern", "call", "--method"];

fn small(methods: &str) -> Vec<&str> {
    SMALL.into_iter().chain([methods]).collect()
}

/// It ended with that code, said these words, and left no process.
fn ended(scratch: &Scratch, ended: &Started, code: i32, words: &[&str]) -> Result<()> {
    ensure!(ended.code() == Some(code), "the bench ended with {:?}\n{}", ended.code(), ended.tail());
    for words in words {
        ensure!(ended.stderr().contains(words), "`{words}` is not said\n{}", ended.tail());
    }
    ensure!(!ended.stderr().contains("panicked"), "{}", ended.tail());
    let left = processes_with(&scratch.path().display().to_string());
    ensure!(left.is_empty(), "processes {left:?} are left");
    Ok(())
}

/// The bench through another program that makes its surroundings smaller; `None`, and said, where that is not installed.
fn through(wrapper: &str, arguments: &[&str], scratch: &Scratch, test: &str) -> Result<Option<Program>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(wrapper)).find(|program| program.is_file());
    let Some(found) = found else {
        skip(test, &format!("there is no {wrapper}"));
        return Ok(None);
    };
    let program = Program::at(wrapper, &found).args(arguments.iter().copied()).arg(binary("zipline-bench")?);
    Ok(Some(program.env("TMPDIR", scratch.path())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_raw_file_and_not_the_result() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Program::built("zipline-bench")?.arg("micro").args(small("inline")).args(["--json", "--raw", "/dev/full"]);
    let run = program.env("TMPDIR", scratch.path()).run(&scratch, LIMIT).await?;
    ended(&scratch, &run, 1, &["the raw samples are not kept", "/dev/full", "No space left on device", "hint: "])?;
    let printed: Value = serde_json::from_str(&run.stdout()).context("the document is printed all the same")?;
    ensure!(rows(&printed).len() == 2, "{printed}");
    ensure!(fs::metadata("/dev/full")?.file_type().is_char_device(), "a device is written to and not replaced");

    let program = Program::built("zipline-bench")?.arg("micro").args(small("inline")).args(["--raw", "/proc/nowhere/raw.json"]);
    let run = program.env("TMPDIR", scratch.path()).run(&scratch, LIMIT).await?;
    ended(&scratch, &run, 1, &["can't be kept at /proc/nowhere/raw.json", "hint: "])?;
    ensure!(!run.stderr().contains('%'), "it is said before anything is measured\n{}", run.tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_rest_is_measured_and_a_store_that_was_asked_for_is_missed() -> Result<()> {
    let scratch = Scratch::new()?;
    let nowhere = |program: Program| program.env("PATH", scratch.path()).env("HOME", scratch.path());
    let arguments = ["--quick", "--requests", "1", "--pattern", "call"];
    let run = nowhere(bench(&scratch, "micro", &arguments)?).run(&scratch, LIMIT).await?;
    ended(&scratch, &run, 0, &["without redis: Redis is not installed", "zipline bench setup"])?;
    let found = document(&scratch, &run)?;
    let missing: Vec<_> =
        found["missing"].as_array().into_iter().flatten().filter_map(|missing| missing["method"].as_str()).collect();
    ensure!(missing == ["redis", "s3", "s3-standard", "s3-express"], "{missing:?}");

    let run = nowhere(bench(&scratch, "micro", &small("zipline,redis"))?).run(&scratch, LIMIT).await?;
    ended(&scratch, &run, 1, &["method `redis`", "not installed", "hint: run `zipline bench setup`"])
}

/// An S3 service in memory that refuses for now what it is told to.
struct Refusing {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Refusing {
    async fn start(refuses: fn(usize) -> bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let objects = Arc::new(Mutex::new(HashMap::<String, Bytes>::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (objects, asked) = (Arc::clone(&objects), Arc::clone(&asked));
                let service = service_fn(move |request| {
                    let (objects, refused) = (Arc::clone(&objects), refuses(asked.fetch_add(1, Ordering::SeqCst)));
                    async move { Ok::<_, Infallible>(answer(request, refused, &objects).await) }
                });
                connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, _server: server })
    }

    fn bench(&self, scratch: &Scratch) -> Result<Program> {
        let arguments = ["--quick", "--requests", "2", "--pattern", "pipeline", "--method", "zipline,s3"];
        let program = bench(scratch, "micro", &arguments)?.arg("--s3-endpoint").arg(format!("http://{}", self.address));
        Ok(program.env("AWS_ACCESS_KEY_ID", "one").env("AWS_SECRET_ACCESS_KEY", "hunter2"))
    }
}

async fn answer(request: Request<Incoming>, refused: bool, objects: &Mutex<HashMap<String, Bytes>>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let with = |status: StatusCode, body: Bytes| {
        let response = Response::builder().status(status).header("ETag", "\"x\"");
        let response = response.header("Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT");
        response.body(Full::new(body)).expect("an answer is well formed")
    };
    if refused {
        return with(StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code><Message>Reduce.</Message></Error>".into());
    }
    let mut objects = objects.lock().expect("nobody panics with it");
    match method {
        Method::PUT => {
            objects.insert(path, body);
            with(StatusCode::OK, Bytes::new())
        }
        Method::GET | Method::HEAD => match objects.get(&path) {
            Some(object) => with(StatusCode::OK, object.clone()),
            None => with(StatusCode::NOT_FOUND, Bytes::new()),
        },
        // Deletions by list.
        Method::POST => with(StatusCode::OK, "<DeleteResult></DeleteResult>".into()),
        _ => with(StatusCode::NO_CONTENT, Bytes::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_answers_503_is_asked_again_and_the_tries_are_counted() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = Refusing::start(|request| request % 3 == 1).await?;
    let run = server.bench(&scratch)?.run(&scratch, LIMIT).await?;
    let found = document(&scratch, &run)?;
    let s3 = &found["stores"]["s3"];
    ensure!(s3["throttled"].as_u64() > Some(0) && s3["failed"] == s3["throttled"], "{s3}");
    ensure!(s3["puts"].as_u64() >= Some(8), "{s3}");
    ensure!(rows(&found).iter().filter(|row| row["method"] == "s3").count() == 4, "every size is measured");
    ensure!(!found.to_string().contains("hunter2"), "a key stands in the raw file");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_always_answers_503_is_left_out_after_a_bound_and_the_rest_goes_on() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = Refusing::start(|_| true).await?;
    let run = server.bench(&scratch)?.run(&scratch, LIMIT).await?;
    let found = document(&scratch, &run)?;
    let reason = found["missing"][0]["reason"].as_str().unwrap_or_default();
    ensure!(found["missing"][0]["method"] == "s3" && reason.contains("503") && reason.contains("left out"), "{found}");
    ensure!(found["stores"]["s3"]["throttled"] == 7, "once and six times again: {}", found["stores"]);
    ensure!(rows(&found).len() == 4 && rows(&found).iter().all(|row| row["method"] == "zipline"), "the rest is measured");
    Ok(())
}

/// As a terminal does it: the signal goes to the whole group.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_a_terminal_keeps_what_was_measured_between_two_processes() -> Result<()> {
    let scratch = Scratch::new()?;
    let arguments = ["--size", "1048576", "--only", "pull to a fresh memfd"];
    let mut started = bench(&scratch, "transfer", &arguments)?.start(&scratch)?;
    let begun = async || Ok(started.stderr());
    wait::until("the first tenth", LIMIT, begun, |said| said.contains("10 %")).await?;
    kill_process_group(Pid::from_raw(i32::try_from(started.pid())?).context("a pid")?, Signal::INT)?;
    started.ended(LIMIT).await?;
    let found = document(&scratch, &started)?;
    ensure!(found["interrupted"] == true, "it had not ended by itself: {found}");
    ensure!(rows(&found).iter().any(|row| row["path"] == "zipline pull to a fresh memfd"), "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_core_is_enough_and_is_said() -> Result<()> {
    let scratch = Scratch::new()?;
    let Some(program) = through("taskset", &["--cpu-list", "0"], &scratch, "one_core_is_enough_and_is_said")? else {
        return Ok(());
    };
    let raw = scratch.join("raw.json");
    let program = program.arg("micro").args(small("zipline,inline")).arg("--json").arg("--raw").arg(raw);
    let run = program.run(&scratch, LIMIT).await?;
    ended(&scratch, &run, 0, &["there is one core"])?;
    ensure!(document(&scratch, &run)?["machine"]["cores"] == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_machine_of_2_gib_what_does_not_fit_is_left_out_and_said() -> Result<()> {
    let test = "on_a_machine_of_2_gib_what_does_not_fit_is_left_out_and_said";
    let scratch = Scratch::new()?;
    let memory = scratch.write("meminfo", "MemTotal: 2097152 kB\nMemFree: 1500000 kB\nMemAvailable: 1500000 kB\n")?;
    // In a mount namespace of its own, the file stands in for the kernel's.
    let script = format!("mount --bind {} /proc/meminfo && exec \"$0\" \"$@\"", memory.display());
    let small_machine = |arguments: &[&str]| -> Result<Option<Program>> {
        let program = through("unshare", &["--mount", "sh", "-c", &script], &scratch, test)?;
        Ok(program.map(|program| program.args(arguments.iter().copied())))
    };
    let Some(probe) = through("unshare", &["--mount", "sh", "-c", &format!("{script} --version")], &scratch, test)? else {
        return Ok(());
    };
    if probe.run(&scratch, LIMIT).await?.code() != Some(0) {
        skip(test, "mounting needs root");
        return Ok(());
    }
    let raw = scratch.join("raw.json").display().to_string();
    let arguments =
        ["transfer", "--quick", "--only", "hand-over", "--size", "1024", "--size", "1073741824", "--json", "--raw", &raw];
    if let Some(program) = small_machine(&arguments)? {
        let run = program.run(&scratch, LIMIT).await?;
        ended(&scratch, &run, 0, &["without 1 GiB: payloads of this size take 8 GiB of memory, and 1.4 GiB are free"])?;
        let found = document(&scratch, &run)?;
        ensure!(
            found["left_out"][0]["size_bytes"] == 1 << 30 && rows(&found).iter().all(|row| row["size_bytes"] == 1024),
            "{found}"
        );
    }
    let arguments = ["apps", "--app", "map-reduce", "--size", "full", "--method", "zipline,zipline-tcp,inline", "--raw", &raw];
    if let Some(program) = small_machine(&arguments)? {
        let run = program.run(&scratch, LIMIT).await?;
        ended(
            &scratch,
            &run,
            1,
            &["map-reduce over 3 methods takes 2.9 GiB of memory, and 1.4 GiB are free", "hint: name fewer"],
        )?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_root_it_measures_as_well() -> Result<()> {
    let test = "without_root_it_measures_as_well";
    let scratch = Scratch::new()?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777))?;
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let Some(probe) = through("setpriv", &nobody, &scratch, test)? else { return Ok(()) };
    if probe.arg("--version").run(&scratch, LIMIT).await?.code() != Some(0) {
        skip(test, "user 65534 can't be become, or has no way to the built programs");
        return Ok(());
    }
    let raw = scratch.join("raw.json").display().to_string();
    for arguments in [
        &["micro", "--quick", "--requests", "1", "--pattern", "pipeline", "--method", "zipline,inline"][..],
        &["transfer", "--quick", "--size", "1024", "--only", "hand-over"],
    ] {
        let Some(program) = through("setpriv", &nobody, &scratch, test)? else { return Ok(()) };
        let program = program.args(arguments.iter().copied()).args(["--json", "--raw", &raw]).env("HOME", scratch.path());
        let run = program.run(&scratch, LIMIT).await?;
        ensure!(!rows(&document(&scratch, &run)?).is_empty());
        fs::remove_file(&raw)?;
    }
    let Some(program) = through("setpriv", &nobody, &scratch, test)? else { return Ok(()) };
    let program = program.arg("micro").args(small("inline")).args(["--network", "shaped", "--raw", &raw]);
    ended(&scratch, &program.run(&scratch, LIMIT).await?, 1, &["--network shaped: ", "hint: run as root"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_file_without_a_row_is_refused_by_name() -> Result<()> {
    let scratch = Scratch::new()?;
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cost/prices.json");
    let prices = scratch.write("prices.json", fs::read_to_string(bundled)?.replace("\"s3_get\"", "\"s3_got\""))?;
    let operations: PathBuf = scratch.write("operations.json", r#"{"puts": 1, "gets": 1, "bytes": 1000}"#)?;
    let program = Program::built("zipline")?.args(["cost", "--from"]).arg(operations).arg("--prices").arg(&prices);
    let run = program.run(&scratch, LIMIT).await?;
    ensure!(run.code().is_some_and(|code| code != 0), "{}", run.tail());
    let said = run.stderr();
    ensure!(said.contains("`s3_get`") && said.contains(&prices.display().to_string()) && said.contains("hint"), "{said}");
    ensure!(run.stdout().is_empty(), "half a bill: {}", run.stdout());
    Ok(())
}
