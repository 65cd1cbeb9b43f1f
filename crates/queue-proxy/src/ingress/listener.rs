//! Accepting connections, and telling what they speak.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::h2c_upgrade::{self, PREFACE};
use super::http1::Session;
use super::http2;
use crate::drain::{Stage, reached};
use crate::http1::Conn;
use crate::instance::Instance;

/// Connections at once; further ones wait in the kernel's queue. Each costs about 10 KiB at rest, 128 KiB while it streams.
const CONNECTIONS_MAX: usize = 65_536;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// How long a new connection may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long to wait when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound port that nobody serves yet. Connections wait in the kernel's queue.
#[derive(Debug)]
pub struct Port(std::net::TcpListener);

/// A port that is served.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// A port that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{door} port {address} can't be opened: {source}")]
pub struct BindError {
    door: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl Port {
    /// Binds a port at `address`, or at all addresses of both families.
    ///
    /// # Errors
    /// The port, what it is for, and the system's reason.
    pub fn bind(door: &'static str, address: Option<IpAddr>, port: u16) -> Result<Self, BindError> {
        if let Some(address) = address {
            let address = SocketAddr::from((address, port));
            return listen(address).map(Self).map_err(|source| BindError { door, address, source });
        }
        // An IPv6 socket serves both families; without IPv6 in the kernel or the namespace, IPv4 alone.
        if let Ok(listener) = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            return Ok(Self(listener));
        }
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        listen(address).map(Self).map_err(|source| BindError { door, address, source })
    }

    /// Hands the port to the runtime that this is called in: its connections are noticed by that one's thread alone.
    ///
    /// # Errors
    /// The system's.
    pub fn open(self) -> io::Result<Listener> {
        TcpListener::from_std(self.0).map(Listener)
    }
}

impl Listener {
    /// The next connection. Safe to cancel.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves requests, over TLS where there is an acceptor, until the instance closes and all connections have ended.
    pub async fn serve(self, instance: Arc<Instance>, tls: Option<TlsAcceptor>) {
        let mut stage = instance.drain.stage();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = reached(&mut stage, Stage::Closing) => break,
                Some(ended) = connections.join_next() => report(ended),
                (stream, peer) = self.accept(), if connections.len() < CONNECTIONS_MAX => {
                    let instance = Arc::clone(&instance);
                    match tls.clone() {
                        None => connections.spawn(connection(instance, stream, peer)),
                        Some(tls) => connections.spawn(secured(instance, stream, peer, tls)),
                    };
                }
            }
        }
        drop(self); // From here on new connections are refused.
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    }
}

/// Options are set on the listening socket, from which the kernel copies them to each connection: no call a connection.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; it cost this connection only");
    }
}

/// A connection that begins with a TLS handshake.
async fn secured(instance: Arc<Instance>, stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor) {
    let mut stage = instance.drain.stage();
    let shaken = tokio::select! {
        biased;
        shaken = timeout(SILENCE_MAX, tls.accept(stream)) => shaken,
        () = reached(&mut stage, Stage::Closing) => return,
    };
    match shaken {
        Ok(Ok(stream)) => connection(instance, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
        Err(_elapsed) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

async fn connection<T>(instance: Arc<Instance>, stream: T, peer: SocketAddr)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut conn = Conn::new(stream);
    let mut stage = instance.drain.stage();
    let sniffed = tokio::select! {
        biased;
        sniffed = timeout(SILENCE_MAX, speaks_http2(&mut conn)) => sniffed,
        () = reached(&mut stage, Stage::Closing) => return,
    };
    match sniffed {
        Ok(Ok(Some(true))) => {
            let (stream, received) = conn.into_parts();
            http2::serve(instance, Prefixed { prefix: received.freeze(), io: stream }, peer).await;
        }
        Ok(Ok(Some(false))) => {
            if let Some((mut conn, upgrade)) = Session::new(Arc::clone(&instance), conn, peer).serve().await {
                match h2c_upgrade::switch(&mut conn, upgrade).await {
                    Ok(prefix) => http2::serve(instance, Prefixed { prefix, io: conn.into_parts().0 }, peer).await,
                    Err(error) => tracing::debug!(%error, "an upgrade to HTTP/2 failed"),
                }
            }
        }
        Ok(Ok(None) | Err(_)) | Err(_) => {} // It said nothing.
    }
}

/// Whether the client begins with HTTP/2's preface; `None` if it says nothing.
async fn speaks_http2<T: AsyncRead + AsyncWrite + Unpin>(conn: &mut Conn<T>) -> io::Result<Option<bool>> {
    loop {
        let known = conn.inbound.len().min(PREFACE.len());
        if conn.inbound[..known] != PREFACE[..known] {
            return Ok(Some(false));
        }
        if known == PREFACE.len() {
            return Ok(Some(true));
        }
        if conn.fill().await? == 0 {
            return Ok((known > 0).then_some(false));
        }
    }
}

/// A connection of which something was read already.
struct Prefixed<T> {
    prefix: Bytes,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = (&mut self.prefix).reader().read(buf.initialize_unfilled())?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
