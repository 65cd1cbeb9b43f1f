//! Zipline's paths of `bench transfer`, through real queue-proxies and their local APIs.
//!
//! One producer; one consumer that must pull over TCP; one that may be handed descriptors. Objects are put once a size,
//! with retrievals to spare, so that a sample is one read and nothing else.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zipline_contract::{doors, headers, limits};
use zipline_core::pull::PeerPolicy;
use zipline_sdk::{Client, Config, Endpoint, Payload, PayloadWriter, PutOptions, Reference};
use zipline_testkit::{KeyRing, Keys, Loopback, Proxy, ProxyOptions, Scratch};
use zipline_transfer::{Congestion, FetchOptions, Node, NodeConfig};

use crate::process::{self, Process};
use crate::raw::{self, CHUNK_BYTES};

/// The proxies of one run.
pub(crate) struct Proxies {
    producer: Client,
    consumer: Client,
    neighbour: Client,
    /// A data plane in this process, whose reads end in its own reused blocks.
    puller: Node,
    through: SendRequest<Empty<Bytes>>,
    chunk: Vec<u8>,
    /// Queue-proxies, by name, for what they cost.
    pub(crate) running: Vec<(&'static str, Proxy)>,
    _connections: JoinSet<hyper::Result<()>>,
    function: Process,
    _loopback: Loopback,
    _scratch: Scratch,
}

impl Proxies {
    /// Starts them, with room for objects of `bytes_max`.
    pub(crate) async fn start(bytes_max: u64, congestion: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let handover = scratch.join("handover");
        std::fs::create_dir(&handover)?;
        let keys = KeyRing::random()?;
        let (function, function_address) = Process::role("function", &[])?;
        let room = (bytes_max * 3).max(256 * 1024 * 1024).to_string();
        let options = |name: &str| {
            ProxyOptions::new(name, Keys::Inherited(keys.clone()))
                .env("ZIPLINE_BUFFER_BYTES", room.clone())
                .env("ZIPLINE_PULL_CONGESTION", congestion)
        };
        let handover = handover.to_string_lossy().into_owned();
        let producer = options("producer").env("ZIPLINE_HANDOVER_DIR", handover.clone()).start(&scratch).await?;
        let neighbour = options("neighbour").env("ZIPLINE_HANDOVER_DIR", handover).start(&scratch).await?;
        let consumer = options("consumer").function(function_address.port()).start(&scratch).await?;
        let loopback = Loopback::claim()?;
        let puller = puller(&loopback, &keys, congestion).await?;
        let mut connections = JoinSet::new();
        let through = connect(consumer.request_address(), &mut connections).await?;
        Ok(Self {
            producer: client(&producer),
            consumer: client(&consumer),
            neighbour: client(&neighbour),
            puller,
            through,
            chunk: raw::random_bytes(CHUNK_BYTES, 5),
            running: vec![("producer", producer), ("consumer", consumer), ("neighbour", neighbour)],
            _connections: connections,
            function,
            _loopback: loopback,
            _scratch: scratch,
        })
    }

