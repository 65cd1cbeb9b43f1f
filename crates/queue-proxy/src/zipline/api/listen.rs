//! The doors of the local API: a Unix socket, by path or abstract, and loopback TCP.
//!
//! A socket file that a killed process left behind is replaced; one that somebody listens on is a fatal error that says
//! so, as two proxies on one socket would take each other's functions. The file is removed when the listener is dropped,
//! unless another process has replaced it meanwhile.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::{ApiSocket, PeerMode};

/// Why a door of the local API could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("the local API's socket {0} is in use by another process; hint: stop it, or set ZIPLINE_API_SOCKET to another one")]
    InUse(String),
    /// Something other than a socket is there.
    #[error("{0} is there and is no socket; hint: remove it, or set ZIPLINE_API_SOCKET to another path")]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error(
        "the local API's socket {name} can't be opened: {error}; hint: see that its directory exists and may be written, or set ZIPLINE_API_SOCKET"
    )]
    Socket {
        /// Which socket.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The TCP port can't be had.
    #[error(
        "the local API can't listen on {address}: {error}; hint: set ZIPLINE_API_PORT to a free port, or to 0 for the Unix socket alone"
    )]
    Port {
        /// Which address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The Unix socket of the local API.
#[derive(Debug)]
pub(crate) struct UnixDoor {
    listener: UnixListener,
    /// Who may come in: `None` is everybody.
    uid: Option<u32>,
    /// Removed with the door.
    _file: Option<SocketFile>,
}

impl UnixDoor {
    /// Opens the socket; `own_uid` is who may connect under [`PeerMode::Uid`].
    ///
    /// # Errors
    /// [`ListenError`], each with the way out.
    pub(crate) fn open(socket: &ApiSocket, mode: PeerMode, own_uid: u32) -> Result<Self, ListenError> {
        let (listener, file) = match socket {
            ApiSocket::Path(path) => {
                let listener = bind_path(path)?;
                (listener, Some(SocketFile::of(path, mode)?))
            }
            ApiSocket::Abstract(name) => (bind_abstract(name)?, None),
        };
        let uid = match mode {
            PeerMode::Pod => None,
            PeerMode::Uid => Some(own_uid),
        };
        Ok(Self { listener, uid, _file: file })
    }

    /// The next connection of somebody who may have one. Others are closed at once.
    ///
    /// Safe to cancel: a connection that was taken is returned, never lost.
    ///
    /// # Errors
    /// What the kernel says; out of descriptors is the usual case.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let Some(uid) = self.uid else { return Ok(stream) };
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == uid => return Ok(stream),
                Ok(peer) => tracing::warn!(peer.uid = peer.uid(), allowed = uid, "a connection of another user was refused"),
                Err(error) => tracing::debug!(%error, "a connection without credentials was refused"),
            }
        }
    }
}

/// Opens the loopback TCP door.
///
/// # Errors
/// [`ListenError::Port`].
pub(crate) async fn open_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|error| ListenError::Port { address, error })
}

fn bind_path(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |error| ListenError::Socket { name: path.display().to_string(), error };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        other => return other.map_err(failed),
    }
    let there = std::fs::symlink_metadata(path).map_err(failed)?;
    if !there.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    // Only a socket without a listener refuses; it is what a killed process leaves.
    match std_unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(_) => return Err(ListenError::InUse(path.display().to_string())),
        Err(error) => return Err(failed(error)),
    }
    std::fs::remove_file(path).map_err(failed)?;
    tracing::info!(path = %path.display(), "replaced the socket that a former process left behind");
    UnixListener::bind(path).map_err(failed)
}

fn bind_abstract(name: &str) -> Result<UnixListener, ListenError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(format!("@{name}")),
        _ => ListenError::Socket { name: format!("@{name}"), error },
    };
    let address = std_unix::SocketAddr::from_abstract_name(name).map_err(failed)?;
    let listener = std_unix::UnixListener::bind_addr(&address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

/// A socket's file, known by its inode so that a successor's file is left alone.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path, mode: PeerMode) -> Result<Self, ListenError> {
        let bits = match mode {
            PeerMode::Pod => 0o666,
            PeerMode::Uid => 0o600,
        };
        let set = || -> io::Result<(u64, u64)> {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits))?;
            let metadata = std::fs::symlink_metadata(path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        let inode = set().map_err(|error| ListenError::Socket { name: path.display().to_string(), error })?;
        Ok(Self { path: path.to_owned(), inode })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode);
        if still_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the local API's socket file stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, mode: PeerMode, uid: u32) -> Result<UnixDoor, ListenError> {
        UnixDoor::open(&ApiSocket::Path(path.to_owned()), mode, uid)
    }

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a scratch directory")
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced() {
        let scratch = scratch();
        let path = scratch.path().join("api.sock");
        drop(std_unix::UnixListener::bind(&path).expect("the former socket"));
        let door = open(&path, PeerMode::Pod, 0).expect("the stale socket is replaced");
        let (client, served) = tokio::join!(UnixStream::connect(&path), door.accept());
        assert!(client.is_ok() && served.is_ok());
    }

    #[tokio::test]
    async fn a_socket_in_use_is_a_named_error_and_stays_usable_by_its_owner() {
        let scratch = scratch();
        let path = scratch.path().join("api.sock");
        let owner = open(&path, PeerMode::Pod, 0).expect("the first opens");
        assert!(matches!(open(&path, PeerMode::Pod, 0), Err(ListenError::InUse(_))));
        // The second one's look is a connection too; it is taken first and ends at once.
        owner.accept().await.expect("the second one's look");
        let (client, served) = tokio::join!(UnixStream::connect(&path), owner.accept());
        assert!(client.is_ok() && served.is_ok());
    }

    #[tokio::test]
    async fn an_abstract_socket_in_use_is_a_named_error() {
        let name = format!("zipline-test-{}-listen", std::process::id());
        let socket = ApiSocket::Abstract(name);
        let _owner = UnixDoor::open(&socket, PeerMode::Pod, 0).expect("the first opens");
        assert!(matches!(UnixDoor::open(&socket, PeerMode::Pod, 0), Err(ListenError::InUse(_))));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = scratch();
        let path = scratch.path().join("api.sock");
        std::fs::write(&path, "precious").expect("a file");
        assert!(matches!(open(&path, PeerMode::Pod, 0), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), Some("precious"));
    }

    #[tokio::test]
    async fn the_file_goes_with_the_door_unless_a_successor_took_its_place() {
        let scratch = scratch();
        let path = scratch.path().join("api.sock");
        drop(open(&path, PeerMode::Pod, 0).expect("opens"));
        assert!(!path.exists());
        let door = open(&path, PeerMode::Pod, 0).expect("opens again");
        std::fs::remove_file(&path).expect("the file can be removed");
        let _successor = std_unix::UnixListener::bind(&path).expect("a successor");
        drop(door);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn another_uid_is_turned_away_where_only_ours_may_connect() {
        use tokio::io::AsyncReadExt;
        let scratch = scratch();
        let path = scratch.path().join("api.sock");
        let own = std::fs::metadata(scratch.path()).expect("metadata").uid();
        let door = open(&path, PeerMode::Uid, own.wrapping_add(1)).expect("opens");
        let mut client = UnixStream::connect(&path).await.expect("connects");
        let mut byte = [0];
        tokio::select! {
            accepted = door.accept() => panic!("let in: {accepted:?}"),
            read = client.read(&mut byte) => assert_eq!(read.ok(), Some(0), "closed without a word"),
        }
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }
}
