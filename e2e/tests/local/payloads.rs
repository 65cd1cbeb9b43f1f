//! Payloads reach stock functions whole, past the activator, by a header and without any change.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use zipline_contract::headers;
use zipline_testkit::{Payload, Program, census, skip};

use crate::up::{LIMIT, Up};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
/// What the activator may see of a call whose payload went another way.
const CONTROL_BYTES_MAX: u64 = 8 * KIB;
/// What the consumer's memory may grow by between a payload of 100 MiB and one of 2 GiB.
const GROWTH_BYTES_MAX: u64 = 32 * MIB;

#[tokio::test]
async fn an_object_put_with_curls_means_arrives_byte_identical_at_a_scaled_function() -> Result<()> {
    let up = Up::start().await?;
    up.apply("sha", &[], 0).await?;
    let mut peaks = Vec::new();
    for size in [1, 64 * KIB, 100 * MIB, 2 * GIB] {
        if size > GIB && available_bytes()? < 4 * size {
            let reason = format!("{size} bytes need {} bytes of memory, {} are free", 4 * size, available_bytes()?);
            skip("an_object_put_with_curls_means_arrives_byte_identical_at_a_scaled_function", &reason);
            continue;
        }
        let payload = Payload::new(size, size);
        let reference = up.put("ttl=10m", &payload).await?;
        let post = up.send("sha", Request::post("/").header(headers::REFERENCE, &reference));
        // The payload is handed over by descriptor here, so it stays the producer's memory.
        // A cold start picks the instance while the request waits; from the second size on it is there.
        let proxy = up.instances("sha").await?.first().and_then(|instance| instance["proxy_pid"].as_u64());
        let (answer, peak) = match proxy {
            Some(pid) => census::peak_resident(u32::try_from(pid)?, post).await,
            None => (post.await, 0),
        };
        let answer = answer?;
        let seen = answer.json().with_context(|| format!("{size} bytes: {} {}", answer.status, answer.text()))?;
        assert_eq!((seen["size"].as_u64(), seen["sha256"].as_str()), (Some(size), Some(payload.sha256().as_str())));
        peaks.push((size, peak));
    }
    if let [.., (hundred, at_hundred), (two, at_two)] = peaks[..]
        && (hundred, two) == (100 * MIB, 2 * GIB)
    {
        assert!(at_two < at_hundred + GROWTH_BYTES_MAX, "peak {at_two} bytes at 2 GiB, {at_hundred} at 100 MiB");
    }
    let seen = up.control("/v1/status").await?["activator"]["body_bytes_in"].as_u64();
    assert!(seen.context("body_bytes_in")? < CONTROL_BYTES_MAX, "the activator saw {seen:?} bytes");
    up.at_rest(Duration::from_secs(40)).await
}

/// The real thing, where it is there: a file at the client proxy's socket, its reference at the front door.
#[tokio::test]
async fn curl_puts_a_file_and_calls_a_service_with_its_reference() -> Result<()> {
    let up = Up::start().await?;
    let curl = async |arguments: &[&str]| {
        let program = Program::at("curl", Path::new("curl")).args(["--silent", "--show-error", "--fail-with-body"]);
        let ended = program.args(arguments.iter().copied()).run(&up.scratch, LIMIT).await?;
        anyhow::Ok((ended.code(), ended.stdout(), ended.tail()))
    };
    if curl(&["--version"]).await?.0 != Some(0) {
        skip("curl_puts_a_file_and_calls_a_service_with_its_reference", "there is no curl");
        return Ok(());
    }
    up.apply("sha", &[], 0).await?;
    let socket = up.info["client_socket"].as_str().context("client_socket")?;
    let ingress = up.info["ingress"].as_str().context("ingress")?;
    for size in [1, 64 * KIB, 100 * MIB] {
        let payload = Payload::new(size, size);
        let file = up.scratch.write("payload", payload.bytes())?;
        let body = format!("@{}", file.display());
        let put = ["--unix-socket", socket, "--data-binary", &body, "http://zipline/v1/objects"];
        let (code, put, said) = curl(&put).await?;
        anyhow::ensure!(code == Some(0), "{said}");
        let put: serde_json::Value = serde_json::from_str(&put)?;
        let reference = format!("Zipline-Reference: {}", put["reference"].as_str().context("a reference")?);
        let called = ["-X", "POST", "-H", "Host: sha.default.localhost", "-H", &reference, ingress];
        let (code, answer, said) = curl(&called).await?;
        anyhow::ensure!(code == Some(0), "{said}");
        let seen: serde_json::Value = serde_json::from_str(&answer)?;
        assert_eq!((seen["size"].as_u64(), seen["sha256"].as_str()), (Some(size), Some(payload.sha256().as_str())));
    }
    Ok(())
}

#[tokio::test]
async fn a_stock_function_that_posts_through_http_proxy_reaches_its_callee_past_the_activator() -> Result<()> {
    let up = Up::start().await?;
    up.apply("callee", &[], 0).await?;
    up.apply("caller", &[], 0).await?;
    let answer = up.send("caller", Request::get(format!("/?call=callee&bytes={}", 100 * MIB))).await?;
    let both = answer.json().with_context(|| format!("{} {}", answer.status, answer.text()))?;
    assert_eq!(both["seen"]["sha256"], both["sent"]);
    assert_eq!(both["seen"]["size"], 100 * MIB);
    let status = up.control("/v1/status").await?;
    for way in ["activator", "direct"] {
        let seen = status[way]["body_bytes_in"].as_u64().context("body_bytes_in")?;
        assert!(seen < CONTROL_BYTES_MAX, "{way} saw {seen} bytes of the call");
    }
    up.at_rest(Duration::from_secs(40)).await
}

fn available_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("MemAvailable")?;
    Ok(line.split_whitespace().next().context("a number")?.parse::<u64>()? * 1024)
}