    fn filled(&self, bytes: u64) -> Result<Payload> {
        let mut writer = PayloadWriter::new()?;
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left)?.min(self.chunk.len());
            writer.write_all(&self.chunk[..now])?;
            left -= now as u64;
        }
        Ok(writer.finish()?)
    }

    /// Puts an object that can be read as often as a run needs.
    pub(crate) async fn put(&self, bytes: u64) -> Result<Reference> {
        let options = PutOptions {
            retrievals: NonZeroU32::new(limits::RETRIEVALS_MAX).unwrap_or(NonZeroU32::MIN),
            ttl: Some(Duration::from_secs(3600)),
        };
        Ok(self.producer.put(self.filled(bytes)?, options).await?)
    }

    /// Ends an object.
    pub(crate) async fn release(&self, reference: &Reference) -> Result<()> {
        Ok(self.producer.release(reference).await?)
    }

    /// Pulled over TCP, verified block by block in this process's reused blocks: seconds. The acknowledgement follows, as that of
    /// a proxy does when its function has the payload.
    pub(crate) async fn pull_to_buffer(&self, reference: &Reference, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        let mut incoming = self.puller.fetch(reference.as_str(), FetchOptions::default()).await?;
        let mut came = 0;
        while let Some(block) = incoming.next_block().await? {
            came += block.len() as u64;
        }
        let seconds = started.elapsed().as_secs_f64();
        incoming.acknowledge().await?;
        anyhow::ensure!(came == bytes, "{came} of {bytes} bytes came");
        Ok(seconds)
    }

    /// Pulled over TCP by the consumer's proxy into a fresh memfd, which its function gets: seconds.
    pub(crate) async fn pull_to_memfd(&self, reference: &Reference, bytes: u64) -> Result<f64> {
        timed_get(&self.consumer, reference, bytes, false).await
    }

    /// Handed over by descriptor, producer's proxy to neighbour's proxy to its function: seconds, with reading every byte once if `read`.
    pub(crate) async fn hand_over(&self, reference: &Reference, bytes: u64, read: bool) -> Result<f64> {
        timed_get(&self.neighbour, reference, bytes, read).await
    }

    /// Filling a memfd, putting it, the hand-over, and reading every byte once: seconds.
    pub(crate) async fn fill_hand_over_read(&self, bytes: u64) -> Result<f64> {
        self.fill_get_read(&self.neighbour, bytes).await
    }

    /// The same with a pull over TCP in place of the hand-over.
    pub(crate) async fn fill_pull_read(&self, bytes: u64) -> Result<f64> {
        self.fill_get_read(&self.consumer, bytes).await
    }

    async fn fill_get_read(&self, consumer: &Client, bytes: u64) -> Result<f64> {
        let started = Instant::now();
        let reference = self.producer.put(self.filled(bytes)?, PutOptions::default()).await?;
        let payload = consumer.get(&reference).await?;
        raw::read_once(&payload);
        Ok(started.elapsed().as_secs_f64())
    }

    /// The process id of the proxy of that name.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|(other, _)| *other == name).map(|(_, proxy)| proxy.process.pid())
    }

    /// Process ids of the proxies and the function.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(|(_, proxy)| proxy.process.pid()).chain([self.function.id()])
    }

    /// Processor time that the proxies have used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.running.iter().map(|(_, proxy)| process::cpu_seconds(proxy.process.pid())).sum()
    }

    /// A request with a reference through the consumer's proxy to a plain HTTP function: seconds until its answer.
    pub(crate) async fn pull_to_function(&mut self, reference: &Reference) -> Result<f64> {
        let request = http::Request::post("/")
            .header(http::header::HOST, "consumer.default.localhost")
            .header(headers::REFERENCE, reference.as_str())
            .body(Empty::new())?;
        let started = Instant::now();
        let answer = self.through.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "the function answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(started.elapsed().as_secs_f64())
    }
}

async fn timed_get(client: &Client, reference: &Reference, bytes: u64, read: bool) -> Result<f64> {
    let started = Instant::now();
    let payload = client.get(reference).await?;
    if read {
        raw::read_once(&payload);
    }
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(payload.len() as u64 == bytes, "{} of {bytes} bytes came", payload.len());
    Ok(seconds)
}

/// The data plane of this process.
async fn puller(loopback: &Loopback, keys: &KeyRing, congestion: &str) -> Result<Node> {
    let ring = zipline_core::reference::KeyRing::parse(keys.document().to_string().as_bytes())?;
    let peers = PeerPolicy::parse("127.0.0.0/8", None, doors::PULL)?;
    let mut config = NodeConfig::new(loopback.port(doors::PULL), peers);
    config.congestion = match congestion {
        "system" => Congestion::System,
        name => Congestion::Named(name.to_owned()),
    };
    Ok(Node::start(config, Arc::new(zipline_transfer::Keys::new(ring))).await?)
}

/// A client of a proxy's local API.
pub(crate) fn client(proxy: &Proxy) -> Client {
    Client::new(Config::new(Endpoint::Unix(proxy.api_path().to_owned())))
}

async fn connect(address: SocketAddr, connections: &mut JoinSet<hyper::Result<()>>) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("the consumer's request port {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    connections.spawn(connection);
    Ok(sender)
}
