//! The descriptor channel: payloads between a function and its queue-proxy without a copy, on the real binary.
//!
//! The function's side is written out with system calls here, so that it can also do what no SDK does.

use std::io::ErrorKind::ConnectionReset;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use http::{Request, StatusCode};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use zipline_contract::{headers, metrics};
use zipline_testkit::{
    Answer, Behaviour, Function, KeyRing, Keys, Metrics, Payload, Proxy, ProxyOptions, Scratch, census, http as client, wait,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;
const IMMUTABLE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// The function's end of a channel. Blocking: the proxy is another process.
struct Channel(UnixStream);

impl Channel {
    fn open(proxy: &Proxy) -> Result<Self> {
        let mut stream = UnixStream::connect(proxy.api_path())?;
        stream.set_read_timeout(Some(REST))?;
        stream.write_all(
            b"GET /v1/descriptors HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: zipline-descriptors/1\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend_from_slice(&byte);
        }
        let head = String::from_utf8(head)?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Ok(Self(stream))
    }

    fn send(&self, message: &Value, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        let text = message.to_string();
        let bytes = [&u32::try_from(text.len())?.to_be_bytes(), text.as_bytes()].concat();
        let descriptors = descriptor.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let sent = rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        ensure!(sent == bytes.len(), "a short write");
        Ok(())
    }

    fn receive(&mut self) -> Result<(Value, Option<OwnedFd>)> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        ensure!(got.bytes == 4, "{} bytes of a length", got.bytes);
        let mut passed = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let descriptor = passed.next();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut text)?;
        Ok((serde_json::from_slice(&text)?, descriptor))
    }

    fn ask(&mut self, message: &Value, descriptor: Option<BorrowedFd<'_>>) -> Result<(Value, Option<OwnedFd>)> {
        self.send(message, descriptor)?;
        self.receive()
    }

    fn done(&mut self, message: &Value) -> Result<Value> {
        let (answer, _) = self.ask(message, None)?;
        ensure!(answer["ok"] == true && answer["id"] == message["id"], "{answer}");
        Ok(answer)
    }

    fn refused(&mut self, message: &Value, descriptor: Option<BorrowedFd<'_>>, name: &str) -> Result<Value> {
        let (answer, _) = self.ask(message, descriptor)?;
        ensure!(answer["ok"] == false && answer["error"] == name, "{name} was expected: {answer}");
        ensure!(answer["status"].is_u64() && answer["retry"].is_string() && answer["hint"].is_string(), "{answer}");
        Ok(answer)
    }

    fn put(&mut self, payload: &[u8]) -> Result<String> {
        let memory = memfd(payload, IMMUTABLE)?;
        let (answer, _) = self.ask(&json!({"op": "put", "id": 1, "content_type": "text/x"}), Some(memory.as_fd()))?;
        ensure!(answer["ok"] == true && answer["size"] == payload.len(), "{answer}");
        ensure!(answer["expires"].is_string() && answer["guaranteed_until"].is_string(), "{answer}");
        Ok(answer["reference"].as_str().context("a reference")?.to_owned())
    }
}

fn memfd(bytes: &[u8], seals: SealFlags) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    std::fs::File::from(fd.try_clone()?).write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

