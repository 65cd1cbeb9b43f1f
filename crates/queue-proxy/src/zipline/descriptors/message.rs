//! Messages of a descriptor channel: a 4-byte length, JSON, and at most one descriptor with the first byte.
//!
//! A descriptor belongs to the message whose first byte it came with. So a length is never read together with what
//! follows it: the kernel ends a read at a descriptor, but would happily join two messages of which only the first has one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;
use zipline_contract::limits::MESSAGE_BYTES_MAX;
use zipline_sys::fd_passing;

/// Bytes of a message's length.
const LENGTH_BYTES: usize = 4;

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    /// JSON, not looked at yet.
    pub(crate) text: Vec<u8>,
    /// What came with it.
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Reads messages. What has come so far is kept here, so that a read may be cancelled and taken up again.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// Bytes that hyper read beyond the upgrade's head.
    ahead: Vec<u8>,
    length: [u8; LENGTH_BYTES],
    length_read: usize,
    text: Vec<u8>,
    text_read: usize,
    descriptor: Option<OwnedFd>,
}

impl Incoming {
    /// Begins with bytes that were read already. A descriptor that came with them is lost: a client waits for the 101.
    pub(crate) fn after(ahead: &[u8]) -> Self {
        Self { ahead: ahead.to_vec(), ..Self::default() }
    }

    /// The next message; `None` when the peer has closed between two. Safe to cancel.
    ///
    /// # Errors
    /// `InvalidData` for a message beyond the limit or one with several descriptors, `UnexpectedEof` for half a message,
    /// and the connection's errors. None of them can be recovered from: the channel is closed.
    pub(crate) async fn next(&mut self, socket: &UnixStream) -> io::Result<Option<Message>> {
        while self.length_read < LENGTH_BYTES {
            let read = fill(socket, &mut self.ahead, &mut self.length[self.length_read..], &mut self.descriptor).await?;
            if read == 0 {
                return if self.length_read == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            self.length_read += read;
            if self.length_read == LENGTH_BYTES {
                let length = u32::from_be_bytes(self.length) as usize;
                if length > MESSAGE_BYTES_MAX {
                    let error = format!("a message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
                self.text = vec![0; length];
                self.text_read = 0;
            }
        }
        while self.text_read < self.text.len() {
            let read = fill(socket, &mut self.ahead, &mut self.text[self.text_read..], &mut self.descriptor).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.text_read += read;
        }
        self.length_read = 0;
        Ok(Some(Message { text: std::mem::take(&mut self.text), descriptor: self.descriptor.take() }))
    }
}

async fn fill(
    socket: &UnixStream,
    ahead: &mut Vec<u8>,
    buffer: &mut [u8],
    descriptor: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    if !ahead.is_empty() {
        let read = ahead.len().min(buffer.len());
        buffer[..read].copy_from_slice(&ahead[..read]);
        ahead.drain(..read);
        return Ok(read);
    }
    let (read, came) = socket.async_io(Interest::READABLE, || fd_passing::receive(socket, buffer)).await?;
    if came.is_some() && std::mem::replace(descriptor, came).is_some() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message may carry one descriptor"));
    }
    Ok(read)
}

/// Writes one message. Not safe to cancel: half a message spoils the channel.
///
/// # Errors
/// `InvalidInput` for a text beyond the limit, and the connection's errors.
pub(crate) async fn send(socket: &UnixStream, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MESSAGE_BYTES_MAX);
    let Some(length) = length else {
        let error = format!("a message of {} bytes; the limit is {MESSAGE_BYTES_MAX}", text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    };
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + text.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(text);
    let mut unsent = bytes.as_slice();
    let mut descriptor = descriptor;
    while !unsent.is_empty() {
        let attached = descriptor.as_ref().map(AsFd::as_fd);
        let sent = socket.async_io(Interest::WRITABLE, || fd_passing::send(socket, unsent, attached)).await?;
        unsent = &unsent[sent..];
        descriptor = None; // It went with the first byte.
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncWriteExt;

    fn framed(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes(), text].concat()
    }

    #[tokio::test]
    async fn each_descriptor_arrives_with_its_own_message() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let (_read, write) = std::io::pipe().expect("a pipe");
        send(&near, b"one", None).await.expect("sent");
        send(&near, b"two", Some(write.as_fd())).await.expect("sent");
        send(&near, b"three", None).await.expect("sent");
        drop(near);
        let mut incoming = Incoming::default();
        let mut seen = Vec::new();
        while let Some(message) = incoming.next(&far).await.expect("a message") {
            seen.push((String::from_utf8_lossy(&message.text).into_owned(), message.descriptor.is_some()));
        }
        assert_eq!(seen, [("one".into(), false), ("two".into(), true), ("three".into(), false)]);
    }

    #[tokio::test]
    async fn a_read_that_is_cancelled_is_taken_up_where_it_was() {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let bytes = framed(b"in pieces");
        let mut incoming = Incoming::default();
        for piece in bytes.chunks(2) {
            near.write_all(piece).await.expect("written");
            let read = incoming.next(&far);
            // Polled once: takes what is there and is dropped, unless that was the end.
            tokio::select! {
                biased;
                message = read => {
                    assert_eq!(message.expect("a message").map(|message| message.text).as_deref(), Some(b"in pieces".as_slice()));
                    return;
                }
                () = std::future::ready(()) => {}
            }
        }
        let message = incoming.next(&far).await.expect("a message").expect("not closed");
        assert_eq!(message.text, b"in pieces");
    }

    #[tokio::test]
    async fn what_was_read_before_the_upgrade_comes_first() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let first = framed(b"early");
        let mut incoming = Incoming::after(&first[..5]);
        let mut rest = near.into_std().expect("std");
        rest.set_nonblocking(false).expect("blocking");
        rest.write_all(&first[5..]).expect("written");
        rest.write_all(&framed(b"late")).expect("written");
        for expected in ["early", "late"] {
            let message = incoming.next(&far).await.expect("a message").expect("not closed");
            assert_eq!(message.text, expected.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_or_cut_short_ends_the_channel() {
        for (bytes, kind) in [
            (u32::MAX.to_be_bytes().to_vec(), io::ErrorKind::InvalidData),
            (framed(b"cut")[..5].to_vec(), io::ErrorKind::UnexpectedEof),
            (vec![0, 0], io::ErrorKind::UnexpectedEof),
        ] {
            let (mut near, far) = UnixStream::pair().expect("a pair");
            near.write_all(&bytes).await.expect("written");
            drop(near);
            let read = Incoming::default().next(&far).await;
            assert_eq!(read.map(|_| ()).map_err(|error| error.kind()), Err(kind));
        }
        let (near, _far) = UnixStream::pair().expect("a pair");
        assert!(send(&near, &vec![b' '; MESSAGE_BYTES_MAX + 1], None).await.is_err());
    }
}
