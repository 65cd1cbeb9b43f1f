//! One producer, one consumer, and a witness that nothing ever happens to, each a real queue-proxy of its own.
//!
//! References name a relay in front of the producer's pull port, and calls go through another in front of the consumer's
//! request port, so that connections can be cut at any byte. The consumer's function is the harness's own: it counts what it
//! saw and can break off anywhere.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use zipline_contract::doors;
use zipline_fault_point::{KEPT_VARIABLE, SOCKET_VARIABLE};
use zipline_testkit::{Behaviour, Function, KeyRing, Keys, Loopback, Proxy, ProxyOptions, Relay, Scratch, census, wait};

use crate::steering::{Steered, Steering};

/// Unused connections are kept so long: a check need not wait for them.
const KEPT_MS: u64 = 200;
/// Whatever is left after a fault must be gone after this: longer than a lease and every retry together.
pub(crate) const REST: Duration = Duration::from_secs(25);

/// Which of the two may be harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

/// A queue-proxy and what it had open at its start.
pub(crate) struct Member {
    pub(crate) proxy: Proxy,
    pub(crate) steered: Steered,
    descriptors: Vec<String>,
    pub(crate) is_gone: bool,
}

pub(crate) struct World {
    pub(crate) producer: Member,
    pub(crate) consumer: Member,
    pub(crate) witness: Member,
    pub(crate) function: Function,
    pub(crate) pulls: Relay,
    pub(crate) calls: Relay,
    _addresses: (Loopback, Loopback),
    _steering: Steering,
    scratch: Scratch,
}

impl World {
    /// Starts all of it; `hands_over`: descriptors pass between the proxies in place of bytes.
    pub(crate) async fn start(hands_over: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let steering = Steering::listen(&scratch)?;
        let ring = KeyRing::random()?;
        let (advertised, front) = (Loopback::claim()?, Loopback::claim()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let handover = scratch.join("h");
        std::fs::create_dir(&handover)?;
        let options = |name: &str| {
            let options = ProxyOptions::new(name, Keys::Inherited(ring.clone()))
                .envs(SETTINGS.iter().copied())
                .env(SOCKET_VARIABLE, steering.path())
                .env(KEPT_VARIABLE, KEPT_MS.to_string())
                .env("ZIPLINE_INGRESS", front.port(doors::REQUEST_HTTP1).to_string());
            if hands_over { options.env("ZIPLINE_HANDOVER_DIR", handover.to_string_lossy()) } else { options }
        };
        let (producer, consumer, witness) = tokio::join!(
            options("producer").advertised(advertised.ip()).start(&scratch),
            options("consumer").function(function.port()).start(&scratch),
            options("consumer").start(&scratch),
        );
        let (producer, consumer, witness) = (producer?, consumer?, witness?);
        let pulls = Relay::start(advertised.port(doors::PULL), producer.pull_address()).await?;
        let calls = Relay::start(front.port(doors::REQUEST_HTTP1), consumer.request_address()).await?;
        Ok(Self {
            producer: Member::new(producer, &steering).await?,
            consumer: Member::new(consumer, &steering).await?,
            witness: Member::new(witness, &steering).await?,
            function,
            pulls,
            calls,
            _addresses: (advertised, front),
            _steering: steering,
            scratch,
        })
    }

    pub(crate) const fn member(&self, side: Side) -> &Member {
        match side {
            Side::Producer => &self.producer,
            Side::Consumer => &self.consumer,
        }
    }

    pub(crate) const fn member_mut(&mut self, side: Side) -> &mut Member {
        match side {
            Side::Producer => &mut self.producer,
            Side::Consumer => &mut self.consumer,
        }
    }

    /// All three, by name.
    pub(crate) const fn members(&self) -> [(&'static str, &Member); 3] {
        [("producer", &self.producer), ("consumer", &self.consumer), ("witness", &self.witness)]
    }

    /// Where their sockets and logs are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Whether one of them has ended, so that the next fault needs another world.
    pub(crate) const fn is_over(&self) -> bool {
        self.producer.is_gone || self.consumer.is_gone
    }
}

/// Short waits, so that two thousand faults fit into minutes; what they mean does not change with their length.
const SETTINGS: &[(&str, &str)] = &[
    ("ZIPLINE_LEASE_SECONDS", "2"),
    ("ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS", "1.5"),
    ("ZIPLINE_CONNECT_TIMEOUT_SECONDS", "0.5"),
    ("ZIPLINE_PUT_WAIT_SECONDS", "1"),
    ("ZIPLINE_INVOKE_TIMEOUT_SECONDS", "6"),
    ("ZIPLINE_GRACE_SECONDS", "5"),
    ("ZIPLINE_BUFFER_BYTES", "64MiB"),
    ("ZIPLINE_SERVICE_DOMAIN", "localhost"),
    ("ZIPLINE_PEERS_KNOWN", "all"),
    ("REVISION_TIMEOUT_SECONDS", "10"),
    ("ZIPLINE_LOG", "warn"),
];

impl Member {
    async fn new(proxy: Proxy, steering: &Steering) -> Result<Self> {
        let steered = steering.process(proxy.process.pid()).await?;
        let descriptors = settled_descriptors(proxy.process.pid()).await?;
        Ok(Self { proxy, steered, descriptors, is_gone: false })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.proxy.process.signal(signal)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.is_gone = true;
        self.proxy.process.kill()
    }

    /// Waits until nothing is held, leased, queued or running.
    pub(crate) async fn gives_back(&self) -> Result<()> {
        self.proxy.at_rest(REST).await.map(|_| ())
    }

    /// Waits until no more is open than at its start.
    pub(crate) async fn closes_what_it_opened(&self) -> Result<()> {
        let pid = self.proxy.process.pid();
        let open = async || {
            let mut more = census::descriptors(pid)?;
            for before in &self.descriptors {
                if let Some(at) = more.iter().position(|kind| kind == before) {
                    more.swap_remove(at);
                }
            }
            Ok(more)
        };
        wait::until("the descriptors of the start", REST, open, Vec::is_empty).await.map(|_| ())
    }

    /// Waits for its end by itself.
    pub(crate) async fn ends(&mut self) -> Result<()> {
        self.proxy.process.ended(REST).await.context("a proxy that was told to go")?;
        self.is_gone = true;
        Ok(())
    }
}

/// What a process has open once the connections by which it was looked at are closed.
async fn settled_descriptors(pid: u32) -> Result<Vec<String>> {
    let mut last = Vec::new();
    let look = async || census::descriptors(pid);
    wait::until("its descriptors to settle", REST, look, |seen| {
        let is_same = *seen == last;
        last.clone_from(seen);
        is_same
    })
    .await
}
