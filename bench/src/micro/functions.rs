//! The functions of `bench micro`: a hub and its leaves, which move payloads and do nothing else.
//!
//! The hub carries a pattern out and times it. A reader looks at one byte of each page and at the length, so that what
//! it was given is there, and answers with their sum, which the hub compares with what was sent.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use zipline_contract::settings;
use zipline_sdk::{Call, Client, Failure, Payload, Request, Response};
use zipline_workflow::{Attachment, Letter, Random, Work, bad_request, failed, letter, now_seconds};

/// Bytes of a page, of which one is looked at.
const PAGE_BYTES: usize = 4096;
/// Where a leaf takes a call's body as the payload itself.
const GLANCE_PATH: &str = "/glance";
/// Leaves of a request.
const DEGREE_MAX: u32 = 256;
/// A payload begins this far behind the one before it, so that no two are alike.
const SHIFT_BYTES: usize = 61;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pattern {
    /// One producer calls one consumer.
    Pipeline,
    /// One producer, a payload for each of many consumers.
    Scatter,
    /// Many producers, one consumer.
    Gather,
    /// One payload for many consumers.
    Broadcast,
    /// One function calls another, and the SDK sends the payload as the call's body.
    Call,
    /// The same by a plain HTTP client through the egress.
    PlainCall,
}

impl Pattern {
    /// In the order of tables.
    pub(super) const ALL: [Self; 6] = [Self::Pipeline, Self::Scatter, Self::Gather, Self::Broadcast, Self::Call, Self::PlainCall];

    /// Whether the payload is the body of a call and nothing else: such calls are compared below the inline threshold.
    pub(super) const fn is_call(self) -> bool {
        matches!(self, Self::Call | Self::PlainCall)
    }
}

/// To the hub.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Carry {
    pub(crate) pattern: Pattern,
    pub(crate) size_bytes: u64,
    pub(crate) degree: u32,
    pub(crate) leaf: String,
    pub(crate) seed: u64,
}

/// The hub's answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// From the first byte being put to the last consumer having its payload and saying so.
    pub(crate) seconds: f64,
}

/// To a leaf.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Take the payload that came along.
    Consume,
    /// Answer with a payload.
    Produce { size_bytes: u64, number: u32, degree: u32, seed: u64 },
    /// Answer after a while, so that nobody else is served meanwhile.
    Rest { millis: u64 },
}

/// What a leaf saw or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Glance(u64);

fn glance(payload: &[u8]) -> Glance {
    let pages = payload.iter().step_by(PAGE_BYTES).fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    Glance(pages.wrapping_add(payload.len() as u64))
}

