//! Messages on a hand-over connection: 4 bytes of length, JSON, and at most one descriptor with the first byte.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zipline_contract::limits::MESSAGE_BYTES_MAX;
use zipline_sys::fd_passing;

const LENGTH_BYTES: usize = 4;

/// What a consumer asks: a request of the pull port.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    /// Where who asks stands in a trace; beside the headers, which are under the MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<String>,
}

/// What a producer answers: an answer of the pull port, and the payload where it is small and has no descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<String>,
}

/// One end of a connection. Not cancel-safe: after a cut send or receive it is closed.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// The connection, if its peer runs as the same user as we do.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        if !zipline_sys::peer::is_same_user(&stream)? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the hand-over socket's peer is another user"));
        }
        Ok(Self { stream })
    }

    pub(super) async fn send<T: Serialize>(&self, message: &T, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut bytes = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut bytes, message).map_err(io::Error::other)?;
        let length = bytes.len() - LENGTH_BYTES;
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than any may be"));
        }
        let length = u32::try_from(length).map_err(io::Error::other)?;
        bytes.splice(..LENGTH_BYTES, length.to_be_bytes());
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = bytes.get(sent..).unwrap_or_default();
            let with = descriptor.filter(|_| sent == 0);
            sent += self.stream.async_io(Interest::WRITABLE, || fd_passing::send(&self.stream, rest, with)).await?;
        }
        Ok(())
    }

    /// The next message, or `None` when the peer has closed between two.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut length = [0; LENGTH_BYTES];
        let mut descriptor = None;
        if self.fill(&mut length, &mut descriptor).await? == 0 {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is longer than any may be"));
        }
        let mut bytes = vec![0; length];
        if self.fill(&mut bytes, &mut descriptor).await? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((serde_json::from_slice(&bytes).map_err(io::Error::other)?, descriptor)))
    }

    /// Returns when the peer closes, or says something; however long that takes.
    ///
    /// It looks for the byte itself: the runtime's readiness stays set after a message that was read to its last byte.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.stream.async_io(Interest::READABLE, || fd_passing::peek(&self.stream)).await.map(|_| ())
    }

    /// Fills all of `buffer`; 0 when the peer closed before its first byte.
    async fn fill(&self, buffer: &mut [u8], descriptor: &mut Option<OwnedFd>) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            let receive = || fd_passing::receive(self.stream.as_fd(), rest);
            let (read, with) = self.stream.async_io(Interest::READABLE, receive).await?;
            if with.is_some() && descriptor.is_some() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message may carry one descriptor"));
            }
            *descriptor = with.or(descriptor.take());
            match read {
                0 if filled == 0 => return Ok(0),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_has_said_something_and_is_silent_now_is_not_taken_for_one_that_speaks() -> io::Result<()> {
        let (near, far) = UnixStream::pair()?;
        let (near, far) = (Channel::new(near)?, Channel::new(far)?);
        near.send(&"first", None).await?;
        let first: Option<(String, _)> = far.receive().await?;
        assert_eq!(first.map(|(text, _)| text).as_deref(), Some("first"));
        tokio::select! {
            biased;
            _ = far.readable() => panic!("nothing came after the first message"),
            () = std::future::ready(()) => {}
        }
        near.send(&"second", None).await?;
        far.readable().await?;
        drop(near);
        let second: Option<(String, _)> = far.receive().await?;
        assert_eq!(second.map(|(text, _)| text).as_deref(), Some("second"));
        far.readable().await
    }
}
