//! Messages on a hand-over connection: 4 bytes of length, JSON, and at most one descriptor with the first byte.
//!
//! The two sides take turns, so a message can be read in one call with whatever has come: nothing comes behind it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zipline_contract::limits::MESSAGE_BYTES_MAX;
use zipline_sys::fd_passing;

use crate::config::HEAD_TIME_MAX;

const LENGTH_BYTES: usize = 4;
/// Bytes that one read asks for at first: more than any message has but one with a payload in it.
const RECEIVE_BYTES: usize = 4096;

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

    /// The next message, or `None` when the peer has closed between two, or was silent for longer than `silence_max`. Once it
    /// has begun it must come whole within [`HEAD_TIME_MAX`].
    pub(super) async fn receive<T: DeserializeOwned>(
        &self,
        silence_max: Option<Duration>,
    ) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut message = Received::default();
        let began = message.more(&self.stream);
        let began = match silence_max {
            Some(limit) => timeout(limit, began).await.unwrap_or(Ok(0)),
            None => began.await,
        };
        if began? == 0 {
            return Ok(None);
        }
        let rest = async {
            while !message.is_whole()? {
                if message.more(&self.stream).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            io::Result::Ok(())
        };
        timeout(HEAD_TIME_MAX, rest).await??;
        let text = message.bytes.get(LENGTH_BYTES..).unwrap_or_default();
        Ok(Some((serde_json::from_slice(text).map_err(io::Error::other)?, message.descriptor)))
    }
}

/// What has come of a message.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Received {
    /// Takes what has come; 0 when the peer has closed.
    async fn more(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let filled = self.bytes.len();
        let space = self.bytes_in_all()?.map_or(RECEIVE_BYTES, |all| all.saturating_sub(filled)).max(1);
        self.bytes.resize(filled + space, 0);
        let rest = self.bytes.get_mut(filled..).unwrap_or_default();
        let came = stream.async_io(Interest::READABLE, || fd_passing::receive(stream.as_fd(), rest)).await;
        self.bytes.truncate(filled + came.as_ref().map_or(0, |(read, _)| *read));
        let (read, with) = came?;
        if with.is_some() && self.descriptor.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message may carry one descriptor"));
        }
        self.descriptor = with.or(self.descriptor.take());
        Ok(read)
    }

    /// Its length with the four bytes in front, once those have come.
    fn bytes_in_all(&self) -> io::Result<Option<usize>> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        match usize::try_from(u32::from_be_bytes(*length)) {
            Ok(length) if length <= MESSAGE_BYTES_MAX => Ok(Some(LENGTH_BYTES + length)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is longer than any may be")),
        }
    }

    fn is_whole(&self) -> io::Result<bool> {
        match self.bytes_in_all()? {
            Some(all) if self.bytes.len() > all => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a message came before the last was answered"))
            }
            all => Ok(all == Some(self.bytes.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_told_from_one_that_has_closed_and_from_one_that_speaks() -> io::Result<()> {
        let (near, far) = UnixStream::pair()?;
        let (near, far) = (Channel::new(near)?, Channel::new(far)?);
        for word in ["first", "second"] {
            near.send(&word, None).await?;
            let came: Option<(String, _)> = far.receive(None).await?;
            assert_eq!(came.map(|(text, _)| text).as_deref(), Some(word));
        }
        let nothing: Option<(String, _)> = far.receive(Some(Duration::from_millis(1))).await?;
        assert!(nothing.is_none(), "nothing came after the second message");
        near.send(&"third", None).await?;
        drop(near);
        let third: Option<(String, _)> = far.receive(None).await?;
        assert_eq!(third.map(|(text, _)| text).as_deref(), Some("third"));
        let closed: Option<(String, _)> = far.receive(None).await?;
        assert!(closed.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn a_message_comes_whole_from_pieces_with_its_descriptor_and_alone() -> io::Result<()> {
        let (near, far) = UnixStream::pair()?;
        let far = Channel::new(far)?;
        let (reader, _writer) = io::pipe()?;
        let text = serde_json::to_vec(&"in pieces")?;
        let mut framed = (text.len() as u32).to_be_bytes().to_vec();
        framed.extend_from_slice(&text);
        let sending = async {
            for (at, piece) in framed.chunks(3).enumerate() {
                let with = (at == 0).then_some(reader.as_fd());
                near.async_io(Interest::WRITABLE, || fd_passing::send(&near, piece, with)).await?;
                tokio::task::yield_now().await;
            }
            io::Result::Ok(())
        };
        let (sent, came) = tokio::join!(sending, far.receive::<String>(None));
        sent?;
        let (word, descriptor) = came?.expect("a message");
        assert_eq!((word.as_str(), descriptor.is_some()), ("in pieces", true));
        let two = [framed.clone(), framed].concat();
        near.async_io(Interest::WRITABLE, || fd_passing::send(&near, &two, None)).await?;
        let refused = far.receive::<String>(None).await.expect_err("two at once");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        Ok(())
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_or_cut_short_is_refused() -> io::Result<()> {
        for (bytes, kind) in [
            (u32::MAX.to_be_bytes().to_vec(), io::ErrorKind::InvalidData),
            (vec![0, 0, 0, 9, b'"'], io::ErrorKind::UnexpectedEof),
            (vec![0], io::ErrorKind::UnexpectedEof),
        ] {
            let (near, far) = UnixStream::pair()?;
            let far = Channel::new(far)?;
            near.async_io(Interest::WRITABLE, || fd_passing::send(&near, &bytes, None)).await?;
            drop(near);
            assert_eq!(far.receive::<String>(None).await.expect_err("refused").kind(), kind, "{bytes:?}");
        }
        Ok(())
    }
}