/// The payload of that number among `degree` of that size: random bytes, made once in a process.
fn payload(size_bytes: u64, number: u32, degree: u32, seed: u64) -> Result<Payload, Failure> {
    type Made = std::sync::Mutex<Option<(u64, Bytes)>>;
    static MADE: OnceLock<Made> = OnceLock::new();
    let size = usize::try_from(size_bytes).map_err(bad_request)?;
    let needed = size + SHIFT_BYTES * degree as usize;
    // The bytes are whole after every step, whoever panicked.
    let mut made = MADE.get_or_init(Made::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bytes = match &*made {
        Some((of, bytes)) if *of == seed && bytes.len() >= needed => bytes.clone(),
        _ => {
            let mut random = Random::seeded(seed);
            let mut fresh = Vec::with_capacity(needed + 8);
            while fresh.len() < needed {
                fresh.extend(random.next_u64().to_le_bytes());
            }
            made.insert((seed, Bytes::from(fresh))).1.clone()
        }
    };
    let first = SHIFT_BYTES * number as usize;
    Ok(Payload::from(bytes.slice(first..first + size)))
}

/// Carries a pattern out.
pub(crate) async fn hub(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Arc::new(Work::begin(&client, "hub"));
    let carry: Carry = letter(&request)?.head;
    let Carry { pattern, size_bytes, degree, seed, .. } = carry;
    let degree = NonZeroU32::new(degree).filter(|degree| degree.get() <= DEGREE_MAX);
    let degree = degree.ok_or_else(|| bad_request(format_args!("degree: expected 1 to {DEGREE_MAX}")))?;
    if (pattern == Pattern::Pipeline || pattern.is_call()) && degree.get() != 1 {
        return Err(bad_request("a pipeline and a call have degree 1"));
    }
    let payloads = match pattern {
        Pattern::Broadcast => vec![payload(size_bytes, 0, 1, seed)?; degree.get() as usize],
        _ => (0..degree.get()).map(|number| payload(size_bytes, number, degree.get(), seed)).collect::<Result<_, _>>()?,
    };
    let expected: Vec<Glance> = payloads.iter().map(|payload| glance(payload)).collect();
    let began = now_seconds();
    let seen = match pattern {
        Pattern::Pipeline | Pattern::Scatter => scatter(&work, &carry.leaf, payloads).await?,
        Pattern::Broadcast => broadcast(&work, &carry.leaf, payloads, degree).await?,
        Pattern::Gather => gather(&work, &carry).await?,
        Pattern::Call => call(&client, &carry.leaf, payloads).await?,
        Pattern::PlainCall => plain_call(&carry.leaf, payloads).await?,
    };
    let seconds = now_seconds() - began;
    if seen != expected {
        return Err(failed("a reader saw other bytes than were sent"));
    }
    work.answer(&Carried { seconds }, &[])
}

async fn scatter(work: &Arc<Work>, leaf: &str, payloads: Vec<Payload>) -> Result<Vec<Glance>, Failure> {
    let send = |payload: Payload| {
        let (work, leaf) = (Arc::clone(work), leaf.to_owned());
        async move {
            let attachment = work.attach_one(payload).await?;
            work.ask::<_, Glance>(&leaf, &Task::Consume, &[attachment]).await
        }
    };
    Ok(heads(together(payloads.into_iter().map(send)).await?))
}

async fn broadcast(work: &Arc<Work>, leaf: &str, mut payloads: Vec<Payload>, degree: NonZeroU32) -> Result<Vec<Glance>, Failure> {
    let one = payloads.pop().ok_or_else(|| failed("a broadcast has a payload"))?;
    let attachments = work.attach(one, degree).await?;
    let send = |attachment: Attachment| {
        let (work, leaf) = (Arc::clone(work), leaf.to_owned());
        async move { work.ask::<_, Glance>(&leaf, &Task::Consume, &[attachment]).await }
    };
    Ok(heads(together(attachments.into_iter().map(send)).await?))
}

async fn gather(work: &Arc<Work>, carry: &Carry) -> Result<Vec<Glance>, Failure> {
    let ask = |number| {
        let (work, leaf) = (Arc::clone(work), carry.leaf.clone());
        let task = Task::Produce { size_bytes: carry.size_bytes, number, degree: carry.degree, seed: carry.seed };
        async move { work.ask::<_, Glance>(&leaf, &task, &[]).await }
    };
    let letters = together((0..carry.degree).map(ask)).await?;
    let attachments: Vec<Attachment> = letters.into_iter().flat_map(|letter| letter.attachments).collect();
    let payloads = work.take_all(&attachments).await?;
    Ok(payloads.iter().map(|payload| glance(payload)).collect())
}

/// The payload as the body of a call: how it travels is the SDK's and the queue-proxy's affair.
async fn call(client: &Client, leaf: &str, mut payloads: Vec<Payload>) -> Result<Vec<Glance>, Failure> {
    let payload = payloads.pop().ok_or_else(|| failed("a call has a payload"))?;
    let response = client.call(Call::new(leaf).path(GLANCE_PATH).payload(payload)).await?;
    seen(response.status, &response.payload)
}

/// The same without an SDK: HTTP/1.1 to the egress, on connections that are kept.
async fn plain_call(leaf: &str, mut payloads: Vec<Payload>) -> Result<Vec<Glance>, Failure> {
    type Plain = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;
    static EGRESS: OnceLock<(Plain, Egress)> = OnceLock::new();
    let (client, egress) = match EGRESS.get() {
        Some(known) => known,
        None => {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
            let egress = Egress::from_environment()?;
            EGRESS.get_or_init(|| (client, egress))
        }
    };
    let payload = payloads.pop().ok_or_else(|| failed("a call has a payload"))?;
    let request = http::Request::post(format!("{}/v1/invoke/{leaf}{GLANCE_PATH}", egress.base))
        .header(http::header::AUTHORIZATION, &egress.authorization)
        .body(Full::new(payload.into_bytes()))
        .map_err(failed)?;
    let response = client.request(request).await.map_err(failed)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
    seen(status, &body)
}

/// Where the egress is, and what it is shown.
struct Egress {
    /// `http://HOST:PORT`.
    base: String,
    authorization: String,
}

impl Egress {
    fn from_environment() -> Result<Self, Failure> {
        let odd = || failed(format_args!("{} is not http://USER:TOKEN@HOST:PORT", settings::EGRESS_URL.variable));
        let url = std::env::var(settings::EGRESS_URL.variable).map_err(failed)?;
        let (credentials, place) = url.strip_prefix("http://").and_then(|rest| rest.split_once('@')).ok_or_else(odd)?;
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(credentials));
        Ok(Self { base: format!("http://{}", place.trim_end_matches('/')), authorization })
    }
}

/// What a leaf says that it saw in a call's body.
fn seen(status: http::StatusCode, body: &[u8]) -> Result<Vec<Glance>, Failure> {
    if !status.is_success() {
        return Err(failed(format_args!("the leaf answered {status}: {}", String::from_utf8_lossy(body).trim_end())));
    }
    Ok(vec![serde_json::from_slice(body).map_err(failed)?])
}

fn heads(letters: Vec<Letter<Glance>>) -> Vec<Glance> {
    letters.into_iter().map(|letter| letter.head).collect()
}

/// Does all of these at once; outcomes in their order.
async fn together<T, F>(tasks: impl Iterator<Item = F>) -> Result<Vec<T>, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (at, task) in tasks.enumerate() {
        running.spawn(async move { Ok::<_, Failure>((at, task.await?)) });
    }
    let mut done = Vec::with_capacity(running.len());
    while let Some(outcome) = running.join_next().await {
        done.push(outcome??);
    }
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Takes a payload, or answers with one.
pub(crate) async fn leaf(client: Client, request: Request) -> Result<Response, Failure> {
    if request.path() == GLANCE_PATH {
        return Ok(Response::ok(serde_json::to_vec(&glance(&request.payload)).map_err(failed)?));
    }
    let work = Work::begin(&client, "leaf");
    let letter = letter::<Task>(&request)?;
    match letter.head {
        Task::Consume => {
            let [attachment] = &letter.attachments[..] else { return Err(bad_request("a consumer takes one payload")) };
            let payload = work.take(attachment).await?;
            work.answer(&glance(&payload), &[])
        }
        Task::Produce { size_bytes, number, degree, seed } => {
            let payload = payload(size_bytes, number, degree, seed)?;
            let made = glance(&payload);
            let attachment = work.attach_one(payload).await?;
            work.answer(&made, &[attachment])
        }
        Task::Rest { millis } => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            work.answer(&Glance(0), &[])
        }
    }
}