fn bytes_of(descriptor: OwnedFd, size: &Value) -> Result<Vec<u8>> {
    ensure!(rustix::fs::fcntl_get_seals(&descriptor)?.contains(IMMUTABLE), "the descriptor is sealed");
    let mut bytes = vec![0; usize::try_from(size.as_u64().context("a size")?)?];
    std::fs::File::from(descriptor).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

struct World {
    scratch: Scratch,
    ring: KeyRing,
}

impl World {
    fn new() -> Result<Self> {
        Ok(Self { scratch: Scratch::new()?, ring: KeyRing::random()? })
    }

    fn options(&self, service: &str) -> ProxyOptions {
        ProxyOptions::new(service, Keys::Inherited(self.ring.clone()))
    }

    async fn proxy(&self, service: &str) -> Result<Proxy> {
        self.options(service).start(&self.scratch).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_passes_as_a_descriptor_both_ways_and_counts_when_accepted() -> Result<()> {
    let world = World::new()?;
    let (producer, consumer) = (world.proxy("producer").await?, world.proxy("consumer").await?);
    let payload = Payload::new(5 * MIB + 3, 1).bytes();
    for reader in [&producer, &consumer] {
        let reference = Channel::open(&producer)?.put(&payload)?;
        let mut channel = Channel::open(reader)?;
        let (granted, descriptor) = channel.ask(&json!({"op": "get", "id": 7, "reference": reference, "later": 1}), None)?;
        assert_eq!(
            (&granted["id"], &granted["ok"], &granted["content_type"]),
            (&json!(7), &json!(true), &json!("text/x")),
            "{granted}"
        );
        assert!(bytes_of(descriptor.context("a descriptor")?, &granted["size"])? == payload[..]);
        assert_eq!(producer.metrics().await?.sum(metrics::HELD_OBJECTS.name), 1.0, "not accepted yet");
        channel.done(&json!({"op": "accept", "id": 8, "lease": granted["lease"]}))?;
        channel.refused(&json!({"op": "accept", "id": 9, "lease": granted["lease"]}), None, "request-invalid")?;
        producer.at_rest(REST).await?;
        consumer.at_rest(REST).await?;
    }
    assert_eq!(producer.metrics().await?.sum(metrics::ACKNOWLEDGEMENTS.name), 2.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_payload_passes_inside_the_message() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy("own").await?;
    for text in ["", "small"] {
        let reference = proxy.put("", client::full(text)).await?;
        let mut channel = Channel::open(&proxy)?;
        let (granted, descriptor) = channel.ask(&json!({"op": "get", "id": 1, "reference": reference}), None)?;
        let inline = base64::engine::general_purpose::STANDARD.decode(granted["inline"].as_str().context("inline")?)?;
        assert!(descriptor.is_none() && inline == text.as_bytes() && granted["size"] == text.len(), "{granted}");
        channel.done(&json!({"op": "accept", "id": 2, "lease": granted["lease"]}))?;
        proxy.at_rest(REST).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_discarded_or_whose_channel_closes_is_given_back() -> Result<()> {
    let world = World::new()?;
    let (producer, consumer) = (world.proxy("producer").await?, world.proxy("consumer").await?);
    let reference = Channel::open(&producer)?.put(&Payload::new(2 * MIB, 1).bytes())?;
    let before = census::descriptors(consumer.process.pid())?;
    for closes in [false, true] {
        let mut channel = Channel::open(&consumer)?;
        let (granted, _) = channel.ask(&json!({"op": "get", "id": 1, "reference": reference}), None)?;
        assert_eq!(granted["ok"], true, "{granted}");
        if closes {
            drop(channel);
        } else {
            channel.done(&json!({"op": "discard", "id": 2, "lease": granted["lease"]}))?;
        }
        let back = |metrics: &Metrics| metrics.sum(metrics::LEASES.name) == 0.0;
        let now = producer.metrics_until("the lease to come back", REST, back).await?;
        assert_eq!((now.sum(metrics::HELD_OBJECTS.name), now.sum(metrics::ACKNOWLEDGEMENTS.name)), (1.0, 0.0));
    }
    consumer.at_rest(REST).await?;
    wait::until(
        "descriptors as before",
        REST,
        async || census::descriptors(consumer.process.pid()),
        |now| {
            // The pull connection stays pooled.
            now.iter().filter(|kind| !kind.starts_with("socket")).eq(before.iter().filter(|kind| !kind.starts_with("socket")))
        },
    )
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_of_an_object_still_being_written_answers_when_it_is_complete_and_holds_up_nobody() -> Result<()> {
    let world = World::new()?;
    let (producer, consumer) = (world.proxy("producer").await?, world.proxy("consumer").await?);
    let payload = Payload::new(3 * MIB, 4);
    let opened = client::send(&producer.api(), Request::post("/v1/objects?open").body(client::empty())?).await?;
    let (reference, document) = (opened.header(headers::REFERENCE).to_owned(), opened.json()?);
    let token = document["write_token"].as_str().context("a write token")?;
    for reader in [&producer, &consumer] {
        let mut channel = Channel::open(reader)?;
        channel.send(&json!({"op": "get", "id": 1, "reference": reference}), None)?;
        channel.refused(&json!({"op": "get", "id": 2, "reference": "nonsense"}), None, "reference-invalid")?;
        drop(channel);
    }
    let mut channel = Channel::open(&consumer)?;
    channel.send(&json!({"op": "get", "id": 1, "reference": reference}), None)?;
    let write = Request::put("/v1/objects").header(headers::WRITE, token).body(payload.body())?;
    assert_eq!(client::send(&producer.api(), write).await?.status, StatusCode::NO_CONTENT);
    let (granted, descriptor) = channel.receive()?;
    assert!(bytes_of(descriptor.context("a descriptor")?, &granted["size"])? == payload.bytes()[..]);
    channel.done(&json!({"op": "accept", "id": 2, "lease": granted["lease"]}))?;
    producer.at_rest(REST).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descriptor_that_is_not_an_immutable_payload_is_refused() -> Result<()> {
    let world = World::new()?;
    let proxy = world.options("own").env("ZIPLINE_BUFFER_BYTES", "2MiB").start(&world.scratch).await?;
    let mut channel = Channel::open(&proxy)?;
    let put = json!({"op": "put", "id": 1});
    let sparse = rustix::fs::memfd_create("sparse", MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&sparse, MIB)?;
    rustix::fs::fcntl_add_seals(&sparse, IMMUTABLE)?;
    let half_sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let (pipe, _write) = std::io::pipe()?;
    let file = std::fs::File::open(world.scratch.write("file", "x")?)?;
    for (descriptor, why) in [
        (sparse, "holes"),
        (memfd(b"x", SealFlags::empty())?, "seals"),
        (memfd(b"x", half_sealed)?, "WRITE"),
        (pipe.into(), "memfd"),
        (file.into(), "memfd"),
    ] {
        let refused = channel.refused(&put, Some(descriptor.as_fd()), "request-invalid")?;
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{why}: {refused}");
    }
    let large = memfd(&vec![1; 3 * MIB as usize], IMMUTABLE)?;
    channel.refused(&put, Some(large.as_fd()), "payload-too-large")?;
    channel.refused(&put, None, "request-invalid")?;
    channel.refused(&json!({"op": "put", "id": 1, "ttl_ms": 0}), Some(memfd(b"x", IMMUTABLE)?.as_fd()), "request-invalid")?;
    let reference = channel.put(b"and the channel goes on")?;
    assert_eq!(proxy.get(&reference).await?.text(), "and the channel goes on");
    proxy.at_rest(REST).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_cannot_be_received_is_refused_before_a_byte_moves() -> Result<()> {
    let world = World::new()?;
    let producer = world.proxy("producer").await?;
    let consumer = world.options("consumer").env("ZIPLINE_BUFFER_BYTES", "2MiB").start(&world.scratch).await?;
    let reference = producer.put("", Payload::new(3 * MIB, 1).body()).await?;
    Channel::open(&consumer)?.refused(&json!({"op": "get", "id": 1, "reference": reference}), None, "payload-too-large")?;
    assert_eq!(producer.metrics().await?.sum(metrics::PULL_BYTES.name), 0.0);
    assert_eq!(consumer.get(&reference).await?.body.len() as u64, 3 * MIB, "streamed, it passes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_ends_its_channel_and_nothing_else() -> Result<()> {
    let world = World::new()?;
    let proxy = world.proxy("own").await?;
    let mut patient = Channel::open(&proxy)?;
    patient.refused(&json!({"op": "invent", "id": 1}), None, "request-invalid")?;
    patient.refused(&json!({"id": 1}), None, "request-invalid")?;
    let (answer, _) = patient.ask(&json!("text"), None)?;
    assert_eq!((&answer["ok"], &answer["id"]), (&json!(false), &Value::Null));
    for garbage in [[0xff; 8], [0, 0, 0, 9, b'c', b'u', b't', b' ']] {
        let mut channel = Channel::open(&proxy)?;
        channel.0.write_all(&garbage)?;
        channel.0.shutdown(std::net::Shutdown::Write)?;
        // Closed without an answer; where the proxy left bytes unread, that is a reset.
        let ended = channel.0.read_to_end(&mut Vec::new());
        assert!(matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(|error| error.kind() == ConnectionReset), "{ended:?}");
    }
    patient.put(b"still there")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_function_redeems_a_ticket_and_an_unregistered_one_gets_a_body() -> Result<()> {
    let world = World::new()?;
    let function = Function::start(Behaviour::Held).await?;
    let producer = world.proxy("producer").await?;
    let consumer = world.options("consumer").function(function.port()).start(&world.scratch).await?;
    let payload = Payload::new(2 * MIB, 6);
    let post = async |reference: String| -> Result<Answer> {
        let request = Request::post("/").header(headers::REFERENCE, reference).header("content-type", "text/own");
        client::send(&consumer.requests(), request.body(client::empty())?).await
    };

    let mut serving = Channel::open(&consumer)?;
    serving.done(&json!({"op": "serve", "id": 1}))?;
    let reference = producer.put("", payload.body()).await?;
    let redeem = async {
        let seen = wait::until("the request", REST, async || Ok(function.seen()), |seen| seen.len() == 1).await?;
        assert_eq!((seen[0].size, seen[0].header("content-type")), (0, "text/own"));
        let ticket = seen[0].header(headers::TICKET).to_owned();
        // Any connection of the socket will do, once.
        let mut channel = Channel::open(&consumer)?;
        let (granted, descriptor) = channel.ask(&json!({"op": "redeem", "id": 2, "ticket": ticket}), None)?;
        assert!(granted["lease"].is_null() && granted["ok"] == true, "{granted}");
        assert!(bytes_of(descriptor.context("a descriptor")?, &granted["size"])? == payload.bytes()[..]);
        channel.refused(&json!({"op": "redeem", "id": 3, "ticket": ticket}), None, "request-invalid")?;
        assert_eq!(producer.metrics().await?.sum(metrics::ACKNOWLEDGEMENTS.name), 0.0, "the answer acknowledges");
        function.release();
        anyhow::Ok(())
    };
    let (answer, redeemed) = tokio::join!(post(reference), redeem);
    redeemed?;
    assert_eq!(answer?.status, StatusCode::OK);
    producer.at_rest(REST).await?;
    consumer.at_rest(REST).await?;

    drop(serving);
    function.behave(Behaviour::Sha256);
    let gets_body = wait::until(
        "a body in place of a ticket",
        REST,
        async || post(producer.put("", payload.body()).await?).await,
        |answer| answer.text() == payload.sha256(),
    );
    gets_body.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_ends_with_its_request_and_the_payload_is_given_back() -> Result<()> {
    let world = World::new()?;
    let function = Function::start(Behaviour::Status(500)).await?;
    let producer = world.proxy("producer").await?;
    let consumer = world.options("consumer").function(function.port()).start(&world.scratch).await?;
    let mut channel = Channel::open(&consumer)?;
    channel.done(&json!({"op": "serve", "id": 1}))?;
    let reference = producer.put("", Payload::new(2 * MIB, 6).body()).await?;
    let request = Request::post("/").header(headers::REFERENCE, &reference).body(client::empty())?;
    assert_eq!(client::send(&consumer.requests(), request).await?.status, StatusCode::INTERNAL_SERVER_ERROR);
    let ticket = function.seen()[0].header(headers::TICKET).to_owned();
    assert!(!ticket.is_empty());
    channel.refused(&json!({"op": "redeem", "id": 2, "ticket": ticket}), None, "request-invalid")?;
    let back = |metrics: &Metrics| metrics.sum(metrics::LEASES.name) == 0.0;
    let now = producer.metrics_until("the lease to come back", REST, back).await?;
    assert_eq!(now.sum(metrics::HELD_OBJECTS.name), 1.0);
    Ok(())
}
