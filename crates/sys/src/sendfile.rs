//! Sending on a TCP connection: file pages without a copy through this process, and small heads in front of them.
//!
//! The functions are for sockets in non-blocking mode and return `WouldBlock` as it is, so that an event loop can wrap
//! them. Interrupted calls are repeated. A short count is not an error: the caller goes on from there.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::SendFlags;

/// Most bytes of one call. The kernel would take up to 2 GiB, and block other connections of the thread meanwhile.
pub const SENDFILE_BYTES_MAX: usize = 1024 * 1024;

/// Sends up to `bytes` (at most [`SENDFILE_BYTES_MAX`]) of `file` from `offset`; returns how many were taken.
///
/// 0 means that the file ends at `offset`.
///
/// # Errors
/// `WouldBlock` when the socket's buffer is full; the connection's errors; `InvalidInput` for what cannot be sent from.
pub fn sendfile(socket: impl AsFd, file: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<usize> {
    let mut at = offset;
    let bytes = bytes.min(SENDFILE_BYTES_MAX);
    Ok(rustix::io::retry_on_intr(|| rustix::fs::sendfile(&socket, file, Some(&mut at), bytes))?)
}

/// Sends bytes that more will follow at once, so that the kernel may join them into one segment.
///
/// # Errors
/// `WouldBlock` when the socket's buffer is full; the connection's errors (never a SIGPIPE).
pub fn send_more(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::io::retry_on_intr(|| rustix::net::send(&socket, bytes, flags))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd::Memfd;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        near.set_nonblocking(true).expect("non-blocking");
        (near, far)
    }

    #[test]
    fn a_head_and_a_files_bytes_arrive_in_order() {
        let (near, mut far) = pair();
        let memfd = Memfd::create("test").expect("created");
        memfd.write_all_at(b"0123456789", 0).expect("written");
        assert_eq!(send_more(&near, b"head:").expect("sent"), 5);
        assert_eq!(sendfile(&near, memfd.as_fd(), 2, 5).expect("sent"), 5);
        let mut read = [0; 10];
        far.read_exact(&mut read).expect("read");
        assert_eq!(&read, b"head:23456");
    }

    #[test]
    fn a_full_socket_is_would_block_after_a_short_count_and_the_offset_is_the_callers() {
        let (near, mut far) = pair();
        let memfd = Memfd::create("test").expect("created");
        let bytes: Vec<u8> = (0..32 << 20).map(|i: u32| i.to_le_bytes()[1]).collect();
        memfd.write_all_at(&bytes, 0).expect("written");
        let mut sent = 0;
        let error = loop {
            match sendfile(&near, memfd.as_fd(), sent as u64, bytes.len() - sent) {
                Ok(count) => {
                    assert!(count <= SENDFILE_BYTES_MAX);
                    sent += count;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(sent > 0 && sent < bytes.len());
        let mut read = vec![0; sent];
        far.read_exact(&mut read).expect("read");
        assert!(read == bytes[..sent]);
    }

    #[test]
    fn the_end_of_a_file_is_zero_and_a_closed_peer_is_an_error() {
        let (near, far) = pair();
        let memfd = Memfd::create("test").expect("created");
        memfd.write_all_at(b"x", 0).expect("written");
        assert_eq!(sendfile(&near, memfd.as_fd(), 1, 5).expect("nothing to send"), 0);
        drop(far);
        let error = std::iter::repeat_with(|| send_more(&near, b"x")).find_map(Result::err).expect("reset");
        assert!(matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{error}");
    }

    #[test]
    fn what_cannot_be_sent_from_is_an_error() {
        let (near, _far) = pair();
        let (read, _write) = std::io::pipe().expect("pipe");
        assert!(sendfile(&near, read.as_fd(), 0, 5).is_err());
    }
}
