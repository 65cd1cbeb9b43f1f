//! A function at work on one request.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zipline_sdk::{Call, Client, Failure, PARALLEL_DEFAULT, Payload, PutOptions, Response};

use crate::journal::{Asked, Invocation, Moved, now_seconds};
use crate::message::{Attachment, Letter, Place, decode, encode};
use crate::random::Random;
use crate::role::failed;

/// Payloads that are taken at once.
const TAKES_MAX: usize = 32;

/// One function at work on one request: moves payloads, asks others, and keeps the journal of it.
pub struct Work {
    client: Client,
    journal: Mutex<Journal>,
}

struct Journal {
    own: Invocation,
    /// Of the functions that were asked.
    others: Vec<Invocation>,
    objects: Random,
}

impl Work {
    /// Begins the work of `function` on a request that has just arrived.
    pub fn begin(client: &Client, function: &str) -> Self {
        let began = now_seconds();
        let own = Invocation {
            function: function.to_owned(),
            began,
            ended: began,
            puts: Vec::new(),
            gets: Vec::new(),
            asked: Vec::new(),
        };
        // Objects need different numbers, in the journal of one workflow request: time and process make them so.
        let objects = Random::seeded(began.to_bits() ^ (u64::from(std::process::id()) << 32));
        Self { client: client.clone(), journal: Mutex::new(Journal { own, others: Vec::new(), objects }) }
    }

    /// Makes a payload ready to go with a message to each of `readers`: one attachment a reader.
    ///
    /// # Errors
    /// As [`Client::put`] and [`Client::broadcast`].
    pub async fn attach(&self, payload: Payload, readers: NonZeroU32) -> Result<Vec<Attachment>, Failure> {
        let began = now_seconds();
        let bytes = payload.len() as u64;
        let along = self.travels_along(bytes).await?;
        let places: Vec<Place> = if along {
            vec![Place::Along(payload); readers.get() as usize]
        } else if readers == NonZeroU32::MIN {
            vec![Place::Elsewhere(self.client.put(payload, PutOptions::default()).await?)]
        } else {
            let references = self.client.broadcast(payload, readers, None, PARALLEL_DEFAULT).await?;
            references.into_iter().map(Place::Elsewhere).collect()
        };
        let mut journal = self.journal();
        let object = journal.objects.next_u64();
        journal.own.puts.push(Moved { object, bytes, along, began, ended: now_seconds() });
        drop(journal);
        Ok(places.into_iter().map(|place| Attachment { object, bytes, place }).collect())
    }

    /// Whether a payload of that size goes in the message itself: always under `inline`, and under `zipline` below the
    /// queue-proxy's inline threshold, as it does in a plain call.
    async fn travels_along(&self, bytes: u64) -> Result<bool, Failure> {
        Ok(match self.client.config().transfer.name() {
            "inline" => true,
            "zipline" => bytes < self.client.proxy().await?.inline_threshold_bytes,
            _ => false,
        })
    }

    /// [`attach`](Self::attach) for one reader.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn attach_one(&self, payload: Payload) -> Result<Attachment, Failure> {
        let mut attachments = self.attach(payload, NonZeroU32::MIN).await?;
        attachments.pop().ok_or_else(|| failed("no attachment for one reader"))
    }

    /// The payload of an attachment.
    ///
    /// # Errors
    /// As [`Client::get`]; 502 for a payload of another size than announced.
    pub async fn take(&self, attachment: &Attachment) -> Result<Payload, Failure> {
        let began = now_seconds();
        let (along, payload) = match &attachment.place {
            Place::Along(payload) => (true, payload.clone()),
            Place::Elsewhere(reference) => (false, self.client.get(reference).await?),
        };
        if payload.len() as u64 != attachment.bytes {
            let detail = format!("a payload of {} bytes was announced, {} came", attachment.bytes, payload.len());
            return Err(Failure::new(http::StatusCode::BAD_GATEWAY, detail));
        }
        let moved = Moved { object: attachment.object, bytes: attachment.bytes, along, began, ended: now_seconds() };
        self.journal().own.gets.push(moved);
        Ok(payload)
    }

    /// The payloads of all these attachments, in their order, several at a time.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn take_all(&self, attachments: &[Attachment]) -> Result<Vec<Payload>, Failure> {
        let takes: Vec<_> = attachments.iter().map(|attachment| self.take(attachment)).collect();
        futures_util::stream::iter(takes).buffered(TAKES_MAX).try_collect().await
    }

    /// Sends a message to a service and reads its answer.
    ///
    /// # Errors
    /// As [`Client::call`]; 502 when the service answers with another status than 2xx, or with no message.
    pub async fn ask<H: Serialize, A: DeserializeOwned>(
        &self,
        service: &str,
        head: &H,
        attachments: &[Attachment],
    ) -> Result<Letter<A>, Failure> {
        let began = now_seconds();
        let request = encode(head, attachments, Vec::new())?;
        let request_bytes = request.len() as u64;
        let response = self.client.call(Call::new(service).payload(request)).await?;
        let odd = |detail: &str| {
            Failure::new(http::StatusCode::BAD_GATEWAY, format!("service `{service}` answered {}: {detail}", response.status))
        };
        if !response.status.is_success() {
            return Err(odd(String::from_utf8_lossy(&response.payload).trim_end()));
        }
        let mut letter: Letter<A> = decode(&response.payload).map_err(|error| odd(&error.to_string()))?;
        let answer_bytes = response.payload.len() as u64;
        let asked = Asked { service: service.to_owned(), began, ended: now_seconds(), request_bytes, answer_bytes };
        let mut journal = self.journal();
        journal.own.asked.push(asked);
        journal.others.append(&mut letter.journal);
        drop(journal);
        Ok(letter)
    }

    /// Ends the work with an answer that carries the journal.
    ///
    /// # Errors
    /// 500 for a head that cannot be written.
    pub fn answer<H: Serialize>(&self, head: &H, attachments: &[Attachment]) -> Result<Response, Failure> {
        let mut journal = self.journal();
        journal.own.ended = now_seconds();
        let mut invocations = vec![journal.own.clone()];
        invocations.append(&mut journal.others);
        drop(journal);
        Ok(Response::ok(encode(head, attachments, invocations)?))
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Lists: whole after every step, whoever panicked.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
