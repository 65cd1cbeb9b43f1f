//! The descriptor channel: payloads pass as descriptors of the memory they lie in.
//!
//! A channel is a connection of the local API's Unix socket, switched by `Upgrade`. One operation runs on a channel at
//! a time, because a lease belongs to its channel: a `get` that is dropped half-way closes it and so gives the lease
//! back. Channels are pooled, bounded, and opened anew when the proxy has closed them.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use zipline_contract::{DESCRIPTOR_PROTOCOL, limits};
use zipline_sys::fd_passing;

use crate::client::ReceiptBody;
use crate::config::{Endpoint, Limits};
use crate::error::{Error, ProblemBody};
use crate::http::connect_unix;
use crate::memory::Memory;
use crate::payload::Payload;

/// Bytes of the head that answers the upgrade.
const UPGRADE_HEAD_BYTES_MAX: usize = 4096;
/// Bytes that one read of a channel asks for; most messages are shorter.
const RECEIVE_BYTES: usize = 4096;

/// The pool of channels.
pub(crate) struct Channels {
    endpoint: Endpoint,
    limits: Limits,
    permits: Semaphore,
    idle: Mutex<Vec<Channel>>,
}

/// What goes with a put.
#[derive(Serialize)]
pub(crate) struct PutMessage<'a> {
    pub(crate) retrievals: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<&'a str>,
}

#[derive(Serialize)]
struct Ask<'a, T> {
    op: &'static str,
    id: u64,
    #[serde(flatten)]
    fields: &'a T,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Told<T> {
    #[serde(flatten)]
    fields: T,
}

#[derive(Deserialize)]
struct Head {
    id: u64,
    ok: bool,
}

/// A payload's answer, to `get` and to `redeem`.
#[derive(Deserialize)]
struct Granted {
    lease: Option<serde_json::Value>,
    size: Option<u64>,
    content_type: Option<String>,
    inline: Option<String>,
}

#[derive(Deserialize)]
struct Accepted {}

impl Channels {
    pub(crate) fn new(endpoint: Endpoint, limits: Limits) -> Self {
        let permits = Semaphore::new(limits.channels_max.max(1));
        Self { endpoint, limits, permits, idle: Mutex::default() }
    }

    /// Hands the memory over as a new object.
    pub(crate) async fn put(&self, message: &PutMessage<'_>, memory: &Memory) -> Result<ReceiptBody, Error> {
        let mut lent = self.lend().await?;
        let (told, _) = lent.channel.ask::<_, ReceiptBody>("put", message, Some(memory.descriptor())).await?;
        self.give_back(lent);
        Ok(told)
    }

    /// Reads an object and acknowledges it.
    pub(crate) async fn get(&self, token: &str) -> Result<Payload, Error> {
        #[derive(Serialize)]
        struct Get<'a> {
            reference: &'a str,
        }
        #[derive(Serialize)]
        struct Accept {
            lease: serde_json::Value,
        }
        let mut lent = self.lend().await?;
        let (mut granted, descriptor) = lent.channel.ask::<_, Granted>("get", &Get { reference: token }, None).await?;
        let lease = granted.lease.take().ok_or_else(|| Error::protocol("get", "no lease"))?;
        // Whatever fails from here on closes the channel, and so gives the lease back.
        let payload = payload(granted, descriptor)?;
        lent.channel.ask::<_, Accepted>("accept", &Accept { lease }, None).await?;
        self.give_back(lent);
        Ok(payload)
    }

    /// Exchanges a request's ticket for its payload. The response head acknowledges it.
    pub(crate) async fn redeem(&self, ticket: &str) -> Result<Payload, Error> {
        #[derive(Serialize)]
        struct Redeem<'a> {
            ticket: &'a str,
        }
        let mut lent = self.lend().await?;
        let (granted, descriptor) = lent.channel.ask::<_, Granted>("redeem", &Redeem { ticket }, None).await?;
        let payload = payload(granted, descriptor)?;
        self.give_back(lent);
        Ok(payload)
    }

    /// Registers this process as a serving function, and returns once the proxy has ended that.
    pub(crate) async fn serve_until_closed(&self) -> Result<(), Error> {
        let mut channel = self.open().await?;
        channel.ask::<_, Accepted>("serve", &Nothing {}, None).await?;
        let mut byte = [0];
        // Nothing more is said on this connection; it stays open while the registration holds.
        channel.stream.read(&mut byte).await.map(drop).map_err(Error::system("waiting on the registration"))
    }

    async fn lend(&self) -> Result<Lent<'_>, Error> {
        let permit = self.permits.acquire().await.map_err(|closed| self.unreachable(&closed))?;
        let pooled = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            std::iter::from_fn(|| idle.pop()).find(Channel::is_open)
        };
        let channel = match pooled {
            Some(channel) => channel,
            None => self.open().await?,
        };
        Ok(Lent { channel, _permit: permit })
    }

    fn give_back(&self, lent: Lent<'_>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lent.channel);
    }

    async fn open(&self) -> Result<Channel, Error> {
        timeout(self.limits.connect_timeout, Channel::open(&self.endpoint))
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&format_args!("no channel within {:?}", self.limits.connect_timeout))))
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Unreachable { api: self.endpoint.to_string(), reason: reason.to_string() }
    }
}

/// A channel in use. Dropped before it is given back, it is closed.
struct Lent<'a> {
    channel: Channel,
    _permit: SemaphorePermit<'a>,
}

