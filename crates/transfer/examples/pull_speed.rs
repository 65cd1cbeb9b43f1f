//! Prints how fast one 100 MiB object is pulled, beside the best raw program for the same destination, in the same run.
//!
//! `cargo run --release -p zipline-transfer --example pull_speed [MIB] [ROUNDS]`. Producer and consumer have a runtime
//! of one thread each, as two proxies would. Congestion control is reno for both, which the node chooses on loopback.
//! Senders are pinned to one processor and readers to another: left alone, a busy machine's scheduler puts both on one
//! now and then, which halves the speed of whichever program it happens to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use zipline_core::pull::PeerPolicy;
use zipline_core::reference::KeyRing;
use zipline_sys::Memfd;
use zipline_sys::congestion::set_congestion;
use zipline_sys::sendfile::sendfile;
use zipline_transfer::{FetchOptions, Keys, Node, NodeConfig, PutOptions, Taking};

const MIB: usize = 1024 * 1024;
/// What the raw program reads at a time; larger and smaller buffers are slower.
const RAW_READ_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    ReusedBuffer,
    FreshMemfd,
}

const SENDING_CPU: usize = 0;
const READING_CPU: usize = 1;

fn pin(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        eprintln!("not pinned to processor {cpu}: {error}");
    }
}

fn main() -> Result<()> {
    pin(READING_CPU);
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mib = arguments.next().transpose()?.unwrap_or(100);
    let rounds = arguments.next().transpose()?.unwrap_or(15).max(1);
    let payload: Bytes = (0..mib * MIB).map(|i| (i * 31 + (i >> 12)) as u8).collect::<Vec<_>>().into();
    for (name, destination) in [("reused buffer", Destination::ReusedBuffer), ("fresh memfd", Destination::FreshMemfd)] {
        let mut raw = Raw::start(payload.clone(), destination)?;
        let nodes = Nodes::start(payload.clone())?;
        // Taking turns, so that both see the same machine.
        let (mut raws, mut pulls): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            raws.push(raw.pull()?);
            pulls.push(nodes.pull(destination)?);
        }
        raws.sort();
        pulls.sort();
        let speed = |time: Duration| mib as f64 / 1024.0 / time.as_secs_f64();
        for (which, at) in [("median", rounds / 2), ("best", 0)] {
            let (raw, pull) = (speed(raws[at]), speed(pulls[at]));
            println!("{mib} MiB, {name}, {which}: pull {pull:.2} GiB/s, raw sendfile {raw:.2} GiB/s, ratio {:.2}", pull / raw);
        }
    }
    Ok(())
}

/// The ceiling: one thread sends by sendfile, this one reads.
struct Raw {
    stream: TcpStream,
    size: usize,
    destination: Destination,
    buffer: Vec<u8>,
}

impl Raw {
    fn start(payload: Bytes, destination: Destination) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        set_congestion(&listener, "reno")?;
        let address = listener.local_addr()?;
        let size = payload.len();
        std::thread::spawn(move || -> Result<()> {
            pin(SENDING_CPU);
            let memfd = Memfd::create("raw")?;
            memfd.write_all_at(&payload, 0)?;
            let (mut stream, _) = listener.accept()?;
            loop {
                stream.read_exact(&mut [0])?;
                let mut sent = 0;
                while sent < payload.len() {
                    sent += sendfile(&stream, memfd.as_fd(), sent as u64, payload.len() - sent)?;
                }
            }
        });
        let stream = TcpStream::connect(address)?;
        set_congestion(&stream, "reno")?;
        Ok(Self { stream, size, destination, buffer: vec![0; RAW_READ_BYTES] })
    }

    fn pull(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.stream.write_all(&[1])?;
        let memfd = Memfd::create("landing")?;
        let mut came = 0;
        while came < self.size {
            let read = self.stream.read(&mut self.buffer)?;
            if self.destination == Destination::FreshMemfd {
                memfd.write_all_at(&self.buffer[..read], came as u64)?;
            }
            came += read;
        }
        let took = began.elapsed();
        drop(memfd);
        Ok(took)
    }
}

/// Two nodes, each on a thread of its own.
struct Nodes {
    token: String,
    consumer: Node,
    runtime: tokio::runtime::Runtime,
    _producer: (tokio::runtime::Runtime, Node),
}

impl Nodes {
    fn start(payload: Bytes) -> Result<Self> {
        let ring = format!(
            r#"{{"keys":[{{"id":"00000001","key":"{}","not_before_ms":0,"not_after_ms":9999999999999}}]}}"#,
            "5a".repeat(32)
        );
        let keys = Arc::new(Keys::new(KeyRing::parse(ring.as_bytes())?));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = |last| -> Result<NodeConfig> {
            let mut config = NodeConfig::new(
                SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)),
                PeerPolicy::parse("127.0.0.0/8", None, port)?,
            );
            config.buffer_bytes = 4 << 30;
            Ok(config)
        };
        let one_thread = |cpu| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().on_thread_start(move || pin(cpu)).build()
        };
        let (producing, runtime) = (one_thread(SENDING_CPU)?, one_thread(READING_CPU)?);
        let producer = producing.block_on(Node::start(config(1)?, Arc::clone(&keys)))?;
        let consumer = runtime.block_on(Node::start(config(2)?, keys))?;
        let token = producing.block_on(async {
            let retrievals =
                zipline_core::object::Owner::Put { retrievals: std::num::NonZeroU32::new(100_000).expect("above 0") };
            let mut writer = producer.put(PutOptions { owner: retrievals, ..PutOptions::default() }).await?;
            for at in (0..payload.len()).step_by(MIB) {
                writer.write(payload.slice(at..payload.len().min(at + MIB))).await?;
            }
            anyhow::Ok(writer.finish().await?.token)
        })?;
        Ok(Self { token: token.into_string(), consumer, runtime, _producer: (producing, producer) })
    }

    fn pull(&self, destination: Destination) -> Result<Duration> {
        let (consumer, token) = (self.consumer.clone(), self.token.clone());
        let pull = async move {
            let began = Instant::now();
            let taking = if destination == Destination::FreshMemfd { Taking::Whole } else { Taking::Stream };
            let mut incoming = consumer.fetch(&token, FetchOptions { taking, ..FetchOptions::default() }).await?;
            let took;
            if destination == Destination::FreshMemfd {
                let _payload = incoming.receive().await?;
                took = began.elapsed();
            } else {
                while incoming.next_block().await?.is_some() {}
                took = began.elapsed();
            }
            incoming.acknowledge().await?;
            anyhow::Ok(took)
        };
        // On the worker, not on this thread: that is where a proxy's work is done.
        self.runtime.block_on(self.runtime.spawn(pull))?
    }
}
