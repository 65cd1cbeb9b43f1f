//! Who is at the other end of a Unix socket.
use std::io;
use std::os::fd::AsFd;

/// Whether the peer ran under our own user when it connected (or listened).
///
/// # Errors
/// When the descriptor is no connected Unix socket.
pub fn is_same_user(socket: impl AsFd) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(peer.uid == rustix::process::geteuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_other_end_is_us_and_a_pipe_is_nobody() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert!(is_same_user(&near).expect("a socket"));
        let (read, _write) = std::io::pipe().expect("pipe");
        assert!(is_same_user(&read).is_err());
    }
}