struct Channel {
    stream: UnixStream,
    api: Arc<str>,
    next_id: u64,
}

impl Channel {
    async fn open(endpoint: &Endpoint) -> Result<Self, Error> {
        let api: Arc<str> = endpoint.to_string().into();
        let failed = |error: std::io::Error| Error::Unreachable { api: api.to_string(), reason: error.to_string() };
        let mut stream = connect_unix(endpoint).await.map_err(failed)?;
        let request = format!(
            "GET /v1/descriptors HTTP/1.1\r\nHost: zipline\r\nConnection: Upgrade\r\nUpgrade: {DESCRIPTOR_PROTOCOL}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::with_capacity(256);
        while !head.ends_with(b"\r\n\r\n") {
            // Byte by byte: what follows the head is a message, whose descriptor a longer read would lose.
            let byte = stream.read_u8().await.map_err(failed)?;
            head.push(byte);
            if head.len() > UPGRADE_HEAD_BYTES_MAX {
                return Err(Error::protocol("GET /v1/descriptors", "the answer's head has no end"));
            }
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
            return Err(Error::protocol("GET /v1/descriptors", format_args!("expected 101, got `{line}`")));
        }
        Ok(Self { stream, api, next_id: 1 })
    }

    /// Whether the proxy has neither closed the idle channel nor said anything on it.
    fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        op: &'static str,
        fields: &Q,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(A, Option<OwnedFd>), Error> {
        let id = self.next_id;
        self.next_id += 1;
        let body = serde_json::to_vec(&Ask { op, id, fields }).map_err(|error| Error::protocol(op, error))?;
        self.send(&body, descriptor).await.map_err(|error| self.unreachable(&error))?;
        let (body, descriptor) = self.receive().await?;
        let head: Head = serde_json::from_slice(&body).map_err(|error| Error::protocol(op, error))?;
        if head.id != id {
            return Err(Error::protocol(op, format_args!("the answer is to message {}, not to {id}", head.id)));
        }
        if !head.ok {
            let problem: ProblemBody = serde_json::from_slice(&body).map_err(|error| Error::protocol(op, error))?;
            let name = problem.error.clone().ok_or_else(|| Error::protocol(op, "a refusal without a name"))?;
            let status = problem.status.unwrap_or(500);
            return Err(problem.into_error(&name, status));
        }
        let told: Told<A> = serde_json::from_slice(&body).map_err(|error| Error::protocol(op, error))?;
        Ok((told.fields, descriptor))
    }

    async fn send(&mut self, body: &[u8], descriptor: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        if body.len() > limits::MESSAGE_BYTES_MAX {
            return Err(std::io::Error::other(format!("a message has at most {} bytes", limits::MESSAGE_BYTES_MAX)));
        }
        let mut message = Vec::with_capacity(4 + body.len());
        message.extend_from_slice(&(body.len() as u32).to_be_bytes());
        message.extend_from_slice(body);
        let mut sent = 0;
        if let Some(descriptor) = descriptor {
            let socket = &self.stream;
            sent = socket.async_io(Interest::WRITABLE, || fd_passing::send(socket, &message, Some(descriptor))).await?;
        }
        self.stream.write_all(&message[sent..]).await
    }

    /// One message. No more than it is ever under way, so reading far is safe and mostly one call.
    async fn receive(&mut self) -> Result<(Vec<u8>, Option<OwnedFd>), Error> {
        let mut message = Vec::new();
        let mut passed = None;
        let mut chunk = vec![0; RECEIVE_BYTES];
        loop {
            let socket = &self.stream;
            let received = socket.async_io(Interest::READABLE, || fd_passing::receive(socket, &mut chunk)).await;
            let (bytes, descriptor) = received.map_err(|error| self.unreachable(&error))?;
            if bytes == 0 {
                return Err(self.unreachable(&"the queue-proxy closed the descriptor channel"));
            }
            message.extend_from_slice(&chunk[..bytes]);
            passed = passed.or(descriptor);
            let Some((head, body)) = message.split_first_chunk::<4>() else { continue };
            let length = u32::from_be_bytes(*head) as usize;
            if length > limits::MESSAGE_BYTES_MAX || body.len() > length {
                return Err(Error::protocol("message", format_args!("{length} bytes announced, {} came", body.len())));
            }
            if body.len() == length {
                message.drain(..4);
                return Ok((message, passed));
            }
        }
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Unreachable { api: self.api.to_string(), reason: reason.to_string() }
    }
}

/// The payload that was granted: as a descriptor, or inside the message.
fn payload(granted: Granted, descriptor: Option<OwnedFd>) -> Result<Payload, Error> {
    let payload = match (descriptor, granted.inline) {
        (Some(descriptor), _) => Payload::mapped(Memory::map(descriptor)?),
        (None, Some(inline)) => {
            let bytes = STANDARD.decode(inline).map_err(|error| Error::protocol("get", format_args!("inline: {error}")))?;
            Payload::from(bytes)
        }
        (None, None) => return Err(Error::protocol("get", "neither a descriptor nor inline bytes")),
    };
    match granted.size {
        Some(size) if size != payload.len() as u64 => {
            Err(Error::protocol("get", format_args!("{size} bytes announced, {} came", payload.len())))
        }
        _ => Ok(payload.with_optional_content_type(granted.content_type.as_deref())),
    }
}
