//! Carrying out a piece of work, and what became of it.

use std::time::Duration;

use http::{Request, StatusCode};
use tokio::sync::oneshot;
use zipline_contract::headers;
use zipline_testkit::{Answer, Payload, Target, http as client};

use crate::plan::Work;
use crate::world::World;

/// Longer than every limit on the way together, a frozen process's time included.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Where work is sent.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) producer: Target,
    pub(crate) consumer: Target,
    pub(crate) requests: Target,
}

impl Doors {
    pub(crate) fn of(world: &World) -> Self {
        let (producer, consumer) = (&world.producer.proxy, &world.consumer.proxy);
        Self { producer: producer.api(), consumer: consumer.api(), requests: consumer.requests() }
    }
}

/// How one read or call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every byte, verified.
    Delivered,
    /// An error with a name or a status with a text.
    Named(String),
    /// The connection ended before the answer's length was reached.
    CutShort(String),
    /// The connection ended before an answer.
    Unanswered(String),
    /// Whole by its length, and not what was put.
    Wrong(String),
}

/// All that is known of one piece of work.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) ends: Vec<End>,
    /// What was put, once that was answered.
    pub(crate) reference: Option<String>,
    /// What was opened and is not known to be whole: promised to nobody, and to be released.
    pub(crate) opened: Option<String>,
}

/// Does it. `put` is told the reference as soon as there is one, for whoever leaves before the end.
pub(crate) async fn carry_out(
    doors: Doors,
    work: Work,
    payload: Payload,
    id: u64,
    ttl_seconds: u64,
    put: oneshot::Sender<String>,
) -> Done {
    let path = format!("/work/{id}");
    if work == Work::Call {
        let request = Request::post(format!("/v1/invoke/consumer{path}")).body(payload.body());
        let end = match request {
            Ok(request) => judge(client::send(&doors.producer, request).await, |answer| answer.text() == payload.sha256()),
            Err(error) => End::Wrong(error.to_string()),
        };
        return Done { ends: vec![end], ..Done::default() };
    }
    if work == Work::CutThrough {
        return cut_through(doors, payload, ttl_seconds, put).await;
    }
    let retrievals = if work == Work::Broadcast { 3 } else { 1 };
    let body = Request::post(format!("/v1/objects?retrievals={retrievals}&ttl={ttl_seconds}s")).body(payload.body());
    let answer = match body {
        Ok(request) => client::send(&doors.producer, request).await,
        Err(error) => Err(error.into()),
    };
    let reference = match answer {
        Ok(answer) if answer.status == StatusCode::CREATED => answer.header(headers::REFERENCE).to_owned(),
        other => return Done { ends: vec![judge(other, |_| false)], ..Done::default() },
    };
    // Whoever waits for it may have left.
    let _left = put.send(reference.clone());
    let ends = match work {
        Work::Request => vec![request(&doors.requests, &path, &reference, &payload).await],
        Work::Own => vec![get(&doors.producer, &reference, &payload).await],
        Work::Broadcast => {
            let one = || get(&doors.consumer, &reference, &payload);
            let (a, b, c) = tokio::join!(one(), one(), one());
            vec![a, b, c]
        }
        _ => vec![get(&doors.consumer, &reference, &payload).await],
    };
    Done { ends, reference: Some(reference), opened: None }
}

async fn cut_through(doors: Doors, payload: Payload, ttl_seconds: u64, put: oneshot::Sender<String>) -> Done {
    let opened = match Request::post(format!("/v1/objects?open&ttl={ttl_seconds}s")).body(client::empty()) {
        Ok(request) => client::send(&doors.producer, request).await,
        Err(error) => Err(error.into()),
    };
    let (reference, token) = match opened {
        Ok(answer) if answer.status == StatusCode::CREATED => {
            let token = answer.json().map(|document| document["write_token"].as_str().unwrap_or_default().to_owned());
            (answer.header(headers::REFERENCE).to_owned(), token.unwrap_or_default())
        }
        other => return Done { ends: vec![judge(other, |_| false)], ..Done::default() },
    };
    let _left = put.send(reference.clone());
    let writing = async {
        let request = Request::put("/v1/objects").header(headers::WRITE, &token).body(payload.body()).ok()?;
        client::send(&doors.producer, request).await.ok().filter(|answer| answer.status == StatusCode::NO_CONTENT)
    };
    let (written, end) = tokio::join!(writing, get(&doors.consumer, &reference, &payload));
    // What its writer was not told is whole may be asked for, and is promised to nobody.
    let (whole, opened) = if written.is_some() { (Some(reference), None) } else { (None, Some(reference)) };
    Done { ends: vec![end], reference: whole, opened }
}

/// Gets a reference and compares what came.
pub(crate) async fn get(target: &Target, reference: &str, payload: &Payload) -> End {
    match Request::get("/v1/objects").header(headers::REFERENCE, reference).body(client::empty()) {
        Ok(request) => judge(client::send(target, request).await, |answer| answer.body == payload.bytes()),
        Err(error) => End::Wrong(error.to_string()),
    }
}

async fn request(target: &Target, path: &str, reference: &str, payload: &Payload) -> End {
    match Request::post(path).header(headers::REFERENCE, reference).body(client::empty()) {
        Ok(request) => judge(client::send(target, request).await, |answer| answer.text() == payload.sha256()),
        Err(error) => End::Wrong(error.to_string()),
    }
}

fn judge(answer: anyhow::Result<Answer>, is_right: impl FnOnce(&Answer) -> bool) -> End {
    match answer {
        Ok(answer) if !answer.error().is_empty() => End::Named(answer.error().to_owned()),
        Ok(answer) if answer.status.is_success() && is_right(&answer) => End::Delivered,
        Ok(answer) if answer.status.is_success() => {
            End::Wrong(format!("{} with {} bytes that are not those that were put", answer.status, answer.body.len()))
        }
        Ok(answer) => End::Named(format!("http-{}", answer.status.as_u16())),
        // The testkit's words for an answer that had begun.
        Err(error) if format!("{error:#}").contains("the body of an answer") => End::CutShort(format!("{error:#}")),
        Err(error) => End::Unanswered(format!("{error:#}")),
    }
}
