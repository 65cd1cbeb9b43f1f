//! Hand-over: a sealed payload passes to another proxy of this machine as a descriptor, in constant time.
//!
//! A Unix socket for each producer lies in a directory that only this user may enter. Requests and answers are those of
//! the pull port, with the same MACs, as JSON messages. The connection is the lease: while it is open, the memory counts
//! as the producer's, and closing it before an acknowledgement gives the lease back. After one it is kept for the next
//! object of the same producer.

mod channel;
mod kept;
mod serve;
mod take;

pub(crate) use kept::Kept;
pub(crate) use serve::{HandoverSocket, listen};
pub(crate) use take::{HandoverLease, take};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file of the socket on which the proxy at that address hands over.
fn socket_path(directory: &Path, address: SocketAddr) -> PathBuf {
    directory.join(format!("{address}.sock"))
}
