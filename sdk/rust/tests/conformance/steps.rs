//! Runs steps through the SDK's public API.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Method};
use zipline_sdk::{
    ByteRange, Call, Client, Config, Error, Narrow, ObjectWriter, PARALLEL_DEFAULT, Payload, PayloadWriter, PutOptions, Receipt,
    Reference, Response,
};

use crate::vectors::{How, Range, Step, Vectors};
use crate::world::World;

/// Bytes of the pieces in which writers and streams are fed.
const PIECE_BYTES: usize = 100_000;
/// An expiry is over when the clock has passed it by this much: it is told from the beginning of a put, and a store counts from when
/// the value has come, which on a busy machine is later.
const AFTER_EXPIRY: Duration = Duration::from_millis(300);

/// What a step gave.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) size: Option<u64>,
    pub(crate) references: Vec<Reference>,
    pub(crate) payloads: Vec<Payload>,
    pub(crate) retrievals_left: Option<u32>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) response: Option<Response>,
}

/// How a step ended: with a result, with the SDK's error, or because the case itself is wrong.
pub(crate) type Ended = Result<Result<Told, Error>>;

pub(crate) struct Runner<'w> {
    vectors: &'w Vectors,
    world: &'w World,
    saved: BTreeMap<String, Vec<Reference>>,
    expiries: BTreeMap<String, SystemTime>,
    writers: BTreeMap<String, ObjectWriter>,
}

impl<'w> Runner<'w> {
    pub(crate) fn new(vectors: &'w Vectors, world: &'w World) -> Self {
        Self { vectors, world, saved: BTreeMap::new(), expiries: BTreeMap::new(), writers: BTreeMap::new() }
    }

    pub(crate) async fn run(&mut self, step: &Step) -> Ended {
        let told = match step {
            Step::Put { save, .. } => self.put(step).await?.map(|receipt| self.received(save.as_deref(), receipt)),
            Step::Open { at, save, .. } => match self.world.client(at)?.open(PutOptions::default(), None).await {
                Ok((receipt, writer)) => {
                    self.writers.insert(save.clone(), writer);
                    Ok(self.received(Some(save), receipt))
                }
                Err(error) => Err(error),
            },
            Step::Write { at, reference, payload, .. } => {
                self.world.client(at)?;
                let writer = self.writers.remove(reference).with_context(|| format!("`{reference}` is not open"))?;
                writer.write(pieces(self.vectors.payload(payload)?)).await.map(|()| Told::default())
            }
            Step::Get { .. } => self.get(step).await?,
            Step::Stat { at, reference, .. } => {
                let stat = self.world.client(at)?.stat(&self.reference(reference)?).await;
                stat.map(|stat| Told {
                    size: stat.size_bytes,
                    retrievals_left: stat.retrievals_left,
                    expires: stat.expires,
                    ..Told::default()
                })
            }
            Step::Release { at, reference, .. } => {
                self.world.client(at)?.release(&self.reference(reference)?).await.map(|()| Told::default())
            }
            Step::Narrow { save, .. } => self.narrow(step).await?.map(|narrowed| self.referred(save.as_deref(), vec![narrowed])),
            Step::AwaitExpiry { reference, ttl_ms, .. } => {
                let given = ttl_ms.map(|ttl| SystemTime::now() + Duration::from_millis(ttl));
                let expiry = given.or_else(|| self.expiries.get(reference).copied());
                let expiry = expiry.with_context(|| format!("`{reference}` has no expiry"))?;
                let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::time::sleep(left + AFTER_EXPIRY).await; // Wall time is the thing that is waited for.
                Ok(Told::default())
            }
            Step::Tamper { reference, save, .. } => {
                let mut token = self.reference(reference)?.to_string();
                let middle = token.len() / 2;
                let other = if token[middle..].starts_with('A') { "B" } else { "A" };
                token.replace_range(middle..=middle, other);
                Ok(self.referred(Some(save), vec![Reference::from_token(token)]))
            }
            Step::Invoke { .. } => self.invoke(step).await?,
            Step::Scatter { at, payloads, parallel, save, .. } => {
                let payloads = payloads.iter().map(|name| self.vectors.payload(name)).collect::<Result<Vec<_>>>()?;
                let client = self.world.client(at)?;
                let parallel = parallel.unwrap_or(PARALLEL_DEFAULT);
                let references = client.scatter(payloads, PutOptions::default(), parallel).await;
                references.map(|references| self.referred(Some(save), references))
            }
            Step::Gather { at, references, parallel, .. } => {
                let references = self.saved.get(references).with_context(|| format!("`{references}` is not saved"))?;
                let payloads = self.world.client(at)?.gather(references, parallel.unwrap_or(PARALLEL_DEFAULT)).await;
                payloads.map(|payloads| Told { payloads, ..Told::default() })
            }
            Step::Broadcast { at, payload, consumers, save, .. } => {
                let payload = self.vectors.payload(payload)?;
                let consumers = NonZeroU32::new(*consumers).context("a broadcast has consumers")?;
                let references = self.world.client(at)?.broadcast(payload, consumers, None, PARALLEL_DEFAULT).await;
                references.map(|references| self.referred(Some(save), references))
            }
            Step::Configure { environment, .. } => {
                let producer = self.world.producer.config().api.to_string();
                let variable = |name: &str| environment.get(name).map(|value| value.replace("{producer}", &producer));
                Config::from_variables(variable).map(|_| Told::default())
            }
        };
        Ok(told)
    }

