//! `zipline bench apps`, `micro` and `scale`: answers are right over every method, raw files say what was moved, Ctrl-C keeps what was measured.
//!
//! For correctness, never for speed: inputs are tiny and requests few.
#![forbid(unsafe_code)]

mod faults;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use zipline_testkit::{Program, Scratch, Started, wait};

const LIMIT: Duration = Duration::from_secs(240);

/// A bench about to be started, its raw file and its temporary folders in `scratch`.
fn bench(scratch: &Scratch, kind: &str, arguments: &[&str]) -> Result<Program> {
    let raw = scratch.join("raw.json");
    let program = Program::built("zipline-bench")?.arg(kind).args(arguments).arg("--json");
    Ok(program.arg("--raw").arg(raw).env("TMPDIR", scratch.path()))
}

/// The document of a bench that has ended well, which the raw file equals; nothing of it is left.
fn document(scratch: &Scratch, ended: &Started) -> Result<Value> {
    ensure!(ended.code() == Some(0), "the bench ended with {:?}\n{}", ended.code(), ended.tail());
    let document: Value = serde_json::from_str(&ended.stdout()).with_context(|| ended.tail())?;
    let raw = std::fs::read(scratch.join("raw.json")).context("the raw file")?;
    ensure!(serde_json::from_slice::<Value>(&raw)? == document, "the raw file is not what was printed");
    let left = processes_with(&scratch.path().display().to_string());
    ensure!(left.is_empty(), "processes {left:?} are left");
    Ok(document)
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

fn rows(document: &Value) -> &[Value] {
    document["rows"].as_array().map_or(&[], Vec::as_slice)
}

fn names(document: &Value) -> Vec<&str> {
    document["methods"].as_array().into_iter().flatten().filter_map(|method| method["name"].as_str()).collect()
}

/// Every answer, over every method and in both variants, is compared with a single-process computation by the bench itself;
/// a wrong one ends it with an error.
#[tokio::test(flavor = "multi_thread")]
async fn every_application_answers_right_over_every_method() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = bench(&scratch, "apps", &["--quick", "--size", "tiny", "--requests", "1"])?;
    let document = document(&scratch, &program.run(&scratch, LIMIT).await?)?;
    let methods = names(&document);
    ensure!(methods.len() >= 3, "{methods:?}");
    for app in ["video", "stacking", "map-reduce"] {
        for method in &methods {
            let own: Vec<_> = rows(&document).iter().filter(|row| row["app"] == app && row["method"] == *method).collect();
            let kinds: Vec<_> = own.iter().map(|row| (row["variant"].as_str(), row["start"].as_str())).collect();
            let expected = [("sequential", "warm"), ("parallel", "warm"), ("parallel", "cold")];
            ensure!(kinds == expected.map(|(variant, start)| (Some(variant), Some(start))), "{app} over {method}: {kinds:?}");
            for row in own {
                check(row).with_context(|| format!("{app} over {method}: {row}"))?;
            }
        }
    }
    Ok(())
}

