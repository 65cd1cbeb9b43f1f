//! Logs of a service's instances, as they were and as they come.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use crate::manifest::ServiceName;
use crate::services::Shared;
use crate::supervisor::{InstanceLog, LogLine};

/// What a reader wants of a service's logs.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) service: ServiceName,
    /// One instance only.
    pub(super) instance: Option<String>,
    /// Lines of the past.
    pub(super) tail: usize,
}

/// The last lines of all instances, in the order of time.
pub(super) fn past(shared: &Shared, wanted: &Wanted) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = logs(shared, wanted).iter().flat_map(|log| log.tail(wanted.tail)).collect();
    lines.sort_by_key(|line| line.time_ms);
    lines.split_off(lines.len().saturating_sub(wanted.tail))
}

/// Sends the last lines, and then every new one, also of instances that are started later; until the reader is gone
/// or the service is deleted and its last instance has ended.
pub(super) async fn follow(shared: Arc<Shared>, wanted: Wanted, lines: mpsc::Sender<Bytes>) {
    let mut known: HashSet<String> = HashSet::new();
    let mut followers = JoinSet::new();
    let mut past = Vec::new();
    for log in logs(&shared, &wanted) {
        let (tail, follower) = log.follow(wanted.tail);
        past.extend(tail);
        known.insert(log.instance().to_owned());
        followers.spawn(copy(follower, lines.clone()));
    }
    past.sort_by_key(|line| line.time_ms);
    for line in past.split_off(past.len().saturating_sub(wanted.tail)) {
        if lines.send(encode(&line)).await.is_err() {
            return;
        }
    }
    loop {
        let new = tokio::select! {
            biased;
            () = lines.closed() => return,
            new = shared.changes.until(|| newcomers(&shared, &wanted, &known)) => new,
        };
        let Some(new) = new else { break };
        for log in new {
            let (tail, follower) = log.follow(usize::MAX);
            known.insert(log.instance().to_owned());
            for line in tail {
                if lines.send(encode(&line)).await.is_err() {
                    return;
                }
            }
            followers.spawn(copy(follower, lines.clone()));
        }
    }
    // The service is gone; what its instances had to say is on its way or in their files.
    followers.abort_all();
}

/// Logs that are not followed yet; `Some(None)` when there will be none any more.
fn newcomers(shared: &Shared, wanted: &Wanted, known: &HashSet<String>) -> Option<Option<Vec<Arc<InstanceLog>>>> {
    if shared.service(&wanted.service).is_none() {
        return Some(None);
    }
    let new: Vec<_> = logs(shared, wanted).into_iter().filter(|log| !known.contains(log.instance())).collect();
    (!new.is_empty()).then_some(Some(new))
}

async fn copy(mut follower: broadcast::Receiver<LogLine>, lines: mpsc::Sender<Bytes>) {
    loop {
        let line = match follower.recv().await {
            Ok(line) => encode(&line),
            Err(RecvError::Lagged(lost)) => Bytes::from(format!("{{\"lost_lines\":{lost}}}\n")),
            Err(RecvError::Closed) => return,
        };
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

fn logs(shared: &Shared, wanted: &Wanted) -> Vec<Arc<InstanceLog>> {
    let Some(service) = shared.service(&wanted.service) else { return Vec::new() };
    let logs = service.revisions.iter().flat_map(|revision| revision.logs());
    logs.filter(|log| wanted.instance.as_deref().is_none_or(|instance| instance == log.instance())).collect()
}

pub(super) fn encode(line: &LogLine) -> Bytes {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text.into()
}
