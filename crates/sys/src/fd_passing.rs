//! Passing a descriptor to another process: one message on a Unix socket, with at most one descriptor.
//!
//! For sockets in non-blocking mode; `WouldBlock` is returned as it is, so that an event loop can wrap both functions.
//! A descriptor arrives with the first byte of the message it was sent with, and is closed on exec.
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Sends `bytes`, and the descriptor with the first of them; returns how many bytes were taken.
///
/// After a short count the rest is sent without the descriptor: it has already gone.
///
/// # Errors
/// `WouldBlock` when the socket's buffer is full: nothing was sent, neither bytes nor descriptor. `InvalidInput` for a
/// descriptor without a byte to travel with. The connection's errors.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    if bytes.is_empty() {
        return if descriptor.is_none() { Ok(0) } else { Err(io::ErrorKind::InvalidInput.into()) };
    }
    let descriptors: &[BorrowedFd<'_>] = descriptor.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::io::retry_on_intr(|| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(rustix::io::Errno::NOBUFS); // The space is made for exactly this message.
        }
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags)
    })?)
}

/// Receives bytes, and the descriptor that came with them. 0 bytes mean that the peer has closed.
///
/// # Errors
/// `WouldBlock` when nothing has come. `InvalidData` when more than one descriptor came, or none could be taken because
/// the process is at its limit: what came is closed. The connection's errors.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut *buffer)], &mut control, flags))?;
    let mut descriptors = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let (first, second) = (descriptors.next(), descriptors.next());
    if message.flags.contains(ReturnFlags::CTRUNC) || second.is_some() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message may carry one descriptor"));
    }
    Ok((message.bytes, first))
}

/// Looks whether a byte has come, or the peer has closed, without taking it. `false`: closed.
///
/// An event loop's readiness is not enough to tell: it stays set until a read finds nothing.
///
/// # Errors
/// `WouldBlock` when nothing has come. The connection's errors.
pub fn peek(socket: impl AsFd) -> io::Result<bool> {
    let mut byte = [0u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (bytes, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut byte, flags))?;
    Ok(bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().expect("pair");
        near.set_nonblocking(true).expect("non-blocking");
        far.set_nonblocking(true).expect("non-blocking");
        (near, far)
    }

    #[test]
    fn a_look_takes_nothing_and_tells_silence_from_a_close() {
        let (near, far) = pair();
        assert_eq!(peek(&far).expect_err("nothing came").kind(), io::ErrorKind::WouldBlock);
        send(&near, b"x", Some(near.as_fd())).expect("sent");
        assert!(peek(&far).expect("a byte came"));
        let mut byte = [0];
        let (bytes, descriptor) = receive(&far, &mut byte).expect("still there");
        assert!(bytes == 1 && descriptor.is_some(), "the look took something");
        drop((near, descriptor));
        assert!(!peek(&far).expect("closed"));
    }

    #[test]
    fn a_descriptor_travels_with_the_first_byte_and_is_closed_on_exec() {
        let (near, far) = pair();
        let (mut read, write) = std::io::pipe().expect("pipe");
        assert_eq!(send(&near, b"abc", Some(write.as_fd())).expect("sent"), 3);
        drop(write);
        let mut buffer = [0; 2];
        let (bytes, descriptor) = receive(&far, &mut buffer).expect("received");
        let descriptor = descriptor.expect("a descriptor");
        assert_eq!((bytes, &buffer), (2, b"ab"));
        assert!(rustix::io::fcntl_getfd(&descriptor).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        let (bytes, none) = receive(&far, &mut buffer).expect("received");
        assert!(bytes == 1 && none.is_none());
        std::fs::File::from(descriptor).write_all(b"through").expect("written");
        let mut text = String::new();
        read.read_to_string(&mut text).expect("read to the end: no copy is left open");
        assert_eq!(text, "through");
    }

    #[test]
    fn nothing_there_is_would_block_and_a_closed_peer_is_zero() {
        let (near, far) = pair();
        assert_eq!(receive(&far, &mut [0; 8]).map(|_| ()).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        drop(near);
        assert_eq!(receive(&far, &mut [0; 8]).expect("closed").0, 0);
        assert_eq!(send(&far, b"x", None).expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_socket_takes_neither_bytes_nor_descriptor() {
        let (near, far) = pair();
        let block = [0; 4096];
        let error = std::iter::repeat_with(|| send(&near, &block, None)).find_map(Result::err).expect("full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let (_read, write) = std::io::pipe().expect("pipe");
        assert_eq!(send(&near, &block, Some(write.as_fd())).expect_err("full").kind(), io::ErrorKind::WouldBlock);
        let mut buffer = [0; 4096];
        while let Ok((_, descriptor)) = receive(&far, &mut buffer) {
            assert!(descriptor.is_none());
        }
    }

    #[test]
    fn two_descriptors_in_one_message_are_refused_and_closed() {
        let (near, far) = pair();
        let (mut read, write) = std::io::pipe().expect("pipe");
        let both = [write.as_fd(), write.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&both)));
        rustix::net::sendmsg(&near, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sent");
        drop(write);
        assert_eq!(receive(&far, &mut [0; 8]).expect_err("refused").kind(), io::ErrorKind::InvalidData);
        let mut rest = Vec::new();
        assert_eq!(read.read_to_end(&mut rest).expect("all writers are closed"), 0);
    }

    #[test]
    fn a_descriptor_needs_a_byte_to_travel_with() {
        let (near, _far) = pair();
        let error = send(&near, b"", Some(near.as_fd())).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&near, b"", None).expect("nothing to do"), 0);
    }
}
