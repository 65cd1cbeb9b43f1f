//! A pull connection, plain or encrypted. Both carry the same bytes; only a plain one can be given to `sendfile`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::TlsStream;

/// One end of a pull connection.
#[derive(Debug)]
pub(crate) enum PullStream {
    Plain(TcpStream),
    /// Both ends have shown certificates of the trust domain.
    Tls(Box<TlsStream<TcpStream>>),
}

impl PullStream {
    /// Whether the other side is still there and has said nothing unasked.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(stream) => unconstrained(stream.read(&mut [0])).now_or_never().is_none(),
        }
    }

    /// Says what the socket takes at once; the connection is closed after it.
    pub(crate) fn say_last(&mut self, bytes: &[u8]) {
        let _said = match self {
            Self::Plain(stream) => stream.try_write(bytes).is_ok(),
            Self::Tls(stream) => {
                let saying = async {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                };
                unconstrained(saying).now_or_never().is_some()
            }
        };
    }
}

impl AsyncRead for PullStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

/// Writes a head and what follows it, and has them sent; `progress` is told about the latter.
pub(crate) async fn write_all(
    stream: &mut PullStream,
    mut head: &[u8],
    mut tail: &[u8],
    mut progress: impl FnMut(usize),
) -> io::Result<()> {
    let stream = match stream {
        PullStream::Plain(stream) => stream,
        PullStream::Tls(stream) => {
            stream.write_all(head).await?;
            while !tail.is_empty() {
                let sent = stream.write(tail).await?;
                if sent == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                tail = tail.get(sent..).unwrap_or_default();
                progress(sent);
            }
            return stream.flush().await;
        }
    };
    while !head.is_empty() || !tail.is_empty() {
        stream.writable().await?;
        let sent = match stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(tail)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let of_head = sent.min(head.len());
        head = head.get(of_head..).unwrap_or_default();
        tail = tail.get(sent - of_head..).unwrap_or_default();
        progress(sent - of_head);
    }
    Ok(())
}