/// What a sample says of itself holds together.
fn check(row: &Value) -> Result<()> {
    let samples = row["samples"].as_array().context("samples")?;
    ensure!(samples.len() == 1 && row["seconds"]["samples"] == 1, "one request was asked for");
    for sample in samples {
        let number = |member: &str| sample[member].as_f64().with_context(|| member.to_owned());
        let functions = sample["functions"].as_array().context("functions")?;
        ensure!(functions.len() >= 4, "every function is named");
        for function in functions {
            let seconds = function[1].as_f64().context("a function's seconds")?;
            ensure!(seconds > 0.0 && seconds <= number("seconds")?, "a function runs within its request");
        }
        if row["method"] == "redis" || row["method"] == "s3" {
            // As published, with 2 frames, 4 learners, and 3 mappers for 2 reducers.
            let expected = match row["app"].as_str() {
                Some("video") => (3.0, 3.0),
                Some("stacking") => (13.0, 17.0),
                _ => (6.0, 6.0),
            };
            ensure!((number("puts")?, number("gets")?) == expected, "{expected:?} operations were expected");
        }
        if row["method"] == "inline" {
            ensure!(number("puts")? == 0.0 && number("along_bytes")? > 0.0, "inline payloads go along");
        }
        ensure!(number("got_bytes")? + number("along_bytes")? > 0.0, "payloads arrived");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_bench_keeps_what_it_measured_and_leaves_no_process() -> Result<()> {
    let scratch = Scratch::new()?;
    let arguments = ["--quick", "--requests", "100000", "--method", "zipline,inline", "--pattern", "scatter"];
    let mut started = bench(&scratch, "micro", &arguments)?.start(&scratch)?;
    let folder = scratch.path().display().to_string();
    // The platform, its client proxy, and for each method a hub and four leaves with their queue-proxies.
    wait::until("the functions", LIMIT, async || anyhow::Ok(processes_with(&folder).len()), |number| *number >= 22).await?;
    started.signal(Signal::INT)?;
    started.ended(LIMIT).await?;
    let document = document(&scratch, &started)?;
    ensure!(document["interrupted"] == true && !rows(&document).is_empty(), "{document}");
    ensure!(names(&document) == ["zipline", "inline"], "{:?}", names(&document));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pattern_carries_its_payloads_over_every_method() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = bench(&scratch, "micro", &["--quick", "--requests", "1"])?;
    let document = document(&scratch, &program.run(&scratch, LIMIT).await?)?;
    let puts = |pattern: &str, method: &str, size: u64| {
        let row = rows(&document).iter().find(|row| {
            row["pattern"] == pattern
                && row["method"] == method
                && row["size_bytes"] == size
                && row["degree"] == if pattern == "pipeline" { 1 } else { 4 }
        });
        row.map(|row| (row["puts"].as_u64(), row["gets"].as_u64()))
    };
    let mib = 1024 * 1024;
    for method in ["zipline", "zipline-tcp"] {
        for (pattern, expected) in [("pipeline", (1, 1)), ("scatter", (4, 4)), ("gather", (4, 4)), ("broadcast", (1, 4))] {
            let seen = puts(pattern, method, mib);
            ensure!(seen == Some((Some(expected.0), Some(expected.1))), "{pattern} over {method}: {seen:?}");
        }
        // Below the inline threshold a payload goes along.
        ensure!(puts("scatter", method, 1024) == Some((Some(0), Some(0))));
    }
    let refused = document["refused"].as_array().context("refused")?;
    ensure!(refused.iter().any(|refused| refused["method"] == "inline" && refused["size_bytes"] == 10 * mib), "{refused:?}");
    Ok(())
}

/// The rate is a bound that no machine beats, so a time may be asserted here.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_shaped_network_payloads_take_as_long_as_their_bytes_and_services_are_found() -> Result<()> {
    const BYTES: f64 = 10.0 * 1024.0 * 1024.0;
    let scratch = Scratch::new()?;
    let arguments = ["--quick", "--requests", "1", "--pattern", "pipeline", "--method", "zipline,inline", "--network", "shaped"];
    let ended = bench(&scratch, "micro", &arguments)?.run(&scratch, LIMIT).await?;
    if ended.stderr().contains("--network shaped: ") {
        ensure!(ended.code() == Some(1) && ended.stderr().contains("hint: run as root"), "{}", ended.tail());
        let name = "on_a_shaped_network_payloads_take_as_long_as_their_bytes_and_services_are_found";
        zipline_testkit::skip(name, "a network namespace with traffic control needs root and iproute2");
        return Ok(());
    }
    let document = document(&scratch, &ended)?;
    ensure!(document["network"] == "shaped" && document["methods"][0]["description"].to_string().contains("TCP"), "{document}");
    let large = rows(&document).iter().find(|row| row["method"] == "zipline" && row["size_bytes"] == BYTES as u64);
    let seconds = large.and_then(|row| row["seconds"]["median"].as_f64()).context("the largest payload is measured")?;
    ensure!(seconds > 0.95 * BYTES / 75e6, "{BYTES} bytes passed in {seconds} s");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_work_is_measured_whole_and_its_exponents_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = bench(&scratch, "scale", &["--quick", "--curve", "instances,width,payload"])?;
    let document = document(&scratch, &program.run(&scratch, LIMIT).await?)?;
    let last = |curve: &str| {
        let of_it = rows(&document).iter().filter(|row| row["curve"] == curve);
        of_it.filter_map(|row| row["x"].as_u64()).max()
    };
    let most = [("instances", 8), ("workflow-width", 64), ("payload", 256 * 1024 * 1024)];
    for (curve, most) in most {
        ensure!(last(curve) == Some(most), "{curve}: {:?}", last(curve));
        let growth = document["growth"].as_array().into_iter().flatten().find(|growth| growth["curve"] == curve);
        let exponent = growth.and_then(|growth| growth["exponent"].as_f64()).with_context(|| format!("{curve}: no exponent"))?;
        // No judgement of speed: 256 times the work is never free, nor does it take its square.
        ensure!((0.0..2.0).contains(&exponent), "{curve}: {exponent}");
    }
    Ok(())
}
