//! Compares what a step gave with what the case expects of it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use zipline_sdk::Error;

use crate::steps::{Ended, Told};
use crate::vectors::{Expect, Vectors};

pub(crate) fn check(vectors: &Vectors, ended: &Ended, expect: &Expect) -> Result<()> {
    let told = match (ended, &expect.error) {
        (Err(error), _) => bail!("the case is wrong: {error:#}"),
        (Ok(Err(error)), Some(name)) => return is_named(error, name),
        (Ok(Err(error)), None) => bail!("failed with {} ({error})", error.name()),
        (Ok(Ok(_)), Some(name)) => bail!("succeeded, expected {name}"),
        (Ok(Ok(told)), None) => told,
    };
    if let Some(size) = expect.size {
        ensure!(told.size == Some(size), "size {:?}, expected {size}", told.size);
    }
    if let Some(prefix) = &expect.prefix {
        let odd = told.references.iter().find(|reference| !reference.as_str().starts_with(prefix));
        ensure!(odd.is_none() && !told.references.is_empty(), "{odd:?} does not begin with {prefix}");
    }
    if let Some(count) = expect.count {
        ensure!(told.references.len() == count, "{} references, expected {count}", told.references.len());
    }
    if let Some(left) = expect.retrievals_left {
        ensure!(told.retrievals_left == Some(left), "{:?} retrievals left, expected {left}", told.retrievals_left);
    }
    if let Some(between) = &expect.expires_in_ms {
        let left = told.expires.context("no expiry")?.duration_since(SystemTime::now()).unwrap_or_default();
        let range = Duration::from_millis(between.min)..=Duration::from_millis(between.max);
        ensure!(range.contains(&left), "expires in {left:?}, expected {range:?}");
    }
    check_payloads(vectors, told, expect)?;
    check_response(told, expect)
}

/// The error is of the public table with everything that goes with its name, or it is one of the SDK's own.
fn is_named(error: &Error, name: &str) -> Result<()> {
    ensure!(error.name() == name, "failed with {} ({error}), expected {name}", error.name());
    if let Error::Refused(problem) = error {
        let code = problem.code.with_context(|| format!("{name} is not in the error table"))?;
        let told = (problem.status, problem.retry, problem.fault);
        let table = (code.http_status(), code.retry(), Some(code.fault()));
        ensure!(told == table, "{name} came with {told:?}, the table says {table:?}");
        ensure!(!problem.title.is_empty() && !problem.hint.is_empty(), "{name} came without title or hint");
    }
    Ok(())
}

fn check_payloads(vectors: &Vectors, told: &Told, expect: &Expect) -> Result<()> {
    let names = match (&expect.payload, &expect.payloads) {
        (Some(name), None) => std::slice::from_ref(name),
        (None, Some(names)) => names,
        (None, None) => &[],
        (Some(_), Some(_)) => bail!("a step expects either payload or payloads"),
    };
    ensure!(names.is_empty() || names.len() == told.payloads.len(), "{} payloads, expected {names:?}", told.payloads.len());
    for (name, payload) in names.iter().zip(&told.payloads) {
        let mut bytes = vectors.payload(name)?;
        if let Some(slice) = expect.slice {
            bytes = bytes.into_iter().skip(slice.first as usize).take(slice.length as usize).collect();
        }
        let differs = bytes.iter().zip(payload.iter()).position(|(expected, got)| expected != got);
        let lengths = (payload.len(), bytes.len());
        ensure!(lengths.0 == lengths.1 && differs.is_none(), "payload {name}: lengths {lengths:?}, first difference {differs:?}");
    }
    if let Some(content_type) = &expect.content_type {
        let got = told.payloads.first().and_then(|payload| payload.content_type());
        ensure!(got == Some(content_type), "content type {got:?}, expected {content_type}");
    }
    Ok(())
}

fn check_response(told: &Told, expect: &Expect) -> Result<()> {
    let Some(response) = &told.response else {
        ensure!(expect.status.is_none() && expect.text.is_none() && expect.json.is_none(), "there is no answer");
        return Ok(());
    };
    if let Some(status) = expect.status {
        ensure!(response.status.as_u16() == status, "status {}, expected {status}", response.status);
    }
    if let Some(text) = &expect.text {
        let got = String::from_utf8_lossy(&response.payload);
        ensure!(got == *text, "text `{got}`, expected `{text}`");
    }
    if let Some(json) = &expect.json {
        let got: serde_json::Value = serde_json::from_slice(&response.payload).context("the answer is no JSON")?;
        for (member, value) in json {
            ensure!(got.get(member) == Some(value), "member {member} is {:?}, expected {value}", got.get(member));
        }
    }
    Ok(())
}
