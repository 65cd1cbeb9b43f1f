//! One descriptor channel: reads requests, runs them side by side, writes each answer when it is done.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use zipline_contract::ErrorCode;
use zipline_contract::limits::{CHANNEL_LEASES_MAX, CHANNEL_REQUESTS_MAX, MESSAGE_INLINE_BYTES_MAX};
use zipline_sys::{Memfd, SealedMemfd};
use zipline_transfer::{FetchOptions, Incoming as Pull, Payload, PayloadBytes, Taking};

use super::Channels;
use super::message::{self, Incoming};
use super::operation::{self, Operation};
use crate::zipline::api::objects::ReceiptDocument;
use crate::zipline::problem::Problem;
use crate::zipline::tickets::Serving;

/// An answer, ready to be sent.
struct Answer {
    fields: Map<String, Value>,
    descriptor: Option<Arc<SealedMemfd>>,
}

/// One connection's state.
pub(super) struct Channel {
    socket: UnixStream,
    shared: Arc<Shared>,
}

/// What its requests share.
struct Shared {
    channels: Channels,
    leases: Mutex<Leases>,
    serving: Mutex<Option<Serving>>,
}

/// Reads that were granted and not settled.
#[derive(Default)]
struct Leases {
    last: u64,
    granted: HashMap<u64, (Pull, Payload)>,
}

impl Channel {
    pub(super) fn new(channels: Channels, socket: UnixStream) -> Self {
        let shared = Shared { channels, leases: Mutex::default(), serving: Mutex::default() };
        Self { socket, shared: Arc::new(shared) }
    }

    /// Serves until the peer closes. Whatever still runs is dropped then, and every lease given back.
    pub(super) async fn serve(self, ahead: &[u8]) -> io::Result<()> {
        let mut incoming = Incoming::after(ahead);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(done) = running.join_next() => {
                    let Answer { fields, descriptor } = done.map_err(io::Error::other)?;
                    let text = Value::Object(fields).to_string();
                    message::send(&self.socket, text.as_bytes(), descriptor.as_ref().map(AsFd::as_fd)).await?;
                }
                // Safe to cancel: what was read of a message stays in `incoming`.
                message = incoming.next(&self.socket), if running.len() < CHANNEL_REQUESTS_MAX => match message? {
                    Some(message) => {
                        let shared = self.shared.clone();
                        running.spawn(async move { shared.answer(message).await });
                    }
                    None => return Ok(()),
                },
            }
        }
    }
}

impl Shared {
    async fn answer(&self, message: message::Message) -> Answer {
        let (id, operation) = operation::read(message, self.channels.ttl_max);
        let done = match operation {
            Ok(operation) => self.run(operation).await,
            Err(problem) => Err(problem),
        };
        let mut answer = done.unwrap_or_else(|problem| {
            self.channels.counters.error(problem.code);
            let mut fields = problem.fields();
            fields.insert("error".into(), json!(problem.code.name()));
            fields.insert("ok".into(), json!(false));
            Answer { fields, descriptor: None }
        });
        answer.fields.insert("id".into(), id);
        answer.fields.entry("ok").or_insert(json!(true));
        answer
    }

    async fn run(&self, operation: Operation) -> Result<Answer, Problem> {
        let node = &self.channels.node;
        match operation {
            Operation::Put { descriptor, options } => {
                let put = node.put_descriptor(descriptor, options).await?;
                self.channels.counters.hand_over();
                let document = serde_json::to_value(ReceiptDocument::from(&put));
                match document {
                    Ok(Value::Object(fields)) => Ok(Answer { fields, descriptor: None }),
                    _ => Err(Problem::invalid("the answer can't be written")),
                }
            }
            Operation::Get { reference, trace } => {
                let whole = FetchOptions { taking: Taking::Whole, trace, ..FetchOptions::default() };
                let mut pull = node.fetch(&reference, whole).await?;
                let (payload, mut answer) = self.hand_over(&mut pull).await?;
                answer.fields.insert("lease".into(), json!(self.grant(pull, payload)?));
                Ok(answer)
            }
            Operation::Accept { lease } => {
                let (pull, _) = self.settle(lease)?;
                pull.acknowledge().await?;
                Ok(done())
            }
            Operation::Discard { lease } => {
                drop(self.settle(lease)?);
                Ok(done())
            }
            Operation::Serve => {
                let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
                serving.get_or_insert_with(|| self.channels.tickets.serve());
                Ok(done())
            }
            Operation::Redeem { ticket } => {
                let mut awaiting = self.channels.tickets.redeem(&ticket)?;
                zipline_fault_point::fault_point!("ticket.redeemed");
                let (payload, answer) = self.hand_over(&mut awaiting.incoming).await?;
                awaiting.settlement.returned(awaiting.incoming, Some(payload));
                Ok(answer)
            }
        }
    }

    /// Takes all of a payload: as a descriptor, or inside the message where it is small. The payload holds the room it
    /// takes here, and is kept until its lease is settled.
    async fn hand_over(&self, pull: &mut Pull) -> Result<(Payload, Answer), Problem> {
        let payload = pull.receive().await?;
        let mut fields = Map::new();
        fields.insert("size".into(), json!(payload.size()));
        if let Some(content_type) = pull.content_type() {
            fields.insert("content_type".into(), json!(content_type));
        }
        let descriptor = match payload.bytes() {
            PayloadBytes::Memfd(memfd) => Some(Arc::clone(memfd)),
            PayloadBytes::Heap(bytes) if bytes.len() > MESSAGE_INLINE_BYTES_MAX => Some(Arc::new(in_memfd(bytes.clone()).await?)),
            PayloadBytes::Heap(bytes) => {
                fields.insert("inline".into(), json!(STANDARD.encode(bytes)));
                None
            }
        };
        if descriptor.is_some() {
            self.channels.counters.hand_over();
        }
        Ok((payload, Answer { fields, descriptor }))
    }

    fn grant(&self, pull: Pull, payload: Payload) -> Result<u64, Problem> {
        let mut leases = self.leases();
        let count = leases.granted.len();
        if count >= CHANNEL_LEASES_MAX {
            let detail =
                format!("{count} leases of this channel are neither accepted nor discarded; the limit is {CHANNEL_LEASES_MAX}");
            return Err(Problem::new(ErrorCode::BufferFull, detail).with_limit(CHANNEL_LEASES_MAX as u64, count as u64));
        }
        leases.last += 1;
        let lease = leases.last;
        leases.granted.insert(lease, (pull, payload));
        Ok(lease)
    }

    fn settle(&self, lease: u64) -> Result<(Pull, Payload), Problem> {
        let granted = self.leases().granted.remove(&lease);
        granted.ok_or_else(|| Problem::invalid(format!("lease {lease} is none of this channel's, or was settled before")))
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A payload that lies on the heap but is too large for a message. On another thread: while the kernel holds one of its
/// pages, sealing waits.
async fn in_memfd(bytes: Bytes) -> Result<SealedMemfd, Problem> {
    let filled = tokio::task::spawn_blocking(move || {
        let memfd = Memfd::create("zipline-payload")?;
        memfd.write_all_at(&bytes, 0)?;
        memfd.seal()
    });
    let sealed = filled.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    sealed.map_err(|error| Problem::new(ErrorCode::BufferFull, format!("the system has no room for the payload: {error}")))
}

fn done() -> Answer {
    Answer { fields: Map::new(), descriptor: None }
}