    async fn put(&self, step: &Step) -> Result<Result<Receipt, Error>> {
        let Step::Put { at, payload, how, retrievals, ttl_ms, content_type, .. } = step else {
            anyhow::bail!("a put");
        };
        let client = self.world.client(at)?;
        let retrievals = NonZeroU32::new(retrievals.unwrap_or(1)).context("a put grants retrievals")?;
        let options = PutOptions { retrievals, ttl: ttl_ms.map(Duration::from_millis) };
        let bytes = self.vectors.payload(payload)?;
        if let How::Stream = how {
            return Ok(client.put_stream(pieces(bytes), options, content_type.as_deref()).await);
        }
        let mut payload = made(bytes, *how)?;
        if let Some(content_type) = content_type {
            payload = payload.with_content_type(content_type);
        }
        Ok(client.put_with_receipt(payload, options).await)
    }

    async fn get(&self, step: &Step) -> Ended {
        let Step::Get { at, reference, reference_text, range, .. } = step else {
            anyhow::bail!("a get");
        };
        let reference = match (reference, reference_text) {
            (Some(name), None) => self.reference(name)?,
            (None, Some(text)) => Reference::from_token(text),
            _ => anyhow::bail!("a get has either reference or reference_text"),
        };
        let client = self.world.client(at)?;
        let payload = match range {
            Some(range) => client.get_range(&reference, byte_range(*range)).await,
            None => client.get(&reference).await,
        };
        Ok(payload.map(|payload| Told { payloads: vec![payload], ..Told::default() }))
    }

    async fn narrow(&self, step: &Step) -> Result<Result<Reference, Error>> {
        let Step::Narrow { at, reference, range, receiver, slot, ttl_ms, .. } = step else {
            anyhow::bail!("a narrow");
        };
        let narrow = Narrow {
            expires: ttl_ms.map(|ttl| SystemTime::now() + Duration::from_millis(ttl)),
            range: range.map(byte_range),
            receiver: receiver.clone(),
            slot: *slot,
        };
        Ok(self.world.client(at)?.narrow(&self.reference(reference)?, &narrow).await)
    }

    async fn invoke(&mut self, step: &Step) -> Ended {
        let Step::Invoke { at, service, path, method, headers, payload, how, reference, save, .. } = step else {
            anyhow::bail!("an invoke");
        };
        let mut call = Call::new(service).path(path);
        if let Some(method) = method {
            call = call.method(Method::from_bytes(method.as_bytes())?);
        }
        for (name, value) in headers {
            call = call.header(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        call = match (payload, reference) {
            (Some(name), None) => call.payload(made(self.vectors.payload(name)?, *how)?),
            (None, Some(name)) => call.reference(self.reference(name)?),
            _ => anyhow::bail!("an invoke has either payload or reference"),
        };
        let client: &Client = self.world.client(at)?;
        Ok(client.call(call).await.map(|response| {
            let text = || Reference::from_token(String::from_utf8_lossy(&response.payload));
            let references = save.as_ref().map(|_| vec![text()]).unwrap_or_default();
            let mut told = self.referred(save.as_deref(), references);
            told.payloads = vec![response.payload.clone()];
            told.response = Some(response);
            told
        }))
    }

    fn received(&mut self, save: Option<&str>, receipt: Receipt) -> Told {
        if let (Some(name), Some(expires)) = (save, receipt.expires) {
            self.expiries.insert(name.to_owned(), expires);
        }
        Told { size: receipt.size_bytes, expires: receipt.expires, ..self.referred(save, vec![receipt.reference]) }
    }

    fn referred(&mut self, save: Option<&str>, references: Vec<Reference>) -> Told {
        if let Some(name) = save {
            self.saved.insert(name.to_owned(), references.clone());
        }
        Told { references, ..Told::default() }
    }

    /// A saved reference, or one of a saved list: `NAME` or `NAME.I`.
    fn reference(&self, name: &str) -> Result<Reference> {
        let (list, index) = match name.split_once('.') {
            Some((list, index)) => (list, index.parse::<usize>()?),
            None => (name, 0),
        };
        let saved = self.saved.get(list).and_then(|references| references.get(index));
        saved.cloned().with_context(|| format!("`{name}` is not saved"))
    }
}

fn made(bytes: Vec<u8>, how: How) -> Result<Payload> {
    if let How::Bytes = how {
        return Ok(Payload::from(bytes));
    }
    let mut writer = PayloadWriter::new()?;
    for piece in bytes.chunks(PIECE_BYTES) {
        writer.write_all(piece)?;
    }
    Ok(writer.finish()?)
}

fn pieces(bytes: Vec<u8>) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let pieces: Vec<_> = bytes.chunks(PIECE_BYTES).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

fn byte_range(range: Range) -> ByteRange {
    ByteRange { first: range.first, length: range.length }
}
