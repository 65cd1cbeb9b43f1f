//! A TCP relay that wounds the connections that pass it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const CHUNK_BYTES: usize = 64 * 1024;

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From whoever connected to the target.
    ToTarget,
    /// From the target to whoever connected.
    FromTarget,
}

/// What happens to one connection. Bytes are counted from the connection's start, on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// After so many bytes both ends are reset.
    Cut(Side, u64),
    /// After so many bytes nothing passes any more on that side, until [`Relay::release`].
    Stall(Side, u64),
    /// The byte at this offset arrives with all bits flipped.
    Corrupt(Side, u64),
    /// The first byte waits that long.
    Delay(Side, Duration),
    /// The connection is accepted and closed at once, without one to the target.
    Refuse,
}

#[derive(Debug)]
struct Shared {
    /// Faults of the connections to come, first one first; then `always`.
    once: Mutex<VecDeque<Fault>>,
    always: Mutex<Fault>,
    released: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    passed: [watch::Sender<u64>; 2],
    accepted: watch::Sender<usize>,
}

/// A relay from its own address to a target. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

impl Relay {
    /// Listens on `at` (port 0: a free one) for connections to `target`.
    pub async fn start(at: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("a relay at {at}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            once: Mutex::default(),
            always: Mutex::new(Fault::None),
            released: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            passed: [watch::Sender::new(0), watch::Sender::new(0)],
            accepted: watch::Sender::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, target, shared.clone()));
        Ok(Self { address, shared, _server: server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connections get these faults, one each, in this order.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.once.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    /// Every connection gets this fault, once those of [`Relay::next`] are used up.
    pub fn always(&self, fault: Fault) {
        *self.shared.always.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Lets stalled connections go on, now and later.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Stalled connections of the time from now on wait again.
    pub fn hold(&self) {
        self.shared.released.send_replace(false);
    }

    /// Resets every connection that is open now.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forgets the faults of connections to come.
    pub fn mend(&self) {
        self.shared.once.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.always(Fault::None);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Bytes that passed on one side, over all connections.
    pub fn passed(&self, side: Side) -> u64 {
        *self.shared.passed[side as usize].borrow()
    }

    /// Waits until so many bytes have passed on one side; wrap it in a deadline.
    pub async fn has_passed(&self, side: Side, bytes: u64) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.shared.passed[side as usize].subscribe().wait_for(|passed| *passed >= bytes).await;
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let next = shared.once.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let fault = next.unwrap_or_else(|| *shared.always.lock().unwrap_or_else(PoisonError::into_inner));
                shared.accepted.send_modify(|accepted| *accepted += 1);
                connections.spawn(relay(stream, target, fault, shared.clone()));
            }
        }
    }
}

/// Both directions until both have ended, or until one was cut.
async fn relay(client: TcpStream, target: SocketAddr, fault: Fault, shared: Arc<Shared>) {
    if fault == Fault::Refuse {
        return;
    }
    // From the address the relay listens on, so that the target sees the same network on both ways.
    let Ok(server) = connect(client.local_addr(), target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    if matches!(fault, Fault::Cut(..)) {
        // Without it the peer reads what was sent and then a clean end; a cut is a reset.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
    let mut cuts = shared.cuts.subscribe();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = flow(client_read, server_write, Side::ToTarget, fault, &shared);
    let down = flow(server_read, client_write, Side::FromTarget, fault, &shared);
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => if ended == Ended::Clean { down.await; },
        ended = &mut down => if ended == Ended::Clean { up.await; },
        _ = cuts.changed() => {}
    }
}

async fn connect(from: std::io::Result<SocketAddr>, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from?.ip(), 0))?;
    socket.connect(target).await
}

#[derive(PartialEq, Eq)]
enum Ended {
    Clean,
    Cut,
}

async fn flow(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, side: Side, fault: Fault, shared: &Shared) -> Ended {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut passed = 0;
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return if to.shutdown().await.is_ok() { Ended::Clean } else { Ended::Cut },
            Ok(length) => length,
            Err(_) => return Ended::Cut,
        };
        let mut bytes = &mut buffer[..length];
        match fault {
            Fault::Delay(of, time) if of == side && passed == 0 => tokio::time::sleep(time).await,
            Fault::Corrupt(of, at) if of == side => {
                if let Some(byte) = at.checked_sub(passed).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?)) {
                    *byte = !*byte;
                }
            }
            Fault::Cut(of, at) | Fault::Stall(of, at) if of == side && passed + length as u64 >= at => {
                let first = usize::try_from(at.saturating_sub(passed)).unwrap_or(usize::MAX).min(length);
                if pass(&mut to, &bytes[..first], side, shared).await.is_err() || matches!(fault, Fault::Cut(..)) {
                    return Ended::Cut;
                }
                // The sender lives in `shared`, so the wait cannot fail.
                let _ = shared.released.subscribe().wait_for(|released| *released).await;
                passed += first as u64;
                bytes = &mut bytes[first..];
            }
            _ => {}
        }
        if pass(&mut to, bytes, side, shared).await.is_err() {
            return Ended::Cut;
        }
        passed += bytes.len() as u64;
    }
}

async fn pass(to: &mut OwnedWriteHalf, bytes: &[u8], side: Side, shared: &Shared) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    shared.passed[side as usize].send_modify(|passed| *passed += bytes.len() as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Behaviour, Function, Loopback, Payload, Target, http as client};

    #[tokio::test]
    async fn a_relay_cuts_corrupts_and_lets_pass() {
        let function = Function::start(Behaviour::Sha256).await.unwrap();
        let own = Loopback::claim().unwrap();
        let relay = Relay::start(own.port(0), function.address()).await.unwrap();
        let target = Target::Tcp(relay.address());
        let payload = Payload::new(2_000_000, 3);
        let request = || http::Request::post("/").body(payload.body()).unwrap();

        relay.next([Fault::Cut(Side::ToTarget, 100_000), Fault::Corrupt(Side::ToTarget, 500_000), Fault::Refuse]);
        client::send(&target, request()).await.unwrap_err();
        assert_eq!(relay.passed(Side::ToTarget), 100_000);
        assert_ne!(client::send(&target, request()).await.unwrap().text(), payload.sha256());
        client::send(&target, request()).await.unwrap_err();
        assert_eq!(client::send(&target, request()).await.unwrap().text(), payload.sha256());
        assert_eq!(relay.accepted(), 4);
    }

    #[tokio::test]
    async fn a_stalled_connection_goes_on_when_it_is_released() {
        let function = Function::start(Behaviour::Sha256).await.unwrap();
        let relay = Relay::start("127.0.0.1:0".parse().unwrap(), function.address()).await.unwrap();
        let target = Target::Tcp(relay.address());
        let payload = Payload::new(2_000_000, 4);
        relay.always(Fault::Stall(Side::ToTarget, 1_000_000));
        let sent = client::send(&target, http::Request::post("/").body(payload.body()).unwrap());
        let released = async {
            relay.has_passed(Side::ToTarget, 1_000_000).await;
            assert!(function.seen().is_empty());
            relay.release();
        };
        assert_eq!(tokio::join!(sent, released).0.unwrap().text(), payload.sha256());
    }
}
