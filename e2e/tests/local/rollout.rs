//! Revisions that lose their route while every one of their instances holds something.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use tokio::task::JoinSet;
use zipline_contract::headers;
use zipline_servers::{S3, ServerError};
use zipline_testkit::{Target, http as client, skip, wait};

use crate::up::{LIMIT, Up};

const HOLDERS: usize = 10;
const BYTES: usize = 300_000;
/// Starting ten instances, or ending them, on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// Ten instances of `holder`, each of which holds one object; the references.
async fn ten_holders(up: &Up, ttl: &str) -> Result<Vec<String>> {
    let count = HOLDERS.to_string();
    apply(up, &count, "1").await?;
    let ready = |instances: &Vec<serde_json::Value>| instances.iter().filter(|one| one["state"] == "ready").count() == HOLDERS;
    wait::until("ten holders to be ready", LONG, async || up.instances("holder").await, ready).await?;
    let mut puts = JoinSet::new();
    for _ in 0..HOLDERS {
        let (ingress, path) = (up.ingress()?, format!("/?put={BYTES}&ttl={ttl}&wait=3"));
        puts.spawn(async move {
            let request = Request::get(path).header("host", "holder.default.localhost").body(client::empty())?;
            let answer = client::send(&ingress, request).await?;
            ensure!(answer.status.is_success(), "{}", answer.text());
            Ok(answer.json()?["reference"].as_str().context("a reference")?.to_owned())
        });
    }
    let mut references = Vec::new();
    while let Some(put) = puts.join_next().await {
        references.push(put??);
    }
    Ok(references)
}

async fn apply(up: &Up, least: &str, round: &str) -> Result<()> {
    let annotations =
        [("autoscaling.knative.dev/min-scale", least), ("autoscaling.knative.dev/max-scale", "10"), ("example.com/round", round)];
    up.apply("holder", &annotations, 1).await
}

async fn names(up: &Up) -> Result<BTreeSet<String>> {
    Ok(up.instances("holder").await?.iter().filter_map(|one| one["name"].as_str().map(ToOwned::to_owned)).collect())
}

/// Waits until at most `most` of these instances are left.
async fn left(up: &Up, old: &BTreeSet<String>, most: usize) -> Result<()> {
    let few_left = |now: &BTreeSet<String>| now.intersection(old).count() <= most;
    wait::until("the old instances to be gone", LONG, async || names(up).await, few_left).await.map(|_| ())
}

async fn read(api: &Target, reference: &str) -> Result<zipline_testkit::Answer> {
    let request = Request::get("/v1/objects").header(headers::REFERENCE, reference).body(client::empty())?;
    client::send(api, request).await
}

#[tokio::test]
async fn a_rolling_update_with_ten_holders_loses_nothing_that_is_to_outlive_it() -> Result<()> {
    let store = match S3::start().await {
        Ok(store) => store,
        Err(error @ ServerError::NotInstalled { .. }) => {
            skip("a_rolling_update_with_ten_holders_loses_nothing_that_is_to_outlive_it", &error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let credentials = tempfile::NamedTempFile::new()?;
    let document = serde_json::json!({"access_key_id": store.access_key(), "secret_access_key": store.secret_key()});
    std::fs::write(credentials.path(), document.to_string())?;
    let url = format!("ZIPLINE_TIER_URL=s3://{}/rollout", store.bucket());
    let endpoint = format!("ZIPLINE_TIER_ENDPOINT={}", store.endpoint());
    let keys = format!("ZIPLINE_TIER_CREDENTIALS_FILE={}", credentials.path().display());
    let (name, durability) = ("ZIPLINE_TIER=bucket", "ZIPLINE_DURABILITY=drain");
    let up = Up::start_with(["--set", name, "--set", &url, "--set", &endpoint, "--set", &keys, "--set", durability]).await?;
    let references = ten_holders(&up, "170s").await?;
    let old = names(&up).await?;
    apply(&up, "0", "2").await?;
    // One instance is kept by what it holds; what the other nine held is in the store when they are gone.
    left(&up, &old, 1).await?;
    for reference in &references {
        let answer = read(&up.client()?, reference).await?;
        ensure!(answer.status == StatusCode::OK && answer.body.len() == BYTES, "{} {}", answer.status, answer.text());
    }
    up.at_rest(LIMIT).await
}

#[tokio::test]
async fn a_revision_without_a_route_serves_what_it_holds_and_is_pinned_by_it_no_longer_than_its_expiry() -> Result<()> {
    let up = Up::start().await?;
    let references = ten_holders(&up, "40s").await?;
    let old = names(&up).await?;
    apply(&up, "0", "2").await?;
    let (read_now, never) = references.split_at(HOLDERS / 2);
    for reference in read_now {
        let answer = read(&up.client()?, reference).await?;
        ensure!(answer.status == StatusCode::OK && answer.body.len() == BYTES, "{} {}", answer.status, answer.text());
    }
    left(&up, &old, 0).await?;
    for reference in never {
        let answer = read(&up.client()?, reference).await?;
        ensure!(!answer.status.is_success() && !answer.error().is_empty(), "{} {}", answer.status, answer.text());
    }
    up.at_rest(LIMIT).await
}
